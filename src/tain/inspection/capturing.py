"""Capture the intermediate states of a model's layers during a forward pass, one layer at a time to bound memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tain.batches.types import PackedTexts
from tain.encoders.attention import Capture
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import UserError
from tain.foundation.probing import evaluating
from tain.inspection.blocks import Block, find_blocks

_PROBE_TOLERANCE = 1e-3  # relative to the largest number; a wrongly identified block is off by far more


@dataclass(frozen=True)
class BlockStates:
    """Captured states of one layer for a packed batch.

    Attributes:
        block: The parts of the layer.
        groups: Weights (rows, heads, tokens, tokens) and values (rows, heads, tokens, width) per run of equal rows, in packed order.
        inputs: Input of the layer and of its residual connection.
        mixed: Concatenated weighted values of the heads: the input of W_O.
        attended: Output of W_O, including its bias.
        outputs: Output of the attention block: attention, residual connection and normalisation (post-LN), or attention
            and residual connection (pre-LN, where normalisation comes before the values).
        layer_outputs: Output of the layer.
    """

    block: Block
    groups: tuple[tuple[Tensor, Tensor], ...]
    inputs: Float[Tensor, "tokens dim"]
    mixed: Float[Tensor, "tokens headed"]
    attended: Float[Tensor, "tokens dim"]
    outputs: Float[Tensor, "tokens dim"]
    layer_outputs: Float[Tensor, "tokens dim"]

    @property
    def totals(self) -> Float[Tensor, "tokens dim"]:
        """y: attention plus residual, before normalisation."""
        return self.attended + self.inputs

    def texts(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slice of each text in the tokens, with its weights (heads, tokens, tokens) and values (heads, tokens, width), in packed order."""
        start = 0
        for weights, values in self.groups:
            for row in range(len(weights)):
                yield slice(start, start + weights.shape[-1]), weights[row], values[row]
                start += weights.shape[-1]


Show = Callable[[int, BlockStates], object]


class Watched:
    """An encoder with captured layer states.

    Args:
        encoder: Runs in eval mode while captured; its own mode is restored afterwards.

    Attributes:
        blocks: Its layers; ALBERT shares a single one.
        layers: Number of layers in a forward pass.
        error: Largest difference between a block's recomputed and real output on a few tokens, relative to the largest number there.

    Raises:
        UserError: The model is a decoder, does not use our attention, or has layers of unknown structure.
    """

    def __init__(self, encoder: TransformerEncoder) -> None:
        self.blocks = find_blocks(encoder.model)
        if encoder.layout != "packed":
            raise UserError(f"attention cannot be captured: {encoder.layout_reason}; give a BERT-like model")
        self.encoder = encoder
        self.layers, self.error = self._probe()

    @property
    def is_post(self) -> bool:
        return self.blocks[0].is_post

    @torch.no_grad()
    def run(self, packed: PackedTexts, show: Show) -> Float[Tensor, "tokens dim"]:
        """Run a batch, pass every layer's states to ``show``, and return the last layer's token vectors."""
        with evaluating(self.encoder), _watching(self.blocks, show) as capture:
            return self.encoder.tokens(packed, capture=capture)

    def _probe(self) -> tuple[int, float]:
        """Check on five tokens that the parts of each block reproduce its output; returns the number of layers and the error."""
        errors: list[float] = []

        def check(_: int, states: BlockStates) -> None:
            errors.append(relative_error(recomputed(states), states.outputs))

        vocabulary = int(self.encoder.model.config.vocab_size)
        ids = torch.tensor([token % vocabulary for token in (5, 6, 7, 8, 9)])
        tokens = torch.arange(5)
        one = torch.tensor([0])
        self.run(PackedTexts(ids, (5,), one, (0, 0), 0, one, tokens, torch.zeros_like(tokens)), check)
        if not errors or max(errors) > _PROBE_TOLERANCE:
            name = type(self.encoder.model).__name__
            raise UserError(
                f"{name} has attention blocks that do more than attention, residual connection and normalisation, "
                "so they cannot be decomposed: give a BERT-like model"
            )
        return len(errors), max(errors)


def recomputed(states: BlockStates) -> Float[Tensor, "tokens dim"]:
    """Recompute the attention block's output from its captured parts: weights, values, W_O, b_O, residual, normalisation."""
    block = states.block
    mixed = torch.cat([(weights @ values).transpose(1, 2).flatten(2).flatten(0, 1) for weights, values in states.groups])
    totals = block.output.linear(mixed) + states.inputs
    if block.output.bias is not None:
        totals = totals + block.output.bias
    if block.norm is None:
        return totals
    normed = block.norm.shaped(totals) / block.norm.spread(totals)
    return normed if block.norm.shift is None else normed + block.norm.shift


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, relative to the largest number."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-30))


class _Watch:
    """Collects the states of one layer, and passes them on at the end of the layer."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._number = 0
        self._groups: list[tuple[Tensor, Tensor]] = []
        self._seen: dict[str, Tensor] = {}

    def capture(self, _: nn.Module, weights: Tensor, values: Tensor) -> None:
        self._groups.append((weights, values))

    def begin(self, _: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._groups = []
        self._seen = {"inputs": (given[0] if given else named["hidden_states"])[0]}

    def see_output(self, _: nn.Module, given: tuple[Any, ...], result: Tensor) -> None:
        self._seen |= {"mixed": given[0][0], "attended": result[0]}

    def see_norm(self, _: nn.Module, __: tuple[Any, ...], result: Tensor) -> None:
        self._seen["outputs"] = result[0]

    def see_next_norm(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._seen["outputs"] = given[0][0]

    def finish(self, block: Block, result: Any) -> None:
        whole = result[0] if isinstance(result, tuple) else result
        states = BlockStates(block=block, groups=tuple(self._groups), layer_outputs=whole[0], **self._seen)
        self._groups, self._seen = [], {}
        self._show(self._number, states)
        self._number += 1


@contextmanager
def _watching(blocks: Sequence[Block], show: Show) -> Iterator[Capture]:
    """Install hooks on the layers for one run; yields the capture function for attention."""
    watch = _Watch(show)
    with ExitStack() as hooks:
        for block in blocks:
            added = [
                block.layer.register_forward_pre_hook(watch.begin, with_kwargs=True),
                block.output_layer.register_forward_hook(watch.see_output),
                block.layer.register_forward_hook(lambda _, __, result, block=block: watch.finish(block, result)),
            ]
            if block.norm_layer is not None:
                added.append(block.norm_layer.register_forward_hook(watch.see_norm))
            else:
                added.append(block.next_norm_layer.register_forward_pre_hook(watch.see_next_norm))
            for hook in added:
                hooks.callback(hook.remove)
        yield watch.capture
