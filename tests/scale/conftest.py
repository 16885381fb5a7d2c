"""An encoder without weights, whose vectors depend on nothing but the text."""

import hashlib
from typing import Any

import numpy as np
import pytest

from tain.foundation.progress import Progress


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
