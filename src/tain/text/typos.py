"""Generate typos to measure their effect on models."""

import numpy as np

_WAYS = ("drop", "swap", "replace", "insert")


def misspelt(text: str, *, share: float, rng: np.random.Generator) -> str:
    """Change each non-blank character with probability ``share``: delete it, swap it with the next, replace it, or insert one beside it.

    Blanks are kept, and no token loses its last character, so the number of tokens and their tags stay the same. Other characters are drawn
    from the text itself, which works in any script.

    Args:
        text: The text.
        share: From 0 to 1.
        rng: Random generator of positions, ways and characters.
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
        else:  # a character that cannot be deleted or swapped is replaced
            spelt.append(other)
    return "".join(spelt) if not "".join(spelt).isspace() else token  # not only a tab, which some readers treat as a blank
