"""Let a student know words before it reads texts: its narrow layer is fitted to the teacher's vectors of the most frequent ones."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from tain.students.projection import UNIT, Projection, token_features
from tain.students.torch.qrnn import PQRNN
from tain.students.torch.static import frequency_weights

Encode = Callable[[list[str]], np.ndarray]

_AT_ONCE = 4096
_RIDGE = 0.01  # of the features' mean square
_LENGTH = 4.0  # of an output's weights: the longer, the less a step of training turns them
_FITTED_TEXTS, _TEXTS_AT_ONCE = 20_000, 256
_COUNTS_POWER = 0.5  # of a word's count, as its weight: between every word alike and every token alike


@torch.no_grad()
def fit_words(module: PQRNN, projection: Projection, texts: Sequence[str], encode: Encode, *, words: int) -> None:
    """Set the bottleneck's weights so that its outputs are the main directions of word vectors, each once upright and once turned.

    A ridge regression from features to the teacher's vectors of single words, frequent words short in it as in a mean that tells texts
    apart (Arora et al. 2017). Behind the norm comes a rectifier, which keeps a direction's one side, so every direction is there twice.
    Random weights would give random codes for words, and what they mean would have to be learnt through all layers.

    Args:
        module: An untrained student.
        projection: What it reads with.
        texts: Which words, and how often.
        encode: Gives words their vectors (words, dim): the teacher, or another encoder.
        words: How many of the most frequent ones.
    """
    counted = Counter(token for text in texts for token in projection.tokens(text)).most_common(words)
    vocabulary = [token for token, _ in counted]
    counts = torch.tensor([count for _, count in counted], dtype=torch.float32)
    directions = module.bottleneck.out_features // 2
    wanted = main_directions(torch.from_numpy(encode(vocabulary)), counts, directions=directions)
    kept = wanted.shape[1]
    weights = counts**_COUNTS_POWER
    features = module.bottleneck.in_features
    squares, products = torch.zeros(features, features), torch.zeros(features, kept)
    for start in range(0, len(vocabulary), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        rows = torch.from_numpy(token_features(vocabulary[part], projection.config).astype(np.float32)) / UNIT
        weighted = rows * weights[part, None]
        squares.addmm_(weighted.T, rows)
        products.addmm_(weighted.T, wanted[part])
    fitted = _ridge(squares, products)
    fitted *= _LENGTH / fitted.norm(dim=1, keepdim=True).clamp(min=1e-8)  # the norm behind it sets each output's size
    module.bottleneck.weight[:kept] = fitted
    module.bottleneck.weight[kept : 2 * kept] = -fitted


@torch.no_grad()
def fit_skip(
    module: PQRNN, projection: Projection, texts: Sequence[str], wanted: Float[np.ndarray, "texts outputs"], *, keeps_layers: bool = False
) -> None:
    """Set the skip's weights so that the untrained student's outputs are the best guess from the mean of a text's words.

    A ridge regression from that mean to what is wanted, every text's scaled to one length. Attention begins level, and what the layers
    between add begins small, so training goes on from there and not from random outputs. The norm's statistics and the grids' ranges
    begin with these texts' own. Fewer than two texts fit nothing.

    Args:
        module: An untrained student with a skip.
        projection: What it reads with.
        texts: Any number; the first 20,000 are read.
        wanted: The teacher's vectors or logits of them, or labels as ones among zeros.
        keeps_layers: The student has learnt all but its heads: attention, norm and their statistics stay as they are.
    """
    assert module.skip_head is not None and module.skip_range is not None and module.attention is not None and module.text_head is not None
    texts = texts[:_FITTED_TEXTS]
    if len(texts) < 2:
        return
    outputs, counts, ids = [], [], []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        part = projection(texts[start : start + _TEXTS_AT_ONCE])
        outputs.append(module.bottleneck(torch.from_numpy(part.rows).float().div_(UNIT)))
        count = torch.from_numpy(np.bincount(part.ids.ravel(), minlength=len(part.rows))).float()
        count[0] = 0  # padding
        counts.append(count)
        ids.append(torch.from_numpy(part.ids))
    norm = module.bottleneck_norm
    if not keeps_layers:
        every, count = torch.cat(outputs), torch.cat(counts)
        norm.mean.copy_(count @ every / count.sum())
        norm.variance.copy_(count @ (every - norm.mean).square() / count.sum())
        module.attention.weight.zero_()
    scale, shift = norm.scale_and_shift()
    words = [torch.relu(values * scale + shift) for values in outputs]
    means = torch.cat([_means(*both) for both in zip(words, ids, strict=True)])
    if not keeps_layers:
        module.bottleneck_range.begin(0.0, max(float(values[1:].max()) for values in words))
    module.skip_range.begin(0.0, float(means.max()))
    targets = F.normalize(torch.from_numpy(wanted[: len(means)]).float(), dim=1) * wanted.shape[1] ** 0.5  # each number about 1 in size
    middle, target = means.mean(dim=0), targets.mean(dim=0)
    fitted = _ridge((means - middle).T @ (means - middle), (means - middle).T @ (targets - target))
    module.skip_head.weight.copy_(fitted)
    module.skip_head.bias.copy_(target - fitted @ middle)
    module.text_head.bias.zero_()


def _ridge(squares: Float[torch.Tensor, "into into"], products: Float[torch.Tensor, "into out"]) -> Float[torch.Tensor, "out into"]:
    """Weights of a regression from its sums of squares and products; adds to the first."""
    squares.diagonal().add_(_RIDGE * squares.diagonal().mean() + 1e-6)  # more than nothing where all inputs are alike
    return torch.linalg.solve(squares, products).T


def _means(words: Float[torch.Tensor, "different dim"], ids: Int[torch.Tensor, "texts tokens"]) -> Float[torch.Tensor, "texts dim"]:
    """The mean of each text's words; id 0 is none."""
    found = [words[row[row > 0]].mean(dim=0) if row.any() else torch.zeros(words.shape[1]) for row in ids]
    return torch.stack(found)


def main_directions(
    vectors: Float[torch.Tensor, "words dim"], counts: Float[torch.Tensor, " words"], *, directions: int
) -> Float[torch.Tensor, "words kept"]:
    """Words along the directions in which they differ most, without what all share; frequent words count for less, and occur more often."""
    shares = counts / counts.sum()
    centred = (vectors - shares @ vectors) * frequency_weights(counts)[:, None]
    spread = (centred * counts[:, None] ** _COUNTS_POWER).T @ centred
    return centred @ torch.linalg.eigh(spread).eigenvectors.flip(1)[:, : min(directions, vectors.shape[1])]
