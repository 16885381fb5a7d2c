"""Bilingual lexicon induction: accuracy of word translation after an orthogonal map.

The map is the orthogonal Procrustes solution on a training dictionary (Artetxe et al. 2018; Smith et al. 2017), candidates are ranked by
cross-domain similarity local scaling (CSLS, Conneau et al. 2018), and the figure is accuracy@1. The dictionaries are those of
XLing-Eval (Glavas et al. 2019).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.metrics import unit_rows
from tain.evaluation.suites.suite import only_test
from tain.evaluation.suites.tasks import Outcomes, TaskSource, distinct, read_columns, task_suite
from tain.foundation.errors import ShapeError, UserError

NEIGHBOURS = 10  # k of CSLS
_ROWS_AT_ONCE = 1024
_SAME_SCORE = 1e-6  # tolerance for ties between scores of float32 vectors
_PAIRS = (
    "de-fi",
    "de-fr",
    "de-it",
    "de-ru",
    "en-de",
    "en-fi",
    "en-fr",
    "en-it",
    "en-ru",
    "fi-fr",
    "fi-it",
    "fi-ru",
    "it-fr",
    "ru-fr",
    "ru-it",
)
_PAIRS += ("de-hr", "de-tr", "en-hr", "en-tr", "fi-hr", "hr-fr", "hr-it", "hr-ru", "tr-fi", "tr-fr", "tr-hr", "tr-it", "tr-ru")


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """The two dictionaries of a language pair.

    Attributes:
        key: Name on the command line, such as ``bli_en-de``.
        title: Such as ``en-de``: from the first language to the second.
        languages: The two language codes.
        trained: Word pairs for learning the map.
        tested: Word pairs for the test. A word with several translations counts once, and each of them is correct.
    """

    key: str
    title: str
    languages: tuple[str, str]
    trained: tuple[tuple[str, ...], ...]
    tested: tuple[tuple[str, ...], ...]

    @property
    def remarks(self) -> tuple[str, ...]:
        return (f"CSLS with k = {NEIGHBOURS} after an orthogonal map; candidates: the target words of both dictionaries",)

    def words(self) -> tuple[list[str], list[str]]:
        """Distinct words of each side, used for centring; the right side also provides the candidates."""
        left, right = (distinct(pair[side] for pair in (*self.trained, *self.tested)) for side in (0, 1))
        return left, right

    def texts(self) -> list[tuple[str | None, list[str]]]:
        """Every distinct word, by language."""
        return list(zip(self.languages, self.words(), strict=True))

    def outcomes(self, encoder: EncodedOnce) -> list[Outcomes]:
        """Whether each test word's top candidate is a correct translation."""
        words = self.words()
        vectors = [encoder.encode(side, language=language) for language, side in zip(self.languages, words, strict=True)]
        return [Outcomes(key=self.key, title=self.title, group="", shares=self.is_found(*vectors, name=encoder.name))]

    def is_found(self, left: np.ndarray, right: np.ndarray, *, name: str) -> np.ndarray:
        """Look up the test words, given vectors of ``words()``, (left words, dim) and (right words, dim), of the encoder ``name``.

        A zero vector marks a word unknown to the encoder: it is not used for training and never found, and a test word without a vector
        counts as not found.

        Returns:
            Float64 (distinct test words,), in order: 1 for a correct top candidate, a fraction in case of ties.
        """
        if left.shape[1] != right.shape[1]:
            raise UserError(
                f"model {name!r} gives vectors of dimension {left.shape[1]} for {self.languages[0]} and {right.shape[1]} for"
                f" {self.languages[1]}, but an orthogonal map needs equal dimensions: give models of equal dimension"
            )
        left_row, right_row = ({word: row for row, word in enumerate(side)} for side in self.words())
        left_known, right_known = np.any(left, axis=1), np.any(right, axis=1)
        pairs = np.array([(left_row[source], right_row[target]) for source, target in self.trained])
        pairs = pairs[left_known[pairs[:, 0]] & right_known[pairs[:, 1]]]
        if len(pairs) == 0 or right_known.sum() < NEIGHBOURS or left_known.sum() < NEIGHBOURS:
            raise UserError(
                f"model {name!r} has vectors for {len(pairs)} training pairs of {self.title} ({left_known.sum()} and {right_known.sum()}"
                f" words), too few to learn a map: give a model of these languages"
            )
        left, right = _centred(left, left_known), _centred(right, right_known)
        mapped = left @ orthogonal_map(left[pairs[:, 0]], right[pairs[:, 1]])
        translations: dict[int, set[int]] = {}
        for source, target in self.tested:
            translations.setdefault(left_row[source], set()).add(right_row[target])
        asked = np.array(list(translations))
        column_of = np.cumsum(right_known) - 1  # column of a right word among those with a vector
        gold = [{int(column_of[row]) for row in rows if right_known[row]} for rows in translations.values()]
        found = np.zeros(len(asked))
        index = 0
        for scores in csls(mapped, right[right_known], is_neighbour=left_known, queries=asked):
            for row in scores:
                if left_known[asked[index]]:
                    first = np.flatnonzero(row >= row.max() - _SAME_SCORE)
                    found[index] = len(gold[index].intersection(first.tolist())) / len(first)
                index += 1
        return found


