"""Typing errors made on purpose, to see what they cost."""

import numpy as np

_WAYS = ("drop", "swap", "replace", "insert")


def misspelt(text: str, *, share: float, rng: np.random.Generator) -> str:
    """Touch each character that is no blank with chance ``share``: it is lost, changes places with the next, becomes another, or gets one beside it.

    Blanks stay, and no token loses its last character, so tokens keep their number and with it their tags. Other characters are drawn from the
    text itself: that works in any script.

    Args:
        text: The text.
        share: From 0 to 1.
        rng: Draws places, ways and characters.
    """
    letters = text.replace(" ", "")
    if not letters or share <= 0:
        return text
    return " ".join(_touched(token, letters, share, rng) for token in text.split(" "))


def _touched(token: str, letters: str, share: float, rng: np.random.Generator) -> str:
    spelt: list[str] = []
    left = list(token)
    while left:
        letter = left.pop(0)
        if rng.random() >= share:
            spelt.append(letter)
            continue
        way, other = _WAYS[int(rng.integers(4))], letters[int(rng.integers(len(letters)))]
        if way == "drop" and (spelt or left):
            continue
        if way == "swap" and left:
            spelt += [left.pop(0), letter]
        elif way == "insert":
            spelt += [letter, other]
        else:  # what cannot be dropped or has no neighbour becomes another
            spelt.append(other)
    return "".join(spelt) if not "".join(spelt).isspace() else token  # not a tab alone, which some read as a blank
