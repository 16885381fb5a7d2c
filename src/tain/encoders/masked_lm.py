"""Wrapper of transformers masked language models that computes the head at masked positions only."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from tain.encoders.transformer import full_attention_tokens, restore_sparse_attention, switch_attention
from tain.foundation.errors import UserError


class MaskedLanguageModel(nn.Module):
    """Computes the logits of a transformers masked LM at given positions.

    The model's forward pass runs its encoder, then its head. A hook in between keeps only the wanted positions, which works for any
    head and architecture. The encoder uses our attention where it can.

    Args:
        model: As ``AutoModelForMaskedLM`` loads it.

    Raises:
        UserError: The model has no separate encoder to hook into.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        encoder = _encoder_of(model)
        switch_attention(encoder)
        self._full_attention_tokens = full_attention_tokens(encoder)
        self._indices: Tensor | None = None
        self._change: Callable[[Tensor], Tensor] | None = None
        encoder.register_forward_hook(self._keep_places)

    def _keep_places(self, encoder: nn.Module, inputs: Any, output: Any) -> Any:
        if self._indices is None:
            return output
        hidden = output.last_hidden_state.flatten(0, 1)[self._indices]
        output.last_hidden_state = (hidden if self._change is None else self._change(hidden))[None]
        return output

    def forward(self, ids: Int[Tensor, "rows tokens"], indices: Int[Tensor, " masked"]) -> Float[Tensor, "masked vocabulary"]:
        """Compute logits at flat ``indices`` of ``ids``; rows are full, without padding."""
        if self._full_attention_tokens is not None and ids.shape[1] > self._full_attention_tokens:
            restore_sparse_attention(_encoder_of(self.model))
        return self.logits_at(indices, input_ids=ids)

    def logits_at(
        self, indices: Int[Tensor, " masked"], *, change: Callable[[Tensor], Tensor] | None = None, **inputs: Any
    ) -> Float[Tensor, "masked vocabulary"]:
        """Compute logits at flat ``indices`` for arbitrary model inputs.

        Args:
            indices: Positions to predict, counted over all rows.
            change: Transforms the encoder's vectors at these positions (masked, dim) before the head.
            **inputs: Inputs of the model's forward pass.
        """
        self._indices, self._change = indices, change
        try:
            return self.model(**inputs).logits[0]
        finally:
            self._indices = self._change = None


class PredictionHead(nn.Module):
    """The head of a transformers masked LM on its own: logits of token vectors that an encoder outside of it computed.

    Args:
        model: As ``AutoModelForMaskedLM`` loads it. Its own encoder is taken out.
        encoder: The encoder whose vectors the head reads, of the same architecture. If the model ties its output table to its token
            embeddings, it is tied to this encoder's.

    Raises:
        UserError: The model has no separate encoder.
    """

    def __init__(self, model: Any, encoder: Any) -> None:
        super().__init__()
        _encoder_of(model)
        output = model.get_output_embeddings()
        if output is not None and output.weight is model.get_input_embeddings().weight:
            output.weight = encoder.get_input_embeddings().weight
        self._given = _Given()
        setattr(model, model.base_model_prefix, self._given)
        self.model = model

    def forward(self, hidden: Float[Tensor, "tokens dim"]) -> Float[Tensor, "tokens vocabulary"]:
        self._given.hidden = hidden[None]
        try:
            # the ids are not read: the encoder's place holds the vectors
            return self.model(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)).logits[0]
        finally:
            self._given.hidden = None


def _encoder_of(model: Any) -> Any:
    """The encoder of a masked LM.

    Raises:
        UserError: It has no separate one.
    """
    encoder = getattr(model, model.base_model_prefix, None)
    if encoder is None:
        raise UserError(
            f"{type(model).__name__} is not a masked language model with a separate encoder: give one that AutoModelForMaskedLM loads"
        )
    return encoder


class _Given(nn.Module):
    """An encoder's place in a masked LM, which returns given token vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden: Tensor | None = None

    def forward(self, *inputs: Any, **more: Any) -> BaseModelOutput:
        assert self.hidden is not None
        return BaseModelOutput(last_hidden_state=self.hidden)


def tied_names(model: Any) -> list[str]:
    """Parameter names of the token embedding (and of a separate output table), as in ``named_parameters``."""
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    wanted = {id(table.weight) for table in tables if table is not None}
    return [name for name, parameter in model.named_parameters() if id(parameter) in wanted]


@torch.no_grad()
def start_embeddings(model: Any, table: Float[Tensor, "vocabulary dim"], unigram: Float[Tensor, " vocabulary"]) -> None:
    """Initialize a new model's token embeddings from ``table`` and its output bias from log frequencies.

    Args:
        model: A masked LM that ties input and output embeddings.
        table: One row per token; rows are scaled to the length of the model's own initialization.
        unigram: Count of each token; zeros are counted as one.
    """
    weight = model.get_input_embeddings().weight
    length = weight.norm(dim=1).mean()
    rows = table / table.norm(dim=1, keepdim=True).clamp(min=1e-6) * length
    is_known = table.norm(dim=1) > 0
    weight[is_known] = rows[is_known].to(weight.dtype)
    output = model.get_output_embeddings()
    if output is not None and output.bias is not None:
        counts = unigram.clamp(min=1).double()
        output.bias.copy_((counts / counts.sum()).log())


@torch.no_grad()
def grow_embeddings(model: Any, pieces: dict[int, list[int]]) -> None:
    """Add embeddings for new tokens: the mean of the rows (and output biases) of the tokens they were split into before.

    Args:
        model: A masked LM; its vocabulary is enlarged if the new ids require it.
        pieces: Old ids per new id.
    """
    if not pieces:
        return
    if max(pieces) >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(max(pieces) + 1, mean_resizing=False)
    output = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight]
    if output is not None and output.weight is not tables[0]:
        tables.append(output.weight)
    if output is not None and output.bias is not None:
        tables.append(output.bias)
    for table in tables:
        for index, old in pieces.items():
            table[index] = table[old].mean(0)
