"""Projection of tokens to features by hashing, so that a student needs no vocabulary.

Kaliamoorthi et al. 2021 (pQRNN) and 2019 (PRADO): a token's 128-bit fingerprint is read two bits at a time, each pair
giving -1, 0 or +1. Uses only NumPy, since students run without torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int8, Int64, UInt64

from tain.students.hashing import (
    PADDING,
    codes_for,
    codes_of,
    fingerprints,
    hashable,
    scaled_sums,
    ternary,
    token_codes,
    token_fingerprints,
)
from tain.students.projection_config import ProjectionConfig
from tain.students.token_cache import TokenCache

UNIT = 127  # stored byte of a feature of 1.0

_BYTES_AT_ONCE = 16 * 2**20  # bytes of n-gram features computed at a time
_NGRAM_CHARACTERS = 256  # n-grams use the beginning of a token, since longer strings are not words


@dataclass(frozen=True)
class ProjectedTexts:
    """Texts of a batch as rows of features, with one row per distinct token.

    Attributes:
        rows: Features of the distinct tokens, in units of 1/127. Row 0 is padding, all zero.
        ids: Row of each token; 0 after a text's end.
        lengths: Tokens per text, including begin and end tokens.
        truncated: Number of texts truncated at the limit.
    """

    rows: Int8[np.ndarray, "different features"]
    ids: Int64[np.ndarray, "texts tokens"]
    lengths: Int64[np.ndarray, " texts"]
    truncated: int

    def dense(self) -> Int8[np.ndarray, "texts tokens features"]:
        """Features per token, with zero rows as padding."""
        return self.rows[self.ids]


class Projection:
    """Maps texts to features, with a cache of tokens.

    Args:
        config: Tokenization and hashing settings.
        cached_tokens: Number of distinct tokens, and of distinct spellings in texts, to keep; each token takes ``config.features`` bytes.
            Beyond it the more frequently used half is kept. Default: what fits in 64 MB.
    """

    def __init__(self, config: ProjectionConfig, *, cached_tokens: int | None = None) -> None:
        self.config = config
        self.cache = TokenCache(config, width=config.features, dtype=np.int8, cached_tokens=cached_tokens)

    def __call__(self, texts: Sequence[str], *, distortion: float = 0.0, rng: np.random.Generator | None = None) -> ProjectedTexts:
        """Compute the features of each text's tokens.

        Args:
            texts: The texts.
            distortion: Probability to misspell a token; see ``distort``. For training.
            rng: Random generator of the misspellings; required if ``distortion`` is above 0.
        """
        if distortion > 0:
            assert rng is not None, "distortion draws from rng"
            most = self.config.max_tokens + 1
            read = self.cache.read_tokens([distort(self.cache.tokens(text, most=most), chance=distortion, rng=rng) for text in texts])
        else:
            read = self.cache.read(texts)
        if self.cache.new:
            self.cache.keep(token_features(self.cache.new, self.config))
        features = np.zeros((len(read.rows) + 1, self.config.features), dtype=np.int8)
        np.take(self.cache.rows, read.rows, axis=0, out=features[1:])
        return ProjectedTexts(features, read.ids, read.lengths, read.truncated)

    def tokens(self, text: str) -> list[str]:
        """Split a text as the projection does, without begin and end tokens and without limit."""
        return self.cache.tokens(text)

    def count(self, text: str) -> int:
        """Approximate number of tokens read of a text, including begin and end tokens; fast, and off by at most a few."""
        return self.cache.count(text)


def token_features(tokens: Sequence[str], config: ProjectionConfig) -> Int8[np.ndarray, "tokens features"]:
    """Compute the features of tokens, in units of 1/127: those of the whole token, then those of its n-grams."""
    found = np.empty((len(tokens), config.features), dtype=np.int8)
    own, at_once = config.features - config.ngram_features, max(1, _BYTES_AT_ONCE // (16 * config.features))
    for start in range(0, len(tokens), at_once):
        part = slice(start, start + at_once)
        codes, ngrams = _hashed(tokens[part], config)
        np.multiply(ternary(codes, features=own), np.int8(UNIT), out=found[part, :own])
        if ngrams is not None:
            found[part, own:] = scaled_sums(*ngrams, features=config.ngram_features, unit=UNIT)
    return found


# codes of the distinct n-grams; the tokens' n-grams as rows of these; n-grams per token
_NGrams = tuple[UInt64[np.ndarray, "different others"], Int64[np.ndarray, " ngrams"], Int64[np.ndarray, " tokens"]]


def _hashed(tokens: Sequence[str], config: ProjectionConfig) -> tuple[UInt64[np.ndarray, "tokens codes"], _NGrams | None]:
    """Codes of whole tokens, and of their n-grams.

    Sums of n-grams, unlike a hash of the set, keep tokens with common n-grams similar, and a following matrix gives each n-gram a
    vector, as in subword models.
    """
    of_tokens, of_ngrams = codes_for(config.features - config.ngram_features), codes_for(config.ngram_features)
    spelt = [token.encode("utf-8", "surrogatepass") for token in tokens]
    if not of_ngrams:
        return token_codes(spelt, codes=of_tokens), None
    marked = [f"^{token}$" if len(token) <= _NGRAM_CHARACTERS else f"^{token[:_NGRAM_CHARACTERS]}" for token in tokens]
    text = hashable("".join(marked).encode("utf-8", "surrogatepass"))
    starts, ends, counts = _ngrams(text, np.fromiter(map(len, marked), np.int64, len(marked)), config)
    low, high = fingerprints(text, starts, ends - starts)
    _, first, rows = np.unique(low, return_index=True, return_inverse=True)
    if (high[first][rows] != high).any():  # two n-grams with half a fingerprint in common
        first = rows = np.arange(len(low))
    low, high = low[first], high[first]
    if of_tokens != of_ngrams:
        return token_codes(spelt, codes=of_tokens), (codes_of(low, high, codes=of_ngrams), rows, counts)
    # all at once: for a few tokens the overhead per step dominates
    own_low, own_high = token_fingerprints(spelt)
    codes = codes_of(np.concatenate([own_low, low]), np.concatenate([own_high, high]), codes=of_tokens)
    return codes[: len(tokens)], (codes[len(tokens) :], rows, counts)


def _ngrams(text: np.ndarray, lengths: np.ndarray, config: ProjectionConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Byte offsets of the n-grams of concatenated tokens, and their number per token.

    A token too short for n-grams is a single one.
    """
    characters = np.flatnonzero(np.concatenate([text[:-PADDING] & 0xC0 != 0x80, [True]]))  # starts of the characters, and the end
    ends = np.repeat(np.cumsum(lengths), lengths)  # end of each character's token
    sizes = np.arange(config.shortest_ngram, config.longest_ngram + 1)
    until = np.arange(len(ends))[:, None] + sizes
    fits = until <= ends[:, None]
    is_short = lengths < config.shortest_ngram
    begins = (np.cumsum(lengths) - lengths)[is_short]
    fits[begins, 0], until[begins, 0] = True, np.cumsum(lengths)[is_short]
    per_character = fits.sum(axis=1)
    counts = np.add.reduceat(per_character, np.cumsum(lengths) - lengths)
    return np.repeat(characters[:-1], per_character), characters[until[fits]], counts


def distort(tokens: list[str], *, chance: float, rng: np.random.Generator) -> list[str]:
    """Randomly misspell some tokens, so that a student becomes robust to typos.

    The released operation's three ways, equally likely: delete a character; move a character, in tokens longer than two; insert the
    character last deleted in this text.

    Args:
        tokens: Tokens of one text.
        chance: Probability to change each token, 0 to 1. PRADO's example uses 0.25.
        rng: Random generator of tokens, ways and positions.
    """
    spelt, lost = list(tokens), ""
    for index in np.flatnonzero(rng.random(len(tokens)) < chance):
        token, way = spelt[index], int(rng.integers(3))
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
        spelt[index] = token
    return spelt
