"""What readers and cleaners hand on."""

from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts that belong together; a plain ``(left, right)`` tuple to whoever unpacks it."""

    left: str
    right: str


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two texts and how alike people judged them, on the data set's own scale."""

    left: str
    right: str
    score: float


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """The first of each text, in the order given, and how many repeats were dropped."""

    texts: list[str]
    dropped: int
