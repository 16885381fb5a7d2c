"""Token ids of the positive pairs, and the two views of each pair."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from tain.batches.order import step_seed
from tain.batches.packing import pack
from tain.batches.same_texts import same_texts
from tain.batches.tokenizing import mask_token, tokenise, tokenise_once
from tain.batches.types import KeptTexts
from tain.batches.views import crop, repeat_tokens, special_ends, twin_views
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.recipes.mirror.data import CROPS, IDENTITY, PAIR, TrainingSet


@dataclass(frozen=True)
class TokenisedPairs:
    """Token ids of both sides of all pairs, cut at the length limit.

    Attributes:
        left: One side of each pair.
        right: The other; ``left`` itself if every pair comes from a single text.
        left_keys: Equal numbers are texts that the model cannot tell apart.
        right_keys: The same for the other side, with the same numbers.
        alike: Number of texts that only differ from others beyond the limit.
        texts: Number of texts.
        truncated: Number of cut texts.
    """

    left: KeptTexts
    right: KeptTexts
    left_keys: Int64[np.ndarray, " pairs"]
    right_keys: Int64[np.ndarray, " pairs"]
    alike: int
    texts: int
    truncated: int

    def sharing(self) -> int:
        """Number of pairs that share a text with another pair; such pairs are not each other's negatives."""
        pairs = np.stack([self.left_keys, self.right_keys])
        pairs[1, pairs[1] == pairs[0]] = -1  # count it once
        counts = np.bincount(pairs[pairs >= 0], minlength=1)
        return int(np.count_nonzero((counts[pairs] > 1).any(axis=0, where=pairs >= 0)))

    def is_same(self, indices: Int64[np.ndarray, " batch"]) -> Bool[Tensor, "batch batch"] | None:
        """Which pairs of the batch share a text; None if no two do."""
        left, right = self.left_keys[indices], self.right_keys[indices]
        shared = (left[:, None] == left) | (right[:, None] == right) | (left[:, None] == right) | (right[:, None] == left)
        np.fill_diagonal(shared, False)
        return torch.from_numpy(shared) if shared.any() else None


def tokenise_pairs(data: TrainingSet, tokenizer: Any, *, max_tokens: int, prompt: str = "") -> TokenisedPairs:
    """Tokenise both sides of all pairs, each text after the prompt, and find the texts that the model cannot tell apart.

    Raises:
        UserError: All texts have the same tokens.
    """
    left = tokenise_once(tokenizer, prompted(data.left, prompt), max_tokens=max_tokens)
    right = left if data.is_of_single_texts else tokenise_once(tokenizer, prompted(data.right, prompt), max_tokens=max_tokens)
    sides = [(data.left, left)] if data.is_of_single_texts else [(data.left, left), (data.right, right)]
    keys, alike = same_texts([text for texts, _ in sides for text in texts], chain.from_iterable(kept for _, kept in sides))
    if len(set(keys.tolist())) < 2:
        raise UserError(
            f"all {len(keys):,} texts have the same {len(left[0])} tokens when cut at {max_tokens}, so there is "
            "nothing to learn: raise --max-tokens, or give other texts"
        )
    left_keys = keys[: len(data.left)]
    right_keys = left_keys if data.is_of_single_texts else keys[len(data.left) :]
    return TokenisedPairs(left, right, left_keys, right_keys, alike, len(keys), sum(kept.truncated for _, kept in sides))


def prompted(texts: Sequence[str], prompt: str | None) -> list[str]:
    """Put a prompt before each text."""
    return [f"{prompt}{text}" for text in texts] if prompt else list(texts)


