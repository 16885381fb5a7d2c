"""Any transformers encoder, run packed where its attention allows it and padded by length elsewhere."""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tain.batches.packing import pack, pad
from tain.batches.types import PackedTexts
from tain.encoders import attention
from tain.encoders.pooling import first_token, masked_mean
from tain.foundation.choices import POOLINGS, Dtype, Layout, Pooling
from tain.foundation.errors import ShapeError, UserError
from tain.foundation.machine import fastest_dtype
from tain.foundation.probing import evaluating, unchanged

FOREIGN_ERRORS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError, ImportError)
_ADVICE = "give an encoder such as BERT, RoBERTa or ModernBERT"
_SAME = 1e-6  # of the largest number: what a decoder's first token may change by when later ones do
_PROBE_TOLERANCE = 1e-3  # float32 runs agree to 1e-6; a model that reads its neighbours is off by far more


class TransformerEncoder(nn.Module):
    """Token vectors and text vectors of a transformers encoder.

    Args:
        model: An encoder as ``AutoModel`` loads it.
        pooling: How token vectors become a text vector.
        pad_id: Token id used where rows must be padded.
        layout: ``packed`` runs texts end to end, ``padded`` in rows of equal length; ``auto`` tries the first on a
            handful of tokens and takes the second when the outputs differ from the plain model's.
        padded_to: Row length for ``mean-with-padding``, in tokens.
        mask_id: The mask token, which some models treat apart (ESM); default: what the model's config says, if anything.
        token_weights: Weight of each token id in mean pooling, float32 (vocabulary,); None weighs all tokens alike.

    Raises:
        UserError: The model gives no vector for each token, or is a decoder; ``packed`` was asked of a model that cannot run so; the
            pooling is unknown, or it is not ``mean`` and there are token weights.
    """

    def __init__(
        self,
        model: Any,
        *,
        pooling: Pooling = "mean",
        pad_id: int = 0,
        layout: Layout = "auto",
        padded_to: int | None = None,
        mask_id: int | None = None,
        token_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise UserError(f"pooling is {pooling!r}: give one of {', '.join(POOLINGS)}")
        if token_weights is not None and pooling != "mean":
            raise UserError(f"pooling is {pooling!r}, but the model weighs its tokens, which only the mean can: give mean")
        self.token_weights: Tensor | None
        # not in the state dict: the weights belong to the pooling, and are stored with it
        self.register_buffer("token_weights", None if token_weights is None else token_weights.float(), persistent=False)
        self.model = model
        self.pooling: Pooling = pooling
        self.pad_id = pad_id
        self.padded_to = padded_to
        self.position_offset = position_offset_of(model)
        self._mask_id = getattr(model.config, "mask_token_id", None) if mask_id is None else mask_id
        refuse_other_than_encoders(model)
        self.pads = True
        self.layout: Literal["packed", "padded"] = "padded"
        self.layout, self.layout_reason = self._choose_layout(layout)
        if self.layout == "padded" and not self._agrees_with_plain(lambda texts: self.tokens(pack(texts))):
            self.pads = False  # FNet mixes all places of a row, ConvBERT's convolutions reach over a text's end
            self.layout_reason += (
                f"; padding changes the vectors of {type(model).__name__}, so each batch is cut into texts of equal length"
            )

    @property
    def dim(self) -> int:
        return int(self.model.config.hidden_size)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def has_segments(self) -> bool:
        """Tell whether the model knows a first and a second part of its input."""
        kinds = getattr(self.model.config, "type_vocab_size", 0) or 0
        return kinds > 1 and "token_type_ids" in inspect.signature(self.model.forward).parameters

    def tokens(
        self,
        packed: PackedTexts,
        *,
        drophead: float = 0.0,
        capture: attention.Capture | None = None,
        second_parts: Int[Tensor, " texts"] | None = None,
    ) -> Float[Tensor, "tokens dim"]:
        """Compute the last layer's token vectors, in packed order; what fillers of shared rows get means nothing.

        Args:
            packed: The batch.
            drophead: Probability to drop a head, per text and layer; acts in train mode only.
            capture: Shown every layer's attention weights and values; packed layout only.
            second_parts: Where each text's second part begins, in tokens, in the order given to ``pack``: from there on tokens are of
                segment 1. Of no account to a model without segments.

        Raises:
            UserError: Drophead or capture is asked of a model that runs padded.
            ShapeError: Texts share rows and the model runs padded.
        """
        packed = packed.to(self.device)
        segments = None if second_parts is None or not self.has_segments else _segments(packed, second_parts.to(self.device))
        if self.layout == "packed":
            packing = attention.Packing(packed.groups, owners=packed.shared_owners, drophead=drophead, capture=capture)
            more = {} if segments is None else {"token_type_ids": segments[None]}
            output = self.model(
                input_ids=packed.ids[None],
                position_ids=packed.positions[None] + self.position_offset,
                attention_mask=None,
                packing=packing,
                **more,
            )
            return output.last_hidden_state[0]
        if drophead or capture:
            raise UserError(
                f"drophead and attention capture need the packed layout, but {self.layout_reason}: give dropout, or another model"
            )
        if packed.shared_owners is not None:
            raise ShapeError("texts share rows, which only packed attention can keep apart: pack them without share_rows")
        if not self.pads:
            return self._by_length(packed, segments)
        ids, is_token = pad(packed, pad_id=self.pad_id)
        more = {}
        if segments is not None:
            more["token_type_ids"] = torch.zeros_like(ids)
            more["token_type_ids"][is_token] = segments[packed.owners < packed.texts]
        return self.model(input_ids=ids, attention_mask=is_token.long(), **more).last_hidden_state[is_token]

    def _by_length(self, packed: PackedTexts, segments: Int[Tensor, " tokens"] | None) -> Float[Tensor, "tokens dim"]:
        """Run the texts of each length by themselves."""
        sizes = [rows * tokens for rows, tokens in packed.groups]
        kinds = None if segments is None else segments.split(sizes)
        parts = []
        for index, (group, ids) in enumerate(zip(packed.groups, packed.ids.split(sizes), strict=True)):
            more = {} if kinds is None else {"token_type_ids": kinds[index].view(group)}
            parts.append(self.model(input_ids=ids.view(group), **more).last_hidden_state.flatten(0, 1))
        return torch.cat(parts)

    def choose_dtype(self, asked: Dtype) -> torch.dtype:
        """What to compute in: what was asked for, or what is fastest here and the model can.

        Raises:
            UserError: The model cannot compute in what was asked for.
        """
        return usable_dtype(self.model, asked)

    def forward(self, packed: PackedTexts, *, drophead: float = 0.0) -> Float[Tensor, "texts dim"]:
        """Compute one float32 vector a text, in the order the caller gave the texts to ``pack``."""
        packed = packed.to(self.device)
        if self.pooling == "mean-with-padding":
            vectors = self._mean_with_padding(packed)
        else:
            hidden = self.tokens(packed, drophead=drophead)
            weights = self.token_weights
            vectors = first_token(hidden, packed) if self.pooling == "cls" else masked_mean(hidden, packed, token_weights=weights)
        return vectors[packed.order.argsort()]

    def _mean_with_padding(self, packed: PackedTexts) -> Float[Tensor, "texts dim"]:
        ids, is_token = pad(packed, pad_id=self.pad_id)
        missing = (self.padded_to or 0) - ids.shape[1]
        if missing > 0:
            ids = nn.functional.pad(ids, (0, missing), value=self.pad_id)
            is_token = nn.functional.pad(is_token, (0, missing), value=False)
        hidden = self.model(input_ids=ids, attention_mask=is_token.long()).last_hidden_state
        return hidden.mean(1, dtype=torch.float32)

    def _choose_layout(self, asked: Layout) -> tuple[Literal["packed", "padded"], str]:
        """Return the layout and why, in words a user can read."""
        name = type(self.model).__name__
        if asked == "padded":
            return "padded", "the padded layout was asked for"
        if not getattr(self.model, "_supports_attention_backend", False):
            reason = f"{name} does not look its attention up in the registry of transformers"
        elif "position_ids" not in inspect.signature(self.model.forward).parameters:
            reason = f"{name} takes no position ids"
        elif not self._packed_agrees():
            reason = f"{name} gives other vectors when texts lie end to end"
        else:
            return "packed", f"{name} runs packed: no padding is computed"
        if asked == "packed":
            raise UserError(f"layout is 'packed', but {reason}: give 'padded' or 'auto'")
        return "padded", f"{reason}; texts run padded, in batches of like length"

    def _packed_agrees(self) -> bool:
        """Tell whether texts laid end to end give the plain model's vectors; leaves our attention switched on when they do."""
        before = self.model.config._attn_implementation

        def packed(texts: list[list[int]]) -> Tensor:
            self.model.config._attn_implementation = attention.NAME
            self.layout = "packed"
            return self.tokens(pack(texts))

        agrees = self._agrees_with_plain(packed)
        if not agrees:
            self.model.config._attn_implementation = before
        return agrees

    @torch.no_grad()
    def _agrees_with_plain(self, run: Callable[[list[list[int]]], Tensor]) -> bool:
        """Run three tiny texts one by one and as ``run`` does, and compare."""
        vocabulary = int(self.model.config.vocab_size)
        texts = [[token % vocabulary for token in text] for text in ([5, 6, 7], [11, 12, 13], [8, 9, 10, 11, 12, 13, 14])]
        if self._mask_id is not None and self._mask_id < vocabulary:  # ESM scales a row by its share of mask tokens
            texts[0][1] = texts[2][1] = texts[2][4] = self._mask_id
        try:
            with unchanged(self.model), evaluating(self.model):
                plain = torch.cat([self.model(input_ids=torch.tensor([text], device=self.device)).last_hidden_state[0] for text in texts])
                found = run(texts)
        except FOREIGN_ERRORS:
            return False  # whatever a foreign model chokes on, a plainer way is open to it
        tolerance = _PROBE_TOLERANCE if found.dtype == torch.float32 else 0.1
        return plain.shape == found.shape and torch.allclose(plain.float(), found.float(), atol=tolerance, rtol=tolerance)


def refuse_without_width(config: Any, name: str) -> None:
    """Refuse by its config a model without one vocabulary and one vector width, such as a model of texts and images.

    Raises:
        UserError: It is one; ``name`` begins the message.
    """
    try:
        known = [getattr(config, key, None) for key in ("hidden_size", "vocab_size")]
    except AttributeError:  # a config whose layers differ
        known = [None]
    if not all(isinstance(each, int) for each in known):
        raise UserError(f"{name}, which has no single vocabulary or no single vector width: {_ADVICE}")


@torch.no_grad()
def refuse_other_than_encoders(model: Any) -> None:
    """Run a model on three tokens, and refuse it when the first token's vector does not depend on the others, but theirs on it.

    Raises:
        UserError: It does not run on token ids alone, gives no vector for each token, or is a decoder.
    """
    name = type(model).__name__
    refuse_without_width(model.config, f"the model is a {name}")
    dim, vocabulary = model.config.hidden_size, model.config.vocab_size
    device = next(model.parameters()).device
    try:
        with unchanged(model), evaluating(model):
            found = [
                model(input_ids=torch.tensor([[token % vocabulary for token in ids]], device=device)).last_hidden_state
                for ids in ([5, 6, 7], [5, 11, 13], [8, 6, 7])
            ]
    except FOREIGN_ERRORS as error:
        reason = " ".join(str(error).split())[:150] or type(error).__name__
        raise UserError(f"{name} does not run on the tokens of a text alone ({reason}): {_ADVICE}") from None
    if any(each.shape != (1, 3, dim) for each in found):
        raise UserError(f"{name} does not give one vector of {dim} numbers for each token: {_ADVICE}")
    ahead, behind = ((found[0] - other)[0].abs().amax(1) for other in found[1:])  # how each token changes with those after and before it
    if ahead[0] <= _SAME * found[0].abs().max() < behind[1:].max():  # an encoder without context reads neither
        raise UserError(f"{name} is a decoder, whose tokens see only those before them: {_ADVICE}")


def _segments(packed: PackedTexts, second_parts: Int[Tensor, " texts"]) -> Int[Tensor, " tokens"]:
    """0 on the tokens of each text's first part, 1 on those of its second; fillers have 0."""
    begins = torch.cat([second_parts[packed.order], second_parts.new_full((1,), int(packed.ids.numel()))])
    return (packed.positions >= begins[packed.owners]).long()


def usable_dtype(model: Any, asked: Dtype) -> torch.dtype:
    """What to compute in on the model's device: what was asked for, or what is fastest there and the model can.

    Raises:
        UserError: The model cannot compute in what was asked for.
    """
    device = next(model.parameters()).device
    found = fastest_dtype(device.type) if asked == "auto" else getattr(torch, asked)
    if found == torch.float32 or _runs_in(model, found):
        return found
    if asked != "auto":
        raise UserError(f"dtype is {asked!r}, in which {type(model).__name__} cannot compute: give float32 or auto")
    return torch.float32


@torch.no_grad()
def _runs_in(model: Any, dtype: torch.dtype) -> bool:
    """Tell whether a model can compute in a number type; some have parts that cannot, such as FNet's Fourier transform."""
    if model.config._attn_implementation == attention.NAME:
        return True  # attention and products can
    turned = {name: each.to(dtype) for name, each in model.named_parameters() if each.is_floating_point()}
    ids = torch.ones(1, 4, dtype=torch.long, device=next(model.parameters()).device)
    try:
        with unchanged(model):
            torch.func.functional_call(model, turned, kwargs={"input_ids": ids})
    except RuntimeError:
        return False
    return True


def switch_attention(model: Any) -> bool:
    """Let a transformers encoder run our attention from now on, if it gives the same vectors with it; tell whether."""
    return TransformerEncoder(model).layout == "packed"


def position_offset_of(model: Any) -> int:
    """The position of a text's first token: RoBERTa and its kin (MPNet too) count from the padding id on."""
    embeddings = getattr(model, "embeddings", None)
    if embeddings is not None and hasattr(embeddings, "create_position_ids_from_inputs_embeds"):
        return int(embeddings.padding_idx) + 1
    return 0
