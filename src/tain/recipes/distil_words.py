"""Let a student know words before it reads texts: its narrow layer is fitted to the teacher's vectors of the most frequent ones."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from tain.batches.projection import UNIT, Projection, token_features
from tain.encoders.qrnn import PQRNN
from tain.encoders.static import frequency_weights

Encode = Callable[[list[str]], np.ndarray]

_AT_ONCE = 4096
_RIDGE = 0.01  # of the features' mean square
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
    squares.diagonal().add_(_RIDGE * squares.diagonal().mean())
    fitted = torch.linalg.solve(squares, products).T  # (kept, features)
    fitted /= fitted.norm(dim=1, keepdim=True).clamp(min=1e-8)  # the norm behind it sets each output's size
    module.bottleneck.weight[:kept] = fitted
    module.bottleneck.weight[kept : 2 * kept] = -fitted


def main_directions(
    vectors: Float[torch.Tensor, "words dim"], counts: Float[torch.Tensor, " words"], *, directions: int
) -> Float[torch.Tensor, "words kept"]:
    """Words along the directions in which they differ most, without what all share; frequent words count for less, and occur more often."""
    shares = counts / counts.sum()
    centred = (vectors - shares @ vectors) * frequency_weights(counts)[:, None]
    spread = (centred * counts[:, None] ** _COUNTS_POWER).T @ centred
    return centred @ torch.linalg.eigh(spread).eigenvectors.flip(1)[:, : min(directions, vectors.shape[1])]
