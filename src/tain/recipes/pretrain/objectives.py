"""Pretraining objectives: random and fully explored masks, and the table of all objectives.

An objective turns a step number into a gradient and a loss. New objectives are added to ``OBJECTIVES``. All randomness comes from the
seed and the step number, so that a resumed run repeats an uninterrupted one. Several processes draw the masks of the whole batch and compute
a share of its texts each; only dropout differs between them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from tain.batches.ahead import Ahead
from tain.batches.blocks import BlockOrder
from tain.batches.masking import (
    MaskedTokens,
    corrupted,
    disjoint_indices,
    indices_of_each_text,
    mask_at_random,
    masked_rows,
    span_beginnings,
    word_beginnings,
)
from tain.batches.order import step_seed
from tain.batches.shards import Shards
from tain.batches.tokenizing import continues_word, first_ordinary_id, opening_id, separator_id
from tain.batches.types import TokenIds
from tain.encoders.conditioning import ConditionalMaskedLM
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.objectives.masked_lm import masked_cross_entropy
from tain.recipes.pretrain.config import PretrainConfig
from tain.training import distributed
from tain.training.async_loss import backward
from tain.training.optimizer import MasterWeights

_MASKING_THREADS = 3


@runtime_checkable
class Objective(Protocol):
    """Protocol of an objective, which the training loop calls once per step.

    Attributes:
        step_tokens: Tokens per step through the encoder, counted once per pass; the mean if steps differ.
        facts: Facts about the objective's texts for the saved record.
    """

    step_tokens: int
    facts: dict[str, Any]

    def gradient(self, step: int) -> float:
        """Compute the gradient of step ``step`` (from 0), leave it in the master weights, and return the loss in nats per token.

        Gradient and loss are those of the whole batch, in every process that shares it.
        """
        ...

    def held_out(self) -> dict[str, float]:
        """The objective's own figures on the validation texts, in addition to the common loss."""
        ...


@dataclass(frozen=True)
class MaskingContext:
    """Model, texts and settings that an objective is built from.

    Attributes:
        network: The model, on its device, in train mode.
        weights: Its master weights, which accumulate the gradients of several backward passes.
        tokenizer: Its tokenizer.
        shards: The texts: packed tokens, or sentences with document starts.
        config: All settings.
        device: Where the model is.
        conditional: The model with its conditioning on neighbours, for the objective that trains both.
    """

    network: MaskedLanguageModel
    weights: MasterWeights
    tokenizer: Any
    shards: Shards
    config: PretrainConfig
    device: torch.device
    conditional: ConditionalMaskedLM | None = None


class Masker:
    """Masks tokens for the model to predict.

    Args:
        tokenizer: A tokenizer with a mask token.
        rate: Share of tokens to mask.
    """

    def __init__(self, tokenizer: Any, *, rate: float) -> None:
        self.rate = rate
        self.special = torch.tensor(tokenizer.all_special_ids)
        self._shown = {"mask_id": tokenizer.mask_token_id, "vocabulary": len(tokenizer), "first_ordinary_id": first_ordinary_id(tokenizer)}

    def is_maskable(self, ids: Tensor) -> Tensor:
        return ~torch.isin(ids, self.special)

    def at_random(self, ids: Tensor, *, seed: int, owners: Tensor | None = None) -> MaskedTokens:
        """Mask a fixed number of single tokens.

        Args:
            ids: Token ids of any shape.
            seed: Seed of positions and corruption.
            owners: The text of each token, of the shape of ``ids``: every text has its own share of the masks. None takes one share over
                all ids together.
        """
        generator = torch.Generator().manual_seed(seed)
        if owners is not None:
            is_maskable = self.is_maskable(ids).flatten()
            indices = indices_of_each_text(is_maskable, owners=owners.flatten(), rate=self.rate, generator=generator)
            return self.at(ids, indices, generator=generator)
        return mask_at_random(ids, is_maskable=self.is_maskable(ids), rate=self.rate, generator=generator, **self._shown)

    def at(self, ids: Tensor, indices: Tensor, *, generator: torch.Generator) -> MaskedTokens:
        """Mask the given positions."""
        return corrupted(ids, indices, generator=generator, **self._shown)


class RandomMasks:
    """Objective with one random mask of single tokens per text (Devlin et al. 2019); its size is fixed per batch or per text."""

    def __init__(self, context: MaskingContext) -> None:
        config = context.config
        distributed.refuse_idle_processes(config.batch_blocks, what="blocks")
        self.seed = config.seed
        self.is_by_text = config.masked_by == "text"
        self.order = block_order(context.shards.tokens, context.tokenizer, config)
        self.masker = Masker(context.tokenizer, rate=config.masking_rate)
        self.step_tokens = config.batch_blocks * config.block_tokens
        self.facts: dict[str, Any] = {}
        self._loss = _MaskedLoss(context)
        # prepare masks ahead for a GPU; on a CPU all cores are busy
        self._coming = Ahead(self._shown, workers=0 if context.device.type == "cpu" else _MASKING_THREADS)

    def masks(self, step: int) -> list[MaskedTokens]:
        """The corrupted copies of the step's blocks for the model."""
        ids = self.order.batch(step)
        owners = torch.arange(len(ids))[:, None].expand(ids.shape) if self.is_by_text else None
        return [self.masker.at_random(ids, seed=step_seed(self.seed, step, 7), owners=owners)]

    def _shown(self, step: int) -> tuple[list[MaskedTokens], int]:
        """The copies of this process's blocks, and the number of masked tokens in those of all processes."""
        masks = self.masks(step)
        hidden = sum(len(mask.indices) for mask in masks)
        if distributed.world_size() > 1:
            share = distributed.share_of(self.order.batch_blocks)
            masks = [masked_rows(mask, share) for mask in masks]
        return [self._loss.handy(mask) for mask in masks], hidden

    def gradient(self, step: int) -> float:
        masks, hidden = self._coming(step)
        return self._loss.gradient(masks, hidden=hidden, seed=dropout_seed(self.seed, step))

    def held_out(self) -> dict[str, float]:
        return {}


