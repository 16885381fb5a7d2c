"""Run any transformers encoder: packed if its attention allows it, otherwise padded in batches of similar length."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tain.batches.packing import pack, pad
from tain.batches.types import PackedTexts
from tain.encoders import attention
from tain.encoders.pooling import MODES, pooled
from tain.encoders.zero_blocks import whole_layers
from tain.foundation.choices import POOLINGS, Dtype, Layout
from tain.foundation.errors import ShapeError, UserError
from tain.foundation.machine import fastest_dtype
from tain.foundation.probing import evaluating, unchanged

FOREIGN_ERRORS = (TypeError, ValueError, RuntimeError, IndexError, KeyError, AttributeError, AssertionError, ImportError)
_ADVICE = "give an encoder such as BERT, RoBERTa or ModernBERT"
_SAME = 1e-6  # relative to the largest number: allowed change of a decoder's first token when later ones change
_PROBE_TOLERANCE = 1e-3  # float32 runs agree to 1e-6; a model that attends to its neighbours is off by far more


@dataclass(frozen=True)
class SegmentTemplate:
    """Segments (token types) that a tokenizer gives to the tokens of a text.

    Attributes:
        before: Segments of the special tokens before the text.
        within: Segment of the text's own tokens.
        after: Segments of the special tokens after it.
    """

    before: tuple[int, ...]
    within: int
    after: tuple[int, ...]

    @property
    def kinds(self) -> set[int]:
        return {*self.before, self.within, *self.after}

    def of(self, packed: PackedTexts) -> Int[Tensor, " tokens"]:
        """Segment of each token; 0 on fillers."""
        segments = torch.full_like(packed.ids, self.within)
        for position, kind in enumerate(self.before):
            segments[packed.positions == position] = kind
        ends = torch.cat([packed.length_tensor(), packed.positions.new_zeros(1)])[packed.owners]
        for position, kind in enumerate(reversed(self.after), start=1):
            segments[packed.positions == ends - position] = kind
        return segments.where(packed.owners < packed.texts, 0)


class TransformerEncoder(nn.Module):
    """Computes token vectors and text vectors with a transformers encoder.

    Args:
        model: An encoder as loaded by ``AutoModel``.
        pooling: Pooling of token vectors into a text vector: one of ``POOLINGS``, or several of ``pooling.MODES`` joined by ``+``.
        pad_id: Token id used for padding.
        layout: ``packed`` concatenates texts, ``padded`` uses rows of equal length; ``auto`` tests the first on a few tokens and
            falls back to the second if the outputs differ from the plain model's.
        padded_to: Row length for ``mean-with-padding``, in tokens.
        mask_id: The mask token, which some models (ESM) treat specially; default: as in the model's config, if given.
        token_weights: Weight per token id, float32 (vocabulary,), by which token vectors are multiplied; None for equal weights.
        layer_mix: Token vectors are a mean of the last layers' outputs, with these weights, float32 (layers,); None for the last layer.
        decoder: Allow decoders, whose tokens see only those before them.
        segment_template: Segments of the tokens of a text; default: the model's own, 0 for each in models that have segments.

    Raises:
        UserError: The model gives no vector per token, or is a decoder and ``decoder`` is off; ``packed`` is requested for a model that
            cannot run packed; the pooling is unknown, or averages padding too and token weights are given.
    """

    def __init__(
        self,
        model: Any,
        *,
        pooling: str = "mean",
        pad_id: int = 0,
        layout: Layout = "auto",
        padded_to: int | None = None,
        mask_id: int | None = None,
        token_weights: Tensor | None = None,
        layer_mix: Tensor | None = None,
        decoder: bool = False,
        segment_template: SegmentTemplate | None = None,
    ) -> None:
        super().__init__()
        refuse_pooling(pooling)
        self.segment_template: SegmentTemplate | None = None  # the tests of the layout below run both sides without segments
        if token_weights is not None and pooling == "mean-with-padding":
            raise UserError(f"pooling is {pooling!r}, but the model has token weights, which padding does not have: give mean")
        self.token_weights: Tensor | None
        self.layer_mix: Tensor | None
        self.register_buffer("layer_mix", None if layer_mix is None else layer_mix.float(), persistent=False)
        # not in the state dict: the weights belong to the pooling and are stored with it
        self.register_buffer("token_weights", None if token_weights is None else token_weights.float(), persistent=False)
        self.model = model
        self.pooling: str = pooling
        self.pad_id = pad_id
        self.padded_to = padded_to
        self.position_offset = position_offset_of(model)
        self._mask_id = getattr(model.config, "mask_token_id", None) if mask_id is None else mask_id
        self.is_decoder = is_decoder(model)
        if self.is_decoder and not decoder:
            raise UserError(_a_decoder(model))
        self.full_attention_tokens = full_attention_tokens(model)
        self.pads = True
        self.layout: Literal["packed", "padded"] = "padded"
        self.layout, self.layout_reason = self._choose_layout(layout)
        if self.layout == "padded" and not self._agrees_with_plain(lambda texts: self.tokens(pack(texts))):
            self.pads = False  # FNet mixes all positions of a row, ConvBERT's convolutions cross text boundaries
            self.layout_reason += (
                f"; padding changes the vectors of {type(model).__name__}, so each batch is split into texts of equal length"
            )
        self.segment_template = segment_template

    @property
    def width(self) -> int:
        """Dimension of a token vector."""
        return int(self.model.config.hidden_size)

    @property
    def dim(self) -> int:
        """Dimension of a text vector."""
        return self.width * len(self.pooling.split("+"))

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def has_segments(self) -> bool:
        """Whether the model has segment (token type) embeddings."""
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
        """Compute the last layer's token vectors, in packed order; values at fillers of shared rows are undefined.

        Args:
            packed: The batch.
            drophead: Probability to drop a head, per text and layer; train mode only.
            capture: Receives every layer's attention weights and values; packed layout only.
            second_parts: Token index at which each text's second part begins, in the order given to ``pack``; tokens from there on have
                segment 1. Ignored by a model without segments.

        Raises:
            UserError: Drophead or capture is requested for a model that runs padded.
            ShapeError: Texts share rows, but the model runs padded.
        """
        packed = packed.to(self.device)
        if second_parts is not None:
            segments = _segments(packed, second_parts.to(self.device)) if self.has_segments else None
        else:
            segments = None if self.segment_template is None else self.segment_template.of(packed)
        if self.layout == "packed":
            packing = attention.Packing(packed.groups, owners=packed.shared_owners, drophead=drophead, capture=capture)
            more = {} if segments is None else {"token_type_ids": segments[None]}
            with nullcontext() if capture is None else whole_layers(self.model):
                output = self.model(
                    input_ids=packed.ids[None],
                    position_ids=self.position_ids(packed)[None],
                    attention_mask=None,
                    packing=packing,
                    **more,
                    **self._more_outputs(),
                )
            return self._mixed(output)[0]
        if drophead or capture:
            raise UserError(
                f"drophead and attention capture need the packed layout, but {self.layout_reason}: give dropout, or another model"
            )
        if packed.shared_owners is not None:
            raise ShapeError("texts share rows, which requires the packed layout: pack them without share_rows")
        if not self.pads or self._is_sparse(max(packed.lengths)):
            return self._by_length(packed, segments)
        ids, is_token = pad(packed, pad_id=self.pad_id)
        more = {}
        if segments is not None:
            more["token_type_ids"] = torch.zeros_like(ids)
            more["token_type_ids"][is_token] = segments[packed.owners < packed.texts]
        return self._mixed(self.model(input_ids=ids, attention_mask=is_token.long(), **more, **self._more_outputs()))[is_token]

    def position_ids(self, packed: PackedTexts) -> Int[Tensor, " tokens"]:
        """Position ids as the model itself counts them: RoBERTa and its kin leave out padding tokens, also those spelled in a text."""
        if not self.position_offset:
            return packed.positions
        is_counted = (packed.ids != self.position_offset - 1) & (packed.owners < packed.texts)
        counted = is_counted.long().cumsum(0)
        before = (counted - is_counted.long())[packed.starts]  # of all earlier texts
        within = counted - torch.cat([before, before.new_zeros(1)])[packed.owners]
        return within * is_counted + self.position_offset - 1

    def _more_outputs(self) -> dict[str, bool]:
        return {} if self.layer_mix is None else {"output_hidden_states": True}

    def _mixed(self, output: Any) -> Float[Tensor, "rows tokens dim"]:
        """Token vectors of the last layer, or the weighted mean of several layers (sentence-transformers' ``WeightedLayerPooling``)."""
        if self.layer_mix is None:
            return output.last_hidden_state
        layers = torch.stack(output.hidden_states[-len(self.layer_mix) :])
        return torch.einsum("l,lrtd->rtd", self.layer_mix.to(layers.dtype), layers) / self.layer_mix.sum().to(layers.dtype)

    def _by_length(self, packed: PackedTexts, segments: Int[Tensor, " tokens"] | None) -> Float[Tensor, "tokens dim"]:
        """Run the texts of each length separately."""
        sizes = [rows * tokens for rows, tokens in packed.groups]
        kinds = None if segments is None else segments.split(sizes)
        parts = []
        for index, (group, ids) in enumerate(zip(packed.groups, packed.ids.split(sizes), strict=True)):
            more = {} if kinds is None else {"token_type_ids": kinds[index].view(group)}
            if self._is_sparse(group[1]):
                restore_sparse_attention(self.model)
            parts.append(self._mixed(self.model(input_ids=ids.view(group), **more, **self._more_outputs())).flatten(0, 1))
        return torch.cat(parts)

    def _is_sparse(self, tokens: int) -> bool:
        """Whether a text of this length runs in BigBird's sparse attention, in which padding changes its vectors."""
        return self.full_attention_tokens is not None and tokens > self.full_attention_tokens

    def choose_dtype(self, asked: Dtype) -> torch.dtype:
        """Resolve the compute type: the requested one, or the fastest that the model supports on this machine.

        Raises:
            UserError: The model does not support the requested type.
        """
        return usable_dtype(self.model, asked)

    def forward(self, packed: PackedTexts, *, drophead: float = 0.0, skipped: int = 0) -> Float[Tensor, "texts dim"]:
        """Compute one float32 vector per text, in the order given to ``pack``; ``skipped`` as in ``pooling.pooled``."""
        packed = packed.to(self.device)
        if self.pooling == "mean-with-padding":
            vectors = self._mean_with_padding(packed)
        else:
            hidden = self.tokens(packed, drophead=drophead)
            vectors = pooled(hidden, packed, tuple(self.pooling.split("+")), token_weights=self.token_weights, skipped=skipped)
        return vectors[packed.order.argsort()]

    def _mean_with_padding(self, packed: PackedTexts) -> Float[Tensor, "texts dim"]:
        ids, is_token = pad(packed, pad_id=self.pad_id)
        missing = (self.padded_to or 0) - ids.shape[1]
        if missing > 0:
            ids = nn.functional.pad(ids, (0, missing), value=self.pad_id)
            is_token = nn.functional.pad(is_token, (0, missing), value=False)
        if self._is_sparse(ids.shape[1]):
            raise UserError(
                f"pooling is 'mean-with-padding', but {type(self.model).__name__} has sparse attention, in which padding changes all vectors:"
                " give mean"
            )
        hidden = self.model(input_ids=ids, attention_mask=is_token.long()).last_hidden_state
        return hidden.mean(1, dtype=torch.float32)

    def _choose_layout(self, asked: Layout) -> tuple[Literal["packed", "padded"], str]:
        """Choose the layout, and explain the choice in a sentence for the user."""
        name = type(self.model).__name__
        if asked == "padded":
            return "padded", "the padded layout was requested"
        if not getattr(self.model, "_supports_attention_backend", False):
            reason = f"{name} does not use the attention registry of transformers"
        elif "position_ids" not in inspect.signature(self.model.forward).parameters:
            reason = f"{name} takes no position ids"
        elif not self._packed_agrees():
            reason = f"{name} gives different vectors for packed texts"
        else:
            return "packed", f"{name} runs packed: no padding is computed"
        if asked == "packed":
            raise UserError(f"layout is 'packed', but {reason}: give 'padded' or 'auto'")
        return "padded", f"{reason}; texts run padded, in batches of similar length"

    def _packed_agrees(self) -> bool:
        """Whether packed texts give the plain model's vectors; keeps our attention enabled if they do."""
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
        """Compare ``run`` on three tiny texts with the plain model on each of them."""
        vocabulary = int(self.model.config.vocab_size)
        texts = [[token % vocabulary for token in text] for text in ([5, 6, 7], [11, 12, 13], [8, 9, 10, 11, 12, 13, 14])]
        if self._mask_id is not None and self._mask_id < vocabulary:  # ESM scales a row by its share of mask tokens
            texts[0][1] = texts[2][1] = texts[2][4] = self._mask_id
        try:
            with unchanged(self.model), evaluating(self.model):
                rows = [torch.tensor([text], device=self.device) for text in texts]
                plain = torch.cat([self._mixed(self.model(input_ids=row, **self._more_outputs()))[0] for row in rows])
                found = run(texts)
        except FOREIGN_ERRORS:
            return False  # whatever fails in a foreign model, the padded layout remains
        tolerance = _PROBE_TOLERANCE if found.dtype == torch.float32 else 0.1
        return plain.shape == found.shape and torch.allclose(plain.float(), found.float(), atol=tolerance, rtol=tolerance)


def refuse_without_width(config: Any, name: str) -> None:
    """Refuse, by its config, a model without a single vocabulary and vector width, such as a text-image model.

    Raises:
        UserError: It is one; the message begins with ``name``.
    """
    try:
        known = [getattr(config, key, None) for key in ("hidden_size", "vocab_size")]
    except AttributeError:  # a config with different layers
        known = [None]
    if not all(isinstance(each, int) for each in known):
        raise UserError(f"{name}, which has no single vocabulary or no single vector width: {_ADVICE}")


def refuse_pooling(pooling: str) -> None:
    """Refuse a pooling that is neither one of ``POOLINGS`` nor several of ``pooling.MODES`` joined by ``+``.

    Raises:
        UserError: It is neither.
    """
    if pooling not in POOLINGS and not set(pooling.split("+")) <= set(MODES):
        raise UserError(f"pooling is {pooling!r}: give one of {', '.join(POOLINGS)}")


def refuse_other_than_encoders(model: Any) -> None:
    """Refuse decoders and models without one vector per token.

    Raises:
        UserError: The model cannot run on token ids alone, gives no vector per token, or is a decoder.
    """
    if is_decoder(model):
        raise UserError(_a_decoder(model))


def _a_decoder(model: Any) -> str:
    return (
        f"{type(model).__name__} is a decoder, whose tokens see only those before them: {_ADVICE};"
        " to encode with it, give a sentence-transformers folder that says how to pool, or pooling lasttoken"
    )


@torch.no_grad()
def is_decoder(model: Any) -> bool:
    """Whether a model is a decoder, by a test on three tokens: the first token's vector does not depend on later ones, but the reverse holds.

    Raises:
        UserError: The model cannot run on token ids alone, or gives no vector per token.
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
        raise UserError(f"{name} cannot run on the tokens of a text alone ({reason}): {_ADVICE}") from None
    if any(each.shape != (1, 3, dim) for each in found):
        raise UserError(f"{name} does not give one vector of dimension {dim} per token: {_ADVICE}")
    ahead, behind = (
        (found[0] - other)[0].abs().amax(1) for other in found[1:]
    )  # change of each token when those after and before it change
    return bool(ahead[0] <= _SAME * found[0].abs().max() < behind[1:].max())  # an encoder without context depends on neither


def _segments(packed: PackedTexts, second_parts: Int[Tensor, " texts"]) -> Int[Tensor, " tokens"]:
    """Segment ids: 0 on the tokens of each text's first part and on fillers, 1 on those of its second part."""
    begins = torch.cat([second_parts[packed.order], second_parts.new_full((1,), int(packed.ids.numel()))])
    return (packed.positions >= begins[packed.owners]).long()


def usable_dtype(model: Any, asked: Dtype) -> torch.dtype:
    """Resolve the compute type on the model's device: the requested one, or the fastest that the model supports.

    Raises:
        UserError: The model does not support the requested type.
    """
    device = next(model.parameters()).device
    found = fastest_dtype(device.type) if asked == "auto" else getattr(torch, asked)
    if found == torch.float32 or _runs_in(model, found):
        return found
    if asked != "auto":
        raise UserError(f"dtype is {asked!r}, which {type(model).__name__} does not support: give float32 or auto")
    return torch.float32


@torch.no_grad()
def _runs_in(model: Any, dtype: torch.dtype) -> bool:
    """Whether a model runs in a data type; some have unsupported parts, such as FNet's Fourier transform."""
    if model.config._attn_implementation == attention.NAME:
        return True  # attention and matrix products support it
    turned = {name: each.to(dtype) for name, each in model.named_parameters() if each.is_floating_point()}
    ids = torch.ones(1, 4, dtype=torch.long, device=next(model.parameters()).device)
    try:
        with unchanged(model):
            torch.func.functional_call(model, turned, kwargs={"input_ids": ids})
    except RuntimeError:
        return False
    return True


def switch_attention(model: Any) -> bool:
    """Enable our attention in a transformers encoder if it gives the same vectors; return whether it does."""
    return TransformerEncoder(model).layout == "packed"


def full_attention_tokens(model: Any) -> int | None:
    """Length up to which BigBird with sparse attention runs in full attention; None for other models.

    In sparse attention padding changes all vectors.
    """
    config = model.config
    if getattr(config, "attention_type", None) != "block_sparse" or not hasattr(model, "set_attention_type"):
        return None
    return (5 + 2 * int(config.num_random_blocks)) * int(config.block_size)


def restore_sparse_attention(model: Any) -> None:
    """Switch BigBird back to sparse attention, before a long text: a short one switches it to full attention for good."""
    with torch.random.fork_rng(devices=[]):  # it draws new layers, and then puts the old weights in
        model.set_attention_type(model.config.attention_type)


def position_offset_of(model: Any) -> int:
    """Position id of a text's first token: RoBERTa-like models (MPNet too) count from the padding id."""
    embeddings = getattr(model, "embeddings", None)
    if embeddings is not None and hasattr(embeddings, "create_position_ids_from_inputs_embeds"):
        return int(embeddings.padding_idx) + 1
    return 0
