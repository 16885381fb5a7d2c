"""A masked language model that restores a sentence with the help of its neighbour's vector.

Yang et al. 2021 (CMLM), section 2. One encoder runs twice: over the neighbour, whose mean token vector is the sentence vector, and over
the corrupted sentence with that vector, spread over a few pseudo-tokens, in front. The masked words are easier to guess
only if the vector carries what the neighbour says. `docs/cmlm.md` tells where we differ.
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
    """What stands between the sentence vector and the second pass; needed in training only.

    Args:
        dim: Width of the encoder.
        pseudo_tokens: Pseudo-tokens a condition (15 in the paper, as far as we know); 0 for none.
        conditions: Sentence vectors a text: 1 for one neighbour, 2 for both.
        skip_connection: Join the vector to each predicted token's output too, before the head: ``W [output ; vector]``.
    """

    def __init__(self, *, dim: int, pseudo_tokens: int, conditions: int = 1, skip_connection: bool = False) -> None:
        super().__init__()
        self.pseudo_tokens, self.conditions = pseudo_tokens, conditions
        self.projections: nn.Module | None = None
        if pseudo_tokens > 1:
            # three layers, whose width and activation are our choice; the first two serve all projections
            widths = (nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, (pseudo_tokens - 1) * dim))
            self.projections = nn.Sequential(*widths)
        # added to pseudo-tokens in place of a token type: tells the left neighbour's from the right one's
        self.side_embedding = nn.Parameter(torch.zeros(conditions, dim))
        self.skip: nn.Linear | None = None
        if skip_connection:
            self.skip = nn.Linear(2 * dim, dim, bias=False)
            with torch.no_grad():  # starts as the output alone, so that a model that can predict goes on where it stands
                self.skip.weight.copy_(torch.eye(dim, 2 * dim))

    def spread(self, vectors: Float[Tensor, "conditions texts dim"]) -> Float[Tensor, "texts conditions pseudo dim"]:
        """Turn each vector into its pseudo-tokens; the first is the vector itself."""
        conditions, texts, dim = vectors.shape
        rows = vectors.transpose(0, 1)  # (texts, conditions, dim)
        if self.pseudo_tokens == 0:
            return rows.new_empty(texts, conditions, 0, dim)
        if self.projections is None:
            return rows[:, :, None]
        return torch.cat([rows[:, :, None], self.projections(rows).unflatten(-1, (-1, dim))], dim=2)

    def joined(self, hidden: Float[Tensor, "masked dim"], vector: Float[Tensor, "masked dim"]) -> Float[Tensor, "masked dim"]:
        """Give the skip connection's output at the masked places."""
        assert self.skip is not None
        return self.skip(torch.cat([hidden, vector], dim=1))


