"""Locate the parts of a layer in transformers encoders: attention, its output, normalisation, feed-forward part."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tain.foundation.errors import UserError


@dataclass(frozen=True)
class Affine:
    """Affine map: x @ weight.T + bias.

    Attributes:
        weight: As in ``nn.Linear``.
        bias: None if there is none.
    """

    weight: Float[Tensor, "outs ins"]
    bias: Float[Tensor, " outs"] | None

    def linear(self, vectors: Float[Tensor, "*positions ins"]) -> Float[Tensor, "*positions outs"]:
        """Apply it without the bias, as needed for one part of a sum."""
        return vectors @ self.weight.T


@dataclass(frozen=True)
class Normalisation:
    """LayerNorm or RMSNorm, applicable to the parts of a sum.

    Attributes:
        scale: gamma.
        shift: beta; None if there is none.
        epsilon: Added to the mean square under the root.
        centres: Whether the mean over features is subtracted (LayerNorm) or not (RMSNorm).
    """

    scale: Float[Tensor, " dim"]
    shift: Float[Tensor, " dim"] | None
    epsilon: float
    centres: bool

    def spread(self, totals: Float[Tensor, "*positions dim"]) -> Float[Tensor, "*positions 1"]:
        """Divisor of whole vectors."""
        centred = totals - totals.mean(-1, keepdim=True) if self.centres else totals
        return (centred.square().mean(-1, keepdim=True) + self.epsilon).sqrt()

    def shaped(self, parts: Float[Tensor, "*positions dim"]) -> Float[Tensor, "*positions dim"]:
        """Centre each part by its mean and scale its features; only the division by the whole vector's spread remains."""
        return (parts - parts.mean(-1, keepdim=True) if self.centres else parts) * self.scale


@dataclass(frozen=True)
class FeedForward:
    """outer(activation(inner(x))), or outer(activation(inner(x)) * gate(x)).

    Attributes:
        inner: Expands to the inner width.
        gate: The second factor; None if not gated.
        activation: Element-wise activation.
        outer: Projects back to the model's width.
        norm: Normalisation of its input (pre-LN), or of its output plus residual (post-LN).
    """

    inner: Affine
    gate: Affine | None
    activation: Callable[[Tensor], Tensor]
    outer: Affine
    norm: Normalisation


@dataclass(frozen=True)
class Block:
    """Parts of one layer.

    Attributes:
        layer: The whole layer; the residual connection carries its input.
        attention: Module that calls the attention function.
        output_layer: Layer that combines the heads, with W_O and b_O.
        norm_layer: Normalises attention plus residual (post-LN); None if normalisation comes before attention (pre-LN).
        next_norm_layer: Normalisation of the feed-forward part.
        value: W_V and b_V with a row per head, also if heads share them.
        output: W_O and b_O.
        norm: Parameters of ``norm_layer``; None without it.
        feed_forward: The feed-forward half of the layer.
    """

    layer: nn.Module
    attention: nn.Module
    output_layer: nn.Module
    norm_layer: nn.Module | None
    next_norm_layer: nn.Module
    value: Affine
    output: Affine
    norm: Normalisation | None
    feed_forward: FeedForward

    @property
    def is_post(self) -> bool:
        """Whether normalisation follows the residual connection (BERT) rather than preceding attention (ModernBERT)."""
        return self.norm is not None


@dataclass(frozen=True)
class _Names:
    """Dotted names of a layer's parts in a family of models, relative to the layer."""

    attention: str
    value: str
    output: str
    norm: str
    inner: str
    activation: str
    outer: str
    next_norm: str
    gate: str | None = None
    is_post: bool = True


_FAMILIES = (
    _Names(  # BERT, RoBERTa, XLM-R, ELECTRA and similar
        attention="attention.self",
        value="attention.self.value",
        output="attention.output.dense",
        norm="attention.output.LayerNorm",
        inner="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        outer="output.dense",
        next_norm="output.LayerNorm",
    ),
    _Names(  # ALBERT
        attention="attention",
        value="attention.value",
        output="attention.dense",
        norm="attention.LayerNorm",
        inner="ffn",
        activation="activation",
        outer="ffn_output",
        next_norm="full_layer_layer_norm",
    ),
    _Names(  # DistilBERT
        attention="attention",
        value="attention.v_lin",
        output="attention.out_lin",
        norm="sa_layer_norm",
        inner="ffn.lin1",
        activation="ffn.activation",
        outer="ffn.lin2",
        next_norm="output_layer_norm",
    ),
    _Names(  # ModernBERT: one layer for queries, keys and values, and one for the inner layer and its gate
        attention="attn",
        value="attn.Wqkv",
        output="attn.Wo",
        norm="attn_norm",
        inner="mlp.Wi",
        activation="mlp.act",
        outer="mlp.Wo",
        next_norm="mlp_norm",
        is_post=False,
    ),
    _Names(  # EuroBERT: a bidirectional Llama
        attention="self_attn",
        value="self_attn.v_proj",
        output="self_attn.o_proj",
        norm="input_layernorm",
        inner="mlp.gate_proj",
        gate="mlp.up_proj",
        activation="mlp.act_fn",
        outer="mlp.down_proj",
        next_norm="post_attention_layernorm",
        is_post=False,
    ),
    _Names(  # RoBERTa-PreLayerNorm
        attention="attention.self",
        value="attention.self.value",
        output="attention.output.dense",
        norm="attention.LayerNorm",
        inner="intermediate.dense",
        activation="intermediate.intermediate_act_fn",
        outer="output.dense",
        next_norm="intermediate.LayerNorm",
        is_post=False,
    ),
)


