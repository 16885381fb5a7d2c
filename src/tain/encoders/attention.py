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
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from tain.encoders.dropout import dropped

NAME = "tain_packed"
_SHORT_ROW = 128  # tokens
_MOST_SCORES = 2**24  # of a layer, kept for the backward pass: 64 MB in bfloat16; beyond, memory counts more than time

Capture = Callable[[nn.Module, Tensor, Tensor], None]


@dataclass(frozen=True)
class Packing:
    """How the texts of a packed batch lie in memory, and what attention does to them besides.

    Attributes:
        groups: Runs of equal rows as (rows, tokens a row), in memory order.
        owners: Which text each token of the first group's rows belongs to, where several texts share a row; None where every
            row is one text.
        drophead: Probability that a head's output is dropped for a text in a layer; 0 outside training.
        capture: Called once a group and layer with the attention module, the weights
            (rows, heads, tokens, tokens) and the values (rows, heads, tokens, head width).
        prefix: Tokens in front of each text that have no place in it: a sliding window neither hides nor counts them.
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
    settings = {"module": module, "scaling": scale, "dropout": dropout, "sliding_window": sliding_window, "packing": packing}
    if len(packing.groups) == 1:
        return _attend(query, key, value, *packing.groups[0], owners=packing.owners, **settings), None
    # one split along time: its backward is one cat, where every slice would fill a full-size zero tensor
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
    sliding_window: int | None,
    packing: Packing,
) -> Float[Tensor, "1 group_tokens heads width"]:
    """Run attention over ``rows`` rows of ``tokens`` tokens each that lie side by side."""
    query, key, value = (_by_row(states, rows, tokens) for states in (query, key, value))  # (rows, heads, tokens, width)
    is_visible = _window(tokens, sliding_window, query.device, prefix=packing.prefix)
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
    """Draw ``head_survival`` for each text and lay it out as a factor on ``mixed``."""
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
    """Attention of (rows, heads, tokens, width) states; ``is_visible`` tells which tokens see which, each at least itself."""
    if show is None and not _products_are_faster(query, dropout):
        return F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible, dropout_p=dropout, scale=scale)
    scores = (query * scale) @ key.transpose(-1, -2)  # (rows, heads, tokens, tokens)
    if is_visible is not None:
        # an addend serves all heads, where filling would go through every score
        scores = scores + torch.zeros_like(is_visible, dtype=scores.dtype).masked_fill_(~is_visible, -torch.inf)
    weights = scores.softmax(-1)
    if show is not None:
        show(weights)
    return dropped(weights, dropout) @ value


def _products_are_faster(query: Tensor, dropout: float) -> bool:
    """Tell where two plain products and a softmax beat the fused kernel: on a CPU, in training and on short rows in half precision.

    In training the kernel's backward pass takes four times as long, and with dropout it is none.
    """
    rows, heads, tokens, _ = query.shape
    if query.device.type != "cpu":
        return False
    if query.requires_grad:
        return dropout > 0.0 or rows * heads * tokens**2 <= _MOST_SCORES
    return dropout > 0.0 or (query.dtype != torch.float32 and tokens <= _SHORT_ROW)


def head_survival(texts: int, heads: int, probability: float, *, device: torch.device | None = None) -> Float[Tensor, "texts heads"]:
    """Draw which heads live, scaled so that the survivors make up for the dropped (Mirror-BERT's drophead variant).

    A text that would lose all its heads keeps the one with the luckiest draw: the reference divides by zero there.

    Returns:
        ``heads / alive`` for living heads, 0 for dropped ones.
    """
    draws = torch.rand(texts, heads, device=device)
    is_alive = (draws >= probability) | (draws == draws.amax(dim=1, keepdim=True))
    return is_alive * (heads / is_alive.sum(dim=1, keepdim=True))


def _by_row(states: Tensor, rows: int, tokens: int) -> Tensor:
    """View (1, heads, rows * tokens, width) as (rows, heads, tokens, width), without a copy."""
    return states[0].unflatten(1, (rows, tokens)).transpose(0, 1)


def _window(tokens: int, sliding_window: int | None, device: torch.device, *, prefix: int = 0) -> Tensor | None:
    """Which tokens see which, or None where all see all."""
    if sliding_window is None or tokens - prefix <= sliding_window:
        return None
    indices = torch.arange(tokens, device=device)
    is_near = (indices[:, None] - indices).abs() < sliding_window
    is_near[:prefix] = is_near[:, :prefix] = True
    return is_near


def _mask(*arguments: Any, attention_mask: Tensor | None = None, **settings: Any) -> Tensor | None:
    """Make the mask of padded rows; packed texts need none, for attention never crosses a text's border."""
    return None if attention_mask is None else sdpa_mask(*arguments, attention_mask=attention_mask, **settings)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
