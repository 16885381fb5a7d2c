"""Scoring of bi- and poly-encoders from the vectors of contexts and candidates, in torch or with exported graphs."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.text.collections import list_texts, matched_lists
from tain.text.token_encoding import TokenEncoder

_WINDOW_NUMBERS = 2**25  # of context vectors in memory at once


@runtime_checkable
class ContextsInMemory(Protocol):
    """Vectors of some contexts."""

    def __len__(self) -> int: ...

    def of(self, context: int, /) -> Any:
        """Vectors of one context, without padding."""
        ...


def compares_by_cosine(about: Mapping[str, Any]) -> bool:
    """Whether an encoder that is no trained ranker compares by cosine: always, unless its folder asks for dot products.

    Args:
        about: Its ``config_sentence_transformers.json``; empty if there is none.
    """
    return about.get("similarity_fn_name") not in ("dot", "dot_product")


def refuse_unrankable(encoder: TokenEncoder) -> None:
    """Refuse to score with an encoder that changes texts or vectors in a way that rankers do not.

    Raises:
        UserError: It puts a prompt before each text, or keeps only the first numbers of its vectors.
    """
    if encoder.kept_dims is not None:
        raise UserError(
            f"model {encoder.name!r} keeps the first {encoder.kept_dims} numbers of its vectors, which rankers do not do: set its truncate_dim"
            " to null"
        )
    if encoder.default_prompt:
        raise UserError(
            f"model {encoder.name!r} puts the prompt {encoder.default_prompt!r} before each text, which rankers do not do: set its"
            " default_prompt_name to null and add the prompt to your texts"
        )


class DualScoring(ABC):
    """Base class of rankers with two towers: candidates have one vector each, contexts one or several.

    A subclass encodes both sides, and scores candidate vectors for one context.

    Attributes:
        truncated_contexts: Contexts cut when some were last encoded.
        truncated_candidates: Different candidates cut, likewise.
    """

    truncated_contexts: int
    truncated_candidates: int

    @abstractmethod
    def encode_candidates(self, texts: Iterable[str], *, progress: Progress | None = None) -> Float32[np.ndarray, "texts dim"]:
        """Encode candidates into one vector each, for caching."""

    @abstractmethod
    def encode_contexts(self, texts: Iterable[str]) -> ContextsInMemory:
        """Encode contexts; each has many numbers, so pass few at a time, and count cut ones."""

    @abstractmethod
    def _numbers_of_a_context(self) -> int:
        """Numbers of all vectors of a context, at most."""

    @abstractmethod
    def _scored(self, candidates: Float32[np.ndarray, "candidates dim"], context: Any) -> Float32[np.ndarray, " candidates"]:
        """Scores of candidate vectors for the vectors of one context."""

    @abstractmethod
    def _counted(self, side: str, texts: list[str]) -> list[int]:
        """Tokens read of each text of a ``side``: ``context`` or ``candidate``."""

    def windows(self, contexts: Iterable[str]) -> Iterator[tuple[int, Any]]:
        """Encode contexts in windows that fit in memory; yields the index of each window's first context and its vectors."""
        contexts = list_texts(contexts, what="context")
        at_once = max(1, _WINDOW_NUMBERS // self._numbers_of_a_context())
        cut = 0
        for start in range(0, len(contexts), at_once):
            window = self.encode_contexts(contexts[start : start + at_once])
            cut += self.truncated_contexts
            yield start, window
        self.truncated_contexts = cut

    def score(
        self,
        contexts: Iterable[str],
        candidates: Iterable[str] | Float32[np.ndarray, "candidates dim"],
        *,
        progress: Progress | None = None,
    ) -> Float32[np.ndarray, "contexts candidates"]:
        """Score every candidate for every context; candidates may be vectors from ``encode_candidates``.

        Raises:
            UserError: An input is not a text.
        """
        contexts = list_texts(contexts, what="context")
        if not isinstance(candidates, np.ndarray) or candidates.dtype.kind != "f":  # an array may also hold texts
            candidates = self.encode_candidates(candidates, progress=progress)
        scores = np.empty((len(contexts), len(candidates)), dtype=np.float32)
        with (progress or Progress.silent()).task("score", len(contexts)) as task:
            for start, window in self.windows(contexts):
                for index in range(len(window)):
                    scores[start + index] = self._scored(candidates, window.of(index))
                task.advance(len(window))
        return scores

    def score_lists(
        self, contexts: Iterable[str], lists: Iterable[Iterable[str]], *, progress: Progress | None = None
    ) -> list[Float32[np.ndarray, " listed"]]:
        """Score the candidate list of each context.

        Raises:
            UserError: An input is not a text, or the number of lists differs from the number of contexts.
        """
        contexts, lists = matched_lists(contexts, lists)
        row_of = {text: row for row, text in enumerate(dict.fromkeys(text for listed in lists for text in listed))}
        vectors = self.encode_candidates(list(row_of), progress=progress)
        scores: list[np.ndarray] = []
        with (progress or Progress.silent()).task("score", len(contexts)) as task:
            for start, window in self.windows(contexts):
                for index in range(len(window)):
                    rows = [row_of[text] for text in lists[start + index]]
                    scores.append(self._scored(vectors[rows], window.of(index)))
                task.advance(len(window))
        return scores

    def count_tokens(self, contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> list[int]:
        """Tokens read to score the candidate list of each context."""
        contexts, lists = matched_lists(contexts, lists)
        counts = iter(self._counted("candidate", [text for listed in lists for text in listed]))
        own = self._counted("context", contexts)
        return [of_context + sum(islice(counts, len(listed))) for of_context, listed in zip(own, lists, strict=True)]
