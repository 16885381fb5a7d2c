"""Tokens to features by hashing alone: what lets a student do without a vocabulary.

Kaliamoorthi et al. 2021 (pQRNN) and 2019 (PRADO): a token's 128-bit fingerprint is read two bits at a time, each pair
giving -1, 0 or +1. NumPy alone, since students run where torch is not installed.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
from jaxtyping import Int8, Int64, UInt64

from tain.foundation.choices import Split
from tain.foundation.errors import UserError, refuse_all

FORMAT = 2
UNIT = 127  # a feature of 1.0 as a stored byte

BEGIN, END, _NULL = "<BOS>", "<EOS>", "<null>"
_FEATURES_PER_CODE = 32
_TOKENS_AT_ONCE = 1024  # bounds the memory for their n-grams
_NGRAM_CHARACTERS = 256  # n-grams are taken of a token's beginning: what is longer is no word
_CACHE_BYTES = 64 * 2**20

# the constants and steps of the hash: papers that describe it only say "fingerprint", the released code fixes it
_A = np.uint64(0xC6A4A7935BD1E995)
_B = np.uint64(0x9E3779B97F4A7835)
_HALF = np.uint64(47)
_TAIL_MASKS = np.array([(1 << 8 * size) - 1 for size in range(8)], dtype=np.uint64)

_PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_WHITE = "\t\n\r\v\f\u00a0"
_SEPARATED = str.maketrans({**{mark: f" {mark} " for mark in _PUNCTUATION}, **dict.fromkeys(_WHITE, " ")})


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """How texts become features; saved beside every student, which is worthless with another projection."""

    features: Annotated[int, "numbers a token, n-gram features included"] = 512
    ngram_features: Annotated[int, "how many of these come from the token's character n-grams; 0 for none, as in the paper"] = 0
    shortest_ngram: Annotated[int, "characters of the shortest n-gram, the marks of the token's ends included"] = 3
    longest_ngram: Annotated[int, "characters of the longest n-gram"] = 5
    split: Annotated[Split, "where tokens end: at the ASCII space, or after every code point"] = "space"
    separate: Annotated[bool, "make each ASCII punctuation mark a token of its own, and tabs, line ends and no-break spaces blanks"] = False
    lowercase: Annotated[bool, "lower-case by code point"] = True
    alphabet: Annotated[str, "code points outside of these are dropped from tokens; empty keeps all"] = ""
    max_tokens: Annotated[int, "tokens read of a text, those of its ends not counted"] = 128
    begin: Annotated[bool, "put a token before each text"] = False
    end: Annotated[bool, "put a token behind each text, as the released operation does"] = True

    def __post_init__(self) -> None:
        problems = []
        if self.features < 1:
            problems.append(f"features is {self.features}, but a token needs some: give 1 or more (the paper's range: 512 to 1024)")
        if not 0 <= self.ngram_features <= self.features:
            problems.append(f"ngram_features is {self.ngram_features}: give 0 to all {self.features} features")
        if not 1 <= self.shortest_ngram <= self.longest_ngram:
            problems.append(f"n-grams of {self.shortest_ngram} to {self.longest_ngram} characters do not exist: give such as 3 to 5")
        if self.split not in get_args(Split):
            problems.append(f"split is {self.split!r}: give {' or '.join(get_args(Split))}")
        if self.max_tokens < 1:
            problems.append(f"max_tokens is {self.max_tokens}: give 1 or more")
        refuse_all(problems)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between projections whose features differ."""
        content = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def save(self, path: Path) -> None:
        content = {"kind": "tain projection", "format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "ProjectionConfig":
        """Read what ``save`` wrote.

        Raises:
            UserError: The file is missing, no projection, or of another version.
        """
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"projection file {str(path)!r} does not exist: give the whole folder that tain distil wrote") from None
        except (OSError, ValueError) as error:
            raise UserError(f"projection file {str(path)!r} is not JSON ({error}): distil the student again") from None
        if not isinstance(content, dict) or content.pop("kind", None) != "tain projection":
            raise UserError(f"{str(path)!r} is no projection file: give the whole folder that tain distil wrote")
        if (version := content.pop("format", None)) != FORMAT:
            raise UserError(
                f"projection file {str(path)!r} has version {version}, this tain reads {FORMAT}:"
                " its features would be others than those in training; use the tain that wrote it, or distil again"
            )
        if unknown := sorted(set(content) - {entry.name for entry in fields(cls)}):
            raise UserError(f"projection file {str(path)!r} has unknown settings {', '.join(unknown)}: distil the student again")
        wrong = sorted(entry.name for entry in fields(cls) if type(content.get(entry.name)) is not type(entry.default))
        if wrong:
            raise UserError(f"projection file {str(path)!r} lacks {', '.join(wrong)}, or says it in another type: distil the student again")
        return cls(**content)


