"""What readers and cleaners hand on."""

from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts that belong together; a plain ``(left, right)`` tuple to whoever unpacks it."""

    left: str
    right: str


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """The first of each text, in the order given, and how many repeats were dropped."""

    texts: list[str]
    dropped: int
