"""Pooling: token vectors to text vectors."""

from jaxtyping import Float, Int
from torch import Tensor

from tain.batches.types import PackedTexts


def first_token(hidden: Float[Tensor, "tokens dim"], packed: PackedTexts) -> Float[Tensor, "texts dim"]:
    """Vector of each text's first token, which represents the whole text in BERT-like models."""
    return hidden[packed.starts].float()


def masked_mean(
    hidden: Float[Tensor, "tokens dim"], packed: PackedTexts, *, token_weights: Float[Tensor, " vocabulary"] | None = None
) -> Float[Tensor, "texts dim"]:
    """Mean of each text's real tokens, including special tokens, in float32. Texts are in packed order.

    Args:
        hidden: Token vectors.
        packed: The batch of these tokens.
        token_weights: Weight per token id, 0 or more, for a weighted mean as computed by sentence-transformers' ``WordWeights`` with
            mean pooling. A text with weight sum 0 gets a zero vector.
    """
    hidden = hidden.float()
    shape = packed.texts + 1, hidden.shape[1]  # the last row collects the filler tokens
    if token_weights is None:
        return hidden.new_zeros(shape).index_add(0, packed.owners, hidden)[:-1] / packed.length_tensor()[:, None]
    weights = token_weights[packed.ids]
    sums = hidden.new_zeros(shape).index_add(0, packed.owners, hidden * weights[:, None])[:-1]
    totals = hidden.new_zeros(packed.texts + 1).index_add(0, packed.owners, weights)[:-1]
    return sums / totals.clamp(min=1e-9)[:, None]


def sif_weights(counts: Int[Tensor, " vocabulary"], *, smoothing: float) -> Float[Tensor, " vocabulary"]:
    """Token weights smoothing / (smoothing + relative frequency): 1 for a token that never occurs, near 0 for "the".

    Arora et al. 2017, smooth inverse frequency. Their default is 1e-3; before a whitening 1e-2 works better (``docs/LOG.md``).

    Args:
        counts: Count of each token, including special tokens.
        smoothing: Relative frequency at which the weight is one half.
    """
    frequencies = counts.double() / counts.sum().clamp(min=1)
    return (smoothing / (smoothing + frequencies)).float()
