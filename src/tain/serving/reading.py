"""What a model reads of a text: how many tokens, whether it is cut, and which tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tain.exported.tokenizer import FastTokenizer
from tain.foundation.errors import UserError
from tain.students.student import Student
from tain.text.cleaning import refuse_half_characters
from tain.text.token_ids import token_ids

_UNLIMITED = 10**9


@dataclass(frozen=True)
class Lengths:
    """What is read of some texts.

    Attributes:
        tokens: Tokens read of each, special tokens included.
        is_cut: Whether each is longer than that.
    """

    tokens: list[int]
    is_cut: list[bool]


@dataclass(frozen=True)
class Token:
    """A token of a text.

    Attributes:
        id: Its number in the vocabulary.
        text: The characters that it stands for; for a special token, its name.
        is_special: Whether the tokenizer added it.
        start: First character in the text; None for a special token.
        end: Character behind its last one; None for a special token.
    """

    id: int
    text: str
    is_special: bool
    start: int | None
    end: int | None


def read_lengths(model: Any, texts: Sequence[str], *, max_tokens: int | None = None, keeps: bool = False) -> Lengths:
    """Count the tokens that a model reads of each text, and find the texts that it cuts.

    Args:
        model: An encoder, a classifier, a tagger or a student.
        texts: The texts.
        max_tokens: Where texts are cut, special tokens included; default: the model's own limit.
        keeps: The model reads the same texts next: do not tokenize them again (exported models).
    """
    if isinstance(model, Student):
        return Lengths(model.count_tokens(texts), model.are_cut(texts))
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:  # it has no tokens that can be looked at
        return Lengths(model.count_tokens(texts), [False] * len(texts))
    limit = max_tokens or getattr(model, "max_tokens", None) or _UNLIMITED
    if isinstance(tokenizer, FastTokenizer):
        ids, is_cut = tokenizer.ids(texts, max_tokens=limit, keeps=keeps)
        return Lengths([len(each) for each in ids], list(is_cut))
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        ids, is_cut = token_ids(backend, texts, max_tokens=limit, side=tokenizer.truncation_side)
        return Lengths([len(each) for each in ids], is_cut)
    whole = [len(each) for each in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]
    return Lengths([min(count, limit) for count in whole], [count > limit for count in whole])


def cut_pairs(ranker: Any, queries: Sequence[str], lists: Sequence[Sequence[str]]) -> tuple[list[bool], list[list[bool]]]:
    """Find the texts that a ranker cuts.

    Args:
        ranker: The ranker.
        queries: The queries.
        lists: The documents of each query.

    Returns:
        For each query, and for each of its documents, whether it is cut. A cross-encoder with one limit for the pair cuts the longer text:
        there the document counts as cut, and never the query.
    """
    flat = list(dict.fromkeys(text for listed in lists for text in listed))
    pair = getattr(getattr(ranker, "export", None), "pair", {})
    if getattr(ranker, "context", None) is not None:
        of_queries, of_texts = read_lengths(ranker.context, queries).is_cut, read_lengths(ranker.candidate, flat).is_cut
    elif "separator" in pair:
        of_queries = read_lengths(ranker, queries, max_tokens=pair["context_tokens"]).is_cut
        of_texts = read_lengths(ranker, flat, max_tokens=pair["candidate_tokens"]).is_cut
    else:
        return [False] * len(queries), _too_long_together(ranker, queries, lists, flat)
    is_cut = dict(zip(flat, of_texts, strict=True))
    return of_queries, [[is_cut[text] for text in listed] for listed in lists]


def _too_long_together(ranker: Any, queries: Sequence[str], lists: Sequence[Sequence[str]], flat: Sequence[str]) -> list[list[bool]]:
    most = ranker.max_tokens
    of_queries = read_lengths(ranker, queries, max_tokens=most + 1).tokens
    of_texts = dict(zip(flat, read_lengths(ranker, flat, max_tokens=most + 1).tokens, strict=True))
    alone, together = (_special_tokens(ranker.tokenizer, is_pair=is_pair) for is_pair in (False, True))
    return [
        [of_query + of_texts[text] - 2 * alone + together > most for text in listed]
        for of_query, listed in zip(of_queries, lists, strict=True)
    ]


def _special_tokens(tokenizer: Any, *, is_pair: bool) -> int:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return (backend or tokenizer).num_special_tokens_to_add(is_pair)


def can_show_tokens(model: Any) -> bool:
    """Whether ``tokens_of`` works with a model's tokenizer."""
    return getattr(getattr(model, "tokenizer", None), "backend_tokenizer", None) is not None


def tokens_of(model: Any, texts: Sequence[str], *, has_special: bool = True, is_cut: bool = False) -> list[list[Token]]:
    """Tokenize texts.

    Args:
        model: One with a fast tokenizer.
        texts: The texts.
        has_special: Include the special tokens that the model expects.
        is_cut: Cut texts where the model cuts them; else whole texts are tokenized.

    Raises:
        UserError: The model has no tokenizer of that kind.
    """
    if not can_show_tokens(model):
        raise UserError(f"model {model.name!r} has no tokenizer with a vocabulary of its own, so its tokens cannot be shown")
    backend = model.tokenizer.backend_tokenizer
    if is_cut and model.max_tokens < _UNLIMITED:
        side = getattr(model, "side", None) or getattr(model.tokenizer, "truncation_side", "right")
        backend.enable_truncation(model.max_tokens, direction=side)
    else:
        backend.no_truncation()  # whoever encodes next sets its own limit
    backend.no_padding()
    try:
        encodings = backend.encode_batch(list(texts), add_special_tokens=has_special)
    except TypeError:
        refuse_half_characters(texts)
        raise
    return [
        [
            Token(number, piece if special else text[start:end], bool(special), None if special else start, None if special else end)
            for number, piece, special, (start, end) in zip(each.ids, each.tokens, each.special_tokens_mask, each.offsets, strict=True)
        ]
        for text, each in zip(texts, encodings, strict=True)
    ]
