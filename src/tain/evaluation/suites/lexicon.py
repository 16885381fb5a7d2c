"""Bilingual lexicon induction: which words of two languages find their translation after an orthogonal map.

The map is the orthogonal Procrustes solution on the pairs of a training dictionary (Artetxe et al. 2018; Smith et al. 2017), the
ranking is by cross-domain similarity local scaling (CSLS, Conneau et al. 2018), the figure is accuracy@1. The dictionaries are those
of XLing-Eval (Glavas et al. 2019).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.metrics import unit_rows
from tain.evaluation.suites.tasks import Outcomes, TaskSource, distinct, read_columns
from tain.foundation.errors import ShapeError, UserError

NEIGHBOURS = 10  # CSLS's k
_ROWS_AT_ONCE = 1024
_SAME_SCORE = 1e-6  # scores of float32 vectors closer than this are a tie
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
        key: What the command line calls it, such as ``bli_en-de``.
        title: Such as ``en-de``: from the first language into the second.
        languages: The two codes.
        trained: Pairs of words that the map is learned from.
        tested: Pairs that are looked up. A word with several translations counts once, and any of them is right.
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
        """The distinct words of either side: what is centred, and, on the right, what is chosen from."""
        left, right = (distinct(pair[side] for pair in (*self.trained, *self.tested)) for side in (0, 1))
        return left, right

    def texts(self) -> dict[str, list[str]]:
        """Every distinct word, by its language."""
        return dict(zip(self.languages, self.words(), strict=True))

    def outcomes(self, encoder: EncodedOnce) -> list[Outcomes]:
        """Which of the test dictionary's words find a translation of theirs first."""
        words = self.words()
        vectors = [encoder.encode(side, language=language) for language, side in zip(self.languages, words, strict=True)]
        return [Outcomes(key=self.key, title=self.title, group="", shares=self.is_found(*vectors, name=encoder.name))]

    def is_found(self, left: np.ndarray, right: np.ndarray, *, name: str) -> np.ndarray:
        """Look the test words up with the vectors of ``words()``, (left words, dim) and (right words, dim), of the encoder ``name``.

        A vector of zeros stands for a word that the encoder does not know: it trains nothing, is never found, and a test word
        without a vector counts as not found.

        Returns:
            Float64 (distinct test words,), in order: 1 for a right first candidate; a share of it where others score the same.
        """
        if left.shape[1] != right.shape[1]:
            raise UserError(
                f"model {name!r} gives vectors of {left.shape[1]} numbers for {self.languages[0]} and {right.shape[1]} for"
                f" {self.languages[1]}, but an orthogonal map needs one width: give models of one width"
            )
        left_row, right_row = ({word: row for row, word in enumerate(side)} for side in self.words())
        left_known, right_known = np.any(left, axis=1), np.any(right, axis=1)
        pairs = np.array([(left_row[source], right_row[target]) for source, target in self.trained])
        pairs = pairs[left_known[pairs[:, 0]] & right_known[pairs[:, 1]]]
        if len(pairs) == 0 or right_known.sum() < NEIGHBOURS or left_known.sum() < NEIGHBOURS:
            raise UserError(
                f"model {name!r} has vectors for {len(pairs)} training pairs of {self.title} ({left_known.sum()} and {right_known.sum()}"
                f" words), too few to map by: give a model of these languages"
            )
        left, right = _centred(left, left_known), _centred(right, right_known)
        mapped = left @ orthogonal_map(left[pairs[:, 0]], right[pairs[:, 1]])
        translations: dict[int, set[int]] = {}
        for source, target in self.tested:
            translations.setdefault(left_row[source], set()).add(right_row[target])
        asked = np.array(list(translations))
        column_of = np.cumsum(right_known) - 1  # of a right word among those that have a vector
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
    """The orthogonal W (dim, dim) that brings the rows of ``left`` (pairs, dim) nearest to those of ``right``: left @ W.

    Raises:
        ShapeError: The two are not tables of the same shape.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ShapeError(f"orthogonal_map needs two tables of one shape, got {left.shape} and {right.shape}")
    first, _, second = np.linalg.svd(left.astype(np.float64).T @ right.astype(np.float64))
    return first @ second


def csls(
    left: np.ndarray, right: np.ndarray, *, is_neighbour: np.ndarray, queries: np.ndarray, neighbours: int = NEIGHBOURS
) -> Iterator[np.ndarray]:
    """CSLS of rows of ``left`` with all rows of ``right``: 2 cos(x, y) - r(x) - r(y).

    r(x) is x's mean cosine with its ``neighbours`` nearest rows of ``right``, r(y) that of y with its nearest of ``left``. A hub, near
    to everything, thereby loses.

    Args:
        left: Vectors of length 1 (or 0), already mapped (left words, dim).
        right: Vectors of length 1 (right words, dim).
        is_neighbour: Which rows of ``left`` count as anyone's neighbours, bool (left words,).
        queries: Rows of ``left`` to score, int (queries,).
        neighbours: How many are near; 1 or more, and no more than there are.

    Yields:
        Blocks of scores (some queries, right words), in the order of ``queries``.
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
    """Unit rows less their mean, at length 1 again: an encoder's words share a direction that no rotation can use."""
    units = unit_rows(vectors)
    units[is_known] -= units[is_known].mean(axis=0)
    return unit_rows(units)


def lexicon_sources() -> list[TaskSource]:
    """The language pairs of XLing-Eval. Files may name a pair's languages in either order; what is measured is the pair's own direction."""
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
            f"the dictionaries bli/{pair} have {fewest} words of a language, fewer than CSLS's {NEIGHBOURS} neighbours: give more"
        )
    return lexicon
