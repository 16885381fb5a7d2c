"""What an encoder must be able to do to be evaluated, and a wrapper that encodes each text only once."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress

_TEXTS_AT_ONCE = 4096  # so that a progress bar moves; large enough that batches stay full


@runtime_checkable
class Encodes(Protocol):
    """Anything with a name that turns texts into vectors: ``models.embedder.Embedder``, or a user's own class.

    Where it also has ``truncated`` (how many texts its last ``encode`` call cut), the report counts them.
    """

    @property
    def name(self) -> str:
        """What tables and charts call it."""
        ...

    def encode(self, texts: list[str], /) -> np.ndarray:
        """Turn texts into finite float vectors (texts, dim), in the order given."""
        ...


class EncodedOnce:
    """An encoder that remembers: a text that is in several sets is encoded once.

    Attributes:
        truncated: How many distinct texts the encoder says it cut at its length limit.
    """

    def __init__(self, encoder: Encodes, progress: Progress | None = None) -> None:
        self.truncated = 0
        self._encoder = encoder
        self._progress = progress if progress is not None else Progress.silent()
        self._rows: dict[str, int] = {}
        self._vectors = np.empty((0, 0), dtype=np.float32)

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def distinct(self) -> int:
        """How many distinct texts were encoded so far."""
        return len(self._rows)

    def encode(self, texts: Sequence[str], /) -> np.ndarray:
        """Give float32 vectors (texts, dim), encoding only what was never asked before.

        Raises:
            UserError: The encoder gave no table of one row a text, or a vector with nan or infinity.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._rows]
        if new:
            self._remember(new)
        return self._vectors[[self._rows[text] for text in texts]]

    def _remember(self, new: list[str]) -> None:
        # longest first: texts of like length share batches, and a batch that is too large for the memory fails at the start
        new = sorted(new, key=len, reverse=True)
        blocks = [self._vectors] if len(self._rows) else []
        with self._progress.task(f"encoding with {self.name}", len(new)) as task:
            for start in range(0, len(new), _TEXTS_AT_ONCE):
                block = new[start : start + _TEXTS_AT_ONCE]
                blocks.append(self._checked(block, np.asarray(self._encoder.encode(block), dtype=np.float32)))
                self.truncated += int(getattr(self._encoder, "truncated", 0) or 0)
                task.advance(len(block))
        self._vectors = np.concatenate(blocks)
        self._rows.update({text: len(self._rows) + place for place, text in enumerate(new)})

    def _checked(self, texts: list[str], vectors: np.ndarray) -> np.ndarray:
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise UserError(
                f"model {self.name!r} gave an array of shape {vectors.shape} for {len(texts)} texts: one vector a text is needed"
            )
        is_bad = ~np.isfinite(vectors).all(axis=1)
        if is_bad.any():
            first = texts[int(is_bad.argmax())]
            raise UserError(
                f"model {self.name!r} gives vectors with nan or infinity for {is_bad.sum()} of {len(texts)} texts"
                f" (one is {_shortened(first)!r}), which no cosine can compare: check its weights, or load it in float32"
            )
        return vectors


def _shortened(text: str, chars: int = 40) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
