"""Models without weights, whose outputs depend on nothing but the text."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from tain.foundation.progress import Progress
from tain.text.records import Prediction


class HashEmbedder:
    """Makes vectors of a text's hash, without torch; counts the texts that it encodes."""

    def __init__(self, **changes: Any) -> None:
        self.name, self.dim, self.max_tokens, self.normalize, self.truncated = "hash", 5, 64, False, 0
        self.weights = "w"
        self.encoded = 0
        vars(self).update(changes)

    def refuse_language(self, language: str | None) -> None:
        assert language is None

    def settings(self) -> dict[str, Any]:
        return {"max-tokens": self.max_tokens}

    def fingerprint(self) -> str:
        return self.weights

    def encode(
        self,
        texts: list[str],
        *,
        language: str | None = None,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        self.encoded += len(texts)
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[: 2 * self.dim], np.uint16) / 256 for text in texts]
        vectors = np.array(rows, np.float32).reshape(len(texts), self.dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else vectors


@pytest.fixture
def hash_embedder() -> type[Any]:
    return HashEmbedder


class HashLabeller:
    """Labels a text by its hash, without torch."""

    name = "hash labels"

    def __init__(self, *, weights: str = "w") -> None:
        self.weights, self.truncated, self.labelled = weights, 0, 0

    def fingerprint(self) -> str:
        return self.weights

    def predict(self, texts: list[str], *, progress: Progress | None = None) -> list[Prediction]:
        self.labelled += len(texts)
        first = [hashlib.sha256(text.encode()).digest()[0] for text in texts]
        return [Prediction("low" if byte < 128 else "high", byte / 256) for byte in first]


class HashRanker:
    """Scores by the product of vectors made of words' hashes, without torch."""

    name, dim, fingerprint, truncated_contexts, truncated_candidates = "hash ranker", 16, "f", 0, 0

    def encode_candidates(self, texts: Iterable[str], *, progress: Progress | None = None) -> np.ndarray:
        return np.stack([self._vector(text) for text in texts])

    def windows(self, contexts: Iterable[str]) -> Iterator[tuple[int, Any]]:
        vectors = [self._vector(text)[None] for text in contexts]
        yield 0, Window(vectors)

    def _vector(self, text: str) -> np.ndarray:
        words = [np.frombuffer(hashlib.sha256(word.encode()).digest()[:16], np.uint8).astype(np.float32) - 127.5 for word in text.split()]
        return np.sum(words, axis=0)


class Window:
    """Vectors of some contexts."""

    def __init__(self, vectors: list[np.ndarray]) -> None:
        self._vectors = vectors

    def __len__(self) -> int:
        return len(self._vectors)

    def of(self, position: int) -> np.ndarray:
        return self._vectors[position]


@pytest.fixture
def hash_labeller() -> type[HashLabeller]:
    return HashLabeller


@pytest.fixture
def hash_ranker() -> type[HashRanker]:
    return HashRanker