@dataclass(frozen=True)
class ProjectedTexts:
    """Texts of one batch as rows of features, each different token's row stored once.

    Attributes:
        rows: Features of the batch's different tokens, in units of 1/127. Row 0 is padding, all zero.
        ids: Which row each token has; 0 behind a text's end.
        lengths: Tokens of each text, those of its ends included.
        truncated: Texts that lost tokens to the limit.
    """

    rows: Int8[np.ndarray, "different features"]
    ids: Int64[np.ndarray, "texts tokens"]
    lengths: Int64[np.ndarray, " texts"]
    truncated: int

    def dense(self) -> Int8[np.ndarray, "texts tokens features"]:
        """The features token by token, zero rows as padding."""
        return self.rows[self.ids]


class Projection:
    """Turns texts into features, and remembers the tokens it has met.

    Args:
        config: How.
        cached_tokens: Different tokens, and different spellings of them in texts, remembered; each token takes ``config.features`` bytes.
            Beyond that many the half that is used most is kept. Default: as many as 64 MB hold.
    """

    def __init__(self, config: ProjectionConfig, *, cached_tokens: int | None = None) -> None:
        self.config = config
        self.cached_tokens = cached_tokens or max(1024, _CACHE_BYTES // config.features)
        self._rows_of_chunk: dict[str, tuple[int, ...]] = {}
        self._row_of_token: dict[str, int] = {}
        self._rows = np.empty((256, config.features), dtype=np.int8)
        self._uses = np.zeros(256, dtype=np.int64)
        self._used = 0
        self._learn([BEGIN, END])

    def __call__(self, texts: Sequence[str], *, distortion: float = 0.0, rng: np.random.Generator | None = None) -> ProjectedTexts:
        """Compute the features of each text's tokens.

        Args:
            texts: The texts.
            distortion: Chance of a token to be misspelt; see ``distort``. For training.
            rng: Draws the misspellings; needed where ``distortion`` is above 0.
        """
        if max(self._used, len(self._rows_of_chunk)) > self.cached_tokens:
            self._forget()
        if distortion > 0:
            assert rng is not None, "distortion draws from rng"
            spelt = [distort(self.tokens(text)[: self.config.max_tokens + 1], chance=distortion, rng=rng) for text in texts]
            rows, truncated = self._rows_of_tokens(spelt)
        else:
            rows, truncated = self._rows_of_texts(texts)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        known = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
        different, within, counts = np.unique(known, return_inverse=True, return_counts=True)
        self._uses[different] += counts
        ids = np.zeros((len(rows), int(lengths.max(initial=0))), dtype=np.int64)
        ids[np.arange(ids.shape[1]) < lengths[:, None]] = within + 1
        features = np.zeros((len(different) + 1, self.config.features), dtype=np.int8)
        np.take(self._rows, different, axis=0, out=features[1:])
        return ProjectedTexts(features, ids, lengths, truncated)

    def tokens(self, text: str) -> list[str]:
        """Split a text as the projection does, without the tokens of its ends and without the limit."""
        if self.config.split == "code-point":
            return [self._spelt(point) for point in text]
        return [self._spelt(piece) for chunk in text.split(" ") for piece in self._pieces(chunk)]

    def count(self, text: str) -> int:
        """How many tokens a text has that are read, those of its ends included; quick, and off by a few at most."""
        if self.config.split == "code-point":
            tokens = len(text)
        else:
            tokens = sum(map(bool, (text.translate(_SEPARATED) if self.config.separate else text).split(" ")))
        return min(tokens, self.config.max_tokens) + self.config.begin + self.config.end

    def _pieces(self, chunk: str) -> list[str]:
        if self.config.split == "code-point":
            return [chunk]
        pieces = chunk.translate(_SEPARATED).split(" ") if self.config.separate else [chunk]
        return [piece for piece in pieces if piece]

    def _spelt(self, piece: str) -> str:
        if self.config.lowercase:
            piece = lower_by_code_point(piece)
        if self.config.alphabet:
            piece = "".join(point for point in piece if point in self.config.alphabet)
        return piece

    def _rows_of_texts(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        # what stands between blanks is looked up as it is: splitting, lower-casing and hashing are paid for once
        chunks, most = [self._chunks(text) for text in texts], self.config.max_tokens + 1
        known = self._rows_of_chunk
        new = {
            chunk: [self._spelt(piece) for piece in self._pieces(chunk)[:most]] for chunk in set(chain.from_iterable(chunks)) - known.keys()
        }
        self._learn(chain.from_iterable(new.values()))
        for chunk, pieces in new.items():
            known[chunk] = tuple(self._row_of_token[piece] for piece in pieces)
        return self._ended([list(chain.from_iterable(map(known.__getitem__, line))) for line in chunks])

    def _chunks(self, text: str) -> list[str]:
        """What stands between blanks; of a long text no more than can be read: each has a token at least, and one too many tells of a cut."""
        most = self.config.max_tokens + 1
        if self.config.split == "code-point":
            return list(text[:most])
        chunks = text.split(" ")
        if len(chunks) <= most:
            return chunks
        blanks = _WHITE if self.config.separate else ""
        return list(islice((chunk for chunk in chunks if chunk.strip(blanks)), most))

    def _rows_of_tokens(self, texts: list[list[str]]) -> tuple[list[list[int]], int]:
        self._learn(chain.from_iterable(texts))
        return self._ended([[self._row_of_token[token] for token in tokens] for tokens in texts])

    def _ended(self, rows: list[list[int]]) -> tuple[list[list[int]], int]:
        limit = self.config.max_tokens
        before = [self._row_of_token[BEGIN]] if self.config.begin else []
        behind = [self._row_of_token[END]] if self.config.end else []
        truncated = sum(len(line) > limit for line in rows)
        return [[*before, *line[:limit], *behind] for line in rows] if truncated or before or behind else rows, truncated

    def _learn(self, tokens: Iterable[str]) -> None:
        """Compute the features of the tokens that are new."""
        new = [token for token in dict.fromkeys(tokens) if token not in self._row_of_token]
        needed = self._used + len(new)
        if needed > len(self._rows):
            grown = np.empty((max(needed, 2 * len(self._rows)), self.config.features), dtype=np.int8)
            grown[: self._used] = self._rows[: self._used]
            self._rows = grown
            self._uses = np.concatenate([self._uses, np.zeros(len(grown) - len(self._uses), dtype=np.int64)])
        for start in range(0, len(new), _TOKENS_AT_ONCE):
            part = new[start : start + _TOKENS_AT_ONCE]
            self._rows[self._used : self._used + len(part)] = token_features(part, self.config)
            self._row_of_token.update(zip(part, range(self._used, self._used + len(part)), strict=True))
            self._used += len(part)

    def _forget(self) -> None:
        """Keep the tokens that are used most, half as many as fit, and the spellings that need no other."""
        most = max(2, self.cached_tokens // 2)
        self._uses[[self._row_of_token[BEGIN], self._row_of_token[END]]] = np.iinfo(np.int64).max // 2
        kept = np.sort(np.argsort(-self._uses[: self._used], kind="stable")[:most])
        row_of = dict(zip(kept.tolist(), range(len(kept)), strict=True))
        self._row_of_token = {token: row_of[row] for token, row in self._row_of_token.items() if row in row_of}
        chunks = {chunk: rows for chunk, rows in self._rows_of_chunk.items() if all(row in row_of for row in rows)}
        chunks = {} if len(chunks) > most else chunks
        self._rows_of_chunk = {chunk: tuple(row_of[row] for row in rows) for chunk, rows in chunks.items()}
        self._rows[: len(kept)] = self._rows[kept]
        self._uses[: len(kept)] = self._uses[kept] // 2  # what was used long ago counts for less
        self._uses[len(kept) :] = 0
        self._used = len(kept)


def token_features(tokens: Sequence[str], config: ProjectionConfig) -> Int8[np.ndarray, "tokens features"]:
    """Compute the features of tokens as they are spelt, in units of 1/127: the token's own, then those of its n-grams."""
    if not tokens:
        return np.empty((0, config.features), dtype=np.int8)
    own = config.features - config.ngram_features
    spelt = [token.encode("utf-8", "surrogatepass") for token in tokens]
    whole = ternary(token_codes(spelt, codes=_codes_for(own)), features=own) * np.int8(UNIT)
    if not config.ngram_features:
        return whole
    ngrams = [_ngrams(token, config.shortest_ngram, config.longest_ngram) for token in tokens]
    return np.concatenate([whole, _summed_features(ngrams, config.ngram_features)], axis=1)


def _summed_features(ngrams: list[list[str]], features: int) -> Int8[np.ndarray, "tokens features"]:
    """Sum the n-grams' features over the square root of their number, so that long and short tokens spread alike.

    A sum, unlike a hash of the set, keeps tokens with common n-grams alike, and a matrix behind it gives each n-gram a vector of
    its own, as subword models have. What lies beyond 1 is cut.
    """
    rows = {ngram: row for row, ngram in enumerate(dict.fromkeys(chain.from_iterable(ngrams)))}
    codes = token_codes([ngram.encode("utf-8", "surrogatepass") for ngram in rows], codes=_codes_for(features))
    table = ternary(codes, features=features)
    counts = np.array([len(mine) for mine in ngrams])
    sums = np.empty((len(ngrams), features), dtype=np.int32)
    for row, mine in enumerate(ngrams):  # ten times faster than one np.add.reduceat over all
        table[[rows[ngram] for ngram in mine]].sum(axis=0, dtype=np.int32, out=sums[row])
    # one product, one root and one division in float64 round alike on every processor
    return np.clip(np.rint(UNIT * sums / np.sqrt(counts)[:, None]), -UNIT, UNIT).astype(np.int8)


def _ngrams(token: str, shortest: int, longest: int) -> list[str]:
    marked = f"^{token[:_NGRAM_CHARACTERS]}{'$' * (len(token) <= _NGRAM_CHARACTERS)}"
    found = [marked[start : start + size] for size in range(shortest, longest + 1) for start in range(len(marked) - size + 1)]
    return found or [marked]


def _codes_for(features: int) -> int:
    return -(-features // _FEATURES_PER_CODE)


def token_codes(tokens: Sequence[bytes], *, codes: int) -> UInt64[np.ndarray, "tokens codes"]:
    """Hash tokens to 64-bit codes, as many as asked for.

    The released operation's hash (a relative of MurmurHash2 with 128 bits of state), with unsigned bytes: it reads signed ones
    where the compiler's ``char`` is signed, which leaves six different fingerprints to all 20,992 ideographs. ASCII is alike.

    Args:
        tokens: UTF-8 spellings; the empty token is hashed as ``<null>``.
        codes: 64-bit codes a token; fewer are the first of more.
    """
    tokens = [token or _NULL.encode() for token in tokens]
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    starts = np.cumsum(lengths) - lengths
    text = np.frombuffer(b"".join(tokens) + bytes(8), dtype=np.uint8)
    low, high = _fingerprints(text, starts, lengths)
    found = [low, high]
    while len(found) < codes:
        turned = _mixed(low) * _A
        crossed = high ^ turned
        low, high = _mixed(crossed * _B) * _B, _mixed(turned)
        found += [low, high]
    return np.stack(found[:codes], axis=1) if codes else np.empty((len(tokens), 0), dtype=np.uint64)


def _fingerprints(
    text: np.ndarray, starts: Int64[np.ndarray, " tokens"], lengths: Int64[np.ndarray, " tokens"]
) -> tuple[UInt64[np.ndarray, " tokens"], UInt64[np.ndarray, " tokens"]]:
    low, high = lengths.astype(np.uint64) * _A, np.zeros(len(lengths), dtype=np.uint64)
    whole = lengths // 8
    block, longer = 0, np.flatnonzero(whole)
    while len(longer):
        data = _eight_bytes(text, starts[longer] + 8 * block)
        low[longer] = (low[longer] ^ _mixed(data * _A) * _A) * _A
        high[longer] ^= low[longer]
        block += 1
        longer = longer[whole[longer] > block]
    tails = np.flatnonzero(lengths % 8)
    data = _eight_bytes(text, starts[tails] + 8 * whole[tails]) & _TAIL_MASKS[lengths[tails] % 8]
    low[tails] = (low[tails] ^ data) * _A
    high[tails] ^= low[tails]
    low = _mixed(low) * _A
    high ^= low
    return _mixed(low), _mixed(high * _B) * _B


def _eight_bytes(text: np.ndarray, starts: Int64[np.ndarray, " tokens"]) -> UInt64[np.ndarray, " tokens"]:
    """Read eight bytes from each place, the lowest first whatever this machine does."""
    return text[starts[:, None] + np.arange(8)].view("<u8")[:, 0].astype(np.uint64)


def _mixed(value: np.ndarray) -> np.ndarray:
    return value ^ (value >> _HALF)


def ternary(codes: UInt64[np.ndarray, "tokens codes"], *, features: int) -> Int8[np.ndarray, "tokens features"]:
    """Read codes two bits at a time, low bits first: 00 and 11 are 0, 01 is +1, 10 is -1. Fewer features are the first of more."""
    pieces = np.ascontiguousarray(codes.astype("<u8")).view("<u2").astype(np.intp)  # (tokens, 4 * codes)
    return _eight_features()[pieces].view(np.int8)[:, :features]


@cache
def _eight_features() -> np.ndarray:
    """The eight features that sixteen bits spell, side by side in one 64-bit number."""
    pairs = np.arange(1 << 16)[:, None] >> np.arange(0, 16, 2) & 3
    return np.ascontiguousarray(np.array([0, 1, -1, 0], dtype=np.int8)[pairs]).view(np.uint64)[:, 0]


def distort(tokens: list[str], *, chance: float, rng: np.random.Generator) -> list[str]:
    """Misspell some tokens, so that a student learns to live with typing errors.

    The released operation's three ways, equally likely: a character is lost; a character moves elsewhere, in tokens longer
    than two; the character that was lost last in this text turns up.

    Args:
        tokens: One text's tokens.
        chance: Chance of each token to be touched, 0 to 1. PRADO's example takes 0.25.
        rng: Draws tokens, ways and places.
    """
    spelt, lost = list(tokens), ""
    for place in np.flatnonzero(rng.random(len(tokens)) < chance):
        token, way = spelt[place], int(rng.integers(3))
        if way == 0 and token:
            at = int(rng.integers(len(token)))
            lost, token = token[at], token[:at] + token[at + 1 :]
        elif way == 1 and len(token) > 2:
            at = int(rng.integers(len(token)))
            moved, rest = token[at], token[:at] + token[at + 1 :]
            to = int(rng.integers(len(rest) + 1))
            token = rest[:to] + moved + rest[to:]
        elif way == 2:
            to = int(rng.integers(len(token) + 1))
            token = token[:to] + lost + token[to:]
        spelt[place] = token
    return spelt


def lower_by_code_point(text: str) -> str:
    """Lower-case each code point by itself into one code point: no final sigma, and no dot behind a Turkish i.

    What a letter becomes must not depend on its neighbours, or a token cut elsewhere would get other features.
    """
    return text.lower() if text.isascii() else "".join(point.lower()[0] for point in text)
