"""Join an encoder with static token vectors into one standard ModernBERT of twice the width."""

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tain.foundation.errors import UserError

_SMALL = 0.03  # scale of the carried half; layer normalizations change by its square


def can_join(model: Any) -> bool:
    """Whether ``join_static`` supports this kind of model."""
    return model.config.model_type == "modernbert" and not model.config.attention_bias and not model.config.mlp_bias


def refuse_unjoinable(model: Any) -> None:
    """Refuse a model that ``join_static`` does not support.

    Raises:
        UserError: The model is not supported.
    """
    if not can_join(model):
        raise UserError(
            f"{type(model).__name__} cannot be joined with token vectors, which needs the ModernBERT architecture: remove --join"
        )


@torch.no_grad()
def join_static(model: Any, table: Float[Tensor, "vocabulary width"]) -> Any:
    """Build a model of twice the width whose token vectors concatenate the model's output and each token's row of ``table``.

    The layers read and write only the first half. The second half is written by the embeddings and read after the last normalization. A
    layer normalization takes mean and variance over both halves: the second half is small and has mean 0, layers do not change the mean of
    the first half (the model's own normalizations would remove it), and the weights compensate for the halved variance. The first half
    therefore equals the model's own vector to about three digits. The second is the row, divided by the length of the first.

    Args:
        model: A ModernBERT; not modified.
        table: Float32, one row per token id, as wide as the model.

    Returns:
        A ModernBERT of the same class, in eval mode, with twice the attention heads; the added heads are zero.

    Raises:
        UserError: The model is of another kind, or the table has another shape.
    """
    config = model.config
    width, own = config.hidden_size, model.get_input_embeddings().weight
    refuse_unjoinable(model)
    if tuple(table.shape) != tuple(own.shape):
        raise UserError(
            f"token vectors have the shape {tuple(table.shape)}, but the model's table has {tuple(own.shape)}: they must be equal"
        )
    wider = copy.deepcopy(config)
    wider.hidden_size, wider.num_attention_heads = 2 * width, 2 * config.num_attention_heads
    wider._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        joined = type(model)(wider).eval()
    for parameter in joined.parameters():
        parameter.zero_()
    carried = _centred(table) / table.norm(dim=1).mean().clamp(min=1e-12) * (_SMALL * width**0.5)
    joined.get_input_embeddings().weight.copy_(torch.cat([nn.functional.layer_norm(own, (width,)), carried], dim=1))
    _widen_norm(model.embeddings.norm, joined.embeddings.norm, width)
    joined.embeddings.norm.weight[width:] = 2**-0.5
    for layer, wide in zip(model.layers, joined.layers, strict=True):
        _widen_norm(layer.attn_norm, wide.attn_norm, width)
        _widen_norm(layer.mlp_norm, wide.mlp_norm, width)
        for part, rows_of in enumerate(layer.attn.Wqkv.weight.split(width)):  # queries, keys, values
            wide.attn.Wqkv.weight[2 * width * part : 2 * width * part + width, :width] = rows_of
        wide.attn.Wo.weight[:width, :width] = _centred(layer.attn.Wo.weight.T).T
        wide.mlp.Wi.weight[:, :width] = layer.mlp.Wi.weight
        wide.mlp.Wo.weight[:width] = _centred(layer.mlp.Wo.weight.T).T
    _widen_norm(model.final_norm, joined.final_norm, width)
    joined.final_norm.weight[width:] = 1.0 / _SMALL
    return joined


def _widen_norm(norm: nn.Module, wide: nn.Module, width: int) -> None:
    if isinstance(norm, nn.LayerNorm) and isinstance(wide, nn.LayerNorm):  # the first layer has no normalization before its attention
        wide.weight[:width] = norm.weight / 2**0.5
        if norm.bias is not None:
            wide.bias[:width] = norm.bias


def _centred(rows: Tensor) -> Tensor:
    return rows - rows.mean(dim=-1, keepdim=True)
