"""Losses that restore masked tokens, added to the contrast of mirroring."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from tain.batches.masking import corrupted, indices_of_each_text
from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import first_ordinary_id
from tain.batches.types import PackedTexts
from tain.encoders.masked_lm import PredictionHead
from tain.encoders.sentence_decoder import SentenceDecoder
from tain.encoders.transformer import TransformerEncoder

Part = TypeVar("Part", "MaskedPart", "DecodedPart")

MASKING_RATE = 0.15  # BERT's
DECODER_RATE = 0.5


@dataclass(frozen=True)
class MaskedText:
    """A text with masked tokens.

    Attributes:
        ids: Its token ids, some of them masked.
        places: Positions to predict, ascending.
        targets: The original ids there.
    """

    ids: list[int]
    places: list[int]
    targets: list[int]


@dataclass(frozen=True)
class MaskedPart:
    """A micro-batch of masked texts.

    Attributes:
        packed: The texts.
        indices: Positions to predict, as flat indices into ``packed.ids``.
        targets: The original ids there.
    """

    packed: PackedTexts
    indices: Int64[Tensor, " masked"]
    targets: Int64[Tensor, " masked"]


@dataclass(frozen=True)
class MaskedBatch:
    """This process's masked texts of a step.

    Attributes:
        parts: Micro-batches with something to predict.
        total: Positions to predict over all processes.
    """

    parts: list[MaskedPart]
    total: int


def mask_texts(
    ids: Sequence[Sequence[int]], tokenizer: Any, *, rate: float, generator: torch.Generator, skipped: int = 0, is_bare: bool = False
) -> list[MaskedText]:
    """Mask a share of the ordinary tokens of every text, at least one each, as BERT does (80% mask, 10% random token, 10% unchanged).

    Args:
        ids: Token ids of the texts.
        tokenizer: Their tokenizer.
        rate: Share of tokens to predict.
        generator: Random generator of positions and tokens.
        skipped: Tokens at the beginning of each text that are never masked: a prompt.
        is_bare: Replace all of them by the mask token.

    Returns:
        The texts in order; one without ordinary tokens has nothing to predict.
    """
    flat = torch.tensor([token for text in ids for token in text])
    owners = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor([len(text) for text in ids]))
    starts = torch.tensor([0, *(len(text) for text in ids)]).cumsum(0)
    within = torch.arange(len(flat)) - starts[owners]
    is_maskable = ~torch.isin(flat, torch.tensor(tokenizer.all_special_ids)) & (within >= skipped)
    if not is_maskable.any():
        return [MaskedText(list(text), [], []) for text in ids]
    masked = corrupted(
        flat,
        indices_of_each_text(is_maskable, owners=owners, rate=rate, generator=generator),
        mask_id=tokenizer.mask_token_id,
        vocabulary=len(tokenizer),
        first_ordinary_id=first_ordinary_id(tokenizer),
        generator=generator,
        **({"mask_share": 1.0, "random_share": 0.0} if is_bare else {}),
    )
    found = []
    for text, (start, end) in enumerate(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)):
        mine = owners[masked.indices] == text
        places = (masked.indices[mine] - start).tolist()
        found.append(MaskedText(masked.ids[start:end].tolist(), places, masked.targets[mine].tolist()))
    return found


def masked_batch(texts: Sequence[MaskedText], *, mine: slice, batch_tokens: int, share_rows: bool) -> MaskedBatch:
    """Pack this process's share of masked texts.

    Args:
        texts: The texts of all processes.
        mine: This process's share.
        batch_tokens: Tokens per micro-batch.
        share_rows: As for ``pack``.
    """
    share = list(texts[mine])
    parts = []
    for rows in batches_by_tokens([len(text.ids) for text in share], batch_tokens=batch_tokens):
        chosen = [share[row] for row in rows]
        packed = pack([text.ids for text in chosen], share_rows=share_rows)
        starts = packed.starts[packed.order.argsort()].tolist()
        indices = [start + place for start, text in zip(starts, chosen, strict=True) for place in text.places]
        if indices:
            parts.append(MaskedPart(packed, torch.tensor(indices), torch.tensor([token for text in chosen for token in text.targets])))
    return MaskedBatch(parts, sum(len(text.places) for text in texts))


def mlm_gradient(
    encoder: TransformerEncoder,
    head: PredictionHead,
    batch: MaskedBatch,
    *,
    weight: float,
    drophead: float,
    reseed: Callable[[int], object],
    after_part: Callable[[], object],
) -> float:
    """Add the gradient of the masked language modelling loss to the model's parameters.

    Gao et al. 2021 (SimCSE), the auxiliary loss: mean negative log probability of the true tokens at the masked positions, in nats
    (Devlin et al. 2019), times ``weight``.

    Args:
        encoder: Computes the token vectors.
        head: Predicts tokens from them.
        batch: This process's masked texts.
        weight: Weight of the loss.
        drophead: As for the contrast.
        reseed: Sets the random state for part n.
        after_part: Called after each part's gradient has been added.

    Returns:
        This process's share of the loss.
    """

    def hidden(part: MaskedPart) -> Tensor:
        return encoder.tokens(part.packed, drophead=drophead)[part.indices.to(encoder.device)]

    return _add_gradient(batch.parts, hidden, head, weight=weight, total=batch.total, reseed=reseed, after_part=after_part)


@dataclass(frozen=True)
class DecodedPart:
    """A micro-batch of texts whose masked tokens a decoder restores.

    Attributes:
        packed: The texts, nothing masked.
        ids: Their token ids, many masked, in the order given to ``pack``; 0 on padding.
        is_token: False on padding.
        indices: Positions to predict, as flat indices into ``ids``.
        targets: The original ids there.
    """

    packed: PackedTexts
    ids: Int64[Tensor, "texts longest"]
    is_token: Bool[Tensor, "texts longest"]
    indices: Int64[Tensor, " masked"]
    targets: Int64[Tensor, " masked"]


@dataclass(frozen=True)
class DecodedBatch:
    """This process's texts of a step for the decoder.

    Attributes:
        parts: Micro-batches with something to predict.
        total: Positions to predict over all processes.
    """

    parts: list[DecodedPart]
    total: int


def decoded_batch(
    ids: Sequence[Sequence[int]], texts: Sequence[MaskedText], *, mine: slice, batch_tokens: int, share_rows: bool
) -> DecodedBatch:
    """Pack this process's share of texts, each with its masked form.

    Args:
        ids: Token ids of the texts of all processes.
        texts: The same texts, masked.
        mine: This process's share.
        batch_tokens: Tokens per micro-batch.
        share_rows: As for ``pack``.
    """
    whole, share = list(ids[mine]), list(texts[mine])
    parts = []
    for rows in batches_by_tokens([len(text) for text in whole], batch_tokens=batch_tokens):
        chosen = [share[row] for row in rows]
        longest = max(len(text.ids) for text in chosen)
        table = torch.tensor([[*text.ids, *[0] * (longest - len(text.ids))] for text in chosen])
        is_token = torch.arange(longest) < torch.tensor([len(text.ids) for text in chosen])[:, None]
        indices = [row * longest + place for row, text in enumerate(chosen) for place in text.places]
        if indices:
            targets = torch.tensor([token for text in chosen for token in text.targets])
            packed = pack([whole[row] for row in rows], share_rows=share_rows)
            parts.append(DecodedPart(packed, table, is_token, torch.tensor(indices), targets))
    return DecodedBatch(parts, sum(len(text.places) for text in texts))


def decoder_gradient(
    encoder: TransformerEncoder,
    decoder: SentenceDecoder,
    head: PredictionHead,
    batch: DecodedBatch,
    *,
    weight: float,
    drophead: float,
    skipped: int,
    reseed: Callable[[int], object],
    after_part: Callable[[], object],
) -> float:
    """Add the gradient of the decoder's loss to the parameters of encoder, decoder and head.

    Xiao et al. 2022 (RetroMAE), in its basic form; here the encoder reads the whole text, not a masked one, and its vector is the one
    that is saved. Mean negative log probability of the true tokens at the masked positions, in nats, times ``weight``.

    Args:
        encoder: Computes the texts' vectors.
        decoder: Restores tokens from them.
        head: Predicts tokens from the decoder's output.
        batch: This process's texts.
        weight: Weight of the loss.
        drophead: As for the contrast.
        skipped: As for the contrast.
        reseed: Sets the random state for part n.
        after_part: Called after each part's gradient has been added.

    Returns:
        This process's share of the loss.
    """

    def hidden(part: DecodedPart) -> Tensor:
        vectors = encoder(part.packed, drophead=drophead, skipped=skipped)
        embeddings = encoder.model.get_input_embeddings()(part.ids.to(encoder.device))
        restored = decoder(vectors, embeddings, part.is_token.to(encoder.device))
        return restored.flatten(0, 1)[part.indices.to(encoder.device)]

    return _add_gradient(batch.parts, hidden, head, weight=weight, total=batch.total, reseed=reseed, after_part=after_part)


def _add_gradient(
    parts: Sequence[Part],
    hidden: Callable[[Part], Tensor],
    head: PredictionHead,
    *,
    weight: float,
    total: int,
    reseed: Callable[[int], object],
    after_part: Callable[[], object],
) -> float:
    """Add the gradient of the mean negative log probability of the targets, times ``weight``; return these parts' share of it.

    Args:
        parts: Micro-batches.
        hidden: Vectors of a part's positions to predict (masked, dim).
        head: Predicts tokens from them.
        weight: Weight of the loss.
        total: Positions that the mean is over, of all processes.
        reseed: Sets the random state for part n.
        after_part: Called after each part's gradient has been added.
    """
    value = 0.0
    for number, part in enumerate(parts):
        reseed(number)
        vectors = hidden(part)
        nats = F.cross_entropy(head(vectors).float(), part.targets.to(vectors.device), reduction="sum")
        loss = nats * (weight / total)
        loss.backward()
        after_part()
        value += loss.item()
    return value
