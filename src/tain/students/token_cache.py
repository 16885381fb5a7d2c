"""Token cache of students: each distinct token is split, numbered and computed once, and looked up afterwards."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from jaxtyping import Int64

from tain.students.projection_config import ProjectionConfig

BEGIN, END = "<BOS>", "<EOS>"

MAX_TOKEN_CHARACTERS = 257  # n-grams use the first 256; one more marks a longer token; the rest is ignored

_CACHE_BYTES = 64 * 2**20
_CACHE_CHARACTERS = 16 * 2**20  # of tokens and their spellings in texts; addresses and encoded files are long tokens

_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WHITE = "\t\n\r\v\f\u00a0"
_SPLIT_CHARACTERS = 64  # per token; longer texts are split only as far as they are read
_CHUNK = re.compile("[^ ]+")
_PIECE = re.compile(f"[{re.escape(_PUNCTUATION)}]|[^{re.escape(_PUNCTUATION + _WHITE)} ]+")
_SEPARATED = str.maketrans({**{mark: f" {mark} " for mark in _PUNCTUATION}, **dict.fromkeys(_WHITE, " ")})


@dataclass(frozen=True)
class ReadTexts:
    """Tokens of a batch.

    Attributes:
        rows: The distinct tokens, as rows of the cache.
        ids: Index of each token among these, from 1; 0 after a text's end.
        lengths: Tokens per text, including begin and end tokens.
        truncated: Number of texts truncated at the limit.
    """

    rows: Int64[np.ndarray, " different"]
    ids: Int64[np.ndarray, "texts tokens"]
    lengths: Int64[np.ndarray, " texts"]
    truncated: int


class _Numbered(dict[str, int]):
    """Assigns consecutive numbers to strings on first lookup, and lists the new ones."""

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
    """An array that grows by appending, with few copies."""

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
    """The same array if it has enough rows, otherwise a copy of twice the size, with zeros in new rows."""
    if size <= len(values):
        return values
    grown = np.zeros((max(size, 2 * len(values)), *values.shape[1:]), dtype=values.dtype)
    grown[: len(values)] = values
    return grown


class TokenCache:
    """Reads texts as tokens, and keeps a row of bytes per distinct token.

    ``read`` numbers tokens; those without a row are ``new``, and ``keep`` stores their rows, before or after the texts are used.

    Args:
        config: Tokenization settings.
        width: Bytes per token row.
        dtype: Data type of a row, with one byte per number.
        cached_tokens: Number of distinct tokens, and of distinct spellings in texts, to keep. Beyond it the more frequently used half is
            kept. Default: what fits in 64 MB.
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
        """Tokens without a row, as spelled; their numbers follow those of the others."""
        return self._row_of_token.new

    @property
    def kept(self) -> int:
        """Number of tokens with a row."""
        return len(self._row_of_token) - len(self.new)

    def keep(self, rows: np.ndarray) -> None:
        """Store the rows of the new tokens."""
        assert len(rows) == len(self.new), "each new token needs its row"
        first, size = self.kept, len(self._row_of_token)
        self.rows = _with_room(self.rows, size)
        self.rows[first:size] = rows
        self.new.clear()

    def read(self, texts: Sequence[str]) -> ReadTexts:
        """Look up the tokens of texts, and number new ones."""
        self._make_room()
        if len(self._number_of_chunk) > self.cached_tokens or self._number_of_chunk.characters > _CACHE_CHARACTERS:
            self._forget_chunks()
        # chunks between blanks are looked up unchanged, so that splitting and lower-casing are done once
        chunks = list(map(self._chunks, texts))
        sizes = np.fromiter(map(len, chunks), np.int64, len(chunks))
        numbers = np.fromiter(map(self._number_of_chunk.__getitem__, chain.from_iterable(chunks)), np.int64, int(sizes.sum()))
        self._learn_chunks()
        pieces = self._pieces_of_chunk[numbers]
        before = np.concatenate([[0], np.cumsum(pieces)])  # tokens before each chunk, and the total
        tokens = self._tokens_of_chunks[np.arange(before[-1]) + np.repeat(self._first_of_chunk[numbers] - before[:-1], pieces)]
        lengths = np.diff(before[np.concatenate([[0], np.cumsum(sizes)])])
        return self._read(tokens, lengths)

    def read_tokens(self, texts: Sequence[list[str]]) -> ReadTexts:
        """The same for pre-tokenized texts."""
        self._make_room()
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
        return self._read(self._numbers(list(chain.from_iterable(texts))), lengths)

    def tokens(self, text: str, *, most: int | None = None) -> list[str]:
        """Split a text, without begin and end tokens; ``most`` limits the number of tokens."""
        if self.config.split == "code-point":
            return self._spelt(list(text[:most]))
        if most is not None and self._is_long(text):
            return self._spelt(list(islice(self._split(text), most)))
        return self._spelt([piece for chunk in text.split(" ") for piece in self._pieces(chunk)][:most])

    def count(self, text: str) -> int:
        """Approximate number of tokens read of a text, including begin and end tokens; fast, and off by at most a few."""
        if self.config.split == "code-point":
            tokens = len(text)
        elif self._is_long(text):
            tokens = sum(1 for _ in islice(self._split(text), self.config.max_tokens))
        else:
            tokens = sum(map(bool, (text.translate(_SEPARATED) if self.config.separate else text).split(" ")))
        return min(tokens, self.config.max_tokens) + self.config.begin + self.config.end

    def _chunks(self, text: str) -> list[str]:
        """Chunks between blanks; a long text is read only as far as needed, plus one chunk to detect truncation."""
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
        """Lazily split a text into tokens, before lower-casing."""
        for found in (_PIECE if self.config.separate else _CHUNK).finditer(text):
            yield text[found.start() : min(found.end(), found.start() + MAX_TOKEN_CHARACTERS)]

    def _spelt(self, pieces: list[str]) -> list[str]:
        if self.config.lowercase and pieces:
            # every code point stays one code point, and none becomes a blank
            if self.config.split == "code-point":
                pieces = list(lower_by_code_point("".join(pieces)))
            else:
                pieces = lower_by_code_point(" ".join(pieces)).split(" ")
        if self.config.alphabet:
            kept = set(self.config.alphabet)
            pieces = ["".join(point for point in piece if point in kept) for piece in pieces]
        return pieces

    def _learn_chunks(self) -> None:
        """Split and number chunks seen for the first time."""
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
        """The distinct numbers among these, and the index of each among them; updates the usage counts."""
        self._uses, self._slot = (_with_room(values, len(self._row_of_token)) for values in (self._uses, self._slot))
        indices = np.arange(len(tokens))
        self._slot[tokens] = indices  # one of a number's indices remains
        rows = tokens[self._slot[tokens] == indices]
        self._slot[rows] = indices[: len(rows)]
        within = self._slot[tokens]
        self._uses[rows] += np.bincount(within, minlength=len(rows))
        return rows, within

    def _make_room(self) -> None:
        """If there are too many tokens, keep the most used ones, half as many as fit."""
        if len(self._row_of_token) <= self.cached_tokens and self._row_of_token.characters <= _CACHE_CHARACTERS:
            return
        names = list(self._row_of_token)
        most_used = np.argsort(-self._uses[: self.kept], kind="stable")[: max(2, self.cached_tokens // 2)]
        characters = np.cumsum(np.fromiter((len(names[row]) for row in most_used), np.int64, len(most_used)))
        best = np.sort(most_used[characters <= _CACHE_CHARACTERS // 2])
        self.rows[: len(best)] = self.rows[best]
        self._uses[: len(best)] = self._uses[best] // 2  # older uses count less
        self._uses[len(best) :] = 0
        self._row_of_token = _Numbered(names[row] for row in best)
        self._forget_chunks()

    def _forget_chunks(self) -> None:
        self._number_of_chunk = _Numbered()
        self._first_of_chunk, self._pieces_of_chunk, self._tokens_of_chunks = _Growing(), _Growing(), _Growing()


def lower_by_code_point(text: str) -> str:
    """Lower-case every code point separately into one code point: no final sigma, and no combining dot from a Turkish i.

    A letter's result must not depend on its neighbours; otherwise a token split elsewhere would get other features.
    """
    if text.isascii():
        return text.lower()
    # the two exceptions of str.lower; a test covers all 1,114,112 code points
    return text.replace("\u03a3", "\u03c3").replace("\u0130", "i").lower()
