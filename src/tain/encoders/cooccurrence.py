"""Token vectors from co-occurrence counts, to initialize embeddings of a masked LM.

Levy and Goldberg 2014: a truncated singular value decomposition of the positive pointwise mutual information of
tokens and their neighbours. Takes half a minute for 65 million tokens and a vocabulary of 16k on two cores, and saves a masked LM its
first hours of training.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tain.batches.types import TokenIds
from tain.foundation.errors import UserError

_LARGEST_VOCABULARY = 40_000  # the count table is dense: 6.4 GB at this size
_CHUNK_TOKENS = 4_000_000


def cooccurrence_vectors(
    stream: TokenIds,
    *,
    vocabulary: int,
    dim: int,
    special_ids: Sequence[int],
    window: int = 5,
    generator: torch.Generator,
) -> tuple[Float[Tensor, "vocabulary dim"], Float[Tensor, " vocabulary"]]:
    """Compute token vectors whose dot products approximate pointwise mutual information of neighbouring tokens.

    Args:
        stream: Concatenated token ids of all texts.
        vocabulary: Number of ids.
        dim: Dimension of the vectors.
        special_ids: Ids that are not words: no window crosses them, and their rows are zero.
        window: Neighbours on each side; nearer ones count more, in steps of 1 / window.
        generator: Random generator of the projection and rotation.

    Returns:
        The vectors, centred and randomly rotated (so that all dimensions are equally important), and the count of each id.

    Raises:
        UserError: The vocabulary is too large for a dense table.
    """
    if vocabulary > _LARGEST_VOCABULARY:
        raise UserError(f"the vocabulary has {vocabulary:,} tokens, too many to count pairs in memory: give --no-cooccurrence-init")
    counts = torch.zeros(vocabulary * vocabulary)
    unigram = np.zeros(vocabulary, dtype=np.int64)
    is_special = np.zeros(vocabulary, dtype=bool)
    is_special[list(special_ids)] = True
    for start in range(0, len(stream), _CHUNK_TOKENS):
        chunk = stream[start : start + _CHUNK_TOKENS + window].astype(np.int64)
        tokens = torch.from_numpy(chunk)
        unigram += np.bincount(chunk[:_CHUNK_TOKENS], minlength=vocabulary)
        is_word = torch.from_numpy(~is_special[chunk])
        is_open = is_word[:_CHUNK_TOKENS]
        for distance in range(1, min(window, len(tokens) - 1) + 1):
            lefts = min(_CHUNK_TOKENS, len(tokens) - distance)
            is_open = is_open[:lefts] & is_word[distance : distance + lefts]
            pairs = (tokens[:lefts] * vocabulary + tokens[distance : distance + lefts])[is_open]
            counts.index_add_(0, pairs, torch.full((len(pairs),), (window + 1 - distance) / window))
    counts = counts.view(vocabulary, vocabulary)
    counts += counts.T.clone()
    information = _positive_information(counts)
    vectors = _leading_vectors(information, dim, generator)
    occurrences = torch.from_numpy(unigram).float()
    has_vector = ~torch.from_numpy(is_special) & (occurrences > 0)
    vectors -= vectors[has_vector].mean(0)
    vectors[~has_vector] = 0
    return vectors, occurrences


def _positive_information(counts: Tensor) -> Tensor:
    """Replace counts, in place, by max(0, log p(i, j) / (p(i) p'(j))) with context counts raised to 0.75."""
    rows = counts.sum(1)
    contexts = rows**0.75
    contexts /= contexts.sum()
    for row in counts.split(1024):  # views, which avoid a second table
        expected = row.sum(1, keepdim=True) * contexts
        row.div_(expected.clamp_(min=1e-9)).clamp_(min=1.0).log_()
    return counts


def _leading_vectors(matrix: Tensor, dim: int, generator: torch.Generator) -> Tensor:
    """U * sqrt(S) of the ``dim`` largest singular values, by randomized subspace iteration, randomly rotated."""
    width = min(len(matrix), dim + 40)
    basis = torch.linalg.qr(matrix @ torch.randn(len(matrix), width, generator=generator)).Q
    for _ in range(3):
        basis = torch.linalg.qr(matrix @ (matrix.T @ basis)).Q
    left, values, _ = torch.linalg.svd(basis.T @ matrix, full_matrices=False)
    vectors = (basis @ left)[:, :dim] * values[:dim].sqrt()
    if vectors.shape[1] < dim:
        vectors = torch.nn.functional.pad(vectors, (0, dim - vectors.shape[1]))
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q
    return vectors @ rotation
