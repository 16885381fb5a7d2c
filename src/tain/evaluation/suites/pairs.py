"""Sets of text pairs with human scores: their definition, file locations and table reader."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.figures import Row, SuiteResult, figures_of, number_of
from tain.evaluation.metrics import SPEARMAN_UNIT, bootstrap_spearman, spearman
from tain.evaluation.suites.suite import LoadedSuite, Source, Split, Suite, SuiteOptions, load_sets
from tain.foundation.errors import UserError

_FEWEST_PAIRS = 3  # with two pairs every rank correlation is 1, -1 or undefined
_KNOWN_COLUMNS = (("sentence1", "sentence2"), ("word1", "word2"))


@dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """One set of scored pairs, evaluated as a whole.

    Attributes:
        key: Name on the command line, such as ``sts12``.
        title: Name in tables, at most 16 letters for built-in sets.
        group: Mean in which it is included.
        left: First text of each pair.
        right: Second text of each pair.
        gold: Human scores, float64 (pairs,), on any scale, since only their order matters.
        languages: Languages of the left and right texts; ``None`` if unknown.
    """

    key: str
    title: str
    group: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    gold: np.ndarray
    languages: tuple[str | None, str | None] = (None, None)

    def texts(self) -> list[tuple[str | None, tuple[str, ...]]]:
        """Both sides with their languages."""
        return list(zip(self.languages, (self.left, self.right), strict=True))

    def cosines(self, encoder: EncodedOnce) -> np.ndarray:
        """Cosine similarity of the two vectors of each pair, float64 (pairs,)."""
        return encoder.pair_cosines(self.left, self.right, languages=self.languages)


@dataclass(frozen=True, kw_only=True)
class SetSource(Source):
    """A known set of scored pairs.

    Attributes:
        read: Reads left texts, right texts and scores from the data folder.
        languages: Languages of the left and right texts, as two-letter codes if they exist; ``None`` if unknown.
    """

    read: Callable[[Path], tuple[list[str], list[str], list[float]]]
    languages: tuple[str | None, str | None]

    def load(self, data: Path) -> ScoredSet:
        """Read the set from the data folder.

        Raises:
            UserError: A file does not have the expected format.
        """
        left, right, gold = self.read(data)
        return _scored_set(self.key, self.title, self.group, left, right, gold, languages=self.languages, where=self.files[0])


def pair_suite(name: str, title: str, sources: Callable[[Path | None, Split], Sequence[Source]]) -> Suite:
    """A suite of scored pairs, measured by the correlation of cosines with scores."""
    return Suite(name=name, title=title, load=load_sets, measure=_cosines, summarise=_correlations, sources=sources)


def own_suite(sources: Sequence[str], *, languages: tuple[str | None, str | None]) -> LoadedSuite:
    """User tables as a suite; see ``own_set``."""
    return LoadedSuite(row=_OWN, sets=tuple(own_set(source, languages=languages) for source in sources))


def _cosines(suite: LoadedSuite, encoder: EncodedOnce, options: SuiteOptions) -> dict[str, np.ndarray]:
    return {scored.key: scored.cosines(encoder) for scored in suite.sets}


def _correlations(suite: LoadedSuite, measured: list[dict[str, np.ndarray]], options: SuiteOptions) -> SuiteResult:
    titles = dict.fromkeys([scored.group for scored in suite.sets] + [group for group, _ in suite.absent])
    groups = []
    for title in titles:
        sets = [scored for scored in suite.sets if scored.group == title]
        found = [_set_figures(scored, np.stack([cosines[scored.key] for cosines in measured]), options) for scored in sets]
        rows = tuple(
            Row(key=s.key, title=s.title, unit=SPEARMAN_UNIT, better="higher", items=len(s.gold), figures=figures_of(*values))
            for s, values in zip(sets, found, strict=True)
        )
        groups.append(suite.group(title, rows, found))
    return SuiteResult(name=suite.name, title=suite.title, groups=tuple(groups), counted=suite.row.counted)


def _set_figures(scored: ScoredSet, cosines: np.ndarray, options: SuiteOptions) -> tuple[np.ndarray, np.ndarray]:
    """Figures of the models (models,) and their bootstrap values (models, resamples), independent of other sets."""
    rng = np.random.default_rng([options.seed, number_of(PurePath(scored.key).name)])  # a user table may move to another folder
    values = np.array([spearman(scored.gold, row) for row in cosines])
    return 100 * values, 100 * bootstrap_spearman(scored.gold, cosines, resamples=options.resamples, rng=rng)


def table_source(
    key: str, title: str, group: str, file: str, *, languages: tuple[str | None, str | None], spaces_for_underscores: bool = False
) -> SetSource:
    """Describe a set stored as one table with two text columns and ``score``."""
    read = partial(_read_below, file=file, spaces_for_underscores=spaces_for_underscores)
    return SetSource(key=key, title=title, group=group, files=(file,), read=read, languages=languages)


def own_set(source: str, *, languages: tuple[str | None, str | None] = (None, None)) -> ScoredSet:
    """Read a user table: ``sentence1, sentence2, score``, ``word1, word2, score``, or two columns and ``score``.

    Args:
        source: A path to a tsv, csv, jsonl or parquet table, or ``hf:NAME`` for a hub data set.
        languages: Languages of its two columns, for encoders that need them.

    Raises:
        UserError: The table cannot be read, lacks a ``score`` column or two text columns, has a score that is not a number, has fewer
            than three pairs, or gives all of them the same score.
    """
    left, right, gold = read_scored_table(source)
    title = source.removeprefix("hf:") if source.startswith("hf:") else Path(source).name.split(".")[0]
    return _scored_set(source, title, "", left, right, gold, languages=languages, where=source)


def read_scored_table(source: str | Path) -> tuple[list[str], list[str], list[float]]:
    """Read two text columns and a score column; see ``own_set`` for columns and errors."""
    from tain.text.readers import read_rows

    header, rows = read_rows(source)
    left_column, right_column = _text_columns(header, where=str(source))
    left, right, gold = [], [], []
    for number, row in enumerate(rows, start=1):
        for column in (left_column, right_column):
            if not str(row[column]).strip():
                raise UserError(f"{str(source)!r}, row {number}: column {column!r} is blank, but a pair needs two texts: remove the row")
        left.append(row[left_column])
        right.append(row[right_column])
        gold.append(as_score(row["score"], where=f"{str(source)!r}, row {number}"))
    return left, right, gold


def as_score(written: object, *, where: str) -> float:
    """Parse a cell as a finite number.

    Raises:
        UserError: The cell is not a finite number.
    """
    try:
        score = float(str(written))
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{where}: score is {str(written)!r}, which is not a finite number: fix or remove the row")
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
        " name them sentence1, sentence2, score (or word1, word2, score), or give two text columns and score only"
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
    if len(set(scored.gold.tolist())) < 2:
        raise UserError(
            f"{where!r} gives all {len(scored.gold)} pairs the score {scored.gold[0]:g}, with which nothing correlates: give pairs with"
            " different scores"
        )
    return scored


_OWN = pair_suite("own", "Own sets", lambda data, split: ())
