"""Masked language models: loading with head and measuring predictions of masked tokens."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int, Int64
from torch import Tensor

from tain.batches.masking import disjoint_indices
from tain.batches.tokenizing import bare_ids, opening_id, separator_id
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.encoders.transformer import refuse_other_than_encoders, usable_dtype
from tain.foundation.choices import Dtype
from tain.foundation.errors import UserError
from tain.foundation.machine import choose_device, set_dtype
from tain.foundation.progress import Progress
from tain.models.loading import load_with_missing, max_length
from tain.models.saved import read_layout
from tain.models.unknown_tokens import check_known
from tain.text.collections import list_texts

_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


@dataclass(frozen=True)
class LoadedMaskedLM:
    """A masked language model loaded for training.

    Attributes:
        model: Float32, in eval mode.
        tokenizer: Its tokenizer, which has a mask token.
        new_head: Randomly initialized parameters of the prediction head; empty if the folder had a complete head.
        name: Name given by the user.
    """

    model: Any
    tokenizer: Any
    new_head: tuple[str, ...]
    name: str = ""


def load_masked_lm(name: str | Path, *, trust_remote_code: bool = False) -> LoadedMaskedLM:
    """Load a masked language model, or an encoder (bare or sentence-transformers), which gets a new head.

    Raises:
        UserError: The model does not exist, lacks encoder weights, has a tokenizer without a mask token, or model and tokenizer do not
            belong together.
    """
    model, tokenizer, missing = load_with_missing("AutoModelForMaskedLM", read_layout(name).path, trust_remote_code=trust_remote_code)
    refuse_without_mask(tokenizer, name)
    if model.base_model is not model:
        refuse_other_than_encoders(model.base_model)
    return LoadedMaskedLM(model, tokenizer, tuple(sorted(missing)), str(name))


def refuse_without_mask(tokenizer: Any, name: str | Path) -> None:
    """Refuse a tokenizer that has no mask token.

    Raises:
        UserError: It has none.
    """
    if tokenizer.mask_token_id is None:
        raise UserError(f"the tokenizer of {str(name)!r} has no mask token: give a masked language model")


@dataclass(frozen=True)
class ExploredLoss:
    """Prediction loss of a model over every token of some texts, each predicted once.

    Attributes:
        nats: Sum of the negative log probabilities per block of text.
        tokens: Predicted tokens per block.
        bytes: Length of the texts in UTF-8.
        passes: Forward passes per block.
    """

    nats: Float64[np.ndarray, " blocks"]
    tokens: Int64[np.ndarray, " blocks"]
    bytes: int
    passes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte, which is comparable between models with different tokenizers."""
        return float(self.nats.sum() / np.log(2) / self.bytes)


