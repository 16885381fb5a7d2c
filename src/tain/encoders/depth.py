"""Reduce or remove the contribution of an encoder's layers, relative to its input embeddings."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tain.foundation.errors import UserError
from tain.foundation.probing import evaluating

# output projections of layers: ModernBERT; BERT, RoBERTa, ELECTRA and similar; DistilBERT
_OUTPUTS = ("attn.Wo", "mlp.Wo", "output.dense", "attention.out_lin", "ffn.lin2")
_NORMS = ("output.LayerNorm", "sa_layer_norm", "output_layer_norm")  # after the projections in post-norm models
_TABLES = ("position_embeddings", "token_type_embeddings")


@torch.no_grad()
def scale_residuals(model: Any, factor: float) -> None:
    """Multiply what each layer adds to its input by ``factor``, so that token vectors start closer to the input embeddings.

    Raises:
        UserError: The layers of this architecture are not known.
    """
    outputs = [module for path, module in model.named_modules() if isinstance(module, nn.Linear) and path.endswith(_OUTPUTS)]
    if not outputs:
        raise UserError(f"the layers of {type(model).__name__} are not known: remove --residual-scale, or give a model such as BERT")
    for module in outputs:
        module.weight.mul_(factor)
        if module.bias is not None:
            module.bias.mul_(factor)


@torch.no_grad()
def drop_context(model: Any) -> None:
    """Reduce a transformers encoder to one layer that adds nothing, so that token vectors are normalized input embeddings.

    Position and segment embeddings are set to zero. The result is a model of the same class, which transformers loads as usual; one
    layer is kept because some model classes require one.

    Raises:
        UserError: The layers of this architecture are not known, or a token's vector still depends on its neighbours.
    """
    config = model.config
    lists = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers
    ]
    refusal = f"the layers of {type(model).__name__} cannot be removed: give --recipe best, or a model such as BERT, RoBERTa or ModernBERT"
    if len(lists) != 1:
        raise UserError(refusal)
    parent, name, layers = lists[0]
    setattr(parent, name, layers[:1])
    config.num_hidden_layers = 1
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:1]
    for path, module in layers[0].named_modules():
        if isinstance(module, nn.Linear) and path.endswith(_OUTPUTS):
            module.weight.zero_()
            if module.bias is not None:
                module.bias.zero_()
        elif isinstance(module, nn.LayerNorm) and path.endswith(_NORMS):
            module.reset_parameters()
    for path, module in model.named_modules():
        if isinstance(module, nn.Embedding) and path.endswith(_TABLES):
            module.weight.zero_()
    if not _reads_each_token_alone(model):
        raise UserError(refusal)


@torch.no_grad()
def install_token_vectors(model: Any, table: Float[Tensor, "vocabulary dim"]) -> Float[Tensor, " vocabulary"]:
    """Set the token vectors of a model without context (``drop_context``) to the directions of the rows of ``table``.

    Its normalizations become plain ones, so all token vectors have equal length. Returns the original row lengths, to be used as token
    weights in the mean.

    Args:
        model: Modified in place.
        table: One row per token, as wide as the model's vectors. The mean of each row is lost, since a layer normalization removes it.

    Raises:
        UserError: The embeddings are narrower than the model's vectors, as in ELECTRA-small, or are transformed further.
    """
    embeddings = model.get_input_embeddings()
    if embeddings.weight.shape != table.shape or table.shape[1] != model.config.hidden_size:
        raise UserError(
            f"the embeddings of {type(model).__name__} have {embeddings.weight.shape[1]} dimensions and its vectors {model.config.hidden_size}: "
            "remove --documents, or give --recipe best"
        )
    centred = table - table.mean(dim=1, keepdim=True)
    lengths = centred.norm(dim=1)
    directions = centred / lengths.clamp(min=1e-12)[:, None] * table.shape[1] ** 0.5
    embeddings.weight.copy_(directions)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    ids = lengths.topk(min(8, len(lengths))).indices
    (found,) = _plain_vectors(model, [ids.tolist()])
    if not torch.allclose(found, directions[ids], atol=1e-2):
        raise UserError(f"{type(model).__name__} transforms its embeddings beyond normalization: remove --documents, or give --recipe best")
    return lengths


def _reads_each_token_alone(model: Any) -> bool:
    """Whether token vectors stay the same when the other tokens, or their order, change."""
    first, second = _plain_vectors(model, [[5, 6, 7], [8, 6, 9, 5]])
    return torch.allclose(first[:2], second[[3, 1]], atol=1e-4, rtol=1e-4)


def _plain_vectors(model: Any, texts: list[list[int]]) -> list[Float[Tensor, "tokens dim"]]:
    """Token vectors of each text run separately, in eval mode and with transformers' own attention."""
    device, attention = next(model.parameters()).device, model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        with evaluating(model):
            return [model(input_ids=torch.tensor([ids], device=device)).last_hidden_state[0] for ids in texts]
    finally:
        model.config._attn_implementation = attention
