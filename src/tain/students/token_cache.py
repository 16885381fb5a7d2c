"""Which tokens texts have: each different one is spelt, numbered and worked out once, and looked up from then on."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from jaxtyping import Int64

from tain.students.projection_config import ProjectionConfig

BEGIN, END = "<BOS>", "<EOS>"

MAX_TOKEN_CHARACTERS = 257  # n-grams are taken of the first 256, and one more shows that the token goes on; the rest is not read

_CACHE_BYTES = 64 * 2**20
_CACHE_CHARACTERS = 16 * 2**20  # of tokens, and of their spellings in texts: addresses and encoded files are long ones

_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WHITE = "\t\n\r\v\f\u00a0"
_SPLIT_CHARACTERS = 64  # a token; texts that are longer for their limit of tokens are split no further than they are read
_CHUNK = re.compile("[^ ]+")
_PIECE = re.compile(f"[{re.escape(_PUNCTUATION)}]|[^{re.escape(_PUNCTUATION + _WHITE)} ]+")
_SEPARATED = str.maketrans({**{mark: f" {mark} " for mark in _PUNCTUATION}, **dict.fromkeys(_WHITE, " ")})


@dataclass(frozen=True)
class ReadTexts:
    """The tokens of a batch.

    Attributes:
        rows: The different tokens, as rows of the cache.
        ids: Which of them each token is, from 1 on; 0 behind a text's end.
        lengths: Tokens of each text, those of its ends included.
        truncated: Texts that lost tokens to the limit.
    """

    rows: Int64[np.ndarray, " different"]
    ids: Int64[np.ndarray, "texts tokens"]
    lengths: Int64[np.ndarray, " texts"]
    truncated: int


class _Numbered(dict[str, int]):
    """Numbers strings in the order in which they are first asked for, and lists those that are new."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        super().__init__((key, number) for number, key in enumerate(known))
        self.new: list[str] = []
        self.characters = sum(map(len, self))

    def __missing__(self, key: str) -> int:
        self[key] = number = len(self)
        self.new.append(key)
        self.characters += len(key)
        return number


class _Growing:
    """Numbers to which more are added, in an array that is copied seldom."""

    def __init__(self) -> None:
        self._room = np.zeros(256, dtype=np.int64)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._room[indices]

    def add(self, values: np.ndarray) -> None:
        size = self._size + len(values)
        self._room = _with_room(self._room, size)
        self._room[self._size : size] = values
        self._size = size


def _with_room(values: np.ndarray, size: int) -> np.ndarray:
    """The same array if it has that many rows, else a copy with twice as many, those that are new all 0."""
    if size <= len(values):
        return values
    grown = np.zeros((max(size, 2 * len(values)), *values.shape[1:]), dtype=values.dtype)
    grown[: len(values)] = values
    return grown


