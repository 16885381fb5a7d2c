"""How well labels and tags are told: accuracy, F1 of whole slots, and texts with nothing wrong."""

from collections.abc import Sequence

from tain.foundation.errors import ShapeError
from tain.text.tags import slots_of


def slot_f1(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """F1 over all slots of all texts, 0 to 1: a slot counts where kind and both ends are right. 1 where neither side has any.

    Raises:
        ShapeError: A text has not as many tags on both sides.
    """
    right = given = told = 0
    for place, (one, other) in enumerate(zip(gold, found, strict=True)):
        if len(one) != len(other):
            raise ShapeError(f"text {place} has {len(one)} tags and {len(other)} found ones: each token needs one of both")
        wanted, seen = set(slots_of(one)), set(slots_of(other))
        right, given, told = right + len(wanted & seen), given + len(wanted), told + len(seen)
    return 2 * right / (given + told) if given + told else 1.0
