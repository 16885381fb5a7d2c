"""Which texts are the same to a model: they must not be negatives of each other.

Texts that differ in letters can have the same token ids: those with one long common beginning are cut before they differ, and an
uncased tokenizer drops accents. As negatives they would be pushed apart although the model cannot tell them apart.
"""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from tain.text.cleaning import same_text_key


def same_texts(texts: Sequence[str], ids: Iterable[Sequence[int]]) -> tuple[Int64[np.ndarray, " texts"], int]:
    """Find texts that are the same to a reader (``same_text_key``) or to the model (equal token ids after cutting).

    Args:
        texts: The texts.
        ids: The token ids of each, as the model reads them.

    Returns:
        For each text the place of the first one in its group; and how many texts have the ids of a text with other letters.
    """
    letters, tokens = [same_text_key(text) for text in texts], id_keys(ids)
    return same_numbers(letters, tokens), differ_in_one(letters, tokens)


def id_keys(ids: Iterable[Sequence[int]]) -> list[bytes]:
    """One key for each text's token ids."""
    return [np.asarray(each, dtype=np.int64).tobytes() for each in ids]


def same_numbers(*keys: Sequence[Hashable]) -> Int64[np.ndarray, " texts"]:
    """Group texts that agree in one key at least, directly or through others.

    Args:
        keys: One or more sequences of keys, each with one key a text.

    Returns:
        For each text the place of the first one in its group.
    """
    first = list(range(len(keys[0])))  # a forest: each entry leads to an earlier place of the same group, or to itself

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
    """Count the texts whose ``tokens`` are also those of a text with other ``letters``."""
    spellings: dict[Hashable, set[Hashable]] = {}
    for letter, token in zip(letters, tokens, strict=True):
        spellings.setdefault(token, set()).add(letter)
    return sum(len(spellings[token]) > 1 for token in tokens)
