"""Exported rankers without torch: contexts and candidates in, scores out.

Humeau et al. 2020 (Poly-encoders), section 4. The towers are graphs; codes, scale and scores are a few products in NumPy.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int

from tain.exported.encoder import ExportedEncoder, open_graph
from tain.exported.folder import Export, exported_folder, read_export, refuse_changed
from tain.exported.graph import TransformerGraph, padded, sigmoid
from tain.exported.tokenizer import FastTokenizer
from tain.foundation.choices import CodeKind
from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.progress import Progress
from tain.foundation.ranker_record import described
from tain.foundation.tensors import read_arrays
from tain.foundation.vectors import unit_length
from tain.models.dual_scoring import DualScoring, compares_by_cosine, refuse_unrankable
from tain.models.plain_scanning import plain_scan_all
from tain.models.saved import read_record
from tain.text.collections import list_texts, matched_lists
from tain.text.encoding import UnusableTextError
from tain.text.token_encoding import TokenRows

HEAD_FILE = "head.safetensors"


@dataclass(frozen=True)
class ContextArrays:
    """The vectors of some contexts.

    Attributes:
        vectors: Zeros where there is none.
        is_vector: False if a context is too short to have that many.
    """

    vectors: Float32[np.ndarray, "contexts codes dim"]
    is_vector: Bool[np.ndarray, "contexts codes"]

    def __len__(self) -> int:
        return len(self.vectors)

    def of(self, context: int) -> Float32[np.ndarray, "own dim"]:
        """The vectors that this context has."""
        return self.vectors[context][self.is_vector[context]]


class ExportedDual(DualScoring):
    """An exported bi- or poly-encoder.

    Args:
        context: Encodes contexts, which are cut at their beginning.
        candidate: Encodes candidates.
        kind: How a context's vectors come from its tokens; see ``encoders.heads.DualHead``.
        count: Codes.
        scale: All vectors are multiplied by it.
        codes: Of the kind ``learned``, float32 (codes, dim).
        normalize: Give every vector length 1 before the scale.
        name: How it is called in tables.
        record: Its ``tain.json``.

    Attributes:
        truncated_contexts: Contexts cut when some were last encoded.
        truncated_candidates: Different candidates cut, likewise.
    """

    def __init__(
        self,
        context: ExportedEncoder,
        candidate: ExportedEncoder,
        *,
        kind: CodeKind,
        count: int,
        scale: float,
        codes: np.ndarray | None,
        normalize: bool,
        name: str,
        record: dict[str, Any] | None = None,
    ) -> None:
        # what was said last counts most
        self.context, self.candidate = context.with_limits(side="left"), candidate.with_limits(side="right")
        self.kind, self.count, self.scale, self.codes, self.normalize = kind, count, np.float32(scale), codes, normalize
        self.name, self.record = name, record or {}
        self.type: Literal["bi", "poly"] = "bi" if kind == "pooled" else "poly"
        self.truncated_contexts = self.truncated_candidates = 0

    @property
    def searchable(self) -> "ExportedDual":
        """This ranker, whose candidates have vectors that can be cached and searched."""
        return self

    @property
    def towers(self) -> tuple[ExportedEncoder, ...]:
        return (self.context,) if self.context.graph is self.candidate.graph else (self.context, self.candidate)

    @property
    def tokenizer(self) -> FastTokenizer:
        return self.context.tokenizer

    @property
    def max_tokens(self) -> int:
        return max(self.context.max_tokens, self.candidate.max_tokens)

    @property
    def dim(self) -> int:
        return self.candidate.dim

    @property
    def truncated(self) -> int:
        """Texts cut at a length limit."""
        return self.truncated_contexts + self.truncated_candidates

    @property
    def vectors(self) -> int:
        """Vectors of a context, at most."""
        return 1 if self.kind == "pooled" else self.count + (self.kind == "last-and-first")

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between models which could make different cached vectors."""
        about = (self.candidate.fingerprint(), self.candidate.max_tokens, float(self.scale), self.normalize)
        return hashlib.blake2b(json.dumps(about).encode(), digest_size=8).hexdigest()

    def encode_candidates(self, texts: Iterable[str], *, progress: Progress | None = None) -> Float32[np.ndarray, "texts dim"]:
        """Compute one vector for each candidate, to be cached.

        Raises:
            UserError: Something given is no text.
        """
        texts = list_texts(texts, what="candidate")
        pooled = self.candidate.encode(texts, progress=progress)
        self.truncated_candidates = self.candidate.truncated
        return self._scaled(pooled)

    def encode_contexts(self, texts: Iterable[str]) -> ContextArrays:
        """Compute the vectors of contexts; they are many numbers, so give few contexts at a time.

        Raises:
            UserError: Something given is no text.
        """
        texts = list_texts(texts, what="context")
        rows = self.context.token_rows(texts) if texts else TokenRows([], [], [])
        ids, self.truncated_contexts = rows.ids, sum(rows.is_cut)
        if not all(ids):
            row = ids.index([])
            raise UnusableTextError(row, texts[row], "has no tokens: remove it")
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        vectors = np.zeros((len(texts), self.vectors, self.dim), dtype=np.float32)
        wanted = "sentence_embedding" if self.kind == "pooled" else "last_hidden_state"
        graph = self.context.graph
        batches = list(graph.batches(lengths.tolist(), pads=self.context.export.pads))
        for batch, (found,) in zip(batches, graph.run_all(([ids[row] for row in batch] for batch in batches), [wanted]), strict=True):
            own = [ids[row] for row in batch]
            vectors[batch] = self._scaled(found)[:, None] if self.kind == "pooled" else self._of_tokens(found, padded(own, 0)[1] > 0)
        refuse_not_finite(vectors, self.name)
        return ContextArrays(vectors, self._is_vector(lengths))

    def _numbers_of_a_context(self) -> int:
        return self.vectors * self.dim

    def _scored(self, candidates: Float32[np.ndarray, "candidates dim"], context: Any) -> Float32[np.ndarray, " candidates"]:
        return plain_scan_all(candidates, context)

    def _counted(self, side: str, texts: list[str]) -> list[int]:
        return (self.context if side == "context" else self.candidate).count_tokens(texts)

    def _scaled(self, vectors: Float32[np.ndarray, "*rows dim"]) -> Float32[np.ndarray, "*rows dim"]:
        return (unit_length(vectors) if self.normalize else vectors) * self.scale

    def _is_vector(self, lengths: Int[np.ndarray, " contexts"]) -> Bool[np.ndarray, "contexts vectors"]:
        if self.kind in ("pooled", "learned"):
            return np.ones((len(lengths), self.vectors), dtype=bool)
        return _positions(self.kind, self.count, lengths) >= 0

    def _of_tokens(
        self, tokens: Float32[np.ndarray, "contexts longest dim"], is_token: Bool[np.ndarray, "contexts longest"]
    ) -> Float32[np.ndarray, "contexts vectors dim"]:
        """Make each context's vectors out of its token vectors, as ``DualHead.contexts`` does."""
        if self.codes is not None:
            tokens = tokens if self.normalize else self._scaled(tokens)
            mixed = _attended(self.codes, tokens, is_token)
            return self._scaled(mixed) if self.normalize else mixed
        tokens = self._scaled(tokens)
        positions = _positions(self.kind, self.count, is_token.sum(axis=1))
        taken = np.take_along_axis(tokens, np.clip(positions, 0, tokens.shape[1] - 1)[:, :, None], axis=1)
        return taken * (positions >= 0)[:, :, None]


