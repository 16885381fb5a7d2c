"""Base class of text encoders: encode one text or many, and compare vectors."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from tain.foundation.progress import Progress
from tain.foundation.vectors import cosine_similarities

if TYPE_CHECKING:
    import numpy as np


class BaseTextEncoder(ABC):
    """What ``Embedder``, ``ExportedEncoder`` and ``Student`` share. A subclass computes the vectors, in ``_encode``."""

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        language: str | Iterable[str] | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
        progress: Progress | None = None,
    ) -> "np.ndarray":
        """Encode texts into vectors, in the given order. Dropout is always off.

        Args:
            texts: One text, or an iterable of texts: a list, a generator, a column of a table. Not a table or a set.
            language: Language of the texts, or one per text. Required by models with a per-language correction, refused by others.
            batch_size: Upper limit of texts per batch. Batches are sized by tokens (``batch_tokens``), so long texts need no smaller
                batches; this is an additional limit.
            batch_tokens: Tokens per batch; an exported graph counts padding too. Both limits affect speed and memory; vectors change by
                rounding only (the sixth digit in float32, the third in bfloat16 and int8).
            normalize: Scale vectors to length 1; default: as stored in the model's folder.
            progress: Receives an update per batch.

        Returns:
            float32 (texts, dim); for a single string (dim,).

        Raises:
            UserError: ``texts`` is a table or a set, or contains something that is not text, or a text without tokens; a language is
                missing, unknown, or given to a model that treats all texts alike; the number of languages differs from the number of
                texts; a student outputs labels, not vectors; or ``normalize`` is off and an exported graph scales its vectors.
            NotFiniteError: The model gave NaN or infinity.

        Example:
            >>> import tain
            >>> encoder = tain.load("tain-mini")
            >>> encoder.encode("one text").shape
            (384,)
            >>> encoder.encode(["a first text", "a second text"], normalize=True).shape
            (2, 384)
        """
        options = {
            "language": language,
            "batch_size": batch_size,
            "batch_tokens": batch_tokens,
            "normalize": normalize,
            "progress": progress,
        }
        return self._encode([texts], **options)[0] if isinstance(texts, str) else self._encode(texts, **options)

    @abstractmethod
    def _encode(
        self,
        texts: Iterable[str],
        *,
        language: str | Iterable[str] | None,
        batch_size: int | None,
        batch_tokens: int | None,
        normalize: bool | None,
        progress: Progress | None,
    ) -> "np.ndarray":
        """Encode many texts: float32 (texts, dim)."""

    def similarity(self, left: Any, right: Any) -> "np.ndarray":
        """Cosine similarity of every left vector with every right vector, like ``similarity`` of sentence-transformers.

        Args:
            left: Vectors as ``encode`` returns them, (n, dim) or (dim,).
            right: Vectors (m, dim) or (dim,).

        Returns:
            float32 (n, m).

        Raises:
            UserError: The arguments are texts, or their dimensions differ.

        Example:
            >>> import tain
            >>> encoder = tain.load("tain-mini")
            >>> left, right = encoder.encode(["a kitten", "a train"]), encoder.encode(["a small cat"])
            >>> encoder.similarity(left, right).shape
            (2, 1)
        """
        return cosine_similarities(left, right)
