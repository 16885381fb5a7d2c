"""Initialise a student's bottleneck and skip connection by ridge regression to an encoder's word and text vectors."""

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
_RIDGE = 0.01  # relative to the features' mean square
_LENGTH = 4.0  # norm of an output's weights; larger weights turn less per training step
_FITTED_TEXTS, _TEXTS_AT_ONCE = 20_000, 256
_COUNTS_POWER = 0.5  # exponent of a word's count in its weight: between equal weight per word (0) and per token (1)


@torch.no_grad()
def fit_words(module: PQRNN, projection: Projection, texts: Sequence[str], encode: Encode, *, words: int) -> None:
    """Fit the bottleneck's weights so that its outputs are the main directions of word vectors, each with both signs.

    A ridge regression from features to an encoder's vectors of single words. Vectors of frequent words are scaled down, as in weighted
    mean vectors of texts (Arora et al. 2017). The norm is followed by a rectifier, which keeps one side of a direction, so each direction
    appears with both signs. With random weights the student would have to learn word meanings through all layers.

    Args:
        module: An untrained student.
        projection: Its projection of texts to features.
        texts: Texts that the words are counted in.
        encode: Encodes words as vectors (words, dim): the teacher, or another encoder.
        words: Number of most frequent words to fit.
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
    fitted *= _LENGTH / fitted.norm(dim=1, keepdim=True).clamp(min=1e-8)  # the norm that follows sets each output's scale
    module.bottleneck.weight[:kept] = fitted
    module.bottleneck.weight[kept : 2 * kept] = -fitted


@torch.no_grad()
def fit_skip(
    module: PQRNN, projection: Projection, texts: Sequence[str], wanted: Float[np.ndarray, "texts outputs"], *, keeps_layers: bool = False
) -> None:
    """Fit the skip connection's weights so that the untrained student predicts its targets from the mean of a text's words.

    A ridge regression from that mean to the targets, which are scaled to one length per text. Attention starts uniform and the layers in
    between start small, so training starts from this prediction and not from random outputs. The statistics of the norm and the
    quantisation ranges start from these texts. With fewer than two texts nothing is fitted.

    Args:
        module: An untrained student with a skip connection.
        projection: Its projection of texts to features.
        texts: Any number; the first 20,000 are read.
        wanted: Targets: the teacher's vectors or logits, or one-hot labels.
        keeps_layers: Keep attention, norm and their statistics, for a student with trained layers and new heads.
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
    targets = F.normalize(torch.from_numpy(wanted[: len(means)]).float(), dim=1) * wanted.shape[1] ** 0.5  # numbers of about unit size
    middle, target = means.mean(dim=0), targets.mean(dim=0)
    fitted = _ridge((means - middle).T @ (means - middle), (means - middle).T @ (targets - target))
    module.skip_head.weight.copy_(fitted)
    module.skip_head.bias.copy_(target - fitted @ middle)
    module.text_head.bias.zero_()


def _ridge(squares: Float[torch.Tensor, "into into"], products: Float[torch.Tensor, "into out"]) -> Float[torch.Tensor, "out into"]:
    """Solve a ridge regression from sums of squares and products; changes the first in place."""
    squares.diagonal().add_(_RIDGE * squares.diagonal().mean() + 1e-6)  # stays positive if all inputs are equal
    return torch.linalg.solve(squares, products).T


def _means(words: Float[torch.Tensor, "different dim"], ids: Int[torch.Tensor, "texts tokens"]) -> Float[torch.Tensor, "texts dim"]:
    """The mean word vector of each text; id 0 is padding."""
    found = [words[row[row > 0]].mean(dim=0) if row.any() else torch.zeros(words.shape[1]) for row in ids]
    return torch.stack(found)


def main_directions(
    vectors: Float[torch.Tensor, "words dim"], counts: Float[torch.Tensor, " words"], *, directions: int
) -> Float[torch.Tensor, "words kept"]:
    """Project centred word vectors, down-weighted by frequency, onto their main directions."""
    shares = counts / counts.sum()
    centred = (vectors - shares @ vectors) * frequency_weights(counts)[:, None]
    spread = (centred * counts[:, None] ** _COUNTS_POWER).T @ centred
    return centred @ torch.linalg.eigh(spread).eigenvectors.flip(1)[:, : min(directions, vectors.shape[1])]