class ExportedCross:
    """An exported cross-encoder: every pair goes through the graph.

    Args:
        graph: Gives ``logits`` of pairs.
        tokenizer: Its tokenizer.
        export: Its ``onnx/export.json``, which says how two texts become one row.
        name: How it is called in tables.
        dtype: Data type of the graph.
        record: Its ``tain.json``.
    """

    type: Literal["cross"] = "cross"
    searchable: None = None  # it has no vectors

    def __init__(
        self, graph: TransformerGraph, tokenizer: FastTokenizer, *, export: Export, name: str, dtype: str, record: dict[str, Any]
    ) -> None:
        self.graph, self.tokenizer, self.export, self.name, self.dtype, self.record = graph, tokenizer, export, name, dtype, record
        self.truncated_contexts = self.truncated_candidates = 0

    def on_one_core(self) -> "ExportedCross":
        """The same ranker on one thread, with a state of its own: each of several threads can use one at once."""
        other = copy.copy(self)
        other.graph, other.tokenizer = self.graph.on_one_thread(), copy.copy(self.tokenizer)
        return other

    @property
    def towers(self) -> tuple["ExportedCross", ...]:
        return (self,)

    @property
    def max_tokens(self) -> int:
        return self.export.max_tokens

    @property
    def truncated(self) -> int:
        """Texts (or pairs) cut at a length limit."""
        return self.truncated_contexts + self.truncated_candidates

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between models which could give different scores."""
        about = [self.export.digests[self.export.graphs[self.dtype]], self.export.digests["tokenizer.json"], self.export.max_tokens]
        return hashlib.blake2b(json.dumps(about).encode(), digest_size=8).hexdigest()

    def score(
        self, contexts: Iterable[str], candidates: Iterable[str], *, progress: Progress | None = None
    ) -> Float32[np.ndarray, "contexts candidates"]:
        """Score every candidate for every context: one pass of the graph for each pair."""
        contexts, candidates = list_texts(contexts, what="context"), list_texts(candidates, what="candidate")
        found = self.score_lists(contexts, [candidates] * len(contexts), progress=progress)
        return np.stack(found) if found else np.empty((0, len(candidates)), dtype=np.float32)

    def score_lists(
        self, contexts: Iterable[str], lists: Iterable[Iterable[str]], *, progress: Progress | None = None
    ) -> list[Float32[np.ndarray, " listed"]]:
        """Score each context's own list of candidates.

        Raises:
            UserError: Something given is no text, or there is not one list for each context.
        """
        contexts, lists = matched_lists(contexts, lists)
        rows = self._rows(contexts, lists)
        scores = np.empty(len(rows), dtype=np.float32)
        with (progress or Progress.silent()).task("score pairs", len(rows)) as task:
            batches = list(self.graph.batches([len(ids) for ids, _ in rows], pads=self.export.pads))
            ids, segments = ([[rows[row][part] for row in batch] for batch in batches] for part in (0, 1))
            for batch, (logits,) in zip(batches, self.graph.run_all(ids, ["logits"], segments=segments), strict=True):
                scores[batch] = logits[:, 0]
                task.advance(len(batch))
        if self.export.pair.get("activation") == "Sigmoid":
            scores = sigmoid(scores)
        refuse_not_finite(scores, self.name)
        return np.split(scores, np.cumsum([len(listed) for listed in lists])[:-1]) if lists else []

    def count_tokens(self, contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> list[int]:
        """Tell how many tokens are read to score each context's own list of candidates."""
        contexts, lists = matched_lists(contexts, lists)
        counts = iter([len(ids) for ids, _ in self._rows(contexts, lists)])
        return [sum(islice(counts, len(listed))) for listed in lists]

    def _rows(self, contexts: list[str], lists: list[list[str]]) -> list[tuple[list[int], list[int]]]:
        """Token ids and segments of each pair."""
        pair = self.export.pair
        if "separator" not in pair:  # the tokenizer joins the two texts
            pairs = [(context, text) for context, listed in zip(contexts, lists, strict=True) for text in listed]
            rows, self.truncated_candidates = self.tokenizer.pair_rows(pairs, max_tokens=self.export.max_tokens)
            return rows
        distinct = list(dict.fromkeys(text for listed in lists for text in listed))
        left, left_cut = self.tokenizer.ids(contexts, max_tokens=pair["context_tokens"], side="left")
        right, right_cut = self.tokenizer.ids(distinct, max_tokens=pair["candidate_tokens"])
        self.truncated_contexts, self.truncated_candidates = sum(left_cut), sum(right_cut)
        second = [[pair["separator"], *ids[1:]] if pair["is_doubled"] else list(ids[1:]) for ids in right]
        row_of = {text: row for row, text in enumerate(distinct)}
        rows = []
        for ids, listed in zip(left, lists, strict=True):
            for text in listed:
                theirs = second[row_of[text]]
                rows.append(([*ids, *theirs], [0] * len(ids) + [1] * len(theirs)))
        return rows


