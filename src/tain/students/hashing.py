"""Hashing of student features: bytes to 64-bit codes, and codes to -1, 0 and +1 (Kaliamoorthi et al. 2021 and 2019)."""

from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from jaxtyping import Int8, Int64, UInt8, UInt64

FEATURES_PER_CODE = 32

_NULL = b"<null>"

# constants and steps of the hash: the papers only say "fingerprint"; these follow the released code
_A = np.uint64(0xC6A4A7935BD1E995)
_B = np.uint64(0x9E3779B97F4A7835)
_HALF = np.uint64(47)
_TAIL_MASKS = np.array([(1 << 8 * size) - 1 for size in range(8)], dtype=np.uint64)
PADDING = 8  # bytes that must follow the hashed text
_SUMMED_AT_ONCE = 127  # numbers of 0 to 2 with a sum that fits a byte


def codes_for(features: int) -> int:
    """Number of 64-bit codes needed for the given number of features."""
    return -(-features // FEATURES_PER_CODE)


def token_codes(tokens: Sequence[bytes], *, codes: int) -> UInt64[np.ndarray, "tokens codes"]:
    """Hash tokens to the requested number of 64-bit codes.

    The released operation's hash (similar to MurmurHash2 with 128 bits of state), but with unsigned bytes: with a compiler where ``char``
    is signed, the original gives only six different fingerprints to all 20,992 ideographs. ASCII is unaffected.

    Args:
        tokens: UTF-8 spellings; the empty token is hashed as ``<null>``.
        codes: 64-bit codes per token; fewer codes are a prefix of more.
    """
    low, high = token_fingerprints(tokens)
    return codes_of(low, high, codes=codes)


def token_fingerprints(tokens: Sequence[bytes]) -> tuple[UInt64[np.ndarray, " tokens"], UInt64[np.ndarray, " tokens"]]:
    """Hash whole tokens to 128 bits each (the first two codes); the empty token as ``<null>``."""
    tokens = [token or _NULL for token in tokens]
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    return fingerprints(hashable(b"".join(tokens)), np.cumsum(lengths) - lengths, lengths)


def hashable(text: bytes) -> UInt8[np.ndarray, " bytes"]:
    """Bytes of a text in the form that ``fingerprints`` needs."""
    return np.frombuffer(text + bytes(PADDING), dtype=np.uint8)


def fingerprints(
    text: UInt8[np.ndarray, " bytes"], starts: Int64[np.ndarray, " pieces"], lengths: Int64[np.ndarray, " pieces"]
) -> tuple[UInt64[np.ndarray, " pieces"], UInt64[np.ndarray, " pieces"]]:
    """Hash pieces of a text to 128 bits each (the first two codes).

    Args:
        text: Result of ``hashable``.
        starts: First byte of each piece; pieces may overlap.
        lengths: Bytes of each piece, 1 or more.
    """
    # eight bytes from each position, little-endian on every machine
    eight = np.ndarray((len(text) - PADDING + 1,), "<u8", buffer=text, strides=(1,))
    low, high = lengths.astype(np.uint64) * _A, np.zeros(len(lengths), dtype=np.uint64)
    whole = lengths // 8
    block, longer = 0, np.flatnonzero(whole)
    while len(longer):
        data = eight[starts[longer] + 8 * block].astype(np.uint64)
        low[longer] = (low[longer] ^ _mixed(data * _A) * _A) * _A
        high[longer] ^= low[longer]
        block += 1
        longer = longer[whole[longer] > block]
    tails = lengths % 8
    data = eight[starts + 8 * whole].astype(np.uint64) & _TAIL_MASKS[tails]
    has_tail = tails > 0
    low = np.where(has_tail, (low ^ data) * _A, low)
    high = np.where(has_tail, high ^ low, high)
    low = _mixed(low) * _A
    high ^= low
    return _mixed(low), _mixed(high * _B) * _B


def codes_of(low: UInt64[np.ndarray, " pieces"], high: UInt64[np.ndarray, " pieces"], *, codes: int) -> UInt64[np.ndarray, "pieces codes"]:
    """Expand fingerprints to the requested number of codes.

    Each pair of codes is computed from the previous pair, without allocations, so that small inputs cost little.
    """
    drawn = np.empty((max(1, -(-codes // 2)), 2, len(low)), dtype=np.uint64)
    drawn[0, 0], drawn[0, 1] = low, high
    shifted = np.empty_like(drawn[0])
    for (last_low, last_high), both in pairwise(drawn):
        new_low, turned = both
        np.right_shift(last_low, _HALF, out=turned)
        np.bitwise_xor(turned, last_low, out=turned)
        np.multiply(turned, _A, out=turned)
        np.bitwise_xor(last_high, turned, out=new_low)
        np.multiply(new_low, _B, out=new_low)
        np.right_shift(both, _HALF, out=shifted)
        np.bitwise_xor(both, shifted, out=both)
        np.multiply(new_low, _B, out=new_low)
    return drawn.reshape(-1, len(low))[:codes].T


def _mixed(value: np.ndarray) -> np.ndarray:
    return value ^ (value >> _HALF)


def ternary(codes: UInt64[np.ndarray, "tokens codes"], *, features: int) -> Int8[np.ndarray, "tokens features"]:
    """Decode two bits at a time, low bits first: 00 and 11 are 0, 01 is +1, 10 is -1. Fewer features are a prefix of more."""
    return _looked_up(codes, _eight_features(above=0)).view(np.int8)[:, :features]


def scaled_sums(
    codes: UInt64[np.ndarray, "pieces codes"],
    rows: Int64[np.ndarray, " uses"],
    counts: Int64[np.ndarray, " tokens"],
    *,
    features: int,
    unit: int,
) -> Int8[np.ndarray, "tokens features"]:
    """Sum the features of each token's pieces, divided by the square root of their number and clipped at 1.

    Args:
        codes: Codes of the distinct pieces.
        rows: Pieces of the tokens as rows of ``codes``, token by token.
        counts: Pieces per token, 1 or more.
        features: Features per token.
        unit: Stored value of a feature of 1, at most 127.
    """
    # features plus 1 are 0 to 2, so eight of them fit in a 64-bit number and are added at once, up to 127 times
    table = _looked_up(codes, _eight_features(above=1))
    found = np.empty((len(counts), features), dtype=np.int8)
    end = 0
    for token, count in enumerate(counts.tolist()):
        start, end = end, end + count
        pieces = table[rows[start:end]]
        if count <= _SUMMED_AT_ONCE:
            above = np.add.reduce(pieces, axis=0).tobytes().translate(_scaled_bytes(count, unit))
            found[token] = np.frombuffer(above, dtype=np.int8)[:features]
        else:
            above = np.add.reduce(pieces.view(np.uint8), axis=0, dtype=np.int64)[:features]
            found[token] = _scaled(above - count, count, unit)
    return found


@cache
def _scaled_bytes(count: int, unit: int) -> bytes:
    """Lookup table from sums of that many pieces (offset by their number) to stored values."""
    return _scaled(np.arange(256) - count, count, unit).tobytes()


def _scaled(sums: Int64[np.ndarray, " sums"], count: int, unit: int) -> Int8[np.ndarray, " sums"]:
    # one product, one root and one division in float64 round identically on every processor
    return np.clip(np.rint(unit * sums / np.sqrt(count)), -unit, unit).astype(np.int8)


def _looked_up(codes: np.ndarray, eight: np.ndarray) -> np.ndarray:
    return eight.take(np.ascontiguousarray(codes.astype("<u8", copy=False)).view("<u2"))


@cache
def _eight_features(*, above: int) -> np.ndarray:
    """The eight features encoded by sixteen bits, each plus ``above``, packed in one 64-bit number."""
    pairs = np.arange(1 << 16)[:, None] >> np.arange(0, 16, 2) & 3
    return np.ascontiguousarray((np.array([0, 1, -1, 0], dtype=np.int8) + np.int8(above))[pairs]).view(np.uint64)[:, 0]
