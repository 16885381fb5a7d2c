"""Labels of a stream of texts as JSON lines."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from tain.foundation.progress import Progress
from tain.text.records import Prediction
from tain.text.windows import windows

_WINDOW_TEXTS, _WINDOW_CHARS = 4096, 2_000_000


@runtime_checkable
class Predicts(Protocol):
    """Anything that predicts classes, tags or both: a student, a classifier, a tagger."""

    @property
    def truncated(self) -> int:
        """Number of texts truncated in the last call."""
        ...

    def predict(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Prediction]: ...


class LabelLines(Iterator[str]):
    """One JSON object per text, with text, label, chance and tags; texts are labelled a window at a time.

    Args:
        model: The model.
        texts: The texts.
        progress: Progress display; advances with every window.

    Attributes:
        truncated: Texts so far that were cut at the model's length limit.
    """

    def __init__(self, model: Predicts, texts: Iterable[str], *, progress: Progress | None = None) -> None:
        self.truncated = 0
        self._lines = self._labelled(model, texts, progress)

    def __next__(self) -> str:
        return next(self._lines)

    def _labelled(self, model: Predicts, texts: Iterable[str], progress: Progress | None) -> Iterator[str]:
        for window in windows(texts, most=_WINDOW_TEXTS, characters=_WINDOW_CHARS, text_of=str):
            predictions = model.predict(window, progress=progress)
            self.truncated += model.truncated
            for text, prediction in zip(window, predictions, strict=True):
                found = {
                    "text": text,
                    "label": prediction.label,
                    "chance": prediction.chance and round(prediction.chance, 5),
                    "tags": prediction.tags,
                }
                yield json.dumps({name: value for name, value in found.items() if value is not None}, ensure_ascii=False)
