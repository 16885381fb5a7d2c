"""Token vectors to text vectors."""

from jaxtyping import Float, Int
from torch import Tensor

from tain.batches.types import PackedTexts


def first_token(hidden: Float[Tensor, "tokens dim"], packed: PackedTexts) -> Float[Tensor, "texts dim"]:
    """Take each text's first token, which BERT-like models reserve for the whole text."""
    return hidden[packed.starts].float()


def masked_mean(
    hidden: Float[Tensor, "tokens dim"], packed: PackedTexts, *, token_weights: Float[Tensor, " vocabulary"] | None = None
) -> Float[Tensor, "texts dim"]:
    """Average each text's real tokens, special tokens included, in float32. Texts come in packed order.

    Args:
        hidden: Token vectors.
        packed: The batch that they belong to.
        token_weights: Weight of each token id, 0 or more; the average is then weighted, as sentence-transformers' ``WordWeights``
            and mean pooling compute it. A text whose weights sum to 0 gets a vector of zeros.
    """
    hidden = hidden.float()
    shape = packed.texts + 1, hidden.shape[1]  # the last row collects what fillers hold
    if token_weights is None:
        return hidden.new_zeros(shape).index_add(0, packed.owners, hidden)[:-1] / packed.length_tensor()[:, None]
    weights = token_weights[packed.ids]
    sums = hidden.new_zeros(shape).index_add(0, packed.owners, hidden * weights[:, None])[:-1]
    totals = hidden.new_zeros(packed.texts + 1).index_add(0, packed.owners, weights)[:-1]
    return sums / totals.clamp(min=1e-9)[:, None]


def sif_weights(counts: Int[Tensor, " vocabulary"], *, smoothing: float) -> Float[Tensor, " vocabulary"]:
    """Weigh each token by smoothing / (smoothing + its relative frequency): 1 for a token that never occurs, near 0 for "the".

    Arora et al. 2017, smooth inverse frequency. Their default is 1e-3; before a whitening 1e-2 does better (``docs/LOG.md``).

    Args:
        counts: How often each token occurs, special tokens included.
        smoothing: The relative frequency at which a token weighs one half.
    """
    frequencies = counts.double() / counts.sum().clamp(min=1)
    return (smoothing / (smoothing + frequencies)).float()
