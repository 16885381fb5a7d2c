"""The one attention function: packed batches, drophead, and a window for inspection.

transformers looks its attention up by name and hands unknown keyword arguments through to it. We register one function
that runs texts laid end to end (no padding at all), drops heads per text and layer, and shows weights and values to
whoever asks. The models' own code is untouched.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tain.encoders.dropout import dropped

NAME = "tain_packed"

_MOST_SCORES = 2**24  # of a layer, kept for the backward pass: 64 MB in bfloat16; beyond, memory counts more than time

Capture = Callable[[nn.Module, Tensor, Tensor], None]


@dataclass(frozen=True)
class Packing:
    """How the texts of a packed batch lie in memory, and what attention does to them besides.

    Attributes:
        groups: Runs of texts of equal length as (texts, tokens a text), in memory order.
        drophead: Probability that a head's output is dropped for a text in a layer; 0 outside training.
        capture: Called once a group and layer with the attention module, the weights
            (texts, heads, tokens, tokens) and the values (texts, heads, tokens, head width).
    """

    groups: tuple[tuple[int, int], ...]
    drophead: float = 0.0
    capture: Capture | None = None


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens width"],
    key: Float[Tensor, "rows kv_heads tokens width"],
    value: Float[Tensor, "rows kv_heads tokens value_width"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Packing | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "rows tokens heads value_width"], None]:
    """Attend within each text of a packed batch.

    Called by transformers for every layer. ``sliding_window`` follows its convention: a token sees those
    fewer than ``sliding_window`` places away. Without ``packing`` (the model was called directly, with rows
    of equal length) this is ordinary attention under ``attention_mask``.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    if packing is None:
        if attention_mask is None:
            is_visible = _window(query.shape[2], sliding_window, query.device)
            mixed = _mixed(query, key, value, is_visible, scale=scale, dropout=dropout)
        else:  # padding may leave a row nothing to see, which the kernel knows to answer
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scale)
        return mixed.transpose(1, 2), None
    if len(packing.groups) == 1:
        texts, tokens = packing.groups[0]
        parts = [_attend(module, query, key, value, texts, tokens, scale, dropout, sliding_window, packing)]
        return parts[0], None
    # one split along time: its backward is one cat, where every slice would fill a full-size zero tensor
    sizes = [texts * tokens for texts, tokens in packing.groups]
    parts = [
        _attend(module, *states, texts, tokens, scale, dropout, sliding_window, packing)
        for states, (texts, tokens) in zip(
            zip(query.split(sizes, dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True), packing.groups, strict=True
        )
    ]
    return torch.cat(parts, dim=1), None


def _attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    texts: int,
    tokens: int,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
    packing: Packing,
) -> Float[Tensor, "1 group_tokens heads width"]:
    """Run attention over ``texts`` texts of ``tokens`` tokens each that lie side by side."""
    query, key, value = (_by_text(states, texts, tokens) for states in (query, key, value))  # (texts, heads, tokens, width)
    is_visible = _window(tokens, sliding_window, query.device)
    capture = packing.capture
    show = None if capture is None else lambda weights: capture(module, weights, value)
    mixed = _mixed(query, key, value, is_visible, scale=scaling, dropout=dropout, show=show)
    if packing.drophead > 0.0 and module.training:
        mixed = mixed * head_survival(texts, query.shape[1], packing.drophead, device=mixed.device)[:, :, None, None].to(mixed.dtype)
    return mixed.transpose(1, 2).reshape(1, texts * tokens, mixed.shape[1], -1)


def _mixed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    is_visible: Tensor | None,
    *,
    scale: float,
    dropout: float,
    show: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """Attention of (texts, heads, tokens, width) states; ``is_visible`` tells which tokens see which, each at least itself."""
    if show is None and not _products_are_faster(query, dropout):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible, dropout_p=dropout, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)  # (texts, heads, tokens, tokens)
    if is_visible is not None:
        scores = scores.masked_fill(~is_visible, -torch.inf)
    weights = scores.softmax(-1)
    if show is not None:
        show(weights)
    return dropped(weights, dropout) @ value


def _products_are_faster(query: Tensor, dropout: float) -> bool:
    """Tell where two plain products and a softmax beat the fused kernel: in training on a CPU.

    There the kernel's backward pass takes four times as long, and with dropout it is none.
    """
    texts, heads, tokens, _ = query.shape
    return query.device.type == "cpu" and (dropout > 0.0 or (query.requires_grad and texts * heads * tokens**2 <= _MOST_SCORES))


def head_survival(texts: int, heads: int, probability: float, *, device: torch.device | None = None) -> Float[Tensor, "texts heads"]:
    """Draw which heads live, scaled so that the survivors make up for the dropped (Mirror-BERT's drophead variant).

    A text that would lose all its heads keeps the one with the luckiest draw: the reference divides by zero there.

    Returns:
        ``heads / alive`` for living heads, 0 for dropped ones.
    """
    draws = torch.rand(texts, heads, device=device)
    is_alive = (draws >= probability) | (draws == draws.amax(dim=1, keepdim=True))
    return is_alive * (heads / is_alive.sum(dim=1, keepdim=True))


def _by_text(states: Tensor, texts: int, tokens: int) -> Tensor:
    """View (1, heads, texts * tokens, width) as (texts, heads, tokens, width), without a copy."""
    return states[0].unflatten(1, (texts, tokens)).transpose(0, 1)


def _window(tokens: int, sliding_window: int | None, device: torch.device) -> Tensor | None:
    """Which tokens see which, or None where all see all."""
    if sliding_window is None or tokens <= sliding_window:
        return None
    places = torch.arange(tokens, device=device)
    return (places[:, None] - places).abs() < sliding_window


def _mask(*arguments: Any, attention_mask: Tensor | None = None, **settings: Any) -> Tensor | None:
    """Make the mask of padded rows; packed texts need none, for attention never crosses a text's border."""
    return None if attention_mask is None else sdpa_mask(*arguments, attention_mask=attention_mask, **settings)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