def orthogonal_map(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Orthogonal matrix W (dim, dim) that best maps the rows of ``left`` (pairs, dim) to those of ``right``: left @ W.

    Raises:
        ShapeError: The two shapes differ.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ShapeError(f"orthogonal_map needs two tables of equal shape, got {left.shape} and {right.shape}")
    first, _, second = np.linalg.svd(left.astype(np.float64).T @ right.astype(np.float64))
    return first @ second


def csls(
    left: np.ndarray, right: np.ndarray, *, is_neighbour: np.ndarray, queries: np.ndarray, neighbours: int = NEIGHBOURS
) -> Iterator[np.ndarray]:
    """CSLS of rows of ``left`` with all rows of ``right``: 2 cos(x, y) - r(x) - r(y).

    r(x) is the mean cosine of x with its ``neighbours`` nearest rows of ``right``, r(y) that of y with its nearest rows of ``left``.
    This penalizes hubs, which are close to everything.

    Args:
        left: Vectors of length 1 (or 0), already mapped (left words, dim).
        right: Vectors of length 1 (right words, dim).
        is_neighbour: Rows of ``left`` that may be neighbours, bool (left words,).
        queries: Rows of ``left`` to score, int (queries,).
        neighbours: Number of neighbours, from 1 to the number of rows.

    Yields:
        Blocks of scores (queries, right words), in the order of ``queries``.
    """
    left, right = left.astype(np.float32), right.astype(np.float32)
    counted = left[is_neighbour]
    crowd_of_right = np.concatenate(
        [_nearest_mean(right[start : start + _ROWS_AT_ONCE] @ counted.T, neighbours) for start in range(0, len(right), _ROWS_AT_ONCE)]
    )
    for start in range(0, len(queries), _ROWS_AT_ONCE):
        cosines = left[queries[start : start + _ROWS_AT_ONCE]] @ right.T
        yield 2 * cosines - _nearest_mean(cosines, neighbours)[:, None] - crowd_of_right


def _nearest_mean(cosines: np.ndarray, neighbours: int) -> np.ndarray:
    return np.partition(cosines, -neighbours, axis=1)[:, -neighbours:].mean(axis=1)


def _centred(vectors: np.ndarray, is_known: np.ndarray) -> np.ndarray:
    """Centre unit rows and normalize them again: words of an encoder share a direction that a rotation cannot use."""
    units = unit_rows(vectors)
    units[is_known] -= units[is_known].mean(axis=0)
    return unit_rows(units)


def lexicon_sources() -> list[TaskSource]:
    """The language pairs of XLing-Eval. Files may name the languages in either order; the direction follows the pair."""
    return [
        TaskSource(
            key=f"bli_{pair}",
            title=pair,
            group="",
            files=_files(pair),
            other_files=_files("-".join(reversed(pair.split("-")))),
            read=partial(_read, pair=pair),
        )
        for pair in _PAIRS
    ]


def _files(pair: str) -> tuple[str, str]:
    return f"bli/{pair}.train.tsv", f"bli/{pair}.test.tsv"


def _read(data: Path, *, pair: str) -> Lexicon:
    first, _, second = pair.partition("-")
    files = _files(pair)
    if not all((data / file).is_file() for file in files):
        files = _files(f"{second}-{first}")
    trained, tested = (tuple(read_columns(data / file, (first, second))) for file in files)
    lexicon = Lexicon(key=f"bli_{pair}", title=pair, languages=(first, second), trained=trained, tested=tested)
    fewest = min(map(len, lexicon.words()))
    if fewest < NEIGHBOURS:
        raise UserError(
            f"the dictionaries bli/{pair} have {fewest} words in a language, fewer than the {NEIGHBOURS} neighbours of CSLS: give more"
        )
    return lexicon


LEXICON = task_suite("bli", "Bilingual lexicon induction", only_test(lexicon_sources), counted="words")
