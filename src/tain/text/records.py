"""Records passed from readers and cleaners to recipes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Pair(NamedTuple):
    """Two related texts; unpacks as a plain ``(left, right)`` tuple."""

    left: str
    right: str


class RankingExample(NamedTuple):
    """A context with its correct answers, and known wrong answers."""

    context: str
    answers: tuple[str, ...]
    negatives: tuple[str, ...] = ()


class Sentence(NamedTuple):
    """A line (or table cell) of running text, possibly a whole paragraph, and whether it starts a document."""

    text: str
    begins_document: bool


@dataclass(frozen=True, slots=True)
class Deduplicated:
    """Distinct texts in order of first occurrence, and the number of dropped repeats."""

    texts: list[str]
    dropped: int


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its gold labels.

    Attributes:
        text: The text; if it has tags, its tokens are separated by blanks.
        label: Its class; None if unlabelled.
        tags: One per token, in BIO form; None if untagged.
    """

    text: str
    label: str | None = None
    tags: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """Output of a student, classifier or tagger for one text.

    Attributes:
        label: Predicted class; None if the model predicts no classes.
        chance: Probability of that class.
        tags: One per token; None if the model predicts no tags. Tokens beyond its limit have the tag ``O``.
    """

    label: str | None = None
    chance: float | None = None
    tags: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text to be found by search, with what is known of it.

    Attributes:
        text: The text.
        id: Identifies the candidate in an index; None: its text does.
        metadata: JSON values by name: texts, numbers, truth values, lists and objects.
    """

    text: str
    id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        return self.text if self.id is None else self.id