class TokenCache:
    """Reads texts as tokens, and keeps a row of bytes for each different one.

    ``read`` numbers tokens; those without a row yet are ``new``, and ``keep`` takes their rows, before or after the texts are used.

    Args:
        config: Where tokens end and how they are spelt.
        width: Bytes of a token's row.
        dtype: Of its numbers, one byte each.
        cached_tokens: Different tokens, and different spellings of them in texts, remembered. Beyond that many the half that is used most is
            kept. Default: as many as 64 MB hold.
    """

    def __init__(self, config: ProjectionConfig, *, width: int, dtype: Any, cached_tokens: int | None = None) -> None:
        self.config = config
        self.cached_tokens = cached_tokens or max(1024, _CACHE_BYTES // width)
        self.rows = np.zeros((256, width), dtype=dtype)
        self._row_of_token = _Numbered()
        self._uses = np.zeros(256, dtype=np.int64)
        self._slot = np.zeros(256, dtype=np.int64)  # scratch
        self._forget_chunks()

    @property
    def new(self) -> list[str]:
        """Tokens that have no row yet, as they are spelt; their numbers follow those of the others."""
        return self._row_of_token.new

    @property
    def kept(self) -> int:
        """How many tokens have one."""
        return len(self._row_of_token) - len(self.new)

    def keep(self, rows: np.ndarray) -> None:
        """Remember the rows of the tokens that are new."""
        assert len(rows) == len(self.new), "each new token needs its row"
        first, size = self.kept, len(self._row_of_token)
        self.rows = _with_room(self.rows, size)
        self.rows[first:size] = rows
        self.new.clear()

    def read(self, texts: Sequence[str]) -> ReadTexts:
        """Look texts' tokens up, and number those that are new."""
        self._make_room()
        if len(self._number_of_chunk) > self.cached_tokens or self._number_of_chunk.characters > _CACHE_CHARACTERS:
            self._forget_chunks()
        # what stands between blanks is looked up as it is: splitting and lower-casing are paid for once
        chunks = list(map(self._chunks, texts))
        sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
        numbers = np.fromiter(map(self._number_of_chunk.__getitem__, chain.from_iterable(chunks)), np.int64, int(sizes.sum()))
        self._learn_chunks()
        pieces = self._pieces_of_chunk[numbers]
        before = np.concatenate([[0], np.cumsum(pieces)])  # tokens before each chunk, and all
        tokens = self._tokens_of_chunks[np.arange(before[-1]) + np.repeat(self._first_of_chunk[numbers] - before[:-1], pieces)]
        lengths = np.diff(before[np.concatenate([[0], np.cumsum(sizes)])])
        return self._read(tokens, lengths)

    def read_tokens(self, texts: Sequence[list[str]]) -> ReadTexts:
        """The same for texts that are tokens already."""
        self._make_room()
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return self._read(self._numbers(list(chain.from_iterable(texts))), lengths)

    def tokens(self, text: str, *, most: int | None = None) -> list[str]:
        """Split a text, without the tokens of its ends; ``most`` is how many are wanted, by default all."""
        if self.config.split == "code-point":
            return self._spelt(list(text[:most]))
        if most is not None and self._is_long(text):
            return self._spelt(list(islice(self._split(text), most)))
        return self._spelt([piece for chunk in text.split(" ") for piece in self._pieces(chunk)][:most])

    def count(self, text: str) -> int:
        """How many tokens a text has that are read, those of its ends included; quick, and off by a few at most."""
        if self.config.split == "code-point":
            tokens = len(text)
        elif self._is_long(text):
            tokens = sum(1 for _ in islice(self._split(text), self.config.max_tokens))
        else:
            tokens = sum(map(bool, (text.translate(_SEPARATED) if self.config.separate else text).split(" ")))
        return min(tokens, self.config.max_tokens) + self.config.begin + self.config.end

    def _chunks(self, text: str) -> list[str]:
        """What stands between blanks; of a long text no more than can be read: each has a token at least, and one too many tells of a cut."""
        most = self.config.max_tokens + 1
        if self.config.split == "code-point":
            return list(text[:most])
        if self._is_long(text):
            return list(islice(self._split(text), most))
        chunks = text.split(" ")
        if len(chunks) <= most:
            return chunks
        blanks = _WHITE if self.config.separate else ""
        return list(islice((chunk for chunk in chunks if chunk.strip(blanks)), most))

    def _pieces(self, chunk: str) -> list[str]:
        if self.config.split == "code-point":
            return [chunk]
        pieces = chunk.translate(_SEPARATED).split(" ") if self.config.separate and not chunk.isalnum() else [chunk]
        return [piece[:MAX_TOKEN_CHARACTERS] for piece in pieces if piece]

    def _is_long(self, text: str) -> bool:
        return len(text) > _SPLIT_CHARACTERS * (self.config.max_tokens + 1)

    def _split(self, text: str) -> Iterator[str]:
        """The tokens of a text, not yet lower-cased; what is not asked for is not looked at."""
        for found in (_PIECE if self.config.separate else _CHUNK).finditer(text):
            yield text[found.start() : min(found.end(), found.start() + MAX_TOKEN_CHARACTERS)]

    def _spelt(self, pieces: list[str]) -> list[str]:
        if self.config.lowercase and pieces:
            # one code point stays one, and none becomes a blank
            if self.config.split == "code-point":
                pieces = list(lower_by_code_point("".join(pieces)))
            else:
                pieces = lower_by_code_point(" ".join(pieces)).split(" ")
        if self.config.alphabet:
            kept = set(self.config.alphabet)
            pieces = ["".join(point for point in piece if point in kept) for piece in pieces]
        return pieces

    def _learn_chunks(self) -> None:
        """Split and spell what was met for the first time."""
        if not self._number_of_chunk.new:
            return
        most = self.config.max_tokens + 1
        pieces = [self._pieces(chunk)[:most] for chunk in self._number_of_chunk.new]
        self._number_of_chunk.new.clear()
        counts = np.fromiter(map(len, pieces), np.int64, len(pieces))
        self._first_of_chunk.add(len(self._tokens_of_chunks) + np.cumsum(counts) - counts)
        self._pieces_of_chunk.add(counts)
        self._tokens_of_chunks.add(self._numbers(self._spelt(list(chain.from_iterable(pieces)))))

    def _numbers(self, tokens: list[str]) -> Int64[np.ndarray, " tokens"]:
        return np.fromiter(map(self._row_of_token.__getitem__, tokens), np.int64, len(tokens))

    def _read(self, tokens: Int64[np.ndarray, " tokens"], lengths: Int64[np.ndarray, " texts"]) -> ReadTexts:
        begin, end, limit = int(self.config.begin), int(self.config.end), self.config.max_tokens
        read = np.minimum(lengths, limit)
        grid = np.full((len(lengths), int(read.max(initial=0)) + begin + end), -1, dtype=np.int64)
        if begin:
            grid[:, 0] = self._row_of_token[BEGIN]
        columns = np.arange(grid.shape[1] - begin - end)
        is_read = np.arange(len(tokens)) - np.repeat(np.cumsum(lengths) - lengths, lengths) < limit
        grid[:, begin : begin + len(columns)][columns < read[:, None]] = tokens[is_read]
        if end:
            grid[np.arange(len(grid)), begin + read] = self._row_of_token[END]
        is_token = grid >= 0
        rows, within = self._different(grid[is_token])
        ids = np.zeros(grid.shape, dtype=np.int64)
        ids[is_token] = within + 1
        return ReadTexts(rows, ids, read + begin + end, int((lengths > limit).sum()))

    def _different(self, tokens: Int64[np.ndarray, " tokens"]) -> tuple[np.ndarray, np.ndarray]:
        """The different numbers among these, and which of them each is; counts them as used."""
        self._uses, self._slot = (_with_room(values, len(self._row_of_token)) for values in (self._uses, self._slot))
        indices = np.arange(len(tokens))
        self._slot[tokens] = indices  # of a number's many places one stays
        rows = tokens[self._slot[tokens] == indices]
        self._slot[rows] = indices[: len(rows)]
        within = self._slot[tokens]
        self._uses[rows] += np.bincount(within, minlength=len(rows))
        return rows, within

    def _make_room(self) -> None:
        """Where there are too many tokens, keep those that are used most, half as many as fit."""
        if len(self._row_of_token) <= self.cached_tokens and self._row_of_token.characters <= _CACHE_CHARACTERS:
            return
        names = list(self._row_of_token)
        most_used = np.argsort(-self._uses[: self.kept], kind="stable")[: max(2, self.cached_tokens // 2)]
        characters = np.cumsum(np.fromiter((len(names[row]) for row in most_used), np.int64, len(most_used)))
        best = np.sort(most_used[characters <= _CACHE_CHARACTERS // 2])
        self.rows[: len(best)] = self.rows[best]
        self._uses[: len(best)] = self._uses[best] // 2  # what was used long ago counts for less
        self._uses[len(best) :] = 0
        self._row_of_token = _Numbered(names[row] for row in best)
        self._forget_chunks()

    def _forget_chunks(self) -> None:
        self._number_of_chunk = _Numbered()
        self._first_of_chunk, self._pieces_of_chunk, self._tokens_of_chunks = _Growing(), _Growing(), _Growing()


def lower_by_code_point(text: str) -> str:
    """Lower-case each code point by itself into one code point: no final sigma, and no dot behind a Turkish i.

    What a letter becomes must not depend on its neighbours, or a token cut elsewhere would get other features.
    """
    if text.isascii():
        return text.lower()
    # the two that str.lower treats otherwise; a test asks all 1,114,112
    return text.replace("\u03a3", "\u03c3").replace("\u0130", "i").lower()
