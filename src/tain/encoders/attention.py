"""Attention function registered with transformers: packed batches, drophead, and capture of weights for inspection.

transformers looks its attention up by name and passes unknown keyword arguments through to it. We register one function
that processes concatenated texts without padding, drops heads per text and layer, and passes weights and values to a
capture callback. The code of the models is unchanged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tain.encoders.dropout import dropped

NAME = "tain_packed"
_SHORT_ROW = 128  # tokens
_MOST_SCORES = 2**24  # per layer, kept for the backward pass: 64 MB in bfloat16; above this, memory matters more than time

Capture = Callable[[nn.Module, Tensor, Tensor], None]


@dataclass(frozen=True)
class Packing:
    """Memory layout of a packed batch, and settings of attention.

    Attributes:
        groups: Runs of equal rows as (rows, tokens a row), in memory order.
        owners: Text index of each token in the rows of the first group, if several texts share a row; None if every row is one text.
        drophead: Probability to drop a head's output, per text and layer; 0 outside training.
        capture: Called once per group and layer with the attention module, the weights
            (rows, heads, tokens, tokens) and the values (rows, heads, tokens, head width).
        prefix: Tokens before each text that have no position in it; a sliding window neither hides nor counts them.
    """

    groups: tuple[tuple[int, int], ...]
    owners: Int[Tensor, "rows tokens"] | None = None
    drophead: float = 0.0
    capture: Capture | None = None
    prefix: int = 0


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
    """Compute attention within each text of a packed batch.

    Called by transformers for every layer. With ``sliding_window``, a token sees those less than so many positions away, or less
    than the number that ``_mask`` gives instead. Without ``packing`` (the model is called directly, with rows of equal length) this
    is ordinary attention with ``attention_mask``.
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if key.shape[1] != query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    distance = None
    if attention_mask is not None and attention_mask.dtype == torch.long:
        distance, attention_mask = attention_mask.view(()), None
    window = None if sliding_window is None else _Window(sliding_window, distance)
    if packing is None:
        if attention_mask is None:
            is_visible = None if window is None else window.visible(query.shape[2], query.device)
            mixed = _mixed(query, key, value, is_visible, scale=scale, dropout=dropout)
        else:  # padding may leave a row without visible tokens, which the kernel handles
            mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask, dropout_p=dropout, scale=scale)
        return mixed.transpose(1, 2), None
    settings = {"module": module, "scaling": scale, "dropout": dropout, "window": window, "packing": packing}
    if len(packing.groups) == 1:
        return _attend(query, key, value, *packing.groups[0], owners=packing.owners, **settings), None
    # a single split along time: its backward is one cat, while each slice would fill a full-size zero tensor
    sizes = [rows * tokens for rows, tokens in packing.groups]
    states = zip(query.split(sizes, dim=2), key.split(sizes, dim=2), value.split(sizes, dim=2), strict=True)
    owners = [packing.owners, *[None] * (len(sizes) - 1)]
    parts = [_attend(*each, *group, owners=theirs, **settings) for each, group, theirs in zip(states, packing.groups, owners, strict=True)]
    return torch.cat(parts, dim=1), None


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: int,
    tokens: int,
    *,
    module: nn.Module,
    owners: Tensor | None,
    scaling: float,
    dropout: float,
    window: "_Window | None",
    packing: Packing,
) -> Float[Tensor, "1 group_tokens heads width"]:
    """Compute attention for ``rows`` consecutive rows of ``tokens`` tokens each."""
    query, key, value = (_by_row(states, rows, tokens) for states in (query, key, value))  # (rows, heads, tokens, width)
    is_visible = None if window is None else window.visible(tokens, query.device, prefix=packing.prefix)
    if owners is not None:
        is_same_text = (owners[:, :, None] == owners[:, None, :])[:, None]  # (rows, 1, tokens, tokens)
        is_visible = is_same_text if is_visible is None else is_same_text & is_visible
    capture = packing.capture
    show = None if capture is None else lambda weights: capture(module, weights, value)
    mixed = _mixed(query, key, value, is_visible, scale=scaling, dropout=dropout, show=show)
    if packing.drophead > 0.0 and module.training:
        mixed = mixed * _living_heads(mixed, owners, packing.drophead)
    return mixed.transpose(1, 2).reshape(1, rows * tokens, mixed.shape[1], -1)


