"""Pooling: token vectors to text vectors."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tain.batches.types import PackedTexts

MODES = ("cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens")


def pooled(
    hidden: Float[Tensor, "tokens dim"],
    packed: PackedTexts,
    modes: tuple[str, ...],
    *,
    token_weights: Float[Tensor, " vocabulary"] | None = None,
    skipped: int = 0,
) -> Float[Tensor, "texts dims"]:
    """Pool token vectors as sentence-transformers' ``Pooling`` module does, in float32. Texts are in packed order.

    Args:
        hidden: Token vectors.
        packed: The batch of these tokens.
        modes: Some of ``MODES``; their vectors are concatenated.
        token_weights: Weight per token id, by which token vectors are multiplied first (``WordWeights``). Means divide by the sum of the
            weights.
        skipped: Tokens at the beginning of each text that are left out: a prompt with ``include_prompt`` off.
    """
    if modes == ("mean",) and not skipped:
        return masked_mean(hidden, packed, token_weights=token_weights)
    if modes == ("cls",) and token_weights is None and not skipped:
        return first_token(hidden, packed)
    hidden = hidden.float()
    totals = None
    if token_weights is not None:
        weights = token_weights[packed.ids]
        hidden = hidden * weights[:, None]
        totals = _sums(weights[:, None], packed)  # of all tokens, as in WordWeights
    is_kept = (packed.owners < packed.texts) & (packed.positions >= skipped)
    return torch.cat([_POOLS[mode](hidden, packed, is_kept, totals, skipped) for mode in modes], dim=1)


def _sums(values: Float[Tensor, "tokens dim"], packed: PackedTexts) -> Float[Tensor, "texts dim"]:
    return values.new_zeros(packed.texts + 1, values.shape[1]).index_add(0, packed.owners, values)[:-1]


def _first(hidden: Tensor, packed: PackedTexts, is_kept: Bool[Tensor, " tokens"], totals: Tensor | None, skipped: int) -> Tensor:
    # a text that is nothing but a prompt keeps its first token
    return hidden[packed.starts + torch.where(packed.length_tensor() > skipped, skipped, 0)]


def _last(hidden: Tensor, packed: PackedTexts, is_kept: Bool[Tensor, " tokens"], totals: Tensor | None, skipped: int) -> Tensor:
    return hidden[packed.starts + packed.length_tensor() - 1]


def _highest(hidden: Tensor, packed: PackedTexts, is_kept: Bool[Tensor, " tokens"], totals: Tensor | None, skipped: int) -> Tensor:
    owners = packed.owners[is_kept][:, None].expand(-1, hidden.shape[1])
    lowest = hidden.new_full((packed.texts, hidden.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, owners, hidden[is_kept], reduce="amax")


def _mean(hidden: Tensor, packed: PackedTexts, is_kept: Bool[Tensor, " tokens"], totals: Tensor | None, skipped: int) -> Tensor:
    kept = is_kept[:, None].float()
    return _sums(hidden * kept, packed) / (_sums(kept, packed) if totals is None else totals).clamp(min=1e-9)


def _mean_by_root(hidden: Tensor, packed: PackedTexts, is_kept: Bool[Tensor, " tokens"], totals: Tensor | None, skipped: int) -> Tensor:
    kept = is_kept[:, None].float()
    return _sums(hidden * kept, packed) / (_sums(kept, packed) if totals is None else totals).clamp(min=1e-9).sqrt()


def _mean_by_position(hidden: Tensor, packed: PackedTexts, is_kept: Bool[Tensor, " tokens"], totals: Tensor | None, skipped: int) -> Tensor:
    weights = ((packed.positions + 1) * is_kept)[:, None].float()
    return _sums(hidden * weights, packed) / (_sums(weights, packed) if totals is None else totals).clamp(min=1e-9)


_POOLS = {
    "cls": _first,
    "mean": _mean,
    "max": _highest,
    "lasttoken": _last,
    "weightedmean": _mean_by_position,
    "mean_sqrt_len_tokens": _mean_by_root,
}


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
