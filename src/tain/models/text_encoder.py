"""What tain accepts as an encoder: a name, and ``encode`` from texts to vectors."""

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class TextEncoder(Protocol):
    """Anything with a name that turns texts into vectors: ``Embedder``, ``Student``, or your own class.

    Where it also has ``truncated`` (how many texts its last ``encode`` call cut), the report counts them. Where it has
    ``languages`` (codes such as ``en``), its ``encode`` is told the language of the texts: ``encode(texts, language="en")``.
    """

    @property
    def name(self) -> str:
        """What tables and charts call it."""
        ...

    def encode(self, texts: list[str], /) -> np.ndarray:
        """Turn texts into finite float vectors (texts, dim), in the order given."""
        ...
