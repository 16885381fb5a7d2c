"""Base classes of rankers and their loading; ``models.rankers`` has the concrete kinds."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from tain.foundation.choices import Dtype, RankerType
from tain.foundation.machine import set_dtype
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.kinds import ModelKind, kind_of
from tain.models.saved import locate, read_record
from tain.models.timed_query import TimedQuery
from tain.text.collections import list_texts

if TYPE_CHECKING:
    from tain.models.rankers import DualRanker

_TIMED_PAIRS = 32  # pairs that a query is timed with where nothing can be cached
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


@dataclass(frozen=True)
class StoredRanker:
    """A located ranker before loading.

    Attributes:
        name: Name given by the user.
        record: Its ``tain.json``; empty if there is none.
        kind: Detected model kind; None if tain saved it as a ranker.
        device: Target device.
        trust_remote_code: Allow Python code from its folder.
    """

    name: str
    record: dict[str, Any]
    kind: ModelKind | None
    device: str | None
    trust_remote_code: bool


class Ranker(ABC):
    """Abstract ranker: scores candidates for contexts. Higher is better; scores are comparable within one context only.

    Attributes:
        name: Name shown in tables.
        record: Content of its ``tain.json``; empty for a plain encoder.
        context: Tokenizer and length limit of contexts; includes their encoder, except in a cross-encoder.
        candidate: The same for candidates.
        truncated_contexts: Contexts truncated at the length limit in the last encoding.
        truncated_candidates: Distinct candidates truncated likewise.
    """

    kinds: ClassVar[tuple[type["Ranker"], ...]] = ()  # in the order in which they are tried; registered in ``models.rankers``
    type: RankerType
    context: Embedder
    candidate: Embedder
    vectors: int = 0  # per context; 0 if it has none
    scores_at_once: ClassVar[int] = 100_000  # of a pool: the tokens of each pair are in memory

    def __init__(self, *, name: str, record: dict[str, Any] | None = None) -> None:
        self.name = name
        self.record = record or {}
        self.truncated_contexts = self.truncated_candidates = 0
        self._fingerprint: str | None = None

    @staticmethod
    def load(name: str | Path, *, device: str | None = None, dtype: Dtype = "auto", trust_remote_code: bool = False) -> "Ranker":
        """Load a ranker saved by ``tain rank train``, a sentence-transformers cross-encoder, or any encoder as a bi-encoder with one tower.

        Args:
            name: A folder, a hub name, or ``tain-mini``.
            device: ``cpu``, ``cuda`` or ``cuda:N``; default: a GPU if available.
            dtype: Data type of the towers; ``auto`` benchmarks the choices.
            trust_remote_code: Allow Python code from the encoders' folders.

        Raises:
            UserError: The model does not exist or cannot be run.

        Examples:
            >>> import tain
            >>> ranker = tain.Ranker.load("tain-mini")
            >>> scores = ranker.score(["where do rivers run to?"], ["rivers run to the sea", "a red door"])
            >>> scores.shape
            (1, 2)
        """
        record = read_record(name)
        kind = None if record.get("kind") == "ranker" else kind_of(locate(name))
        found = StoredRanker(str(name), record, kind, device, trust_remote_code)
        ranker = next(opened for each in Ranker.kinds if (opened := each.opened(found)) is not None)
        _ = ranker.fingerprint  # computed from the stored weights, before rounding
        ranker.compute_in(ranker.choose_dtype(dtype))
        return ranker

    @classmethod
    def opened(cls, found: StoredRanker) -> "Ranker | None":
        """Load the located ranker in float32, or return None if it is of another kind; always None for kinds that are never saved."""
        return None

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Module with all trainable parameters."""

    @property
    @abstractmethod
    def towers(self) -> tuple[Embedder, ...]:
        """Distinct encoders."""

    @abstractmethod
    def _fingerprinted(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between models with different cached vectors or scores."""
        if self._fingerprint is None:
            self._fingerprint = self._fingerprinted()
        return self._fingerprint

    def weights_changed(self) -> None:
        """Invalidate the fingerprint after the weights have changed."""
        self._fingerprint = None

    @abstractmethod
    def score(
        self, contexts: Iterable[str], candidates: Iterable[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "contexts candidates"]:
        """Score every candidate for every context.

        Raises:
            UserError: An input is not a text.
        """

    @abstractmethod
    def score_lists(
        self, contexts: Iterable[str], lists: Iterable[Iterable[str]], *, progress: Progress | None = None
    ) -> list[Float32[np.ndarray, " listed"]]:
        """Score the candidate list of each context.

        Raises:
            UserError: An input is not a text, or the number of lists differs from the number of contexts.
        """

    def score_pool(self, contexts: Sequence[str], pool: Sequence[str], *, progress: Progress | None = None) -> Iterator[np.ndarray]:
        """Score one pool of candidates for every context, context by context (candidates,); the pool is encoded once if it can be."""
        at_once, candidates, cut = max(1, self.scores_at_once // len(pool)), self._cached(pool, progress), 0
        for start in range(0, len(contexts), at_once):
            scores = self.score(contexts[start : start + at_once], candidates, progress=progress)
            cut += self.truncated_contexts
            yield from scores
        self.truncated_contexts = cut

    def _cached(self, pool: Sequence[str], progress: Progress | None) -> Any:
        """What ``score`` takes for candidates that are used again."""
        return pool

    def timed_queries(self, candidates: Sequence[str], sizes: Sequence[int]) -> list[TimedQuery]:
        """Prepare queries to time with these numbers of candidates; ``candidates`` are repeated if they are too few."""
        some = [candidates[index % len(candidates)] for index in range(_TIMED_PAIRS)]

        def ask(context: str) -> object:
            return self.score([context], some)

        return [TimedQuery(size, ask, _TIMED_PAIRS) for size in sizes]

    @property
    def searchable(self) -> "DualRanker | None":
        """This ranker, if its candidates have vectors that can be cached and searched; else None."""
        return None

    @abstractmethod
    def save(self, folder: Path, *, record: dict[str, Any], card: str) -> None:
        """Save it into an existing folder, with float32 weights.

        Args:
            folder: Target folder; see ``whole_folder`` for writing it atomically.
            record: Config, base model, seeds and figures for ``tain.json``.
            card: The model card, Markdown.
        """

    @abstractmethod
    def count_tokens(self, contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> list[int]:
        """Tokens read to score the candidate list of each context."""

    @property
    def truncated(self) -> int:
        """Number of texts truncated at a length limit."""
        return self.truncated_contexts + self.truncated_candidates

    @property
    def device(self) -> torch.device:
        return self.towers[0].encoder.device

    @property
    def tokenizer(self) -> Any:
        return self.towers[0].tokenizer

    @property
    def max_tokens(self) -> int:
        """Longest text read at once, in tokens."""
        return max(tower.max_tokens for tower in self.towers)

    def choose_dtype(self, asked: Dtype) -> torch.dtype:
        """Resolve the compute type: the requested one, or the fastest on this machine.

        Raises:
            UserError: The requested type is not supported.
        """
        return self.towers[0].encoder.choose_dtype(asked)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Set the data type of the towers; heads stay in float32."""
        for tower in self.towers:
            set_dtype(tower.encoder, dtype)

    def _batch_tokens(self) -> int:
        return _BATCH_TOKENS.get(self.device.type, 4096)


class PairRanker(Ranker):
    """Base class of cross-encoders, which process each pair jointly, so that nothing can be cached."""

    type = "cross"

    def score(
        self, contexts: Iterable[str], candidates: Iterable[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "contexts candidates"]:
        """Score every candidate for every context, with one forward pass per pair."""
        contexts, candidates = list_texts(contexts, what="context"), list_texts(candidates, what="candidate")
        found = self.score_lists(contexts, [candidates] * len(contexts), progress=progress)
        return np.stack(found) if found else np.empty((0, len(candidates)), dtype=np.float32)


def digest(tensors: dict[str, Tensor], about: tuple[object, ...]) -> str:
    digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=8)
    for name, tensor in sorted(tensors.items()):
        if "pooler." in name:
            continue  # not used for scores, and randomly initialized if the checkpoint lacks it
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
