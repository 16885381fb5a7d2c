"""The hash behind a student's features: bytes to 64-bit codes, and codes to -1, 0 and +1 (Kaliamoorthi et al. 2021 and 2019)."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Int8, Int64, UInt8, UInt64

FEATURES_PER_CODE = 32

_NULL = b"<null>"

# the constants and steps of the hash: papers that describe it only say "fingerprint", the released code fixes it
_A = np.uint64(0xC6A4A7935BD1E995)
_B = np.uint64(0x9E3779B97F4A7835)
_HALF = np.uint64(47)
_TAIL_MASKS = np.array([(1 << 8 * size) - 1 for size in range(8)], dtype=np.uint64)
PADDING = 8  # bytes that must follow what is hashed


def codes_for(features: int) -> int:
    """How many 64-bit codes spell that many features."""
    return -(-features // FEATURES_PER_CODE)


def token_codes(tokens: Sequence[bytes], *, codes: int) -> UInt64[np.ndarray, "tokens codes"]:
    """Hash tokens to 64-bit codes, as many as asked for.

    The released operation's hash (a relative of MurmurHash2 with 128 bits of state), with unsigned bytes: it reads signed ones
    where the compiler's ``char`` is signed, which leaves six different fingerprints to all 20,992 ideographs. ASCII is alike.

    Args:
        tokens: UTF-8 spellings; the empty token is hashed as ``<null>``.
        codes: 64-bit codes a token; fewer are the first of more.
    """
    tokens = [token or _NULL for token in tokens]
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    low, high = fingerprints(hashable(b"".join(tokens)), np.cumsum(lengths) - lengths, lengths)
    return codes_of(low, high, codes=codes)


def hashable(text: bytes) -> UInt8[np.ndarray, " bytes"]:
    """A text's bytes as ``fingerprints`` reads them."""
    return np.frombuffer(text + bytes(PADDING), dtype=np.uint8)


def fingerprints(
    text: UInt8[np.ndarray, " bytes"], starts: Int64[np.ndarray, " pieces"], lengths: Int64[np.ndarray, " pieces"]
) -> tuple[UInt64[np.ndarray, " pieces"], UInt64[np.ndarray, " pieces"]]:
    """Hash pieces of a text to 128 bits each, the first two codes.

    Args:
        text: Of ``hashable``.
        starts: Each piece's first byte; pieces may overlap.
        lengths: Its bytes, 1 or more.
    """
    # eight bytes from each place, the lowest first whatever this machine does
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
    """Draw out fingerprints to as many codes as asked for."""
    found = np.empty((len(low), codes + codes % 2), dtype=np.uint64)
    for place in range(0, codes, 2):
        if place:
            turned = _mixed(low) * _A
            low, high = _mixed((high ^ turned) * _B) * _B, _mixed(turned)
        found[:, place], found[:, place + 1] = low, high
    return found[:, :codes]


def _mixed(value: np.ndarray) -> np.ndarray:
    return value ^ (value >> _HALF)


def ternary(codes: UInt64[np.ndarray, "tokens codes"], *, features: int) -> Int8[np.ndarray, "tokens features"]:
    """Read codes two bits at a time, low bits first: 00 and 11 are 0, 01 is +1, 10 is -1. Fewer features are the first of more."""
    return _looked_up(codes, _eight_features(above=0)).view(np.int8)[:, :features]


def ternary_sums(
    codes: UInt64[np.ndarray, "pieces codes"],
    rows: Int64[np.ndarray, " uses"],
    counts: Int64[np.ndarray, " tokens"],
    *,
    features: int,
) -> np.ndarray:
    """Sum the features of each token's pieces, int32 (tokens, features).

    Args:
        codes: Of the different pieces.
        rows: The tokens' pieces as rows of ``codes``, token after token.
        counts: How many pieces each token has, 1 or more.
        features: A token's.
    """
    # a feature plus 1 is 0 to 2, so eight of them lie in a 64-bit number and are added at once, up to 127 times
    table = _looked_up(codes, _eight_features(above=1))
    order = np.argsort(-counts, kind="stable")  # tokens with more pieces first: what is left is always a beginning
    first = (np.cumsum(counts) - counts)[order]
    left = np.searchsorted(-counts[order], -np.arange(int(counts.max(initial=0))), side="left")
    sums = np.zeros((len(counts), table.shape[1] * 8), dtype=np.int32)
    for start in range(0, len(left), 127):
        part = np.zeros((left[start], table.shape[1]), dtype=np.uint64)
        for place in range(start, min(start + 127, len(left))):
            part[: left[place]] += table[rows[first[: left[place]] + place]]
        sums[: left[start]] += part.view(np.uint8)
    sums -= counts[order, None].astype(np.int32)
    found = np.empty((len(counts), features), dtype=np.int32)
    found[order] = sums[:, :features]
    return found


def _looked_up(codes: np.ndarray, eight: np.ndarray) -> np.ndarray:
    return eight.take(np.ascontiguousarray(codes.astype("<u8", copy=False)).view("<u2"))


@cache
def _eight_features(*, above: int) -> np.ndarray:
    """The eight features that sixteen bits spell, each plus ``above``, side by side in one 64-bit number."""
    pairs = np.arange(1 << 16)[:, None] >> np.arange(0, 16, 2) & 3
    return np.ascontiguousarray((np.array([0, 1, -1, 0], dtype=np.int8) + np.int8(above))[pairs]).view(np.uint64)[:, 0]