def _living_heads(mixed: Float[Tensor, "rows heads tokens width"], owners: Tensor | None, probability: float) -> Tensor:
    """Draw ``head_survival`` per text and broadcast it to a factor on ``mixed``."""
    rows, heads = mixed.shape[:2]
    if owners is None:
        factors = head_survival(rows, heads, probability, device=mixed.device)[:, :, None, None]
    else:
        factors = head_survival(int(owners.max()) + 1, heads, probability, device=mixed.device)[owners].transpose(1, 2)[..., None]
    return factors.to(mixed.dtype)


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
    """Attention of (rows, heads, tokens, width) states; ``is_visible`` marks which tokens each token sees, itself included."""
    if show is None and not _products_are_faster(query, dropout):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible, dropout_p=dropout, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)  # (rows, heads, tokens, tokens)
    if is_visible is not None:
        # adding serves all heads at once; filling would touch every score
        scores = scores + torch.zeros_like(is_visible, dtype=scores.dtype).masked_fill_(~is_visible, -torch.inf)
    weights = scores.softmax(-1)
    if show is not None:
        show(weights)
    return dropped(weights, dropout) @ value


def _products_are_faster(query: Tensor, dropout: float) -> bool:
    """Whether two plain products and a softmax are faster than the fused kernel: on CPU, in training and for short rows in half precision.

    In training the kernel's backward pass takes four times as long, and with dropout there is no fused kernel.
    """
    rows, heads, tokens, _ = query.shape
    if query.device.type != "cpu":
        return False
    if query.requires_grad:
        return dropout > 0.0 or rows * heads * tokens**2 <= _MOST_SCORES
    return dropout > 0.0 or (query.dtype != torch.float32 and tokens <= _SHORT_ROW)


def head_survival(texts: int, heads: int, probability: float, *, device: torch.device | None = None) -> Float[Tensor, "texts heads"]:
    """Draw the surviving heads, scaled to compensate for the dropped ones (Mirror-BERT's drophead variant).

    A text that would lose all heads keeps the one with the highest draw; the reference divides by zero here.

    Returns:
        ``heads / alive`` for surviving heads, 0 for dropped ones.
    """
    draws = torch.rand(texts, heads, device=device)
    is_alive = (draws >= probability) | (draws == draws.amax(dim=1, keepdim=True))
    return is_alive * (heads / is_alive.sum(dim=1, keepdim=True))


def _by_row(states: Tensor, rows: int, tokens: int) -> Tensor:
    """View (1, heads, rows * tokens, width) as (rows, heads, tokens, width), without a copy."""
    return states[0].unflatten(1, (rows, tokens)).transpose(0, 1)


@dataclass(frozen=True)
class _Window:
    """Sliding window of a layer.

    Attributes:
        least: The layer's own number: tokens less far away than this are seen.
        distance: Distance from which on tokens are not seen, ``least`` or more; None if it is ``least``. It stays a tensor, because
            reading a number from it would split a compiled graph.
    """

    least: int
    distance: Int[Tensor, ""] | None = None

    def visible(self, tokens: int, device: torch.device, *, prefix: int = 0) -> Tensor | None:
        """Which tokens see which, or None if all see all; the first ``prefix`` tokens and all others see each other."""
        if tokens - prefix <= self.least:
            return None
        indices = torch.arange(tokens, device=device)
        is_near = (indices[:, None] - indices).abs() < (self.least if self.distance is None else self.distance)
        is_near[:prefix] = is_near[:, :prefix] = True
        return is_near


def _mask(*arguments: Any, q_length: int, attention_mask: Tensor | None = None, **settings: Any) -> Tensor | None:
    """Build the mask of padded rows. Packed texts need none, since attention never crosses text boundaries.

    Returns:
        The mask of padded rows. Without padding: the distance, in one whole number, from which on tokens are not seen, for the
        attention function; None if all are seen.
    """
    if attention_mask is not None:
        return sdpa_mask(*arguments, q_length=q_length, attention_mask=attention_mask, **settings)
    window, sees = settings.get("local_size"), settings.get("mask_function")
    if window is None or sees is None or window >= q_length:
        return None
    # ModernBERT gives its attention one more than this window, decoders without causal mask give it the window, Gemma 3 sees one less
    first = torch.zeros((), dtype=torch.long, device=settings.get("device"))
    is_seen = sees(first, first, first + window, first)
    return (window + is_seen.long()).view(1, 1, 1, 1)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
