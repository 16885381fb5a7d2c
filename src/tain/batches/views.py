"""The two views of a text that identity fine-tuning draws together."""

from collections.abc import Sequence

import numpy as np


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
