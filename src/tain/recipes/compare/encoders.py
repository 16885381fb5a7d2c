"""Wrappers of the compared encoders: timing, and one in memory at a time."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from tain.evaluation.baselines import Lexical
from tain.evaluation.encoding import refuse_unfit_suites
from tain.foundation.errors import UserError
from tain.recipes.compare.config import BASELINES


class Timed:
    """An encoder that counts texts and seconds of encoding."""

    def __init__(self, encoder: Any) -> None:
        self._encoder, self.texts, self.seconds = encoder, 0, 0.0
        self.name = encoder.name

    def encode(self, texts: list[str], /) -> np.ndarray:
        began_s = time.perf_counter()
        vectors = self._encoder.encode(texts)
        self.seconds += time.perf_counter() - began_s
        self.texts += len(texts)
        return vectors


class OneAtATime:
    """Encoders for an evaluation, of which one at a time is in memory.

    Args:
        load: Loads a candidate by name.
        names: The candidates; baselines are loaded at once.
    """

    def __init__(self, load: Callable[[str], Any], names: Sequence[str]) -> None:
        self._load, self._names = load, names
        self._loaded: tuple[str, Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        for name in self._names:
            yield self._load(name) if name in BASELINES else _Later(name, self)

    def get(self, name: str) -> Any:
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # freed before the next is loaded
            self._loaded = name, self._load(name)
        return self._loaded[1]


class _Later:
    """An encoder that is loaded when it first encodes."""

    def __init__(self, name: str, all_: OneAtATime) -> None:
        self.name, self._all = name, all_

    @property
    def truncated(self) -> int:
        return self._all.get(self.name).truncated

    def encode(self, texts: list[str], /) -> np.ndarray:
        return self._all.get(self.name).encode(texts)


def is_unfit(name: str, suites: Sequence[str]) -> bool:
    """Whether a baseline has no meaningful vectors for one of the suites."""
    if name not in ("lexical", "characters"):
        return False
    try:
        refuse_unfit_suites(Lexical(), suites)
    except UserError:
        return True
    return False
