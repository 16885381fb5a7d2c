"""Decompose whole layers, including the feed-forward part with its residual connection and normalisation. Beyond the paper.

The feed-forward part is nonlinear, so its decomposition needs a convention. Ours keeps the sum exact: an activation multiplies every part
of its input by the same slope, (act(a) - act(0)) / a at the total input a, as secants do (for ReLU this is the network's own linear piece).
The product in a gated layer is divided evenly between its factors, which is the Shapley value of a product of two sums. Contributions of
biases belong to no token; they are kept as a separate part, excluded from norms and ratios.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tain.inspection.blocks import Block, Normalisation
from tain.inspection.capturing import BlockStates
from tain.inspection.norms import ratio, split

LAYER_METHOD = "Layer-N"

_NUMBERS_AT_ONCE = 2**22  # of the expanded parts: 16 MB in float32


def layer_ratios(states: BlockStates) -> Float[Tensor, " tokens"]:
    """Share of each token's vector after the whole layer that comes from other tokens, as in ``mixing_ratios``."""
    parts = split(states)
    own, context, _ = layer_parts(torch.stack([parts.own + states.inputs, parts.context], dim=1), states, slice(None)).unbind(1)
    return ratio(own=own, context=context)


def layer_norms(states: BlockStates) -> list[Float[Tensor, "tokens tokens"]]:
    """Norms of the contribution of each token (column) to each token (row) after the whole layer, for every text in packed order.

    Costs as much as a feed-forward pass of each text per token; memory is bounded.
    """
    found = []
    for index, weights, values in states.texts():
        tokens = weights.shape[1]
        output = states.block.output.weight.unflatten(1, (len(weights), -1))
        sources = torch.einsum("hjw,dhw->jhd", values, output)  # (tokens, heads, dim)
        norms = weights.new_empty(tokens, tokens)
        rows_at_once = max(1, _NUMBERS_AT_ONCE // (tokens * len(states.block.feed_forward.inner.weight)))
        for start in range(0, tokens, rows_at_once):
            rows = torch.arange(start, min(start + rows_at_once, tokens), device=weights.device)
            parts = torch.einsum("hij,jhd->ijd", weights[:, rows], sources)
            parts[rows - start, rows] += states.inputs[index][rows]
            behind = layer_parts(parts, states, rows + index.start)
            norms[rows] = behind[:, :-1].norm(dim=-1)
        found.append(norms)
    return found


def layer_parts(
    parts: Float[Tensor, "rows parts dim"], states: BlockStates, rows: slice | Tensor
) -> Float[Tensor, "rows parts_and_constant dim"]:
    """Pass parts of some tokens' vectors through the rest of their layer.

    Args:
        parts: For each of ``rows``, parts that sum to attention without b_O plus residual.
        states: Captured states of the layer.
        rows: Indices of the batch's tokens.

    Returns:
        The parts after the layer, followed by the part that belongs to no token; together they sum to the layer's output.
    """
    block = states.block
    constant = parts.new_zeros(len(parts), 1, parts.shape[2])
    if block.output.bias is not None:
        constant = constant + block.output.bias
    parts = torch.cat([parts, constant], dim=1)
    if block.norm is not None:
        parts = _through_norm(parts, block.norm, totals=states.totals[rows])
    return _through_feed_forward(parts, block, totals=states.outputs[rows])


def _through_feed_forward(parts: Tensor, block: Block, *, totals: Tensor) -> Tensor:
    """Pass parts through the feed-forward layer; the last part belongs to no token and receives the biases."""
    part = block.feed_forward
    entering = parts if block.is_post else _through_norm(parts, part.norm, totals=totals)
    inner = part.inner.linear(entering)
    _add_constant(inner, part.inner.bias)
    whole = inner.sum(1, keepdim=True)
    at_zero = part.activation(torch.zeros_like(whole))
    is_zero = whole.abs() < torch.finfo(whole.dtype).tiny
    slope = torch.where(is_zero, 0.0, (part.activation(whole) - at_zero) / whole.masked_fill(is_zero, 1.0))
    hidden = inner * slope
    _add_constant(hidden, at_zero[:, 0])
    if part.gate is not None:
        gates = part.gate.linear(entering)
        _add_constant(gates, part.gate.bias)
        hidden = (hidden * gates.sum(1, keepdim=True) + gates * hidden.sum(1, keepdim=True)) / 2
    leaving = part.outer.linear(hidden)
    _add_constant(leaving, part.outer.bias)
    leaving = leaving + parts
    return _through_norm(leaving, part.norm, totals=leaving.sum(1)) if block.is_post else leaving


def _through_norm(parts: Tensor, norm: Normalisation, *, totals: Tensor) -> Tensor:
    found = norm.shaped(parts) / norm.spread(totals)[:, None]
    _add_constant(found, norm.shift)
    return found


def _add_constant(parts: Tensor, constant: Tensor | None) -> None:
    if constant is not None:
        parts[:, -1] += constant
