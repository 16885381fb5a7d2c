"""Find similar words for augmentation, from an encoder's vectors of single words."""

from collections.abc import Mapping, Sequence

import numpy as np

from tain.foundation.vectors import unit_length
from tain.models.embedder import Embedder
from tain.text.records import Example
from tain.text.tags import tokens_of

_NEAREST, _LEAST_COSINE = 8, 0.5
_AT_ONCE = 1024
_COSINES = 2**26  # computed at a time: a quarter of a gigabyte


def near_words(embedder: Embedder, examples: Sequence[Example]) -> Mapping[str, Sequence[str]]:
    """Find words with similar vectors for the words of texts.

    Candidates are the words of the texts and the whole words of the encoder's tokenizer, most of which do not occur in the texts. The
    student thus sees them with the teacher's labels (compare the augmentation of Jiao et al. 2020, TinyBERT, section 4.1).

    Args:
        embedder: Encodes the words; vectors are compared by cosine after subtracting their mean.
        examples: Texts; only tokens of letters count as words.

    Returns:
        For each word in lower case, up to eight others with a cosine of 0.5 or more, nearest first.
    """
    ours = sorted({word for example in examples for word in tokens_of(example.text.lower()) if _is_word(word)})
    words = list(dict.fromkeys([*ours, *whole_words(embedder)]))
    if len(words) < 2:
        return {}
    vectors = embedder.encode(words, normalize=False)
    vectors -= vectors.mean(axis=0)
    unit_length(vectors, out=vectors)
    found = {}
    count = min(_NEAREST, len(words) - 1)
    at_once = max(1, min(_AT_ONCE, _COSINES // len(words)))
    for start in range(0, len(ours), at_once):
        cosines = vectors[start : min(start + at_once, len(ours))] @ vectors.T
        cosines[np.arange(len(cosines)), np.arange(start, start + len(cosines))] = -2.0
        best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        for row, (indices, near) in enumerate(zip(best, np.take_along_axis(cosines, best, axis=1), strict=True)):
            kept = [
                words[index]
                for index, cosine in sorted(zip(indices, near, strict=True), key=lambda pair: -pair[1])
                if cosine >= _LEAST_COSINE
            ]
            if kept:
                found[words[start + row]] = kept
    return found


def whole_words(embedder: Embedder) -> list[str]:
    """The words, in lower case, that are single tokens of an encoder's tokenizer."""
    tokenizer = embedder.tokenizer
    tokens = list(tokenizer.get_vocab())
    spelt = [tokenizer.convert_tokens_to_string([token]).strip().lower() for token in tokens]
    words = sorted({word for word in spelt if len(word) > 1 and _is_word(word)})
    # word endings, and words whose capital was removed here, give more than one token
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [word for word, ids in zip(words, encoded, strict=True) if len(ids) == 1]


def _is_word(text: str) -> bool:
    return text.isalpha()
