"""A row of the table of suites for suites that measure other models than encoders, one at a time."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from tain.evaluation.suites.suite import Split
from tain.foundation.progress import Progress

Models = Literal["masked language models", "labellers"]


@dataclass(frozen=True, kw_only=True)
class SeparateOptions:
    """What such a suite is measured on; each suite reads the settings that it has.

    Attributes:
        names: The suite, or single sets of it.
        data: Folder with its files, or a file.
        texts: File of texts.
        split: Split of each set.
        typos: Shares of characters to misspell.
        unknown_labels: How to treat labels unknown to a model.
        block_tokens: Tokens per block of running text.
        chart: File for a chart.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.
    """

    names: tuple[str, ...]
    data: Path | None = None
    texts: str | None = None
    split: Split = "test"
    typos: tuple[float, ...] = ()
    unknown_labels: Literal["refuse", "count-as-wrong"] = "refuse"
    block_tokens: int | None = None
    chart: Path | None = None
    resamples: int = 1000
    seed: int = 13


@runtime_checkable
class Report(Protocol):
    """Protocol of reports: JSON and a table."""

    def to_dict(self) -> dict[str, Any]: ...

    def as_table(self) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class SeparateSuite:
    """A row of the table of suites.

    Attributes:
        name: Name on the command line.
        title: Name in texts.
        load: Reads what is measured.
        measure: Measures all models.
        counted: Name of the items.
        models: Kind of models.
        flags: Flags of ``tain evaluate`` that have an effect.
        dtypes: Values of ``--dtype`` that have an effect.
        check: Refuses settings that cannot work, before anything is read.
        sets: Names of single sets.
    """

    name: str
    title: str
    load: Callable[[SeparateOptions], Any]
    measure: Callable[[Iterable[Any], Any, SeparateOptions, Progress], Report]
    counted: str
    models: Models
    flags: frozenset[str]
    dtypes: tuple[str, ...] = ("auto",)
    check: Callable[[SeparateOptions], None] = lambda options: None
    sets: frozenset[str] = frozenset()

    def owns(self, name: str) -> bool:
        """Whether a name is that of the suite or of one of its sets."""
        return name == self.name or name in self.sets
