"""A row of the table of suites: how its sets are found, measured and summarised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.figures import Group, Row, SuiteResult, mean_row
from tain.evaluation.label_free import Level
from tain.foundation.errors import UserError

Split = Literal["test", "dev"]
_FOLDERS = "sts/, stsb/, sick/, sts17/, wordsim/, multisimlex/, transfer/, bli/, biomed/ or clinc150/"
WHAT_DATA_IS = f"a folder that holds {_FOLDERS} with one tsv file a set (docs/evaluation.md)"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A known set before reading: its names, and its files in the data folder.

    Attributes:
        key: Name on the command line.
        title: Name in tables.
        group: Mean in which it is included.
        files: Its files.
        other_files: Alternative file names; empty if there are none.
    """

    key: str
    title: str
    group: str
    files: tuple[str, ...]
    other_files: tuple[str, ...] = ()

    def is_in(self, data: Path) -> bool:
        """Whether all its files exist, under either set of names."""
        return any(names and all((data / file).is_file() for file in names) for names in (self.files, self.other_files))

    def load(self, data: Path) -> Any:
        """Read the set from the data folder.

        Raises:
            UserError: A file does not have the expected format.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """What a suite is measured on.

    Attributes:
        data: Folder with the files of the suites.
        split: Split of the suites.
        texts: Texts for suites without labels; None: the suite's own.
        level: Kind of these texts.
        languages: Languages of the two columns of user tables; the first is also that of ``texts``.
        resamples: Bootstrap resamples.
        seed: Seed of the resamples.
    """

    data: Path | None = None
    split: Split = "test"
    texts: Sequence[str] | None = None
    level: Level = "sentence"
    languages: tuple[str | None, str | None] = (None, None)
    resamples: int = 1000
    seed: int = 13


@dataclass(frozen=True, kw_only=True)
class LoadedSuite:
    """Sets that are reported together.

    Attributes:
        row: Its row in the table of suites.
        sets: What is measured, in order.
        absent: Group and title of each set without a file.
    """

    row: "Suite"
    sets: tuple[Any, ...]
    absent: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return self.row.name

    @property
    def title(self) -> str:
        return self.row.title

    def texts(self) -> list[tuple[str | None, Sequence[str]]]:
        """All texts to be encoded, by language."""
        return [pair for one in self.sets for pair in one.texts()]

    def group(self, title: str, rows: tuple[Row, ...], found: list[Any]) -> Group:
        """Rows that are averaged together, with the sets that are missing from the mean."""
        absent = tuple(absent_title for group, absent_title in self.absent if group == title)
        return Group(title=title, rows=rows, mean=mean_row(title, rows, found), absent=absent)


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A row of the table of suites.

    Attributes:
        name: Name on the command line; ``own`` for user tables.
        title: Name in tables.
        load: Reads the sets.
        measure: Measures one encoder on all sets.
        summarise: Turns the measurements of all encoders into figures.
        counted: Name of a set's items.
        sources: Known sets in a data folder, which can also be named by themselves.
    """

    name: str
    title: str
    load: Callable[["Suite", Sequence[Source], SuiteOptions], LoadedSuite]
    measure: Callable[[LoadedSuite, EncodedOnce, SuiteOptions], Any]
    summarise: Callable[[LoadedSuite, list[Any], SuiteOptions], SuiteResult]
    counted: str = "pairs"
    sources: Callable[[Path | None, Split], Sequence[Source]] = lambda data, split: ()


def load_sets(row: Suite, sources: Sequence[Source], options: SuiteOptions) -> LoadedSuite:
    """Read the sets that have a file.

    Raises:
        UserError: None has, or a file does not have the expected format.
    """
    data = options.data or Path()
    sources = list({source.key: source for source in sources}.values())
    present = [source for source in sources if source.is_in(data)]
    if not present:
        files = ", ".join(dict.fromkeys(file for source in sources[:3] for file in source.files))
        raise UserError(f"none of the sets of {row.name!r} is in {str(data)!r} (looked for {files}, ...): give --data {WHAT_DATA_IS}")
    absent = tuple((source.group, source.title) for source in sources if not source.is_in(data))
    return LoadedSuite(row=row, sets=tuple(source.load(data) for source in present), absent=absent)


def only_test(sources: Callable[[], Sequence[Source]]) -> Callable[[Path | None, Split], Sequence[Source]]:
    """Sources of a suite that has a test split only."""
    return lambda data, split: sources() if split == "test" else ()
