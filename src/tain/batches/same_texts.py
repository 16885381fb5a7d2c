"""Detect texts that are identical to the model, which must not be used as negatives of each other.

Different texts can have the same token ids: texts with a long common beginning are truncated before they differ, and an uncased
tokenizer drops accents. As negatives they would be pushed apart although the model cannot distinguish them.
"""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from tain.text.cleaning import same_text_key


def same_texts(texts: Sequence[str], ids: Iterable[Sequence[int]]) -> tuple[Int64[np.ndarray, " texts"], int]:
    """Group texts that are equal to a reader (``same_text_key``) or to the model (equal token ids after truncation).

    Args:
        texts: The texts.
        ids: Token ids of each text, as the model reads them.

    Returns:
        The index of the first text of each text's group; and the number of texts with the same ids as a differently spelled text.
    """
    letters, tokens = [same_text_key(text) for text in texts], id_keys(ids)
    return same_numbers(letters, tokens), differ_in_one(letters, tokens)


def id_keys(ids: Iterable[Sequence[int] | np.ndarray]) -> list[bytes]:
    """One key per text's token ids."""
    return [np.asarray(each, dtype=np.int64).tobytes() for each in ids]


def same_numbers(*keys: Sequence[Hashable]) -> Int64[np.ndarray, " texts"]:
    """Group texts that share at least one key, directly or transitively.

    Args:
        keys: One or more sequences of keys, with one key per text.

    Returns:
        The index of the first text of each text's group.
    """
    first = list(range(len(keys[0])))  # a forest: each entry points to an earlier index of its group, or to itself

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = first[first[index]]
            index = first[index]
        return index

    for each in keys:
        met: dict[Hashable, int] = {}
        for index, key in enumerate(each):
            one, other = root(index), root(met.setdefault(key, index))
            first[max(one, other)] = min(one, other)
    return np.array([root(index) for index in range(len(first))], dtype=np.int64)


def differ_in_one(letters: Sequence[Hashable], tokens: Sequence[Hashable]) -> int:
    """Count the texts whose ``tokens`` equal those of a text with different ``letters``."""
    spellings: dict[Hashable, set[Hashable]] = {}
    for letter, token in zip(letters, tokens, strict=True):
        spellings.setdefault(token, set()).add(letter)
    return sum(len(spellings[token]) > 1 for token in tokens)
