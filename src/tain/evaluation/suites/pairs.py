"""Pairs of texts with a human score: what a set is, where it lies below a data folder, and how a table becomes one."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.foundation.errors import UserError

_FEWEST_PAIRS = 3  # with two pairs every rank correlation is 1, -1 or undefined
_KNOWN_COLUMNS = (("sentence1", "sentence2"), ("word1", "word2"))


@dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """One set of pairs that is scored as a whole.

    Attributes:
        key: What the command line calls it, such as ``sts12``.
        title: What tables call it, 16 letters at most for the sets that tain knows.
        group: Which mean it counts in.
        left: One text of each pair.
        right: The other text of each pair.
        gold: The human scores, float64 (pairs,), on any scale: only their order counts.
        languages: Of the left and of the right texts; ``None`` where nobody has said.
    """

    key: str
    title: str
    group: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    gold: np.ndarray
    languages: tuple[str | None, str | None] = (None, None)

    def texts(self) -> list[tuple[str | None, tuple[str, ...]]]:
        """Both sides, each with its language."""
        return list(zip(self.languages, (self.left, self.right), strict=True))

    def cosines(self, encoder: EncodedOnce) -> np.ndarray:
        """The encoder's similarity of each pair: the cosine of its two vectors, float64 (pairs,)."""
        return encoder.pair_cosines(self.left, self.right, languages=self.languages)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What tain knows of a set before it is read: its names, and its files below the data folder.

    Attributes:
        key: What the command line calls it.
        title: What tables call it.
        group: Which mean it counts in.
        files: Its files.
        other_files: The same files under other names; empty where there are none.
    """

    key: str
    title: str
    group: str
    files: tuple[str, ...]
    other_files: tuple[str, ...] = ()

    def is_in(self, data: Path) -> bool:
        """True where all its files are there, under either names."""
        return any(names and all((data / file).is_file() for file in names) for names in (self.files, self.other_files))


@dataclass(frozen=True, kw_only=True)
class SetSource(Source):
    """A set of scored pairs that tain knows.

    Attributes:
        read: Gives its left texts, right texts and scores, of the data folder.
        languages: Of the left and of the right texts, as two-letter codes where there are such; ``None`` where nobody has said.
    """

    read: Callable[[Path], tuple[list[str], list[str], list[float]]]
    languages: tuple[str | None, str | None]

    def load(self, data: Path) -> ScoredSet:
        """Read the set from the folder ``data``.

        Raises:
            UserError: A file is not the table it should be.
        """
        left, right, gold = self.read(data)
        return _scored_set(self.key, self.title, self.group, left, right, gold, languages=self.languages, where=self.files[0])


def table_source(
    key: str, title: str, group: str, file: str, *, languages: tuple[str | None, str | None], spaces_for_underscores: bool = False
) -> SetSource:
    """Describe a set that is one table with two text columns and ``score``."""
    read = partial(_read_below, file=file, spaces_for_underscores=spaces_for_underscores)
    return SetSource(key=key, title=title, group=group, files=(file,), read=read, languages=languages)


def own_set(source: str, *, languages: tuple[str | None, str | None] = (None, None)) -> ScoredSet:
    """Read a user's own table: ``sentence1, sentence2, score``, ``word1, word2, score``, or two columns and ``score``.

    Args:
        source: A path to a tsv, csv, jsonl or parquet table, or ``hf:NAME`` for a hub data set.
        languages: Of its two columns, where an encoder has to be told.

    Raises:
        UserError: The table cannot be read, has no ``score`` column or two others, a score is no number, or it
            has fewer than three pairs.
    """
    left, right, gold = read_scored_table(source)
    title = source.removeprefix("hf:") if source.startswith("hf:") else Path(source).name.split(".")[0]
    return _scored_set(source, title, "", left, right, gold, languages=languages, where=source)


def read_scored_table(source: str | Path) -> tuple[list[str], list[str], list[float]]:
    """Read two columns of texts and one of scores; see ``own_set`` for the columns and what is refused."""
    from tain.text.readers import read_rows

    header, rows = read_rows(source)
    left_column, right_column = _text_columns(header, where=str(source))
    left, right, gold = [], [], []
    for number, row in enumerate(rows, start=1):
        for column in (left_column, right_column):
            if not str(row[column]).strip():
                raise UserError(f"{str(source)!r}, row {number}: column {column!r} is blank, but a pair needs two texts: drop the row")
        left.append(row[left_column])
        right.append(row[right_column])
        gold.append(as_score(row["score"], where=f"{str(source)!r}, row {number}"))
    return left, right, gold


def as_score(written: object, *, where: str) -> float:
    """Turn what a cell holds into a finite number.

    Raises:
        UserError: It is none.
    """
    try:
        score = float(str(written))
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{where}: score is {str(written)!r}, which is no finite number: correct the row or drop it")
    return score


def _text_columns(header: Sequence[str], *, where: str) -> tuple[str, str]:
    others = [column for column in header if column != "score"]
    if "score" in header:
        for left, right in _KNOWN_COLUMNS:
            if left in header and right in header:
                return left, right
        if len(others) == 2:
            return others[0], others[1]
    raise UserError(
        f"{where!r} has the columns {', '.join(header) or '(none)'}, but scored pairs are needed:"
        " name them sentence1, sentence2, score (or word1, word2, score), or give two text columns, score and no others"
    )


def _read_below(data: Path, *, file: str, spaces_for_underscores: bool) -> tuple[list[str], list[str], list[float]]:
    left, right, gold = read_scored_table(data / file)
    if spaces_for_underscores:
        left, right = ([text.replace("_", " ") for text in side] for side in (left, right))
    return left, right, gold


def _scored_set(
    key: str,
    title: str,
    group: str,
    left: Iterable[str],
    right: Iterable[str],
    gold: Iterable[float],
    *,
    languages: tuple[str | None, str | None],
    where: str,
) -> ScoredSet:
    scores = np.array(list(gold), dtype=np.float64)
    scored = ScoredSet(key=key, title=title, group=group, left=tuple(left), right=tuple(right), gold=scores, languages=languages)
    if len(scored.gold) < _FEWEST_PAIRS:
        raise UserError(f"{where!r} has {len(scored.gold)} scored pairs, too few for a rank correlation: give at least {_FEWEST_PAIRS}")
    return scored
