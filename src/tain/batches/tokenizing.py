"""Tokenize texts into ids, and count truncated texts."""

import hashlib
import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Bool

from tain.batches.types import KeptTexts, TokenisedTexts
from tain.foundation.errors import UserError
from tain.text.token_encoding import TokenRows
from tain.text.token_ids import bare_token_ids, chunk_ids, token_ids

_TEXTS_AT_ONCE = 8192  # what a tokenizer says of a text takes a hundred times the memory of its ids


def tokenise(tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> TokenisedTexts:
    """Tokenize texts, with the special tokens that the model expects.

    Args:
        tokenizer: A transformers tokenizer.
        texts: Texts to tokenize.
        max_tokens: Texts are truncated at this length, including special tokens.

    Returns:
        The ids, in order, and the number of truncated texts.
    """
    rows = tokenise_rows(tokenizer, texts, max_tokens=max_tokens)
    return TokenisedTexts(rows.ids, sum(rows.is_cut))


def tokenise_rows(tokenizer: Any, texts: Sequence[str], *, max_tokens: int, in_chunks: bool = False) -> TokenRows:
    """Like ``tokenise``, and tell which texts were truncated.

    Args:
        tokenizer: A transformers tokenizer.
        texts: Texts to tokenize.
        max_tokens: Texts are truncated at this length, including special tokens.
        in_chunks: Split longer texts into chunks of this length instead.

    Raises:
        UserError: Chunks are wanted of a tokenizer that is written in Python.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        if in_chunks:
            raise UserError(
                f"truncation is 'mean-of-chunks', which needs a fast tokenizer (tokenizer.json), but this one is a {type(tokenizer).__name__}:"
                " let truncation be cut or error"
            )
        encoded = tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]
        is_cut = [len(ids) > max_tokens for ids in encoded]
        if any(is_cut):
            encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
        return TokenRows.one_each(encoded, is_cut)
    if in_chunks:
        return TokenRows.chunks(chunk_ids(backend, texts, max_tokens=max_tokens))
    return TokenRows.one_each(*token_ids(backend, texts, max_tokens=max_tokens, side=tokenizer.truncation_side))


def tokenise_once(tokenizer: Any, texts: Sequence[str], *, max_tokens: int) -> KeptTexts:
    """Like ``tokenise``, for texts whose ids are needed repeatedly."""
    flat: list[np.ndarray] = []
    lengths: list[int] = []
    truncated = 0
    for begin in range(0, len(texts), _TEXTS_AT_ONCE):
        part = tokenise(tokenizer, texts[begin : begin + _TEXTS_AT_ONCE], max_tokens=max_tokens)
        lengths.extend(map(len, part.ids))
        flat.append(np.fromiter(chain.from_iterable(part.ids), dtype=np.int32))
        truncated += part.truncated
    return KeptTexts(np.concatenate([np.zeros(0, np.int32), *flat]), np.cumsum([0, *lengths], dtype=np.int64), truncated)


def mask_token(tokenizer: Any) -> str:
    """The tokenizer's mask token.

    Raises:
        UserError: The tokenizer has none, so its model is not a masked language model.
    """
    token = getattr(tokenizer, "mask_token", None)
    if token is None:
        raise UserError(
            "the tokenizer has no mask token, so texts cannot be span-masked: give a masked language model, or --erased-chars 0"
        )
    return str(token)


def bare_ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Tokenize complete texts without special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    return bare_token_ids(backend, texts)


def opening_id(tokenizer: Any) -> int:
    """Id of the first token of every text, such as BERT's ``[CLS]``.

    Raises:
        UserError: The tokenizer has none.
    """
    return _special_id(tokenizer, "cls_token_id", "bos_token_id")


def separator_id(tokenizer: Any) -> int:
    """Id of the last token of every text, such as BERT's ``[SEP]``.

    Raises:
        UserError: The tokenizer has none.
    """
    return _special_id(tokenizer, "sep_token_id", "eos_token_id")


def first_ordinary_id(tokenizer: Any) -> int:
    """First id for random replacements: after the special tokens if those come first."""
    special = sorted(tokenizer.all_special_ids)
    return special[-1] + 1 if special == list(range(len(special))) else 0


def fingerprint(tokenizer: Any) -> str:
    """Sixteen hexadecimal digits that differ between tokenizers that could tokenize some text differently."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        content = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        content = json.loads(backend.to_str())
        content |= {"truncation": None, "padding": None}  # settings of the last call, which do not affect the tokens
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _special_id(tokenizer: Any, *names: str) -> int:
    for name in names:
        if getattr(tokenizer, name, None) is not None:
            return int(getattr(tokenizer, name))
    raise UserError(f"the tokenizer has neither {' nor '.join(names)}: give a BERT-like masked language model")


def word_mark(tokenizer: Any) -> str | None:
    """Word marker of a tokenizer: ``##`` continues a word, ``Ġ`` (the byte of a blank) and ``▁`` begin one; None if there is none."""
    pieces = tokenizer.get_vocab()
    counts = {mark: sum(piece.startswith(mark) for piece in pieces) for mark in ("##", "Ġ", "▁")}
    mark = max(counts, key=lambda mark: counts[mark])  # the others may occur by chance
    return mark if counts[mark] else None


def continues_word(tokenizer: Any) -> Bool[np.ndarray, " vocabulary"]:
    """Whether each id of a tokenizer continues the word before it; special tokens and added words begin one.

    Raises:
        UserError: The vocabulary has no word marker.
    """
    mark = word_mark(tokenizer)
    if mark is None:
        raise UserError(
            "the tokenizer marks neither where words begin (Ġ, ▁) nor where they continue (##), so whole words cannot be masked: "
            "mask tokens or spans instead"
        )
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    continuing = np.array([str(piece).startswith(mark) == (mark == "##") for piece in pieces])
    continuing[[index for index in tokenizer.get_added_vocab().values() if index < len(pieces)]] = False
    return continuing
