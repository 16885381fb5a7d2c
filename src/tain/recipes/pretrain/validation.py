"""Validation loss of a pretraining run, on a few fixed blocks of held-out text with fixed masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tain.batches.blocks import BlockOrder
from tain.batches.masking import MaskedTokens
from tain.batches.order import step_seed
from tain.batches.shards import token_batches
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.foundation.errors import UserError
from tain.foundation.probing import evaluating, unchanged
from tain.objectives.masked_lm import masked_cross_entropy
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.objectives import Masker, block_order
from tain.text.readers import read_sentences

_BLOCKS = 100  # per file
_BATCH_BLOCKS = 25
_RATE = 0.15


class HeldOut:
    """Held-out blocks: up to 100 from the start of each file, 15% masked at positions that depend only on the tokenizer.

    Raises:
        UserError: A file is shorter than a block.
    """

    def __init__(self, files: Sequence[Path], tokenizer: Any, config: PretrainConfig) -> None:
        masker = Masker(tokenizer, rate=_RATE)
        self.batches: list[MaskedTokens] = []
        for number, path in enumerate(files):
            blocks = block_order(_first_tokens(path, tokenizer, _BLOCKS * config.block_tokens), tokenizer, config)
            starts = np.arange(min(_BLOCKS, len(blocks.stream) // blocks.inner)) * blocks.inner
            if not len(starts):
                raise UserError(
                    f"validation file {str(path)!r} has {len(blocks.stream)} tokens, fewer than a block of {config.block_tokens}: give a longer one"
                )
            self.batches += _masked(blocks, starts, masker, number)

    @torch.no_grad()
    def loss(self, network: MaskedLanguageModel, device: torch.device) -> float:
        """Mean loss over all masked tokens, nats, dropout off."""
        total, tokens = 0.0, 0
        with unchanged(network), evaluating(network):
            for batch in self.batches:
                logits = network(batch.ids.to(device), batch.indices.to(device))
                total += masked_cross_entropy(logits, batch.targets.to(device)).item() * len(batch.indices)
                tokens += len(batch.indices)
        return total / tokens


def _masked(blocks: BlockOrder, starts: np.ndarray, masker: Masker, file_number: int) -> list[MaskedTokens]:
    return [
        masker.at_random(blocks.blocks_at(starts[first : first + _BATCH_BLOCKS]), seed=step_seed(1, file_number, first))
        for first in range(0, len(starts), _BATCH_BLOCKS)
    ]


def _first_tokens(path: Path, tokenizer: Any, tokens: int) -> np.ndarray:
    pieces: list[np.ndarray] = []
    for ids, _, _ in token_batches(read_sentences(path), tokenizer, batch_texts=256):
        pieces.append(ids)
        if sum(map(len, pieces)) >= tokens:
            break
    return np.concatenate(pieces)
