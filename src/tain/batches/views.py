"""The two views of a text that identity fine-tuning draws together."""

from collections.abc import Sequence
from typing import Any

import numpy as np

CROP_SHARES = 0.4, 0.8  # of a text's tokens


def erase_span(text: str, *, chars: int, floor: int, mask_token: str, rng: np.random.Generator) -> str:
    """Cut a random run of characters out of a text and put the mask token, with a blank each side, in its place.

    Liu et al. 2021 (Mirror-BERT), section 2.2. The run is counted in characters and may break words, as in the paper.
    Two departures from the reference code: the cut is made at the drawn place even if the same letters stand
    earlier in the text, and the last place a run fits is drawn as often as any other.

    Args:
        text: The text.
        chars: Length of the run; 0 changes nothing.
        floor: Texts with fewer characters come back unchanged, and so do those no longer than ``chars``.
            The reference uses 30, which leaves nearly all names and terms whole: lower it for those.
        mask_token: The tokenizer's own mask token.
        rng: Draws the start, uniform over all places where the run fits.
    """
    if chars == 0 or len(text) < floor or len(text) <= chars:
        return text
    start = int(rng.integers(0, len(text) - chars + 1))
    return f"{text[:start]} {mask_token} {text[start + chars :]}"


def twin_views(texts: Sequence[str], *, chars: int, floor: int, mask_token: str, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Give each text beside its twin: the same text with a span erased.

    Only the right view is cut; as the loss treats both sides alike, this equals cutting either.
    """
    return list(texts), [erase_span(text, chars=chars, floor=floor, mask_token=mask_token, rng=rng) for text in texts]


def crop(ids: Sequence[int], *, ends: tuple[int, int], rng: np.random.Generator) -> list[int]:
    """Take a random span of a text's tokens, 40 to 80% of them, special tokens kept at its ends.

    Two crops drawn independently are a positive pair: independent cropping, as in Contriever (Izacard et al. 2022), with longer spans,
    for our texts are sentences.

    Args:
        ids: The text's token ids.
        ends: How many special tokens ``ids`` begins and ends with.
        rng: Draws length and start.
    """
    first, last = ends
    inner = list(ids[first : len(ids) - last])
    if len(inner) < 2:
        return list(ids)
    low, high = (max(1, round(share * len(inner))) for share in CROP_SHARES)
    size = int(rng.integers(low, high + 1))
    start = int(rng.integers(0, len(inner) - size + 1))
    return [*ids[:first], *inner[start : start + size], *ids[len(ids) - last :]]


def special_ends(tokenizer: Any) -> tuple[int, int]:
    """Count the special tokens that a tokenizer puts before and behind a text."""
    ids = list(tokenizer("a")["input_ids"])
    special = set(tokenizer.all_special_ids)
    inner = [index for index, token in enumerate(ids) if token not in special]
    return (inner[0], len(ids) - 1 - inner[-1]) if inner else (len(ids) - 1, 1)
