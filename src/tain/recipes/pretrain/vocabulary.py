"""Growing a tokenizer by whole words of a corpus that it would cut into many pieces."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tain.batches.tokenizing import bare_ids, word_mark

_WORD = re.compile(r"[^\W\d_][^\W_]*")  # begins with a letter; hyphens and apostrophes end it
_BATCH_WORDS = 4096
_MOST_COUNTED = 5_000_000  # different words held at a time; beyond it those seen once so far are forgotten


def count_words(texts: Iterable[str], tokenizer: Any) -> Counter[str]:
    """Count the words of texts as the tokenizer sees them (an uncased one lower-cases first)."""
    normaliser = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    if word_mark(tokenizer) == "▁":
        normaliser = None  # it would write the marks into the words
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text if normaliser is None else normaliser.normalize_str(text)))
        if len(counts) > _MOST_COUNTED:
            counts = Counter({word: count for word, count in counts.items() if count > 1})
    return counts


def words_cut_up(counts: Counter[str], tokenizer: Any, *, words: int, pieces: int = 3, occurrences: int = 5) -> list[str]:
    """Choose the most frequent words that the tokenizer cuts up.

    Args:
        counts: How often each word occurs.
        tokenizer: The tokenizer to be grown.
        words: How many to choose at most.
        pieces: Only words of at least this many pieces.
        occurrences: Only words that occur this often: a rarer one would hardly be trained.

    Returns:
        The words, most frequent first; equally frequent ones by the alphabet.
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
    """The ids that each word is cut into in the middle of a text."""
    return bare_ids(tokenizer, [f" {word}" for word in words])  # a blank before: byte-level tokenizers cut a text's first word otherwise


def add_words(tokenizer: Any, words: Iterable[str]) -> dict[int, list[int]]:
    """Teach a tokenizer words as single tokens; those that it knows as one already are passed over.

    Returns:
        For each new id the ids that its word was cut into before.
    """
    import tokenizers

    known = tokenizer.get_vocab()
    wanted = [word for word in dict.fromkeys(words) if word not in known]
    before = {word: ids for word, ids in zip(wanted, pieces_of(wanted, tokenizer), strict=True) if len(ids) > 1}
    # where a blank belongs to the token that follows it, a new word must swallow the one before it
    takes_blank = word_mark(tokenizer) in ("Ġ", "▁")
    tokenizer.add_tokens([tokenizers.AddedToken(word, single_word=True, normalized=True, lstrip=takes_blank) for word in before])
    return {tokenizer.convert_tokens_to_ids(word): ids for word, ids in before.items()}
