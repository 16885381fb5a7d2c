"""Norm-based analysis: decompose attention, residual connection and normalisation into one vector per input token.

Kobayashi et al. 2020 and 2021, section 2 of each. For token i of a post-LN block

    y_i   = sum_j sum_h a^h_ij f^h(x_j) + b_O + x_i          f^h(x) = (x W_V^h + b_V^h) W_O^h
    out_i = sum_j F_i(x_j) + g(b_O) + beta                   F_i(x_j) = g(sum_h a^h_ij f^h(x_j) + [i = j] x_i)

where g centres a vector by its own mean, divides it by the spread of the whole y_i and scales it by gamma. The sum is exact; beta and
b_O belong to no token and are excluded from norms and ratios. In a pre-LN block x_j passes the normalisation before W_V, so f^h includes
it and out_i is y_i: the methods with and without normalisation are equal there.

The table of all vectors F_i(x_j) (n x n x d numbers) is never materialized. A ratio needs two vectors per token, its own part and the sum
of all others. A norm needs the products of a token's heads with each other: |sum_h a_h f_h|^2 = a^T G a, where G is heads x heads.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from tain.inspection.blocks import Block, Normalisation
from tain.inspection.capturing import BlockStates

METHODS = ("Attn-W", "Attn-N", "AttnRes-W", "AttnRes-N", "AttnResLn-N")

_SOURCES_AT_ONCE = 32


@dataclass(frozen=True)
class Split:
    """Attention output without b_O, as a sum of two parts.

    Attributes:
        own: Contribution of the token itself: sum_h a^h_ii f^h(x_i).
        context: Contribution of all other tokens.
        kept_weights: Attention weight of a token on itself, averaged over heads.
    """

    own: Float[Tensor, "tokens dim"]
    context: Float[Tensor, "tokens dim"]
    kept_weights: Float[Tensor, " tokens"]


def split(states: BlockStates) -> Split:
    """Separate the contributions of the token itself and of other tokens, in memory of a few token vectors."""
    weights = torch.cat([shown.diagonal(dim1=-2, dim2=-1).transpose(1, 2).flatten(0, 1) for shown, _ in states.groups])  # (tokens, heads)
    values = torch.cat([shown.transpose(1, 2).flatten(0, 1) for _, shown in states.groups])  # (tokens, heads, width)
    own = (weights[..., None] * values).flatten(1)
    # the context goes through W_O and the rest is subtracted, so that the context of a single token is exactly zero
    context = states.block.output.linear(states.mixed - own)
    bias = states.block.output.bias
    return Split((states.attended if bias is None else states.attended - bias) - context, context, weights.mean(1))


def mixing_ratios(states: BlockStates) -> Float[Tensor, "methods tokens"]:
    """Share of each token's vector that comes from other tokens, 0 to 1, by each of ``METHODS``.

    The norm of the sum over other tokens, divided by that norm plus the norm of the token's own part; for weights (W), the weight on
    other tokens. 0 if both parts are zero.
    """
    parts, norm = split(states), states.block.norm
    whole = parts.own + states.inputs  # with the residual connection
    by_weight = 1 - parts.kept_weights
    with_residual = ratio(own=whole, context=parts.context)
    # both parts have the same divisor, which cancels
    normed = with_residual if norm is None else ratio(own=norm.shaped(whole), context=norm.shaped(parts.context))
    return torch.stack([by_weight, ratio(own=parts.own, context=parts.context), by_weight / 2, with_residual, normed])


def ratio(*, own: Float[Tensor, "*positions dim"], context: Float[Tensor, "*positions dim"]) -> Float[Tensor, "*positions"]:
    """Ratio |context| / (|context| + |own|); 0 if both are zero."""
    from_others = context.norm(dim=-1)
    together = from_others + own.norm(dim=-1)
    return torch.where(together > 0, from_others / together.clamp_min(torch.finfo(together.dtype).tiny), 0.0)


@dataclass(frozen=True)
class TextNorms:
    """Norms of one text's parts in one layer; row i holds the parts of token i.

    Attributes:
        weights: Attention weights.
        head_lengths: |f^h(x_j)|, the norm of a head's part at weight 1.
        attention: |sum_h a^h_ij f^h(x_j)| (Attn-N).
        with_residual: The same with x_i on the diagonal (AttnRes-N).
        normed: |F_i(x_j)| (AttnResLn-N); in a pre-LN block the same as ``with_residual``.
    """

    weights: Float[Tensor, "heads tokens tokens"]
    head_lengths: Float[Tensor, "heads tokens"]
    attention: Float[Tensor, "tokens tokens"]
    with_residual: Float[Tensor, "tokens tokens"]
    normed: Float[Tensor, "tokens tokens"]

    @property
    def head_norms(self) -> Float[Tensor, "heads tokens tokens"]:
        """|a^h_ij f^h(x_j)|."""
        return self.weights * self.head_lengths[:, None, :]


def text_norms(states: BlockStates) -> list[TextNorms]:
    """Norms of every text of a batch, in packed order."""
    parts, norm = split(states), states.block.norm
    whole = parts.own + states.inputs
    found = []
    for index, weights, values in states.texts():
        output = states.block.output.weight.unflatten(1, (len(weights), -1))  # (dim, heads, width)
        squares, lengths = _source_squares(weights, values, output, norm=None)
        attention = squares.sqrt().to(weights.dtype)
        with_residual = _with_diagonal(attention, whole[index].norm(dim=-1))
        normed = with_residual
        if norm is not None:
            spread = norm.spread(states.totals[index])  # (tokens, 1)
            shaped = _source_squares(weights, values, output, norm=norm)[0].sqrt().to(weights.dtype)
            normed = _with_diagonal(shaped / spread, (norm.shaped(whole[index]) / spread).norm(dim=-1))
        found.append(TextNorms(weights, lengths.sqrt().to(weights.dtype), attention, with_residual, normed))
    return found


def _source_squares(
    weights: Float[Tensor, "heads tokens tokens"],
    values: Float[Tensor, "heads tokens width"],
    output: Float[Tensor, "dim heads width"],
    *,
    norm: Normalisation | None,
) -> tuple[Float64[Tensor, "tokens tokens"], Float64[Tensor, "heads tokens"]]:
    """Squares of |sum_h a^h_ij f^h(x_j)| and of |f^h(x_j)|, with f^h transformed by ``norm`` if there is one.

    Uses float64, since the difference of close numbers under the root would cost float32 half its digits.
    """
    heads, tokens, _ = weights.shape
    squares = torch.empty(tokens, tokens, dtype=torch.float64, device=weights.device)
    lengths = torch.empty(heads, tokens, dtype=torch.float64, device=weights.device)
    for start in range(0, tokens, _SOURCES_AT_ONCE):
        index = slice(start, start + _SOURCES_AT_ONCE)
        sources = torch.einsum("hjw,dhw->jhd", values[:, index].double(), output.double())  # (sources, heads, dim)
        if norm is not None:
            sources = norm.shaped(sources)
        products = sources @ sources.transpose(1, 2)  # (sources, heads, heads)
        given = weights[:, :, index].permute(2, 1, 0).double()  # (sources, tokens, heads)
        squares[:, index] = ((given @ products) * given).sum(-1).T.clamp_min(0.0)
        lengths[:, index] = products.diagonal(dim1=1, dim2=2).T
    return squares, lengths


def _with_diagonal(matrix: Float[Tensor, "tokens tokens"], diagonal: Float[Tensor, " tokens"]) -> Float[Tensor, "tokens tokens"]:
    """Copy of a matrix with another diagonal."""
    changed = matrix.clone()
    changed.diagonal().copy_(diagonal)
    return changed


def expansion_rate(block: Block) -> float:
    """Average factor by which attention's affine map (W_V, b_V, then W_O, b_O, all heads together) lengthens vectors.

    Kobayashi et al. 2021: |M| / sqrt(dim + 1), the Frobenius norm of the map in homogeneous coordinates. Needs weights only. b_O is an
    additional row of the matrix, as in an affine map; the authors' script adds it as a column.
    """
    value, output = block.value, block.output
    weight = output.weight.double() @ value.weight.double()  # (dim, dim)
    bias = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
    if value.bias is not None:
        bias = bias + output.weight.double() @ value.bias.double()
    if output.bias is not None:
        bias = bias + output.bias.double()
    squares = weight.square().sum() + bias.square().sum() + 1.0  # the last row of the map keeps the 1
    return float((squares / (weight.shape[1] + 1)).sqrt())