class MaskedPredictor:
    """A masked language model that predicts masked tokens of texts.

    Args:
        model: As loaded by ``AutoModelForMaskedLM``; set to eval mode.
        tokenizer: Its tokenizer.
        name: Name shown in tables.
    """

    def __init__(self, model: Any, tokenizer: Any, *, name: str) -> None:
        self.network = MaskedLanguageModel(model.eval())
        self.tokenizer = tokenizer
        self.name = name
        self.device = next(model.parameters()).device

    @classmethod
    def load(
        cls, name: str | Path, *, device: str | None = None, dtype: Dtype = "auto", trust_remote_code: bool = False
    ) -> "MaskedPredictor":
        """Load a masked language model.

        Raises:
            UserError: As ``load_masked_lm``; or the folder has no prediction head (a random head can be trained, but not evaluated); or
                the model does not support ``dtype``.
        """
        loaded = load_masked_lm(name, trust_remote_code=trust_remote_code)
        if loaded.new_head:
            raise UserError(
                f"model {str(name)!r} is an encoder without the head that predicts tokens ({loaded.new_head[0]} is missing): "
                "give a masked language model, such as what tain pretrain writes"
            )
        model = loaded.model.to(choose_device(device))
        predictor = cls(model, loaded.tokenizer, name=str(name))
        set_dtype(model, usable_dtype(model, dtype))  # queried with our attention, so no benchmark is needed
        return predictor

    @property
    def max_tokens(self) -> int:
        """Length limit in tokens, including special tokens."""
        return max_length(self.network.model, self.tokenizer)

    def blocks(self, texts: Iterable[str], *, block_tokens: int) -> list[Int[Tensor, "rows tokens"]]:
        """Concatenate texts with separators and cut them into rows that contain every token once.

        Returns:
            One or two batches: row lengths differ by at most one token, so there is no short remainder.

        Raises:
            UserError: The texts have fewer tokens than one block.
        """
        separator = separator_id(self.tokenizer)
        stream = np.concatenate([[*ids, separator] for ids in bare_ids(self.tokenizer, list_texts(texts))])
        inner = block_tokens - 2
        if len(stream) < inner:
            raise UserError(f"the texts have {len(stream)} tokens, fewer than a block of {block_tokens}: give more text")
        rows = [np.array([opening_id(self.tokenizer), *row, separator]) for row in np.array_split(stream, -(-len(stream) // inner))]
        by_length = {length: [row for row in rows if len(row) == length] for length in sorted({len(row) for row in rows})}
        return [torch.from_numpy(np.stack(alike)) for alike in by_length.values()]

    def is_maskable(self, ids: Int[Tensor, "rows tokens"]) -> Bool[Tensor, "rows tokens"]:
        return ~torch.isin(ids, torch.tensor(self.tokenizer.all_special_ids))

    @torch.inference_mode()
    def nats(self, ids: Int[Tensor, "rows tokens"], indices: Int[Tensor, " masked"]) -> Float[Tensor, " masked"]:
        """Negative log probabilities of the tokens at flat ``indices``, all of them masked."""
        seen = ids.flatten().clone()
        seen[indices] = self.tokenizer.mask_token_id
        logits = self.network(seen.view(ids.shape).to(self.device), indices.to(self.device))
        return F.cross_entropy(logits.float(), ids.flatten()[indices].to(self.device), reduction="none").cpu()

    def explored_loss(
        self, texts: Iterable[str], *, block_tokens: int = 128, passes: int = 7, seed: int = 13, progress: Progress | None = None
    ) -> ExploredLoss:
        """Mask every token of the texts exactly once, in ``passes`` disjoint masks, and sum the losses.

        Uses the partition of Zheng et al. 2020 for evaluation: every token is predicted, and only the set of tokens masked together is
        random. All of them are replaced by the mask token (in training a fifth is not).

        Args:
            texts: Running text.
            block_tokens: Tokens per forward pass and row.
            passes: Masks per block; 7 masks a seventh of the tokens at a time, close to BERT's 15%.
            seed: Seed of the partition.
            progress: Receives an update per block.

        Raises:
            UserError: The texts have fewer tokens than a block, or only unknown tokens.
        """
        texts = list_texts(texts)
        check_known(self, texts, progress=progress or Progress.silent())
        batches = self.blocks(texts, block_tokens=block_tokens)
        generator = torch.Generator().manual_seed(seed)
        nats, tokens = [], []
        with (progress or Progress.silent()).task("measure", sum(map(len, batches))) as task:
            for batch in batches:
                for rows in batch.split(max(1, _BATCH_TOKENS.get(self.device.type, 4096) // batch.shape[1])):
                    is_maskable = self.is_maskable(rows)
                    draws = torch.rand(rows.shape, generator=generator)
                    task.advance(len(rows))
                    if not is_maskable.any():
                        continue
                    per_token = torch.zeros(rows.numel(), dtype=torch.float64)
                    # partition each row separately, so that it does not depend on the rest of the batch
                    cut = disjoint_indices(draws, is_maskable=is_maskable, parts=passes, rate=1 / passes, each_row=True, may_be_empty=True)
                    for indices in filter(len, cut):
                        per_token[indices] = self.nats(rows, indices).double()
                    is_known = is_maskable.any(1)  # blocks with only unknown tokens are not counted
                    nats.append(per_token.view(rows.shape).sum(1)[is_known])
                    tokens.append(is_maskable.sum(1)[is_known])
        if not nats:
            raise UserError(f"the tokenizer of {self.name!r} knows no token of the texts: give texts of its language")
        return ExploredLoss(torch.cat(nats).numpy(), torch.cat(tokens).numpy(), sum(len(text.encode()) for text in texts), passes)