def load_exported_ranker(
    name: str | Path, *, dtype: Literal["auto", "float32", "int8"] = "auto", threads: int | None = None
) -> ExportedDual | ExportedCross:
    """Load a ranker that ``tain export`` wrote; an exported encoder is taken as a bi-encoder with one tower.

    Args:
        name: The folder, or ``tain-mini``.
        dtype: Which graph to run; ``auto`` takes float32.
        threads: Threads of onnxruntime; default: its own choice.

    Raises:
        UserError: The folder holds no graphs, or a file is damaged or was changed after the export.
    """
    folder = exported_folder(name)
    if folder is None:
        raise UserError(f"model {str(name)!r} holds no exported graph (onnx/export.json): make one with tain export")
    record = read_record(folder)
    if record.get("kind") == "ranker":
        kind = described(record, name)["type"]
    else:
        kind = "cross-encoder" if read_export(folder, name=str(name)).kind == "pairs" else "encoder"
    return _KINDS[kind](folder, str(name), record, dtype=dtype, threads=threads)


def _dual(folder: Path, name: str, record: dict[str, Any], *, dtype: Any, threads: int | None) -> ExportedDual:
    about = described(record, name)
    one = folder if about["type"] == "bi" else folder / "encoder"
    places = (one, one) if about["shared"] else (folder / "context", folder / "candidate")
    loaded = {place: ExportedEncoder.load(place, dtype=dtype, threads=threads) for place in dict.fromkeys(places)}
    context, candidate = (loaded[place].with_limits() for place in places)
    # a shared tower was exported with the limit of its contexts, and candidates may be longer
    context.max_tokens, candidate.max_tokens = about["context_tokens"], about["candidate_tokens"]
    refuse_changed(folder, {HEAD_FILE: context.export.pair.get("head")}, [HEAD_FILE], name=name)
    try:
        head = read_arrays(folder / HEAD_FILE)
        scale = float(np.exp(head["log_scale"].astype(np.float32)))
        codes = head["codes"].astype(np.float32) if about["kind"] == "learned" else None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"model {name!r} has a damaged {HEAD_FILE} ({error}): export the model again") from None
    settings = {"kind": about["kind"], "count": about["codes"], "scale": scale, "codes": codes, "normalize": about.get("normalise", False)}
    return ExportedDual(context, candidate, name=name, record=record, **settings)


