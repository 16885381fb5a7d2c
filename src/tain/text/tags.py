"""Tokens of a tagged text, and BIO slots."""

from collections.abc import Sequence


def tokens_of(text: str) -> list[str]:
    """Split a text at blanks into the tokens that tags refer to."""
    return [token for token in text.split(" ") if token]


def slots_of(tags: Sequence[str]) -> list[tuple[int, int, str]]:
    """Slots as (first token, end token, kind), in order, as read by the conlleval script: an I- without a preceding part starts a slot.

    A tag without a prefix, such as a part of speech, is a slot of one token.
    """
    found: list[tuple[int, int, str]] = []
    for index, tag in enumerate(tags):
        if tag == "O":
            continue
        mark, dash, kind = tag.partition("-")
        if not dash:
            mark, kind = "", tag
        if mark == "I" and found and found[-1][1:] == (index, kind):
            found[-1] = (found[-1][0], index + 1, kind)
        else:
            found.append((index, index + 1, kind))
    return found
