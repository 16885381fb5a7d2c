"""BM25 over candidates, by the package bm25s."""

import importlib
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.text.cleaning import same_text_key
from tain.text.scripts import NO_BLANKS, OPTIONAL_SIGNS, letters_and_pairs, marks

_ASCII_WORD = re.compile(r"\w+")
# what two spellings of a word may differ in: invisible characters, optional vowel signs, the dot that folding leaves of the Turkish İ
_DROPPED = re.compile(f"[\u00ad\u200b-\u200f\u2060\ufe00-\ufe0f\ufeff]|{OPTIONAL_SIGNS}|(?<=i)\u0307")
_K1, _B = 1.5, 0.75


def words_of(text: str) -> list[str]:
    """Split a text into words, case folded; no stop words are removed and nothing is stemmed, so that it works in any language.

    Invisible characters and the optional vowel signs of Arabic and Hebrew are ignored. In scripts without blanks between words (Chinese,
    Japanese, Thai, ...), the characters and the pairs of neighbouring characters stand for words.
    """
    text = same_text_key(text)
    if text.isascii():
        return _ASCII_WORD.findall(text)
    found: list[str] = []
    for match in _words().finditer(_DROPPED.sub("", text)):
        found += letters_and_pairs(match[0]) if match["unspaced"] else [match[0]]
    return found


@cache
def _words() -> re.Pattern[str]:
    letter = rf"[^\W{NO_BLANKS}]"
    return re.compile(rf"(?P<unspaced>[{NO_BLANKS}]+)|{letter}(?:{letter}|[{marks()}])*")


class Bm25:
    """BM25 over texts (Robertson et al. 1994, with the frequency of Lucene), by the package bm25s.

    Args:
        texts: The candidates, at least one.
        progress: Receives progress updates.

    Raises:
        UserError: bm25s is not installed, or no text has a word.
    """

    def __init__(self, texts: Sequence[str], *, progress: Progress | None = None) -> None:
        self._ids: dict[str, int] = {}
        with (progress or Progress.silent()).task("words", len(texts)) as task:
            tokens = []
            for text in texts:
                tokens.append([self._ids.setdefault(word, len(self._ids)) for word in words_of(text)])
                task.advance()
        if not self._ids:
            raise UserError("no candidate has a word, so there is nothing to compare by BM25: leave --hybrid out")
        self._scorer = _bm25s().BM25(k1=_K1, b=_B, method="lucene")
        self._scorer.index((tokens, self._ids), show_progress=False, create_empty_token=False)

    def scores(self, text: str) -> np.ndarray:
        """Score of every candidate (candidates,); 0 where no word is shared."""
        known = [number for word in words_of(text) if (number := self._ids.get(word)) is not None]
        return np.asarray(self._scorer.get_scores_from_ids(known))

    def best(self, text: str, *, k: int) -> list[tuple[int, float]]:
        """The ``k`` best candidates that share a word, best first: position and score."""
        return best_words(self.scores(text), k=k)


def best_words(scores: np.ndarray, *, k: int) -> list[tuple[int, float]]:
    """The ``k`` best candidates with a BM25 score above 0 of (candidates,), best first: position and score."""
    count = min(k, int((scores > 0).sum()))
    if not count:
        return []
    chosen = np.argpartition(-scores, count - 1)[:count]
    # at the edge of the partition, ties would be kept by chance: the first of them are kept
    edge = scores[chosen].min()
    above, level = np.flatnonzero(scores > edge), np.flatnonzero(scores == edge)
    chosen = np.concatenate([above, level[: count - len(above)]])
    return [(int(row), float(scores[row])) for row in chosen[np.argsort(-scores[chosen], kind="stable")]]


def refuse_missing_bm25() -> None:
    """Refuse a hybrid search without bm25s, before any computation.

    Raises:
        UserError: bm25s is not installed.
    """
    _bm25s()


def _bm25s() -> Any:
    try:
        return importlib.import_module("bm25s")
    except ImportError:
        raise UserError(
            'a hybrid search needs bm25s, which is not installed: run pip install "tain[scale]", or leave --hybrid out'
        ) from None
