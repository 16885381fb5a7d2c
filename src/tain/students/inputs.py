"""Input pipelines of students without torch: features of hashed tokens, or ids of a tokenizer."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tain.foundation.errors import UserError
from tain.students.projection import token_features
from tain.students.projection_config import ProjectionConfig
from tain.students.token_cache import BEGIN, END, TokenCache
from tain.text.cleaning import refuse_half_characters
from tain.text.tokenizer_limits import refuse_wild_tokenizer


@dataclass(frozen=True)
class Inputs:
    """Graph inputs of a batch.

    Attributes:
        arrays: Inputs of the graph by name.
        tokens: Tokens per text, excluding begin and end tokens.
        truncated: Number of texts truncated at the limit.
    """

    arrays: dict[str, np.ndarray]
    tokens: np.ndarray
    truncated: int


class HashedReader:
    """Reads texts as hashed tokens, and caches the graph's codes of known tokens.

    Args:
        config: Tokenization and hashing settings.
        bottleneck: Bytes of a token's code.
    """

    def __init__(self, config: ProjectionConfig, *, bottleneck: int) -> None:
        self.config = config
        self.max_tokens = config.max_tokens
        self.is_by_code_point = config.split == "code-point"
        self.before, self.behind = [BEGIN] * config.begin, [END] * config.end
        self._cache = TokenCache(config, width=bottleneck, dtype=np.uint8)

    def tokens(self, text: str) -> list[str]:
        return self._cache.tokens(text)

    def rows_of(self, tokens: list[str]) -> np.ndarray:
        """Features of tokens as graph input bytes, uint8 (tokens, features)."""
        return token_features(tokens, self.config).view(np.uint8) ^ np.uint8(0x80)  # a signed byte plus 128

    def estimate(self, text: str) -> int:
        return max(1, self._cache.count(text))

    def count(self, texts: list[str]) -> list[int]:
        ends = len(self.before) + len(self.behind)
        return [len(self._cache.tokens(text, most=self.max_tokens)) + ends for text in texts]

    def are_cut(self, texts: list[str]) -> list[bool]:
        if self.max_tokens is None:
            return [False] * len(texts)
        return [len(self._cache.tokens(text, most=self.max_tokens + 1)) > self.max_tokens for text in texts]

    def __call__(self, texts: list[str]) -> Inputs:
        read, kept = self._cache.read(texts), self._cache.kept
        is_new = read.rows >= kept
        known = read.rows[~is_new]
        index = np.empty(1 + len(read.rows), dtype=np.int64)
        index[0] = 0
        index[1:][~is_new] = np.arange(1, 1 + len(known))
        index[1:][is_new] = 1 + len(known) + read.rows[is_new] - kept
        codes = np.zeros((1 + len(known), self._cache.rows.shape[1]), dtype=np.uint8)
        np.take(self._cache.rows, known, axis=0, out=codes[1:])
        arrays = {"rows": self.rows_of(self._cache.new), "known": codes, "ids": index[read.ids]}
        return Inputs(arrays, read.lengths - len(self.before) - len(self.behind), read.truncated)

    def keep(self, outputs: dict[str, np.ndarray]) -> None:
        """Store the codes of new tokens from the graph's outputs."""
        self._cache.keep(outputs.pop("codes"))


class TokenReader:
    """Reads texts as ids of a tokenizer plus one; 0 is padding."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        if not path.is_file():
            raise UserError(f"tokenizer file {str(path)!r} does not exist: give the whole folder that tain distil wrote")
        self.max_tokens = None
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises no narrower class
            raise UserError(f"tokenizer file {str(path)!r} cannot be read ({error}): distil the student again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        refuse_wild_tokenizer(self._tokenizer, name=str(path.parent))

    def estimate(self, text: str) -> int:
        # scripts without blanks have about one token per one or two characters
        return max(text.count(" ") + 1, len(text) // (8 if text.isascii() else 2))

    def count(self, texts: list[str]) -> list[int]:
        return list(map(len, self._encoded(texts)))

    def are_cut(self, texts: list[str]) -> list[bool]:
        return [False] * len(texts)  # it reads whole texts

    def _encoded(self, texts: list[str]) -> list[list[int]]:
        try:
            return [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        except TypeError:
            refuse_half_characters(texts)
            raise

    def __call__(self, texts: list[str]) -> Inputs:
        encoded = self._encoded(texts)
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        ids = np.zeros((len(texts), max(1, int(lengths.max(initial=0)))), dtype=np.int64)
        for row, mine in enumerate(encoded):
            ids[row, : len(mine)] = np.asarray(mine, dtype=np.int64) + 1
        return Inputs({"ids": ids}, lengths, 0)

    def keep(self, outputs: dict[str, np.ndarray]) -> None:
        """Does nothing: the graph looks tokens up itself."""
