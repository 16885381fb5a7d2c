"""Static word vectors from word2vec, fastText or GloVe text files, with the same ``encode`` as an embedder."""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.text.collections import list_texts

ENDINGS = (".vec", ".vec.gz", ".vec.xz")
_MOST_WORDS = 200_000  # vocabulary used in lexicon induction; 240 MB at 300 dimensions


def is_word_vectors(name: str | Path) -> bool:
    """Whether a model name is a word vector file."""
    return str(name).lower().endswith(ENDINGS)


class WordVectors:
    """Static word vectors.

    Args:
        words: Distinct words.
        vectors: Their vectors, in the same order.
        name: Name shown in tables.
    """

    def __init__(self, words: Sequence[str], vectors: Float32[np.ndarray, "words dim"], *, name: str) -> None:
        self.name = name
        self._vectors = vectors
        self._rows = {word: row for row, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def dim(self) -> int:
        return self._vectors.shape[1]

    @classmethod
    def load(cls, path: str | Path, *, max_words: int = _MOST_WORDS, progress: Progress | None = None) -> "WordVectors":
        """Read a text file with one word and its numbers per line, separated by blanks, after an optional line ``words dim``.

        Args:
            path: Ends in ``.vec``, ``.vec.gz`` or ``.vec.xz``.
            max_words: Number of words to read; files are sorted by frequency. If words are left out, ``progress`` gets a note.
            progress: Receives the note.

        Raises:
            UserError: The file cannot be read, or a line has more or fewer numbers than the first.
        """
        from tain.text.lines import read_lines, source_name

        name = source_name(path)
        lines = read_lines(path)
        first = next(lines, "")
        head = first.split()
        has_head = len(head) == 2 and all(part.isdigit() for part in head)
        dim = int(head[1]) if has_head else len(head) - 1
        if dim < 1:
            raise UserError(
                f"{name} begins with {first[:40]!r}, which is not a word with its vector: give a file in word2vec's text format"
            )
        words: dict[str, np.ndarray] = {}
        for number, line in enumerate(lines if has_head else chain([first], lines), start=2 if has_head else 1):
            if len(words) == max_words:
                (progress or Progress.silent()).note(f"{name}: the first {max_words:,} words are used, the others ignored")
                break
            word, *numbers = line.rstrip().rsplit(" ", dim)
            try:
                vector = np.array(numbers, dtype=np.float32)
            except ValueError:
                vector = np.empty(0, dtype=np.float32)
            if len(vector) != dim or not np.isfinite(vector).all():
                raise UserError(f"{name} line {number} has no {dim} finite numbers after its word: fix or remove the line")
            words.setdefault(word, vector)
        if not words:
            raise UserError(f"{name} has no words: give a file with one word and its vector a line")
        return cls(list(words), np.stack(list(words.values())), name=str(path))

    def encode(self, texts: Iterable[str]) -> Float32[np.ndarray, "texts dim"]:
        """Vector of the word, or the mean vector of a text's words; zeros if all words are unknown."""
        texts = list_texts(texts)
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for index, text in enumerate(texts):
            parts = [text] if text in self._rows else text.split()
            rows = [self._rows[part] for part in parts if part in self._rows]
            if rows:
                vectors[index] = self._vectors[rows].mean(axis=0)
        return vectors
