"""Token ids of texts from a tokenizer of the package tokenizers, without transformers."""

from collections.abc import Sequence
from typing import Any

from tain.text.cleaning import refuse_half_characters

CHARACTERS_A_TOKEN = 16  # hardly a text has as many
MOST_CHARACTERS_A_TOKEN = 1024  # of blanks, or of a word that becomes one unknown token; texts are read no further
_CHUNKED_TEXTS = 256  # tokenised at a time: what the tokenizer keeps of a text takes a hundred times the memory of its ids
_LEFT_OVER = 32  # tokens: so far from a cut between characters the tokens are those of the whole text


def token_ids(backend: Any, texts: Sequence[str], *, max_tokens: int, side: str = "right") -> tuple[list[list[int]], list[bool]]:
    """Tokenise texts, special tokens included, and cut those that are too long.

    Args:
        backend: A ``tokenizers.Tokenizer``.
        texts: Any number of texts.
        max_tokens: Texts are cut at this length, special tokens included.
        side: Where tokens are cut off: ``right`` or ``left``.

    Returns:
        The ids of each text, in order, and for each text whether it was cut.
    """
    # the wrapper that transformers puts around this backend spends more time on Python objects than the tokenising takes
    backend.enable_truncation(max_tokens, direction=side)
    backend.no_padding()
    reach = CHARACTERS_A_TOKEN * max(max_tokens, 64)
    try:
        encodings = backend.encode_batch_fast([end_of(text, reach, side) for text in texts])
    except TypeError:
        refuse_half_characters(texts)
        raise
    ids = [encoding.ids for encoding in encodings]
    is_cut = [bool(encoding.overflowing) for encoding in encodings]
    for row, text in enumerate(texts):
        if len(text) > reach:
            ids[row], is_cut[row] = _long_text(backend, text, reach, side, encodings[row])
    return ids, is_cut


def chunk_ids(backend: Any, texts: Sequence[str], *, max_tokens: int) -> list[list[list[int]]]:
    """Tokenise whole texts in chunks of at most ``max_tokens`` tokens, with special tokens around each chunk.

    Args:
        backend: A ``tokenizers.Tokenizer``.
        texts: Any number of texts.
        max_tokens: Length of a chunk, special tokens included; the last chunk of a text may be shorter.

    Returns:
        The ids of each chunk of each text, in order.
    """
    backend.enable_truncation(max_tokens, direction="right")
    backend.no_padding()
    found: list[list[list[int]]] = []
    for start in range(0, len(texts), _CHUNKED_TEXTS):
        try:
            encodings = backend.encode_batch_fast(list(texts[start : start + _CHUNKED_TEXTS]))
        except TypeError:
            refuse_half_characters(texts)
            raise
        found += [[encoding.ids, *(chunk.ids for chunk in encoding.overflowing)] for encoding in encodings]
    return found


def bare_token_ids(backend: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise whole texts without special tokens."""
    backend.no_truncation()
    backend.no_padding()
    try:
        return [encoding.ids for encoding in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
    except TypeError:
        refuse_half_characters(texts)
        raise


def _long_text(backend: Any, text: str, reach: int, side: str, encoding: Any) -> tuple[list[int], bool]:
    """Ids of a text of which ``encoding`` knows one end alone, and whether it was cut: more of it is read until enough is left over.

    What is left over is thrown away, and of a book it would take a hundred times the memory of the book.
    """
    most = reach * MOST_CHARACTERS_A_TOKEN // CHARACTERS_A_TOKEN
    while reach < min(len(text), most) and sum(map(len, encoding.overflowing)) < _LEFT_OVER:
        reach *= 4
        (encoding,) = backend.encode_batch_fast([end_of(text, reach, side)])
    return encoding.ids, bool(encoding.overflowing) or reach < len(text)


def end_of(text: str, reach: int, side: str) -> str:
    """A text's end that is kept when the other ``side`` is cut: about ``reach`` characters, whole words where there are blanks."""
    if len(text) <= reach:
        return text
    if side == "right":
        end, blank = text[:reach], text.rfind(" ", 0, reach)
        return end[:blank] if blank > 0 else end
    blank = text.find(" ", len(text) - reach)
    return text[blank if blank > 0 else len(text) - reach :]