def find_blocks(model: nn.Module) -> list[Block]:
    """Find the layers of a transformers encoder and their parts, each once, in model order.

    Raises:
        UserError: The structure of its layers is unknown.
    """
    name = type(model).__name__
    found = [block for module in model.modules() if (block := _block_of(module)) is not None]
    if not found:
        raise UserError(
            f"{name} has no layers built like those of BERT, RoBERTa, ELECTRA, ALBERT, DistilBERT, ModernBERT or EuroBERT, "
            "so its attention cannot be decomposed: give a model of one of these"
        )
    return found


def _block_of(module: nn.Module) -> Block | None:
    for names in _FAMILIES:
        block = _named_block(module, names)
        if block is not None:
            return block
    return None


def _named_block(layer: nn.Module, names: _Names) -> Block | None:
    wanted = (names.attention, names.value, names.output, names.norm, names.inner, names.activation, names.outer, names.next_norm)
    if any(_part(layer, name) is None for name in wanted) or (names.gate is not None and _part(layer, names.gate) is None):
        return None
    next_norm = _normalisation(_part(layer, names.next_norm))
    norm = _normalisation(_part(layer, names.norm)) if names.is_post else None
    if next_norm is None or (names.is_post and norm is None):
        return None
    attention, output = _part(layer, names.attention), _part(layer, names.output)
    inner, gate = _affine(_part(layer, names.inner)), None
    outer = _affine(_part(layer, names.outer))
    if names.gate is not None:
        gate = _affine(_part(layer, names.gate))
    elif inner.weight.shape[0] == 2 * outer.weight.shape[1]:
        inner, gate = _chunk(inner, 0, parts=2), _chunk(inner, 1, parts=2)
    return Block(
        layer=layer,
        attention=attention,
        output_layer=output,
        norm_layer=_part(layer, names.norm) if names.is_post else None,
        next_norm_layer=_part(layer, names.next_norm),
        value=_value(_affine(_part(layer, names.value)), attention, joint=names.value.endswith("qkv")),
        output=_affine(output),
        norm=norm,
        feed_forward=FeedForward(inner, gate, _part(layer, names.activation), outer, next_norm),
    )


def _part(layer: nn.Module, name: str) -> Any:
    found: Any = layer
    for step in name.split("."):
        found = getattr(found, step, None)
    return found


def _affine(layer: Any) -> Affine:
    return Affine(layer.weight.detach(), None if layer.bias is None else layer.bias.detach())


def _chunk(affine: Affine, number: int, *, parts: int) -> Affine:
    bias = None if affine.bias is None else affine.bias.chunk(parts)[number]
    return Affine(affine.weight.chunk(parts)[number], bias)


def _value(value: Affine, attention: Any, *, joint: bool) -> Affine:
    if joint:
        return _chunk(value, 2, parts=3)
    heads_a_value = int(getattr(attention, "num_key_value_groups", 1))
    if heads_a_value == 1:
        return value
    width = int(attention.head_dim)
    return Affine(
        _repeated(value.weight, heads_a_value, width), None if value.bias is None else _repeated(value.bias, heads_a_value, width)
    )


def _repeated(rows: Tensor, times: int, width: int) -> Tensor:
    """Repeat shared rows for each head."""
    return rows.unflatten(0, (-1, width)).repeat_interleave(times, dim=0).flatten(0, 1)


def _normalisation(layer: Any) -> Normalisation | None:
    scale = getattr(layer, "weight", None)
    if not isinstance(scale, Tensor):
        return None
    if isinstance(layer, nn.LayerNorm):
        shift = None if layer.bias is None else layer.bias.detach()
        return Normalisation(scale.detach(), shift, float(layer.eps), centres=True)
    if "RMSNorm" in type(layer).__name__:
        epsilon = getattr(layer, "variance_epsilon", getattr(layer, "eps", None))
        epsilon = torch.finfo(scale.dtype).eps if epsilon is None else epsilon  # like nn.RMSNorm for None
        return Normalisation(scale.detach(), None, float(epsilon), centres=False)
    return None
