"""Positive pairs of contrastive learning: two views of the same text."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from tain.text.scripts import graphemes

CROP_SHARES = 0.4, 0.8  # of the tokens of a text


def erase_span(text: str, *, chars: int, floor: int, mask_token: str, rng: np.random.Generator) -> str:
    """Replace a random character span of a text by the mask token, with a blank on each side.

    Liu et al. 2021 (Mirror-BERT), section 2.2. The span is counted in characters and may break words, as in the paper.
    Three differences to the reference code: the span is removed at the drawn position even if the same characters occur
    earlier in the text, the last possible position is as likely as any other, and a character is a grapheme, so that no
    letter loses its vowel signs or accents (Arabic, Hindi, Thai) and no emoji sequence is broken.

    Args:
        text: The text.
        chars: Length of the span; 0 leaves the text unchanged.
        floor: Texts with fewer characters, and texts not longer than ``chars``, are left unchanged.
            The reference uses 30, which excludes nearly all names and terms: use a lower value for those.
        mask_token: The tokenizer's mask token.
        rng: Random generator of the start, uniform over all positions where the span fits.
    """
    letters = graphemes(text) if chars else []
    if chars == 0 or len(letters) < floor or len(letters) <= chars:
        return text
    start = int(rng.integers(0, len(letters) - chars + 1))
    return f"{''.join(letters[:start])} {mask_token} {''.join(letters[start + chars :])}"


def twin_views(texts: Sequence[str], *, chars: int, floor: int, mask_token: str, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Pair each text with its twin: the same text with a span erased.

    Only the right view is changed; since the loss is symmetric, this is equivalent to changing either.
    """
    return list(texts), [erase_span(text, chars=chars, floor=floor, mask_token=mask_token, rng=rng) for text in texts]


def crop(ids: Sequence[int], *, ends: tuple[int, int], rng: np.random.Generator) -> list[int]:
    """Random span of a text's tokens, 40 to 80% of them, with special tokens kept at both ends.

    Two independent crops form a positive pair: independent cropping, as in Contriever (Izacard et al. 2022), with longer spans because
    the texts are sentences.

    Args:
        ids: The text's token ids.
        ends: Number of special tokens at the beginning and end of ``ids``.
        rng: Random generator of length and start.
    """
    first, last = ends
    inner = list(ids[first : len(ids) - last])
    if len(inner) < 2:
        return list(ids)
    low, high = (max(1, round(share * len(inner))) for share in CROP_SHARES)
    size = int(rng.integers(low, high + 1))
    start = int(rng.integers(0, len(inner) - size + 1))
    return [*ids[:first], *inner[start : start + size], *ids[len(ids) - last :]]


def repeat_tokens(
    ids: Sequence[int], *, share: float, special: Collection[int], max_tokens: int, rng: np.random.Generator, skipped: int = 0
) -> list[int]:
    """Repeat some of a text's tokens in place, each once: sub-word repetition.

    Wu et al. 2022 (ESimCSE). Two views of one text otherwise have equal lengths, which a model can use to recognise them. The number of
    repeated tokens is uniform from 0 to ``share`` of the text, rounded down.

    Args:
        ids: The text's token ids.
        share: Largest share of its ordinary tokens to repeat, 0 to 1.
        special: Ids of special tokens, which are never repeated.
        max_tokens: Length limit, special tokens included; fewer tokens are repeated where it would be exceeded.
        rng: Random generator of number and positions.
        skipped: Tokens at the beginning that are not repeated either: a prompt.
    """
    ordinary = [place for place, token in enumerate(ids) if token not in special and place >= skipped]
    most = min(int(share * len(ordinary)), max_tokens - len(ids))
    if most < 1:
        return list(ids)
    counts = np.ones(len(ids), dtype=np.int64)
    counts[rng.choice(ordinary, size=int(rng.integers(0, most + 1)), replace=False)] = 2
    return np.repeat(np.asarray(ids), counts).tolist()


def special_ends(tokenizer: Any) -> tuple[int, int]:
    """Number of special tokens that a tokenizer puts before and after a text."""
    ids = list(tokenizer("a")["input_ids"])
    special = set(tokenizer.all_special_ids)
    inner = [index for index, token in enumerate(ids) if token not in special]
    return (inner[0], len(ids) - 1 - inner[-1]) if inner else (len(ids) - 1, 1)