class ConditionalMaskedLM(nn.Module):
    """One shared encoder, the conditioning between its two passes, and the masked language model's own head.

    Pseudo-tokens stand beside the word embeddings: the embedding layer's norm and dropout act on them too. They have no position
    (a position table gives them none; where positions turn queries and keys, they are all at the first one, and no
    sliding window hides them) and a learned type of their own. The sentence's own positions start where they always do.

    Args:
        model: As ``AutoModelForMaskedLM`` loads it. It stays usable on its own.
        pseudo_tokens: Pseudo-tokens a condition; 0 makes this a plain masked language model.
        conditions: Sentence vectors a text.
        skip_connection: See ``Conditioning``.
        stop_gradient: Let no gradient through the sentence vector into the first pass; for tests and ablations.

    Raises:
        UserError: The model's word embeddings and its outputs have different widths (ALBERT, small ELECTRA), or it cannot run packed
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
        # tables of positions and types, which add to every token what pseudo-tokens shall not have
        self._added = [part for part in base.modules() if isinstance(part, nn.Embedding) and part is not base.get_input_embeddings()]

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module | None:
        return self.model.get_output_embeddings()

    @property
    def is_conditional(self) -> bool:
        return self.conditioning.pseudo_tokens > 0 or self.conditioning.skip is not None

    def vectors(self, batch: ConditionalBatch) -> Float[Tensor, "conditions texts dim"]:
        """Encode the neighbours: the first pass. What is left of it all at inference."""
        vectors = self._encoder(batch.conditions).unflatten(0, (self.conditioning.conditions, -1))
        return vectors.detach() if self.stop_gradient else vectors

    def encode(self, packed: PackedTexts) -> Float[Tensor, "texts dim"]:
        """Compute sentence vectors by themselves, in the order of the texts given to ``pack``."""
        return self._encoder(packed)

    def forward(self, batch: ConditionalBatch) -> Float[Tensor, "masked vocabulary"]:
        """Compute logits at the batch's masked places, given the neighbours."""
        return self.logits(batch, self.vectors(batch) if self.is_conditional else None)

    def logits(self, batch: ConditionalBatch, vectors: Float[Tensor, "conditions texts dim"] | None) -> Float[Tensor, "masked vocabulary"]:
        """Compute logits at the masked places given these sentence vectors: the second pass.

        Args:
            batch: Its ``conditions`` are not looked at: all that is known of the neighbours is in ``vectors``.
            vectors: In the order of the texts given to ``pack``. None leaves the pseudo-tokens away.

        Raises:
            ShapeError: There is not one vector a condition and text.
        """
        packed = batch.texts.to(self._encoder.device)
        table = self._encoder.model.get_input_embeddings()
        owner = packed.owners  # of each token
        given = self._in_packed_order(vectors, packed, table.weight)
        if vectors is None:
            pseudo = given.new_empty(packed.texts, 0, self._encoder.dim)
        else:
            pseudo = (self.conditioning.spread(given) + self.conditioning.side_embedding[:, None]).flatten(1, 2)  # (texts, prefix, dim)
        prefix = pseudo.shape[1]
        layout = _Layout.of(packed, owner, prefix)
        indices = batch.indices.to(packed.ids.device)
        embeddings = torch.cat([pseudo.flatten(0, 1), table(packed.ids)])[layout.source]
        with self._without_additions(layout.is_pseudo):
            return self._network.logits_at(
                indices + (owner[indices] + 1) * prefix,
                change=self._skip_over(given, owner[indices]),
                inputs_embeds=embeddings[None],
                position_ids=layout.positions[None] + self._encoder.position_offset,
                attention_mask=None,
                packing=Packing(layout.groups, prefix=prefix),
            )

    def _in_packed_order(self, vectors: Tensor | None, packed: PackedTexts, like: Tensor) -> Float[Tensor, "conditions texts dim"]:
        """Sort vectors as the texts lie in memory, in the model's number type; zeros where there are none."""
        needed = (self.conditioning.conditions, packed.texts)
        if vectors is None:
            return like.new_zeros(*needed, self._encoder.dim)
        if vectors.shape[:2] != needed:
            raise ShapeError(f"{needed[0]} x {needed[1]} vectors are needed, got {tuple(vectors.shape)}")
        return vectors[:, packed.order].to(like.dtype)

    def _skip_over(self, vectors: Tensor, owner: Tensor) -> Any:
        """What the head is shown in place of the encoder's output, or None for the output itself."""
        if self.conditioning.skip is None:
            return None
        return lambda hidden: self.conditioning.joined(hidden, vectors.mean(0)[owner])

    @contextmanager
    def _without_additions(self, is_pseudo: Tensor) -> Iterator[None]:
        """Keep what position and type tables add away from the pseudo-tokens."""
        keep = ~is_pseudo[:, None]  # every element True where there are no pseudo-tokens: nothing changes then, to the bit

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
                f"{name} has word embeddings of width {width} and outputs of width {dim}, so a sentence vector cannot stand beside its words: "
                "give BERT, RoBERTa, ModernBERT or DistilBERT"
            )
        if self._encoder.layout != "packed":
            raise UserError(
                f"{name} cannot be conditioned on a vector: {self._encoder.layout_reason.partition(';')[0]}, and pseudo-tokens "
                "without positions need that: give BERT, RoBERTa, ModernBERT or DistilBERT"
            )


@dataclass(frozen=True)
class _Layout:
    """Where everything lies in the second pass.

    Attributes:
        source: For each token of the pass, its row among all pseudo-tokens followed by all real tokens.
        positions: Each token's place in its own text; 0 for pseudo-tokens.
        is_pseudo: True on pseudo-tokens.
        groups: Runs of equal length, pseudo-tokens counted.
    """

    source: Int[Tensor, " tokens"]
    positions: Int[Tensor, " tokens"]
    is_pseudo: Bool[Tensor, " tokens"]
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, packed: PackedTexts, owner: Int[Tensor, " real"], prefix: int) -> "_Layout":
        """Put ``prefix`` pseudo-tokens in front of each text; ``owner`` is the text of each real token."""
        device = packed.ids.device
        real = torch.arange(len(packed.ids), device=device)
        at_real = real + (owner + 1) * prefix
        total = len(packed.ids) + packed.texts * prefix
        is_pseudo = torch.ones(total, dtype=torch.bool, device=device)
        is_pseudo[at_real] = False
        source = torch.empty(total, dtype=torch.long, device=device)
        source[is_pseudo] = torch.arange(packed.texts * prefix, device=device)
        source[at_real] = real + packed.texts * prefix
        positions = torch.zeros(total, dtype=torch.long, device=device)
        positions[at_real] = packed.positions
        return cls(source, positions, is_pseudo, tuple((texts, tokens + prefix) for texts, tokens in packed.groups))