def _own_cross(folder: Path, name: str, record: dict[str, Any], *, dtype: str, threads: int | None) -> ExportedCross:
    return _cross(folder / "encoder", name, record, dtype=dtype, threads=threads)


def _around(folder: Path, name: str, record: dict[str, Any], *, dtype: Any, threads: int | None) -> ExportedDual:
    """Wrap an exported encoder as a bi-encoder with one tower."""
    encoder = ExportedEncoder.load(name, dtype=dtype, threads=threads)
    refuse_unrankable(encoder)
    settings = {"kind": "pooled", "count": 1, "scale": 1.0, "codes": None}
    settings["normalize"] = encoder.normalize or compares_by_cosine(encoder.sentence_transformers)
    return ExportedDual(encoder, encoder, name=name, **settings)


def _cross(folder: Path, name: str, record: dict[str, Any], *, dtype: str, threads: int | None) -> ExportedCross:
    export = read_export(folder, name=name)
    graph, chosen = open_graph(folder, export, name=name, dtype=dtype, threads=threads)
    tokenizer = FastTokenizer(folder, unknown_id=export.unknown_id, name=name)
    return ExportedCross(graph, tokenizer, export=export, name=name, dtype=chosen, record=record)


# what a folder holds -> how it is loaded: tain's own rankers by their type, other folders by what their graph takes
_KINDS: dict[str, Callable[..., ExportedDual | ExportedCross]] = {
    "bi": _dual,
    "poly": _dual,
    "cross": _own_cross,
    "cross-encoder": _cross,
    "encoder": _around,
}


def _attended(codes: np.ndarray, tokens: np.ndarray, is_token: np.ndarray) -> np.ndarray:
    logits = tokens @ codes.T  # (contexts, longest, codes)
    logits = np.where(is_token[:, :, None], logits, np.finfo(np.float32).min)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.transpose(0, 2, 1) @ tokens


def _positions(kind: str, count: int, lengths: Int[np.ndarray, " contexts"]) -> Int[np.ndarray, "contexts vectors"]:
    """Which token each vector of a context is; -1 where it has too few."""
    steps = np.arange(count)[None]
    if kind == "first":
        return np.where(steps < lengths[:, None], steps, -1)
    last = np.maximum(lengths[:, None] - 1 - steps, -1)
    if kind == "last":
        return last
    first = np.where(lengths > count, 0, -1)  # a short context's first output is among the last already
    return np.concatenate([last, first[:, None]], axis=1)