class Views:
    """Makes the two views of pairs; equal seeds and steps give equal views.

    Args:
        data: The pairs.
        pairs: Their token ids.
        tokenizer: The model's tokenizer.
        config: Spans to erase, tokens to repeat, and the length limit.

    Raises:
        UserError: Spans are to be erased, and the tokenizer has no mask token.
    """

    def __init__(self, data: TrainingSet, pairs: TokenisedPairs, tokenizer: Any, config: ResolvedMirrorConfig) -> None:
        self.data, self.pairs, self.tokenizer, self.config = data, pairs, tokenizer, config
        needs_mask = bool(config.erased_chars) and bool((data.kinds == IDENTITY).any())
        self.mask_token = mask_token(tokenizer) if needs_mask else ""

    def __call__(self, indices: np.ndarray, *, step: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
        """Token ids of the left and right views of some pairs."""
        texts = indices.tolist()
        rng = np.random.default_rng([seed, 3, step])
        left = [self.pairs.left[text] for text in texts]
        right = left.copy()
        for kind, make in KINDS.items():
            of_kind = [index for index, text in enumerate(texts) if self.data.kinds[text] == kind]
            for index, views in zip(of_kind, make(self, [texts[index] for index in of_kind], rng), strict=True):
                left[index], right[index] = views
        if share := self.config.repeat_share:
            most = self.config.max_tokens
            right = [
                repeat_tokens(ids, share=share, special=self.special, max_tokens=most, rng=rng, skipped=self.prompt_tokens) for ids in right
            ]
        return left, right

    @cached_property
    def special(self) -> frozenset[int]:
        """Ids of the special tokens."""
        return frozenset(self.tokenizer.all_special_ids)

    @cached_property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt and of the special tokens before it; 0 without a prompt."""
        if self.config.prompt is None:
            return 0
        ids = tokenise(self.tokenizer, [self.config.prompt], max_tokens=self.config.max_tokens).ids[0]
        return len(ids) - (ids[-1] in self.special)

    @property
    def skipped(self) -> int:
        """Number of tokens at the start that are not pooled."""
        return self.prompt_tokens if self.config.pooling == "mean" else 0

    @cached_property
    def ends(self) -> tuple[int, int]:
        """Numbers of tokens at the start and end of a text that stay in every view: special tokens, and the prompt."""
        first, last = special_ends(self.tokenizer)
        return max(first, self.prompt_tokens), last


TwoViews = tuple[list[int], list[int]]


def erased(views: Views, texts: Sequence[int], rng: np.random.Generator) -> list[TwoViews]:
    """Each text whole, and with a span of characters erased."""
    whole = [views.pairs.left[text] for text in texts]
    left, right = twin_views(
        [views.data.left[text] for text in texts],
        chars=views.config.erased_chars,
        floor=views.config.erase_min_chars,
        mask_token=views.mask_token,
        rng=rng,
    )
    cut = [index for index, (text, twin) in enumerate(zip(left, right, strict=True)) if text != twin]
    ids = tokenise(views.tokenizer, prompted([right[index] for index in cut], views.config.prompt), max_tokens=views.config.max_tokens).ids
    twins = whole.copy()
    for index, of_twin in zip(cut, ids, strict=True):
        twins[index] = of_twin
    return list(zip(whole, twins, strict=True))


def cropped(views: Views, texts: Sequence[int], rng: np.random.Generator) -> list[TwoViews]:
    """Two random spans of each text."""
    made = []
    for text in texts:
        whole = views.pairs.left[text]
        made.append((crop(whole, ends=views.ends, rng=rng), crop(whole, ends=views.ends, rng=rng)))
    return made


def given(views: Views, texts: Sequence[int], rng: np.random.Generator) -> list[TwoViews]:
    """The two texts of each pair."""
    return [(views.pairs.left[text], views.pairs.right[text]) for text in texts]


# kind of pair -> its two views, in the order in which they draw from the step's generator
KINDS: dict[int, Callable[[Views, Sequence[int], np.random.Generator], list[TwoViews]]] = {IDENTITY: erased, CROPS: cropped, PAIR: given}


def check_views(encoder: TransformerEncoder, views: Views, config: ResolvedMirrorConfig, *, progress: Progress) -> None:
    """Check on a sample that dropout works and that the two views of a text differ. Leaves the encoder in train mode.

    Raises:
        UserError: The views are identical for every text of the sample.
    """
    texts = views.data.left
    drops = config.dropout or config.attention_dropout or config.drophead
    if config.allow_identical_views or not (drops or views.data.is_identity):
        return
    changes = config.repeat_share > 0
    fewest = max(config.erase_min_chars, config.erased_chars + 1) if config.erased_chars else math.inf
    whole = sum(len(text) < fewest for text in texts)
    if not drops and not changes and 0 < whole < len(texts):
        progress.warn(
            f"{whole:,} of {len(texts):,} texts have fewer than {fewest} characters, so nothing is erased, and there is no dropout, so "
            "their two views are identical and teach little: lower --erase-min-chars, or raise --dropout"
        )
    # the longest texts: if any text is erased, these are
    indices = np.argsort([-len(text) for text in texts], kind="stable")[:16]
    encoder.train()
    torch.manual_seed(step_seed(config.seed, 0, 999))
    sample = views(indices, step=0, seed=config.seed)
    # with dropout, test it alone: erased spans would hide a model with a fixed dropout rate
    first, second = pack(sample[0]), pack(sample[0] if drops else sample[1])
    for _ in range(4 if drops else 1):  # a low rate may drop nothing by chance in a small model
        with torch.no_grad():
            left, right = (encoder(each, drophead=config.drophead, skipped=views.skipped) for each in (first, second))
        if ((left - right).norm(dim=1) > 1e-5 * left.norm(dim=1)).any():
            return
    if drops:
        raise UserError(
            f"dropout is {config.dropout} and drophead {config.drophead}, but two passes of {type(encoder.model).__name__} over the same texts give "
            "the same vectors, so its dropout cannot be set: give another model, or --dropout 0 --attention-dropout 0 to rely on erased spans"
        )
    raise UserError(
        f"the two views of every text are identical (dropout {config.dropout}, drophead {config.drophead}, "
        f"{config.erased_chars} characters erased), so there is nothing to learn: raise one of them (dropout 0.1)"
    )
