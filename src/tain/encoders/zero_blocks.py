"""Skip the zero blocks of a joined encoder's matrices: the same vectors at about the cost of the narrow encoder.

``joining.join_static`` writes an encoder into one of twice the width. Every reader of transformers models can run the result, but three
quarters of its attention matrices and half of its other matrices are zeros.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HalfLinear(nn.Linear):
    """A linear layer without bias that skips the right half of its matrix, the lower half, or both, where they are zero.

    Its parameters stay those of the ``nn.Linear`` that it was made from. It computes the whole product in train mode, for gradients, and
    where a half is not zero.

    Attributes:
        blocks: Matrices that its own one stacks: 3 for queries, keys and values, of which each is halved. Their output is then half as
            wide; other outputs are filled up with zeros.
        halves_rows: The lower half is expected to be zero.
        halves_columns: The right half is expected to be zero.
        is_whole: Always compute the whole product.
        part: What is not zero, contiguous; None to compute the whole product.
    """

    blocks: int
    halves_rows: bool
    halves_columns: bool
    is_whole: bool
    part: Tensor | None
    _taken_from: tuple[object, ...]

    @torch.no_grad()
    def take_part(self) -> None:
        """Take the part that is not zero from the parameter."""
        state = self._state()
        stacked = self.weight.detach().unflatten(0, (self.blocks, -1))
        rows, columns = stacked.shape[1] // (1 + self.halves_rows), self.in_features // (1 + self.halves_columns)
        is_zero = not (stacked[:, rows:].any() or stacked[:, :, columns:].any())
        self.part = stacked[:, :rows, :columns].flatten(0, 1).contiguous() if is_zero else None
        self._taken_from = state  # last: another thread may be reading

    def _state(self) -> tuple[object, ...]:
        """Changes with every change of the parameter."""
        return id(self.weight), self.weight._version, self.weight.dtype, self.weight.device

    def forward(self, input: Tensor) -> Tensor:
        if self.training or (torch.is_grad_enabled() and self.weight.requires_grad):
            self._taken_from = ()  # fused optimizers change parameters without counting it
        elif not self.is_whole:
            if self._taken_from != self._state():
                self.take_part()
            if self.part is not None:
                found = F.linear(input[..., : self.part.shape[1]], self.part)
                return F.pad(found, (0, self.out_features - found.shape[-1])) if self.blocks == 1 else found
        return F.linear(input, self.weight[:, : input.shape[-1]])  # values of a halved attention are zero in the half that is not there


def skip_zero_blocks(model: Any) -> bool:
    """Let a joined encoder skip its zero blocks in eval mode without gradients; leave other models as they are.

    Returns:
        Whether it is a joined encoder.
    """
    if not _is_joined(model):
        return False
    for layer in model.layers:
        _halve(layer.attn.Wqkv, rows=True, columns=True, blocks=3)
        _halve(layer.attn.Wo, rows=True, columns=True)
        _halve(layer.mlp.Wi, rows=False, columns=True)
        _halve(layer.mlp.Wo, rows=True, columns=False)
    return True


@contextmanager
def whole_layers(model: nn.Module) -> Iterator[None]:
    """Compute whole products meanwhile, for readers that need the zero heads too."""
    found = [module for module in model.modules() if isinstance(module, HalfLinear)]
    for module in found:
        module.is_whole = True
    try:
        yield
    finally:
        for module in found:
            module.is_whole = False


def _is_joined(model: Any) -> bool:
    config = model.config
    if config.model_type != "modernbert" or config.attention_bias or config.mlp_bias or config.num_attention_heads % 2:
        return False
    half = config.hidden_size // 2
    return not any(layer.attn.Wo.weight[half:].any() or layer.mlp.Wo.weight[half:].any() for layer in model.layers)


def _halve(linear: nn.Linear, *, rows: bool, columns: bool, blocks: int = 1) -> None:
    linear.__class__ = HalfLinear  # keeps the parameters, their names and whatever refers to the module
    assert isinstance(linear, HalfLinear)
    linear.blocks, linear.halves_rows, linear.halves_columns, linear.is_whole = blocks, rows, columns, False
    linear.register_buffer("part", None, persistent=False)
    linear.take_part()
