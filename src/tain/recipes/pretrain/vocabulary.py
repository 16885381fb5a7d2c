"""Add whole words of a corpus to a tokenizer that would split them into many pieces."""

import re
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any

from tain.batches.tokenizing import bare_ids, word_mark
from tain.text.scripts import NO_BLANKS, marks

_BATCH_WORDS = 4096
_MOST_COUNTED = 5_000_000  # distinct words in memory; beyond it, words seen once so far are dropped


def count_words(texts: Iterable[str], tokenizer: Any) -> Counter[str]:
    """Count the words of texts as the tokenizer sees them (an uncased one lower-cases first).

    A word begins with a letter and may contain combining marks, as in Hindi; hyphens and apostrophes end it. Scripts without blanks between
    words are left out, because their words cannot be found without a dictionary.
    """
    normaliser = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if word_mark(tokenizer) == "▁":
        normaliser = None  # it would add its space markers to the words
    word = _word()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word.findall(text if normaliser is None else normaliser.normalize_str(text)))
        if len(counts) > _MOST_COUNTED:
            counts = Counter({word: count for word, count in counts.items() if count > 1})
    return counts


@cache
def _word() -> re.Pattern[str]:
    letter = rf"[^\W\d_{NO_BLANKS}]"
    return re.compile(rf"{letter}(?:[^\W_{NO_BLANKS}]|[{marks()}])*")


def words_cut_up(counts: Counter[str], tokenizer: Any, *, words: int, pieces: int = 3, occurrences: int = 5) -> list[str]:
    """Choose the most frequent words that the tokenizer splits.

    Args:
        counts: Occurrences of each word.
        tokenizer: The tokenizer to extend.
        words: Maximum number of words.
        pieces: Minimum number of pieces of a word.
        occurrences: Minimum occurrences; rarer words would hardly be trained.

    Returns:
        The words, most frequent first; equally frequent ones in alphabetical order.
    """
    frequent = sorted((word for word, count in counts.items() if count >= occurrences), key=lambda word: (-counts[word], word))
    chosen: list[str] = []
    for start in range(0, len(frequent), _BATCH_WORDS):
        batch = frequent[start : start + _BATCH_WORDS]
        chosen += [word for word, ids in zip(batch, pieces_of(batch, tokenizer), strict=True) if len(ids) >= pieces]
        if len(chosen) >= words:
            break
    return chosen[:words]


def pieces_of(words: list[str], tokenizer: Any) -> list[list[int]]:
    """The token ids of each word in the middle of a text."""
    return bare_ids(tokenizer, [f" {word}" for word in words])  # leading space: byte-level ones split a text's first word differently


def add_words(tokenizer: Any, words: Iterable[str]) -> dict[int, list[int]]:
    """Add words to a tokenizer as single tokens; words that already are single tokens are skipped.

    Returns:
        For each new id, the ids that its word was split into before.
    """
    import tokenizers

    known = tokenizer.get_vocab()
    wanted = [word for word in dict.fromkeys(words) if word not in known]
    before = {word: ids for word, ids in zip(wanted, pieces_of(wanted, tokenizer), strict=True) if len(ids) > 1}
    # if spaces belong to the following token, a new word must include the space before it
    takes_blank = word_mark(tokenizer) in ("Ġ", "▁")
    tokenizer.add_tokens([tokenizers.AddedToken(word, single_word=True, normalized=True, lstrip=takes_blank) for word in before])
    return {tokenizer.convert_tokens_to_ids(word): ids for word, ids in before.items()}
