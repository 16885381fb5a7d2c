"""Masked language models by name: loading them, head and all, and asking them for hidden tokens."""

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
    """A masked language model ready to go on.

    Attributes:
        model: Float32, in eval mode.
        tokenizer: Its tokenizer, which has a mask token.
        new_head: Parameters of the prediction head that the folder did not have, so that they are random; empty where it had all.
        name: What the user called it.
    """

    model: Any
    tokenizer: Any
    new_head: tuple[str, ...]
    name: str = ""


def load_masked_lm(name: str | Path, *, trust_remote_code: bool = False) -> LoadedMaskedLM:
    """Load a masked language model, or an encoder (bare, or a sentence-transformers folder) that gets a new head.

    Raises:
        UserError: There is no such model, its encoder's weights are not all there, its tokenizer has no mask token, or the two
            do not belong together.
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
    """How well a model guesses every token of some texts, each once.

    Attributes:
        nats: Sum of the tokens' negative log probabilities in each block of text.
        tokens: Tokens guessed in each block.
        bytes: Length of the texts in UTF-8.
        passes: How often every block went through the model.
    """

    nats: Float64[np.ndarray, " blocks"]
    tokens: Int64[np.ndarray, " blocks"]
    bytes: int
    passes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def bits_per_byte(self) -> float:
        """What compares models of different tokenizers, whose tokens are of different length."""
        return float(self.nats.sum() / np.log(2) / self.bytes)


class MaskedPredictor:
    """A masked language model that is asked for hidden tokens of texts.

    Args:
        model: As ``AutoModelForMaskedLM`` loads it; is put in eval mode.
        tokenizer: Its tokenizer.
        name: How the model is called in tables.
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
            UserError: As ``load_masked_lm``, or the folder has no prediction head: a random one can be trained, but not measured. Or the model cannot
                compute in ``dtype``.
        """
        loaded = load_masked_lm(name, trust_remote_code=trust_remote_code)
        if loaded.new_head:
            raise UserError(
                f"model {str(name)!r} is an encoder without the head that predicts tokens ({loaded.new_head[0]} is missing): "
                "give a masked language model, such as what tain pretrain writes"
            )
        model = loaded.model.to(choose_device(device))
        predictor = cls(model, loaded.tokenizer, name=str(name))
        set_dtype(model, usable_dtype(model, dtype))  # asked with our attention: then nothing need be tried
        return predictor

    @property
    def max_tokens(self) -> int:
        """The longest text the model reads, special tokens included."""
        return max_length(self.network.model, self.tokenizer)

    def blocks(self, texts: Iterable[str], *, block_tokens: int) -> list[Int[Tensor, "rows tokens"]]:
        """Cut texts, a separator behind each, into rows that hold every token once.

        Returns:
            One or two batches: rows differ in length by one token at most, so that none is a short rest.

        Raises:
            UserError: The texts have fewer tokens than a block.
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
        """Negative log probabilities of the tokens at flat ``indices`` when all of them show the mask token."""
        seen = ids.flatten().clone()
        seen[indices] = self.tokenizer.mask_token_id
        logits = self.network(seen.view(ids.shape).to(self.device), indices.to(self.device))
        return F.cross_entropy(logits.float(), ids.flatten()[indices].to(self.device), reduction="none").cpu()

    def explored_loss(
        self, texts: Iterable[str], *, block_tokens: int = 128, passes: int = 7, seed: int = 13, progress: Progress | None = None
    ) -> ExploredLoss:
        """Hide every token of the texts exactly once, in ``passes`` disjoint masks, and sum up the surprise.

        Zheng et al. 2020's partition, used to measure: no token is left to chance, only which others are hidden with it. All
        hidden tokens show the mask token (in training a fifth does not).

        Args:
            texts: Running text.
            block_tokens: Tokens that the model reads at a time.
            passes: Masks of a block; 7 hides a seventh of the tokens at a time, nearly BERT's 15%.
            seed: Fixes the partition.
            progress: Told about every block.

        Raises:
            UserError: The texts have fewer tokens than a block, or none that the tokenizer knows.
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
                    # each row is cut by itself, so that what stands in one batch changes nothing
                    cut = disjoint_indices(draws, is_maskable=is_maskable, parts=passes, rate=1 / passes, each_row=True, may_be_empty=True)
                    for indices in filter(len, cut):
                        per_token[indices] = self.nats(rows, indices).double()
                    is_known = is_maskable.any(1)  # blocks of which the tokenizer knows nothing count as nothing
                    nats.append(per_token.view(rows.shape).sum(1)[is_known])
                    tokens.append(is_maskable.sum(1)[is_known])
        if not nats:
            raise UserError(f"the tokenizer of {self.name!r} knows no token of the texts: give texts of its language")
        return ExploredLoss(torch.cat(nats).numpy(), torch.cat(tokens).numpy(), sum(len(text.encode()) for text in texts), passes)
