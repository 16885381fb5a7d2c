"""What readers and cleaners hand on."""

from dataclasses import dataclass
from typing import NamedTuple


class Pair(NamedTuple):
    """Two texts that belong together; a plain ``(left, right)`` tuple to whoever unpacks it."""

    left: str
    right: str


class RankingExample(NamedTuple):
    """A context, every text that answers it rightly, and texts that are known not to."""

    context: str
    answers: tuple[str, ...]
    negatives: tuple[str, ...] = ()


class Sentence(NamedTuple):
    """A line (or a table's cell) of running text, which may be a whole paragraph, and whether a document begins with it."""

    text: str
    begins_document: bool


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """The first of each text, in the order given, and how many repeats were dropped."""

    texts: list[str]
    dropped: int


@dataclass(frozen=True, slots=True)
class Example:
    """A text with what is known of it.

    Attributes:
        text: The text; where it has tags, its tokens are what blanks part.
        label: Its class; None where nobody gave one.
        tags: One a token, in BIO form; None where nobody gave any.
    """

    text: str
    label: str | None = None
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a student, a classifier or a tagger says of a text.

    Attributes:
        label: Its class; None from a model that tells none.
        chance: The probability it gives that class.
        tags: One a token; None from a model that tags none. Tokens beyond its limit have the tag ``O``.
    """

    label: str | None = None
    chance: float | None = None
    tags: list[str] | None = None
