"""Conditional masked language model (CMLM): predicts masked tokens of a sentence given its neighbours' sentence vectors.

Yang et al. 2021 (CMLM), section 2. One encoder runs twice: over the neighbour, whose mean token vector is the sentence vector, and
over the corrupted sentence, prefixed by that vector projected to a few pseudo-tokens. The masked words become easier to predict
only if the vector carries the neighbour's content. `docs/cmlm.md` lists our differences.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tain.batches.types import ConditionalBatch, PackedTexts
from tain.encoders.attention import Packing
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import ShapeError, UserError


class Conditioning(nn.Module):
    """Projects sentence vectors into the input of the second pass; used in training only.

    Args:
        dim: Dimension of the encoder.
        pseudo_tokens: Pseudo-tokens per condition (15 in the paper, as far as we know); 0 for none.
        conditions: Sentence vectors per text: 1 for one neighbour, 2 for both.
        skip_connection: Also join the vector to each predicted token's output before the head: ``W [output ; vector]``.
    """

    def __init__(self, *, dim: int, pseudo_tokens: int, conditions: int = 1, skip_connection: bool = False) -> None:
        super().__init__()
        self.pseudo_tokens, self.conditions = pseudo_tokens, conditions
        self.projections: nn.Module | None = None
        if pseudo_tokens > 1:
            # three layers; their width and activation are our choice; the first two are shared by all projections
            widths = (nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, (pseudo_tokens - 1) * dim))
            self.projections = nn.Sequential(*widths)
        # added to pseudo-tokens in place of a token type, to distinguish left and right neighbours
        self.side_embedding = nn.Parameter(torch.zeros(conditions, dim))
        self.skip: nn.Linear | None = None
        if skip_connection:
            self.skip = nn.Linear(2 * dim, dim, bias=False)
            with torch.no_grad():  # initialized to pass the output through, so that a trained model keeps its predictions
                self.skip.weight.copy_(torch.eye(dim, 2 * dim))

    def spread(self, vectors: Float[Tensor, "conditions texts dim"]) -> Float[Tensor, "texts conditions pseudo dim"]:
        """Project each vector to its pseudo-tokens; the first is the vector itself."""
        conditions, texts, dim = vectors.shape
        rows = vectors.transpose(0, 1)  # (texts, conditions, dim)
        if self.pseudo_tokens == 0:
            return rows.new_empty(texts, conditions, 0, dim)
        if self.projections is None:
            return rows[:, :, None]
        return torch.cat([rows[:, :, None], self.projections(rows).unflatten(-1, (-1, dim))], dim=2)

    def joined(self, hidden: Float[Tensor, "masked dim"], vector: Float[Tensor, "masked dim"]) -> Float[Tensor, "masked dim"]:
        """Output of the skip connection at the masked positions."""
        assert self.skip is not None
        return self.skip(torch.cat([hidden, vector], dim=1))


class ConditionalMaskedLM(nn.Module):
    """A shared encoder run twice, the conditioning between the two passes, and the masked language model's own head.

    Pseudo-tokens are added next to the word embeddings, so the embedding layer's norm and dropout apply to them too. They have a
    learned token type and no position: a position table adds nothing to them, rotary positions are all the first one, and no
    sliding window hides them. Positions of the sentence start as usual.

    Args:
        model: As loaded by ``AutoModelForMaskedLM``. It remains usable separately.
        pseudo_tokens: Pseudo-tokens per condition; 0 gives a plain masked language model.
        conditions: Sentence vectors per text.
        skip_connection: See ``Conditioning``.
        stop_gradient: Block the gradient through the sentence vector into the first pass; for tests and ablations.

    Raises:
        UserError: The model's word embeddings and outputs have different dimensions (ALBERT, small ELECTRA), or it cannot run packed
            with embeddings as input (MPNet, DeBERTa).
    """

    def __init__(
        self, model: Any, *, pseudo_tokens: int = 15, conditions: int = 1, skip_connection: bool = False, stop_gradient: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self._network = MaskedLanguageModel(model)
        base = getattr(model, model.base_model_prefix)
        self._encoder = TransformerEncoder(base, pooling="mean")
        self._refuse_unfit(base)
        table: Tensor = base.get_input_embeddings().weight
        self.conditioning = Conditioning(
            dim=table.shape[1], pseudo_tokens=pseudo_tokens, conditions=conditions, skip_connection=skip_connection
        ).to(table.device)
        self.stop_gradient = stop_gradient
        # tables of positions and types, whose additions must not reach the pseudo-tokens
        self._added = [part for part in base.modules() if isinstance(part, nn.Embedding) and part is not base.get_input_embeddings()]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.model.get_output_embeddings()

    @property
    def is_conditional(self) -> bool:
        return self.conditioning.pseudo_tokens > 0 or self.conditioning.skip is not None

    def vectors(self, batch: ConditionalBatch) -> Float[Tensor, "conditions texts dim"]:
        """First pass: encode the neighbours. Only this part is used at inference."""
        vectors = self._encoder(batch.conditions).unflatten(0, (self.conditioning.conditions, -1))
        return vectors.detach() if self.stop_gradient else vectors

    def encode(self, packed: PackedTexts) -> Float[Tensor, "texts dim"]:
        """Compute sentence vectors alone, in the order of the texts given to ``pack``."""
        return self._encoder(packed)

    def forward(self, batch: ConditionalBatch) -> Float[Tensor, "masked vocabulary"]:
        """Compute logits at the batch's masked positions, given the neighbours."""
        return self.logits(batch, self.vectors(batch) if self.is_conditional else None)

    def logits(self, batch: ConditionalBatch, vectors: Float[Tensor, "conditions texts dim"] | None) -> Float[Tensor, "masked vocabulary"]:
        """Second pass: compute logits at the masked positions, given these sentence vectors.

        Args:
            batch: Its ``conditions`` are not used; the neighbours enter through ``vectors`` only.
            vectors: In the order of the texts given to ``pack``. None omits the pseudo-tokens.

        Raises:
            ShapeError: The number of vectors does not match the conditions and texts.
        """
        packed = batch.texts.to(self._encoder.device)
        table = self._encoder.model.get_input_embeddings()
        owner = packed.owners  # text index of each token
        given = self._in_packed_order(vectors, packed, table.weight)
        if vectors is None:
            pseudo = given.new_empty(packed.texts, 0, self._encoder.dim)
        else:
            pseudo = (self.conditioning.spread(given) + self.conditioning.side_embedding[:, None]).flatten(1, 2)  # (texts, prefix, dim)
        prefix = pseudo.shape[1]
        layout = _Layout.of(packed, owner, prefix, positions=self._encoder.position_ids(packed), first=self._encoder.position_offset)
        indices = batch.indices.to(packed.ids.device)
        embeddings = torch.cat([pseudo.flatten(0, 1), table(packed.ids)])[layout.source]
        with self._without_additions(layout.is_pseudo):
            return self._network.logits_at(
                indices + (owner[indices] + 1) * prefix,
                change=self._skip_over(given, owner[indices]),
                inputs_embeds=embeddings[None],
                position_ids=layout.positions[None],
                attention_mask=None,
                packing=Packing(layout.groups, prefix=prefix),
            )

    def _in_packed_order(self, vectors: Tensor | None, packed: PackedTexts, like: Tensor) -> Float[Tensor, "conditions texts dim"]:
        """Reorder vectors to packed order, in the model's data type; zeros if there are none."""
        needed = (self.conditioning.conditions, packed.texts)
        if vectors is None:
            return like.new_zeros(*needed, self._encoder.dim)
        if vectors.shape[:2] != needed:
            raise ShapeError(f"{needed[0]} x {needed[1]} vectors are needed, got {tuple(vectors.shape)}")
        return vectors[:, packed.order].to(like.dtype)

    def _skip_over(self, vectors: Tensor, owner: Tensor) -> Any:
        """Function applied to the encoder's output before the head, or None for the output itself."""
        if self.conditioning.skip is None:
            return None
        return lambda hidden: self.conditioning.joined(hidden, vectors.mean(0)[owner])

    @contextmanager
    def _without_additions(self, is_pseudo: Tensor) -> Iterator[None]:
        """Keep additions of position and type tables away from the pseudo-tokens."""
        keep = ~is_pseudo[:, None]  # all True without pseudo-tokens: results are then bit-identical

        def kept(part: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            return output * keep

        hooks = [part.register_forward_hook(kept) for part in self._added]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _refuse_unfit(self, base: Any) -> None:
        name = type(self.model).__name__
        width, dim = base.get_input_embeddings().weight.shape[1], self._encoder.dim
        if width != dim:
            raise UserError(
                f"{name} has word embeddings of width {width} and outputs of width {dim}, so a sentence vector cannot be used as an input token: "
                "give BERT, RoBERTa, ModernBERT or DistilBERT"
            )
        if self._encoder.layout != "packed":
            raise UserError(
                f"{name} cannot be conditioned on a vector: {self._encoder.layout_reason.partition(';')[0]}, and pseudo-tokens "
                "without positions need that: give BERT, RoBERTa, ModernBERT or DistilBERT"
            )


@dataclass(frozen=True)
class _Layout:
    """Token layout of the second pass.

    Attributes:
        source: Row of each token among all pseudo-tokens followed by all real tokens.
        positions: Position id of each token; that of a text's first token for pseudo-tokens.
        is_pseudo: True on pseudo-tokens.
        groups: Runs of equal length, including pseudo-tokens.
    """

    source: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    is_pseudo: Bool[Tensor, " tokens"]
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, packed: PackedTexts, owner: Int[Tensor, " real"], prefix: int, *, positions: Int[Tensor, " real"], first: int) -> "_Layout":
        """Insert ``prefix`` pseudo-tokens before each text.

        Args:
            packed: The texts.
            owner: Text index of each real token.
            prefix: Number of pseudo-tokens.
            positions: Position id of each real token.
            first: Position id of the first token of a text.
        """
        device = packed.ids.device
        real = torch.arange(len(packed.ids), device=device)
        at_real = real + (owner + 1) * prefix
        total = len(packed.ids) + packed.texts * prefix
        is_pseudo = torch.ones(total, dtype=torch.bool, device=device)
        is_pseudo[at_real] = False
        source = torch.empty(total, dtype=torch.long, device=device)
        source[is_pseudo] = torch.arange(packed.texts * prefix, device=device)
        source[at_real] = real + packed.texts * prefix
        placed = torch.full((total,), first, dtype=torch.long, device=device)
        placed[at_real] = positions
        return cls(source, placed, is_pseudo, tuple((texts, tokens + prefix) for texts, tokens in packed.groups))
