"""Incremental prediction while a text is being typed, with a forward-only student."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from tain.foundation.errors import UserError
from tain.students.graphs import NumpyGraph, Past
from tain.students.inputs import HashedReader
from tain.text.records import Prediction

if TYPE_CHECKING:
    from tain.students.student import Student


class StreamingText:
    """A text being typed, read token by token by a forward-only student.

    After each ``type``, its outputs equal those of the student for the whole text so far (up to rounding), but only new tokens are
    computed.
    """

    def __init__(self, student: "Student", graph: NumpyGraph, reader: HashedReader, codes: Callable[[str], np.ndarray]) -> None:
        self._student, self._graph, self._reader, self._codes = student, graph, reader, codes
        self._past = graph.nothing()
        self._tags: list[np.ndarray] = []
        self._tokens = 0  # completed tokens, excluding begin and end tokens
        self._open = ""  # characters since the last blank
        for token in reader.before:
            self._past, _ = graph.read_on(self._past, codes(token))

    def type(self, piece: str) -> None:
        """Append to the text."""
        *whole, self._open = [*piece, ""] if self._reader.is_by_code_point else (self._open + piece).split(" ")
        tokens = [token for chunk in whole for token in self._reader.tokens(chunk)]
        self._past = self._read(self._past, tokens, self._tags)
        self._tokens += len(tokens)

    def predict(self) -> Prediction:
        """Predict the class of the text so far, its tokens' tags, or both; an incomplete last token counts as it is.

        Raises:
            UserError: The student outputs vectors.
        """
        if self._student.task == "embed":
            raise UserError(f"student {self._student.name!r} was distilled to embed, so it has no labels: use encode")
        ended, tags, tokens = self._ended()
        outputs = {"text": self._graph.text_of(ended)[0]} if self._student.labels else {}
        if self._student.tags:
            outputs["tokens"] = np.concatenate([*tags, np.empty((0, len(self._student.tags)), np.float32)])
        return self._student.prediction(outputs, tokens=tokens)

    def encode(self) -> Float32[np.ndarray, " dim"]:
        """Vector of the text so far.

        Raises:
            UserError: The student outputs labels.
        """
        if self._student.task != "embed":
            raise UserError(f"student {self._student.name!r} was distilled to {self._student.task}, so it has no vectors: use predict")
        vector = self._graph.text_of(self._ended()[0])[0]
        return vector / max(float(np.linalg.norm(vector)), 1e-12) if self._student.normalize else vector

    def _ended(self) -> tuple[Past, list[np.ndarray], int]:
        """State as if the text ended here, with the tokens' logits and their number."""
        open_tokens, tags = self._reader.tokens(self._open), list(self._tags)
        past = self._read(self._past, open_tokens, tags)
        for token in self._reader.behind:
            past, _ = self._graph.read_on(past, self._codes(token))
        return past, tags, self._tokens + len(open_tokens)

    def _read(self, past: Past, tokens: list[str], tags: list[np.ndarray]) -> Past:
        room = max(0, self._reader.max_tokens - self._tokens)
        for token in tokens[:room]:
            past, found = self._graph.read_on(past, self._codes(token))
            if found is not None:
                tags.append(found)
        return past
