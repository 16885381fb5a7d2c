"""Distilled student that runs without torch: encodes or labels texts."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from tain.foundation.choices import Truncation
from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.json_files import Field, checked_object, read_object
from tain.foundation.machine import collect_as_usual
from tain.foundation.progress import Progress
from tain.foundation.slices import in_slices
from tain.foundation.vectors import unit_length
from tain.students.graphs import Graph, NumpyGraph, OnnxGraph
from tain.students.inputs import HashedReader, TokenReader
from tain.students.projection_config import ProjectionConfig
from tain.students.streaming import StreamingText
from tain.text.collections import list_texts
from tain.text.encoding import BaseTextEncoder, EncodeOptions, UnusableTextError
from tain.text.records import Prediction
from tain.text.tags import tokens_of

Backend = Literal["onnx", "numpy"]

GRAPH_FILE, PROJECTION_FILE, TOKENIZER_FILE, RECORD_FILE = "student.onnx", "projection.json", "tokenizer.json", "tain.json"
RECORD_FORMAT = 1

_TEXTS = Field(kind=list, items=Field(kind=str), is_needed=False, may_be_null=True)
_RECORD = {
    "format": Field(kind=int, least=1),
    "task": Field(kind=str, among=("embed", "classify", "tag")),
    "dim": Field(kind=int, least=0),
    "normalise": Field(kind=bool, is_needed=False),
    "labels": _TEXTS,
    "tags": _TEXTS,
    "config": Field(kind=dict, is_needed=False),
}

_KEPT_CHARACTERS = 64
_TYPED_TOKENS = 65_536  # tokens to keep, over all typed texts
_BATCH_TOKENS = 512  # with more, tokens would drop out of the cache between steps


def is_student(folder: str | Path) -> bool:
    """Whether a folder holds a student written by ``tain distil``, complete or not."""
    if (Path(folder) / GRAPH_FILE).is_file():
        return True
    try:
        return json.loads((Path(folder) / RECORD_FILE).read_text(encoding="utf-8")).get("kind") == "student"
    except (OSError, ValueError, AttributeError, RecursionError):
        return False  # damage is reported when it is loaded


class Student(BaseTextEncoder):
    """A student: a graph and the reader of its inputs. Safe to use from several threads, which take turns by batch.

    Args:
        graph: Runs the model.
        reader: Converts texts to graph inputs.
        record: The folder's ``tain.json``.
        name: Name in tables.
        fingerprint: Identifies the student.
    """

    def __init__(self, graph: Graph, reader: HashedReader | TokenReader, *, record: dict[str, Any], name: str, fingerprint: str) -> None:
        self.graph = graph
        self.record = record
        self.name = name
        self.languages: tuple[str, ...] = ()
        self.truncated = 0  # texts truncated by the last call
        self.normalize = bool(record.get("normalise", False))
        self._reader = reader
        self._fingerprint = fingerprint
        self._codes: Callable[[str], np.ndarray] | None = None  # computes codes of typed tokens
        self._turn = threading.Lock()  # reading, running and caching a batch must not be interleaved

    @classmethod
    def load(cls, folder: str | Path, *, backend: Backend = "onnx", threads: int | None = None) -> "Student":
        """Load a folder written by ``tain distil``.

        Args:
            folder: Folder with the graph, the projection (for static students, the tokenizer) and ``tain.json``.
            backend: ``onnx`` uses onnxruntime; ``numpy`` needs no other package.
            threads: Threads of onnxruntime; one is best for single short texts. Default: chosen by onnxruntime.

        Raises:
            UserError: A file is missing, damaged, or of another version.
        """
        collect_as_usual()
        folder = Path(folder)
        if backend not in ("onnx", "numpy"):
            raise UserError(f"backend is {backend!r}: give onnx or numpy")
        if not (folder / GRAPH_FILE).is_file():
            raise UserError(f"{str(folder)!r} has no {GRAPH_FILE}: give a folder that tain distil wrote")
        record = _record(folder)
        graph = NumpyGraph(folder / GRAPH_FILE) if backend == "numpy" else OnnxGraph(folder / GRAPH_FILE, threads=threads)
        if graph.metadata["student"] == "static":
            reader_file, reader = TOKENIZER_FILE, TokenReader(folder / TOKENIZER_FILE)
        else:
            projection = ProjectionConfig.load(folder / PROJECTION_FILE)
            of_graph = graph.metadata["features"], graph.metadata.get("projection", projection.fingerprint)
            if of_graph != (projection.features, projection.fingerprint):
                raise UserError(
                    f"student {str(folder)!r} needs {of_graph[0]} features per token from projection {of_graph[1]}, but its projection file gives"
                    f" {projection.features} from {projection.fingerprint}: the files come from different students; give an unchanged folder of tain distil"
                )
            reader_file, reader = PROJECTION_FILE, HashedReader(projection, bottleneck=graph.metadata["bottleneck"])
        is_embedding = record["task"] == "embed"
        for output, named in (
            ("text", record["dim"] if is_embedding else len(record.get("labels") or ())),
            ("tokens", 0 if is_embedding else len(record.get("tags") or ())),
        ):
            outputs = graph.metadata.get("outputs", {}).get(output)
            if outputs is not None and outputs != named:
                raise UserError(
                    f"student {str(folder)!r} has {outputs} outputs for {output}, but {RECORD_FILE} names {named}:"
                    " the files come from different students; give an unchanged folder of tain distil"
                )
        digest = hashlib.sha256()
        for file in (GRAPH_FILE, reader_file):
            digest.update((folder / file).read_bytes())
        return cls(graph, reader, record=record, name=str(folder), fingerprint=digest.hexdigest())

    @property
    def task(self) -> str:
        return self.record["task"]

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names; empty if it has no classes."""
        return tuple(self.record.get("labels") or ())

    @property
    def tags(self) -> tuple[str, ...]:
        """Tag names; empty if it has no tags."""
        return tuple(self.record.get("tags") or ())

    @property
    def dim(self) -> int:
        return int(self.record["dim"])

    @property
    def max_tokens(self) -> int | None:
        """Tokens read per text; None without a limit."""
        return self._reader.max_tokens

    def _encode(self, texts: Iterable[str], options: EncodeOptions) -> Float32[np.ndarray, "texts dim"]:
        if self.task != "embed":
            raise UserError(f"student {self.name!r} was distilled to {self.task}, so it has no vectors: distil one with --task embed")
        self.refuse_language(options.language)
        if options.deterministic:
            raise UserError(f"deterministic is on, which student {self.name!r} does not support: leave it out")
        prompt = self.prompt_for(prompt_name=options.prompt_name, prompt=options.prompt)
        texts = [prompt + text for text in list_texts(texts)] if prompt else list_texts(texts)
        if self.max_tokens is not None:  # without a limit every text is read whole
            self._refuse_long(texts, options.truncation)
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        for indices, outputs in self._outputs(texts, options.batch_tokens, options.progress, "encode", batch_size=options.batch_size):
            vectors[indices] = outputs["text"]
        if self.normalize if options.normalize is None else options.normalize:
            unit_length(vectors, out=vectors)
        return vectors

    def _refuse_long(self, texts: list[str], truncation: Truncation) -> None:
        """Refuse what ``truncation`` asks for, as far as a student with a limit cannot do it.

        Raises:
            UserError: Means of chunks are wanted; or a text is too long, which is to be an error.
        """
        if truncation == "mean-of-chunks":
            raise UserError(
                f"truncation is 'mean-of-chunks', but student {self.name!r} reads {self.max_tokens} tokens of a text and does not split it:"
                " let truncation be cut or error, or split the texts yourself"
            )
        if truncation == "error" and True in (is_cut := self._reader.are_cut(texts)):
            text = is_cut.index(True)
            reason = f"has more than {self.max_tokens} tokens, and a student's limit is fixed: split it, or let truncation be cut"
            raise UnusableTextError(text, texts[text], reason)

    def predict(self, texts: Iterable[str], *, batch_tokens: int | None = None, progress: Progress | None = None) -> list[Prediction]:
        """Predict the class of each text, its tokens' tags, or both.

        Args:
            texts: An iterable of texts. For tags, tokens are separated by blanks.
            batch_tokens: Tokens per batch; affects speed and memory only.
            progress: Receives an update per batch.

        Raises:
            UserError: The student outputs vectors.
        """
        if self.task == "embed":
            raise UserError(f"student {self.name!r} was distilled to embed, so it has no labels: use encode")
        texts = list_texts(texts)
        found: dict[int, Prediction] = {}
        for indices, outputs in self._outputs(texts, batch_tokens, progress, "predict"):
            for row, index in enumerate(indices):
                tokens = len(tokens_of(texts[int(index)]))
                found[int(index)] = self.prediction({name: values[row] for name, values in outputs.items()}, tokens=tokens)
        return [found[index] for index in range(len(texts))]

    def class_probabilities(self, texts: Iterable[str]) -> Float32[np.ndarray, "texts classes"]:
        """Probability of each class for each text, in the order of ``labels``.

        Raises:
            UserError: The student has no classes.
        """
        if not self.labels:
            raise UserError(f"student {self.name!r} was distilled to {self.task}, so it has no classes")
        texts = list_texts(texts)
        logits = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        for indices, outputs in self._outputs(texts, None, None, "predict"):
            logits[indices] = outputs["text"]
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        return shares / shares.sum(axis=1, keepdims=True)

    def stream(self) -> StreamingText:
        """Start reading a text that is being typed; each token is read once.

        Raises:
            UserError: The student is bidirectional or static, or was not loaded with ``backend="numpy"``.
        """
        if not isinstance(self._reader, HashedReader) or self.graph.metadata["directions"] != 1:
            raise UserError(
                f"student {self.name!r} does not read forwards only, so each token may change all outputs: distil with --forward-only"
            )
        if not isinstance(self.graph, NumpyGraph):
            raise UserError(
                f"student {self.name!r} runs in onnxruntime, which reads complete texts: load it with backend='numpy' to stream"
            )
        if self._codes is None:
            graph, reader = self.graph, self._reader
            codes = lambda token: graph.codes(reader.rows_of([token]))  # noqa: E731
            kept = lru_cache(_TYPED_TOKENS)(codes)
            # typing or pasting a long token leaves each of its prefixes in the cache
            self._codes = lambda token: kept(token) if len(token) <= _KEPT_CHARACTERS else codes(token)
        return StreamingText(self, self.graph, self._reader, self._codes)

    def prediction(self, outputs: Mapping[str, np.ndarray], *, tokens: int) -> Prediction:
        """Convert a text's outputs to a prediction.

        Args:
            outputs: ``text`` (classes,) and ``tokens`` (at least as many as read, tags), as far as the student has them.
            tokens: Number of tokens of the text.
        """
        label = chance = tags = None
        if "text" in outputs:
            shares = np.exp(outputs["text"] - outputs["text"].max())
            label, chance = self.labels[int(shares.argmax())], float(shares.max() / shares.sum())
        if "tokens" in outputs:
            read = min(tokens, self.max_tokens or tokens)
            tags = [self.tags[int(tag)] for tag in outputs["tokens"][:read].argmax(axis=1)] + ["O"] * (tokens - read)
        return Prediction(label, chance, tags)

    def count_tokens(self, texts: Iterable[str]) -> list[int]:
        """Number of tokens read per text."""
        return self._reader.count(list_texts(texts))

    def are_cut(self, texts: Iterable[str]) -> list[bool]:
        """Whether each text has more tokens than are read."""
        return self._reader.are_cut(list_texts(texts))

    def refuse_language(self, language: object) -> None:
        """Refuse a language, since students do not distinguish languages.

        Raises:
            UserError: A language is given.
        """
        if language is not None:
            raise UserError(f"language is {language!r}, but student {self.name!r} treats all texts alike: remove it")

    def fingerprint(self) -> str:
        """SHA-256 of everything its outputs depend on."""
        return self._fingerprint

    def settings(self) -> dict[str, Any]:
        """Other settings that a file of vectors depends on."""
        return {"backend": type(self.graph).__name__}

    def _outputs(
        self,
        texts: Sequence[str],
        batch_tokens: int | None,
        progress: Progress | None,
        name: str,
        *,
        batch_size: int | None = None,
    ) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
        """Run texts of similar length together; yields their indices and the graph's outputs."""
        self.truncated = 0
        with (progress or Progress.silent()).task(name, len(texts)) as task:
            batches = _batches([self._reader.estimate(text) for text in texts], batch_tokens or _BATCH_TOKENS)
            for indices in (part for batch in batches for part in in_slices(batch, batch_size)):
                with self._turn:
                    inputs = self._reader([texts[int(index)] for index in indices])
                    if not inputs.tokens.all():
                        first = texts[int(indices[int(np.argmin(inputs.tokens))])]
                        raise UserError(f"the text {first[:40]!r} has no tokens for student {self.name!r}: remove such texts")
                    outputs = self.graph.run(inputs.arrays)
                    self._reader.keep(outputs)
                if "text" in outputs:
                    refuse_not_finite(outputs["text"], self.name)
                self.truncated += inputs.truncated
                yield indices, outputs
                task.advance(len(indices))


def _batches(lengths: list[int], batch_tokens: int) -> Iterator[np.ndarray]:
    """Batches of indices of texts of similar length, sized as if all were as long as the longest."""
    order = np.argsort(np.asarray(lengths), kind="stable")
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > batch_tokens:
            yield order[start:end]
            start = end


def _record(folder: Path) -> dict[str, Any]:
    damaged, advice = f"student {str(folder)!r} has a damaged {RECORD_FILE}", "give the whole folder that tain distil wrote"
    try:
        record = read_object(folder / RECORD_FILE, {}, damaged=damaged, advice=advice)
    except FileNotFoundError:
        raise UserError(f"student {str(folder)!r} has no {RECORD_FILE}: {advice}") from None
    except OSError as error:
        raise UserError(f"{damaged}: {advice} ({error.strerror})") from None
    if record.get("kind") != "student":
        raise UserError(f"{str(folder / RECORD_FILE)!r} does not describe a student: {advice}")
    checked_object(record, _RECORD, damaged=damaged, advice=advice)
    if record["format"] > RECORD_FORMAT:
        raise UserError(
            f"student {str(folder)!r} was saved in format {record['format']}, but this tain reads {RECORD_FORMAT}: upgrade tain"
        )
    return record
