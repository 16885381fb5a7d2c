"""What the adapters share: an encoder given as such or by name, for queries and documents, and missing packages."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from tain.text.collections import list_texts


class Encoding:
    """An encoder for queries and documents.

    Args:
        model: A folder, a hub name, ``tain-mini``, or a loaded encoder.
        normalize: Scale vectors to length 1.
        options: As ``tain.load`` takes them, for a model given by name.
    """

    def __init__(self, model: Any, *, normalize: bool = True, options: dict[str, Any] | None = None) -> None:
        from tain.api import load
        from tain.foundation.errors import UserError

        self.encoder = load(model, **(options or {})) if isinstance(model, str | Path) else model
        if not hasattr(self.encoder, "encode"):
            raise UserError(f"model {str(model)!r} is a {type(self.encoder).__name__}, which has no vectors: give an encoder")
        self.normalize = normalize

    def queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """Encode queries, with the model's prompt for queries if it has one."""
        return self._with(getattr(self.encoder, "encode_query", self.encoder.encode), texts)

    def documents(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        """Encode documents, with the model's prompt for documents if it has one."""
        return self._with(getattr(self.encoder, "encode_document", self.encoder.encode), texts)

    def _with(self, encode: Callable[..., np.ndarray], texts: Sequence[str]) -> Float32[np.ndarray, "texts dim"]:
        return encode(list_texts(texts), normalize=self.normalize)


def missing(package: str, *, adapter: str) -> ImportError:
    """The error for a framework that is not installed."""
    return ImportError(f'tain.integrations.{adapter} needs {package}, which is not installed: run pip install "{package}"')
