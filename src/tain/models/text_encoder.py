"""Protocol of text encoders: a name, and ``encode`` from texts to vectors."""

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class TextEncoder(Protocol):
    """Protocol for anything that turns texts into vectors: ``Embedder``, ``Student``, or your own class.

    An optional ``truncated`` attribute (texts truncated by the last ``encode`` call) is counted in reports. With an optional
    ``languages`` attribute (codes such as ``en``), ``encode`` receives the language of the texts: ``encode(texts, language="en")``.
    """

    @property
    def name(self) -> str:
        """Name shown in tables and charts."""
        ...

    def encode(self, texts: list[str], /) -> np.ndarray:
        """Encode texts into finite float vectors (texts, dim), in the given order."""
        ...