class DisjointMasks(RandomMasks):
    """Objective with masks of words or spans, or several disjoint masks per text: fully explored masking (Zheng et al. 2020).

    A random order of each text's words (with ``mask_unit`` ``batch``, of all words in the batch) is cut into K parts. Either all parts are
    masked one after another within a step, or part e mod K in epoch e. In the second case the order depends on the text alone, and the
    blocks keep their boundaries for K epochs.
    """

    def __init__(self, context: MaskingContext) -> None:
        super().__init__(context)
        config = context.config
        self.config = config
        self.parts = config.parts
        self.continues_word = torch.from_numpy(continues_word(context.tokenizer)) if config.units == "word" else None
        if not config.spread_over_epochs:
            self.step_tokens *= self.parts

    def masks(self, step: int) -> list[MaskedTokens]:
        ids = self.order.batch(step)
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, 7))
        if self.config.spread_over_epochs:
            epoch = self.order.epoch(step)
            draws = self._draws_of_texts(self.order.starts(step), cycle=epoch // self.parts)
            indices = [self._indices(ids, draws, each_row=True)[epoch % self.parts]]
        else:
            indices = self._indices(ids, torch.rand(ids.shape, generator=generator), each_row=self.is_by_text)
        return [self.masker.at(ids, part, generator=generator) for part in indices]

    def _indices(self, ids: Tensor, draws: Tensor, *, each_row: bool) -> list[Tensor]:
        is_maskable = self.masker.is_maskable(ids)
        begins_unit = None
        if self.continues_word is not None:
            begins_unit = word_beginnings(ids, is_maskable=is_maskable, continues_word=self.continues_word)
        elif self.config.units == "span":
            span = self.config.span_tokens
            phases = (draws[:, 0] * span).long()  # the first and last token are special, so their draws are free for this
            begins_unit = span_beginnings(phases, is_maskable=is_maskable, span_tokens=span)
        return disjoint_indices(
            draws,
            is_maskable=is_maskable,
            parts=self.parts,
            rate=self.masker.rate,
            begins_unit=begins_unit,
            turns=None if begins_unit is None else draws[:, -1],
            each_row=each_row,
        )

    def _draws_of_texts(self, starts: np.ndarray, *, cycle: int) -> Tensor:
        """Random draws that depend on the text and the number of earlier explorations, not on the step."""
        tokens = self.config.block_tokens
        rows = [np.random.default_rng([self.seed, 12, cycle, int(start)]).random(tokens, dtype=np.float32) for start in starts]
        return torch.from_numpy(np.stack(rows))


OBJECTIVES: dict[str, Callable[[MaskingContext], Objective]] = {
    "random": RandomMasks,
    "whole-word": DisjointMasks,
    "span": DisjointMasks,
    "fully-explored": DisjointMasks,
}


def dropout_seed(seed: int, step: int) -> int:
    """Seed of this process's dropout in a step."""
    return step_seed(seed, step, 8 + 16 * distributed.rank())


def block_order(stream: TokenIds, tokenizer: Any, config: PretrainConfig) -> BlockOrder:
    """Cut a stream into blocks as the settings say."""
    return BlockOrder(
        stream,
        block_tokens=config.block_tokens,
        batch_blocks=config.batch_blocks,
        first_id=opening_id(tokenizer),
        last_id=separator_id(tokenizer),
        seed=config.seed,
        phase_epochs=config.parts if config.spread_over_epochs else 1,
    )


class _MaskedLoss:
    """The mean loss over all masked tokens of a step, differentiated mask by mask to save memory."""

    def __init__(self, context: MaskingContext) -> None:
        self.weights = context.weights
        self.device = context.device
        self.is_compiled = context.config.compile

        def loss_of(ids: Tensor, indices: Tensor, targets: Tensor) -> Tensor:
            return masked_cross_entropy(context.network(ids, indices), targets)

        self._loss_of = torch.compile(loss_of) if self.is_compiled else loss_of

    def handy(self, mask: MaskedTokens) -> MaskedTokens:
        """Put a mask into pinned memory, so that the device can copy it asynchronously."""
        if self.device.type != "cuda":
            return mask
        return MaskedTokens(mask.ids.pin_memory(), mask.indices.pin_memory(), mask.targets.pin_memory())

    def gradient(self, masks: list[MaskedTokens], *, hidden: int, seed: int) -> float:
        """Accumulate the gradient of the mean loss over ``hidden`` masked tokens, of which other processes have a part."""
        torch.manual_seed(seed)  # dropout draws from torch's global state
        read = []
        for mask in masks:
            if not len(mask.indices):  # all of a small mask may be in the blocks of other processes
                continue
            ids, indices, targets = (each.to(self.device, non_blocking=True) for each in (mask.ids, mask.indices, mask.targets))
            if self.is_compiled:  # the number of masked tokens varies: marking it dynamic first avoids a second compilation
                torch._dynamo.mark_dynamic(indices, 0)
                torch._dynamo.mark_dynamic(targets, 0)
            loss = self._loss_of(ids, indices, targets)
            # every token has equal weight, whatever the sizes of the masks
            read.append(backward(loss * (len(mask.indices) / hidden)))
            if len(masks) > 1:
                self.weights.take_gradients()
        self.weights.sum_over_processes()
        return distributed.summed(sum(each() for each in read))
