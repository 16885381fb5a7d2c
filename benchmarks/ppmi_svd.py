"""Word vectors by counting: truncated SVD of positive pointwise mutual information, as ``evaluate`` takes encoders.

Levy, Goldberg and Dagan 2015, with their settings: contexts within five words, context counts to the power 0.75, no shift, square root of the
singular values. Words are lower-cased; a text is the mean of its words' unit vectors, zero if it has no known word.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

_WORD = re.compile(r"[^\W\d_]+")
_ITERATIONS: Any = 4  # the type stubs of scikit-learn know "auto" only
_AT_ONCE = 4_000_000  # words whose pairs are counted at a time


class PpmiSvd:
    """Vectors of the most frequent words of a corpus."""

    def __init__(self, lines: Iterable[str], *, words: int = 50_000, dim: int = 300, window: int = 5, power: float = 0.75, seed: int = 13):
        self.name = "ppmi-svd"
        split = [split_words(line) for line in lines]
        counts = Counter(word for line in split for word in line)
        self.row_of = {word: row for row, (word, _) in enumerate(counts.most_common(words))}
        ids = [np.array([self.row_of.get(word, -1) for word in line] + [-1] * window, dtype=np.int64) for line in split]
        table = counted(np.concatenate(ids), words=len(self.row_of), window=window)
        left, values, _ = randomized_svd(ppmi(table, power=power), min(dim, len(self.row_of) - 1), n_iter=_ITERATIONS, random_state=seed)
        vectors = left * np.sqrt(values)
        self.vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def encode(self, texts, /):
        found = np.zeros((len(texts), self.vectors.shape[1]), dtype=np.float32)
        for row, text in enumerate(texts):
            known = [self.row_of[word] for word in split_words(text) if word in self.row_of]
            if known:
                found[row] = self.vectors[known].mean(axis=0)
        return found


def split_words(text):
    """Runs of letters in lower case."""
    return _WORD.findall(text.lower())


def counted(ids, *, words, window):
    """Symmetric counts of pairs within the window (words, words); -1 is no word."""
    total = sparse.csr_matrix((words, words), dtype=np.float64)
    for start in range(0, len(ids), _AT_ONCE):
        part = ids[start : start + _AT_ONCE + window]
        for apart in range(1, window + 1):
            first, second = part[: min(_AT_ONCE, len(part) - apart)], part[apart : apart + _AT_ONCE]
            is_pair = (first >= 0) & (second >= 0)
            pairs = (np.ones(int(is_pair.sum())), (first[is_pair], second[is_pair]))
            total = total + sparse.csr_matrix(pairs, shape=(words, words))
    return total + total.T


def ppmi(table, *, power):
    """log(p(a, b) / (p(a) p(b) ** power, normalised)), where positive (words, words)."""
    table = table.tocoo()
    of_word = np.bincount(table.row, weights=table.data, minlength=table.shape[0])
    of_context = np.bincount(table.col, weights=table.data, minlength=table.shape[1]) ** power
    information = np.log(table.data * of_context.sum() / (of_word[table.row] * of_context[table.col]))
    is_positive = information > 0
    return sparse.csr_matrix((information[is_positive], (table.row[is_positive], table.col[is_positive])), shape=table.shape)
