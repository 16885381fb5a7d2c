"""How students read texts where torch is not installed: as features of hashed tokens, or as a tokenizer's ids."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tain.batches.projection import BEGIN, END, Projection, ProjectionConfig, token_features
from tain.foundation.errors import UserError


@dataclass(frozen=True)
class Inputs:
    """A batch as the graph takes it.

    Attributes:
        arrays: The graph's inputs by name.
        tokens: How many tokens each text has of its own, those of its ends not counted.
        truncated: Texts that lost tokens to the limit.
    """

    arrays: dict[str, np.ndarray]
    tokens: np.ndarray
    truncated: int


class HashedReader:
    """Texts as features of hashed tokens."""

    def __init__(self, config: ProjectionConfig) -> None:
        self.max_tokens = config.max_tokens
        self.is_by_code_point = config.split == "code-point"
        self.before, self.behind = [BEGIN] * config.begin, [END] * config.end
        self._projection = Projection(config)

    def tokens(self, text: str) -> list[str]:
        return self._projection.tokens(text)

    def rows_of(self, tokens: list[str]) -> np.ndarray:
        """Features of tokens as they are spelt, in bytes as the graph takes them, uint8 (tokens, features)."""
        return _as_bytes(token_features(tokens, self._projection.config))

    def estimate(self, text: str) -> int:
        return max(1, self._projection.count(text))

    def count(self, texts: list[str]) -> list[int]:
        ends = len(self.before) + len(self.behind)
        return [min(len(self.tokens(text)), self.max_tokens) + ends for text in texts]

    def __call__(self, texts: list[str]) -> Inputs:
        projected = self._projection(texts)
        own = projected.lengths - len(self.before) - len(self.behind)
        return Inputs({"rows": _as_bytes(projected.rows), "ids": projected.ids}, own, projected.truncated)


def _as_bytes(features: np.ndarray) -> np.ndarray:
    return features.view(np.uint8) ^ np.uint8(0x80)  # a signed byte plus 128


class TokenReader:
    """Texts as the ids of a tokenizer, one up: 0 is padding."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        if not path.is_file():
            raise UserError(f"tokenizer file {str(path)!r} does not exist: give the whole folder that tain distil wrote")
        self.max_tokens = None
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise UserError(f"tokenizer file {str(path)!r} cannot be read ({error}): distil the student again") from None
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def estimate(self, text: str) -> int:
        return text.count(" ") + 1

    def count(self, texts: list[str]) -> list[int]:
        return [len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]

    def __call__(self, texts: list[str]) -> Inputs:
        encoded = [encoding.ids for encoding in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        lengths = np.array([len(ids) for ids in encoded], dtype=np.int64)
        ids = np.zeros((len(texts), max(1, int(lengths.max(initial=0)))), dtype=np.int64)
        for row, mine in enumerate(encoded):
            ids[row, : len(mine)] = np.asarray(mine, dtype=np.int64) + 1
        return Inputs({"ids": ids}, lengths, 0)
