"""What every ranker can do, and how one is loaded: ``models.rankers`` has the kinds."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from tain.foundation.choices import Dtype, RankerType
from tain.foundation.errors import UserError
from tain.foundation.machine import set_dtype
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.loading import ModelKind, kind_of
from tain.models.saved import locate, read_record
from tain.text.collections import each_item, list_texts

_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


@dataclass(frozen=True)
class StoredRanker:
    """A ranker that is not loaded yet.

    Attributes:
        name: What the user called it.
        record: Its ``tain.json``; empty where there is none.
        kind: What its folder holds; None where tain saved it as a ranker.
        device: Where to load it.
        trust_remote_code: Let its folder bring Python code.
    """

    name: str
    record: dict[str, Any]
    kind: ModelKind | None
    device: str | None
    trust_remote_code: bool


class Ranker(ABC):
    """Scores candidates for contexts; higher is better, and only scores of one context compare.

    Attributes:
        name: How it is called in tables.
        record: What its ``tain.json`` says; empty for a plain encoder.
        context: Tokenizer and length limit of contexts; with its own encoder, except in a cross-encoder.
        candidate: The same for candidates.
        truncated_contexts: How many contexts were cut at the length limit when some were last encoded.
        truncated_candidates: How many different candidates were, likewise.
    """

    kinds: ClassVar[tuple[type["Ranker"], ...]] = ()  # in the order in which they are asked; ``models.rankers`` has the table
    type: RankerType
    context: Embedder
    candidate: Embedder

    def __init__(self, *, name: str, record: dict[str, Any] | None = None) -> None:
        self.name = name
        self.record = record or {}
        self.truncated_contexts = self.truncated_candidates = 0
        self._fingerprint: str | None = None

    @staticmethod
    def load(name: str | Path, *, device: str | None = None, dtype: Dtype = "auto", trust_remote_code: bool = False) -> "Ranker":
        """Load what ``tain rank train`` saved, or a cross-encoder of sentence-transformers; any encoder is taken as a bi-encoder with one tower.

        Args:
            name: A folder, a hub name, or ``tain-mini``.
            device: ``cpu``, ``cuda`` or ``cuda:N``; default: a GPU where there is one.
            dtype: What the towers compute in; ``auto`` measures.
            trust_remote_code: Let the encoders' folders bring Python code of their own.

        Raises:
            UserError: There is no such model, or it cannot be run.
        """
        record = read_record(name)
        kind = None if record.get("kind") == "ranker" else kind_of(locate(name))
        found = StoredRanker(str(name), record, kind, device, trust_remote_code)
        ranker = next(opened for each in Ranker.kinds if (opened := each.opened(found)) is not None)
        _ = ranker.fingerprint  # of the weights as they are stored, before they are rounded
        ranker.compute_in(ranker.choose_dtype(dtype))
        return ranker

    @classmethod
    def opened(cls, found: StoredRanker) -> "Ranker | None":
        """Load what was found, in float32; None where it is of another kind, as it is for a kind that is never saved."""
        return None

    @property
    @abstractmethod
    def module(self) -> nn.Module:
        """Everything that can be trained."""

    @property
    @abstractmethod
    def towers(self) -> tuple[Embedder, ...]:
        """Its distinct encoders."""

    @abstractmethod
    def _fingerprinted(self) -> str: ...

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between models which could make different cached vectors, or scores."""
        if self._fingerprint is None:
            self._fingerprint = self._fingerprinted()
        return self._fingerprint

    def weights_changed(self) -> None:
        """Forget the fingerprint: the weights are no more what they were."""
        self._fingerprint = None

    @abstractmethod
    def score(
        self, contexts: Iterable[str], candidates: Iterable[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "contexts candidates"]:
        """Score every candidate for every context.

        Raises:
            UserError: Something given is no text.
        """

    @abstractmethod
    def score_lists(
        self, contexts: Iterable[str], lists: Iterable[Iterable[str]], *, progress: Progress | None = None
    ) -> list[Float32[np.ndarray, " listed"]]:
        """Score each context's own list of candidates.

        Raises:
            UserError: Something given is no text, or there is not one list a context.
        """

    @abstractmethod
    def save(self, folder: Path, *, record: dict[str, Any], card: str) -> None:
        """Write it into an existing folder, weights in float32.

        Args:
            folder: Where to; see ``whole_folder`` for making it appear whole.
            record: Config, base model, seeds and figures for ``tain.json``.
            card: The model card, Markdown.
        """

    @abstractmethod
    def count_tokens(self, contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> list[int]:
        """Tell how many tokens are read to score each context's own list of candidates."""

    @property
    def truncated(self) -> int:
        """Texts cut at a length limit."""
        return self.truncated_contexts + self.truncated_candidates

    @property
    def device(self) -> torch.device:
        return self.towers[0].encoder.device

    @property
    def tokenizer(self) -> Any:
        return self.towers[0].tokenizer

    @property
    def max_tokens(self) -> int:
        """The longest text that it reads at once."""
        return max(tower.max_tokens for tower in self.towers)

    def choose_dtype(self, asked: Dtype) -> torch.dtype:
        """What to compute in: what was asked for, or what is fastest here.

        Raises:
            UserError: It cannot compute in what was asked for.
        """
        return self.towers[0].encoder.choose_dtype(asked)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the towers compute in this number type; heads stay in float32."""
        for tower in self.towers:
            set_dtype(tower.encoder, dtype)

    def _batch_tokens(self) -> int:
        return _BATCH_TOKENS.get(self.device.type, 4096)


class PairRanker(Ranker):
    """A cross-encoder: every pair goes through the network together, so nothing can be cached."""

    type = "cross"

    def score(
        self, contexts: Iterable[str], candidates: Iterable[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "contexts candidates"]:
        """Score every candidate for every context: one pass of the network a pair."""
        contexts, candidates = list_texts(contexts, what="context"), list_texts(candidates, what="candidate")
        found = self.score_lists(contexts, [candidates] * len(contexts), progress=progress)
        return np.stack(found) if found else np.empty((0, len(candidates)), dtype=np.float32)


def matched(contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> tuple[list[str], list[list[str]]]:
    """Read contexts, and for each its list of candidates."""
    contexts = list_texts(contexts, what="context")
    listed = [list_texts(own, what="a context's candidate") for own in each_item(lists, what="list")]
    if len(contexts) != len(listed):
        raise UserError(f"{len(contexts):,} contexts came with {len(listed):,} lists of candidates: give one list a context")
    return contexts, listed


def digest(tensors: dict[str, Tensor], about: tuple[object, ...]) -> str:
    digest = hashlib.blake2b(json.dumps(about).encode(), digest_size=8)
    for name, tensor in sorted(tensors.items()):
        if "pooler." in name:
            continue  # no part of any score, and made up at loading where the checkpoint has none
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
