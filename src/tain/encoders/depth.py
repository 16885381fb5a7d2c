"""How much an encoder's layers add to its input embeddings: less than they were trained to, or nothing."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tain.foundation.errors import UserError
from tain.foundation.probing import evaluating

# what a layer adds to its input goes through these: ModernBERT; BERT, RoBERTa, ELECTRA and their relatives; DistilBERT
_OUTPUTS = ("attn.Wo", "mlp.Wo", "output.dense", "attention.out_lin", "ffn.lin2")
_NORMS = ("output.LayerNorm", "sa_layer_norm", "output_layer_norm")  # behind them where norms follow the sums
_TABLES = ("position_embeddings", "token_type_embeddings")


@torch.no_grad()
def scale_residuals(model: Any, factor: float) -> None:
    """Multiply what each layer adds to its input by ``factor``, so that token vectors begin nearer to the input embeddings.

    Raises:
        UserError: The layers of this kind of model are not known.
    """
    outputs = [module for path, module in model.named_modules() if isinstance(module, nn.Linear) and path.endswith(_OUTPUTS)]
    if not outputs:
        raise UserError(f"the layers of {type(model).__name__} are not known: leave --residual-scale out, or give a model such as BERT")
    for module in outputs:
        module.weight.mul_(factor)
        if module.bias is not None:
            module.bias.mul_(factor)


@torch.no_grad()
def drop_context(model: Any) -> None:
    """Leave one layer of a transformers encoder, and let it add nothing: a token's vector is its normalised input embedding.

    Position and segment embeddings are set to zero. The result is a model of the same class, which transformers loads like any other; one
    layer stays because not every class of model can have none.

    Raises:
        UserError: The layers of this kind of model are not known, or a token's vector still depends on its neighbours.
    """
    config = model.config
    lists = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers
    ]
    refusal = f"the layers of {type(model).__name__} cannot be left out: give --recipe best, or a model such as BERT, RoBERTa or ModernBERT"
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
    """Let a model without context (``drop_context``) give each token the direction of its row in ``table``.

    Its normalisations become plain ones, so that all token vectors have one length: the rows' own lengths are returned, to weigh tokens by in
    the mean.

    Args:
        model: Changed in place.
        table: One row a token id, as wide as the model's vectors. The part that all numbers of a row share is lost, for a layer normalisation
            removes it.

    Raises:
        UserError: The model's embeddings are narrower than its vectors, as in ELECTRA-small, or something else stands between them.
    """
    embeddings = model.get_input_embeddings()
    if embeddings.weight.shape != table.shape or table.shape[1] != model.config.hidden_size:
        raise UserError(
            f"the embeddings of {type(model).__name__} have {embeddings.weight.shape[1]} numbers and its vectors {model.config.hidden_size}: "
            "leave --documents out, or give --recipe best"
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
        raise UserError(
            f"{type(model).__name__} does more to its embeddings than normalise them: leave --documents out, or give --recipe best"
        )
    return lengths


def _reads_each_token_alone(model: Any) -> bool:
    """Tell whether tokens keep their vectors when all others, and their order, change."""
    first, second = _plain_vectors(model, [[5, 6, 7], [8, 6, 9, 5]])
    return torch.allclose(first[:2], second[[3, 1]], atol=1e-4, rtol=1e-4)


def _plain_vectors(model: Any, texts: list[list[int]]) -> list[Float[Tensor, "tokens dim"]]:
    """Token vectors of each text by itself, in eval mode and with transformers' own attention."""
    device, attention = next(model.parameters()).device, model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        with evaluating(model):
            return [model(input_ids=torch.tensor([ids], device=device)).last_hidden_state[0] for ids in texts]
    finally:
        model.config._attn_implementation = attention
