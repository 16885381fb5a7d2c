"""An exported encoder without torch: texts in, vectors out."""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from tain.exported.folder import Export, exported_folder, read_export, refuse_changed
from tain.exported.graph import TransformerGraph
from tain.exported.tokenizer import FastTokenizer
from tain.foundation.errors import UserError
from tain.foundation.machine import collect_as_usual
from tain.models.saved import read_prompts
from tain.models.vector_forms import Int8Ranges
from tain.text.collections import list_texts
from tain.text.encoding import EncodeOptions
from tain.text.token_encoding import TokenEncoder, TokenRows, TokenVectors

GraphDtype = Literal["float32", "int8"]

_WEIGHTS = "model.safetensors"


class ExportedEncoder(TokenEncoder):
    """Computes vectors with onnxruntime, tokenizers and NumPy alone; takes the arguments of ``Embedder``.

    Args:
        graph: Runs token ids.
        tokenizer: Turns texts into token ids.
        export: The folder's ``onnx/export.json``.
        name: How the model is called in tables.
        dtype: Data type of the graph.
        max_tokens: Texts are cut at this length, special tokens included.

    Attributes:
        truncated: Texts cut by the last call of ``encode``.
        chunked: Texts that the last call of ``encode`` split into chunks.
        languages: Empty: an exported graph treats all texts alike.
        normalize: Whether vectors have length 1.
        side: Where long texts are cut: ``right`` or ``left``.
        sentence_transformers: The folder's ``config_sentence_transformers.json``, which holds the prompts; empty if there is none.
    """

    def __init__(
        self, graph: TransformerGraph, tokenizer: FastTokenizer, *, export: Export, name: str, dtype: GraphDtype, max_tokens: int
    ) -> None:
        self.graph, self.tokenizer, self.export = graph, tokenizer, export
        self.name, self.max_tokens = name, max_tokens
        self.dtype: GraphDtype = dtype
        self.normalize = export.normalize
        self.languages: tuple[str, ...] = ()
        self.side = export.side
        self.sentence_transformers: dict[str, Any] = {}

    @classmethod
    def load(
        cls, name: str | Path, *, dtype: GraphDtype | Literal["auto"] = "auto", max_tokens: int | None = None, threads: int | None = None
    ) -> "ExportedEncoder":
        """Load a folder that ``tain export`` wrote, or ``tain-mini``.

        Args:
            name: The folder.
            dtype: Which graph to run; ``auto`` takes float32, whose vectors are those of the model.
            max_tokens: Cut texts at this length; default: the limit of the export.
            threads: Threads of onnxruntime; one is best where several processes share a machine. Default: as ``OMP_NUM_THREADS`` says,
                else one for each core.

        Raises:
            UserError: The folder holds no exported encoder, a file was changed after the export, or the folder lacks such a graph.

        Examples:
            >>> import tain
            >>> encoder = tain.ExportedEncoder.load("tain-mini", threads=1)
            >>> encoder.encode(["one text", "another"]).shape
            (2, 384)
        """
        collect_as_usual()
        folder = exported_folder(name)
        if folder is None:
            raise UserError(f"model {str(name)!r} holds no exported graph (onnx/export.json): make one with tain export")
        export = read_export(folder, name=str(name))
        if export.kind != "encoder":
            raise UserError(f"model {str(name)!r} was exported to score pairs of texts, so it has no vectors: use it with tain rank")
        graph, chosen = open_graph(folder, export, name=str(name), dtype=dtype, threads=threads)
        tokenizer = FastTokenizer(folder, unknown_id=export.unknown_id, name=str(name))
        encoder = cls(graph, tokenizer, export=export, name=str(name), dtype=chosen, max_tokens=export.max_tokens)
        encoder.sentence_transformers = dict(read_prompts(folder, name=str(name)))
        encoder.kept_dims = encoder.sentence_transformers.get("truncate_dim")
        return encoder.with_limits(max_tokens=max_tokens)

    @property
    def dim(self) -> int:
        return self.export.dim

    def with_limits(self, *, max_tokens: int | None = None, side: str | None = None) -> "ExportedEncoder":
        """The same encoder with another length limit; both share the graph and the tokenizer.

        Args:
            max_tokens: Cut texts at this length; default: unchanged.
            side: Where long texts are cut, ``right`` or ``left``; default: unchanged.

        Raises:
            UserError: The model does not read that many tokens.
        """
        if max_tokens is not None and not 3 <= max_tokens <= self.export.max_tokens:
            raise UserError(
                f"max_tokens is {max_tokens}, but model {self.name!r} reads 3 to {self.export.max_tokens}: give a number in between"
            )
        if side not in (None, "left", "right"):
            raise UserError(f"side is {side!r}: give left or right")
        other = copy.copy(self)
        other.max_tokens, other.side = max_tokens or self.max_tokens, side or self.side
        other.truncated = other.chunked = 0
        return other

    def on_one_core(self) -> "ExportedEncoder":
        """The same encoder on one thread, with a state of its own: each of several threads can use one at once."""
        other = copy.copy(self)
        other.graph, other.tokenizer = self.graph.on_one_thread(), copy.copy(self.tokenizer)
        return other

    @property
    def int8_ranges(self) -> Int8Ranges | None:
        """Ranges for vectors in int8, from the texts of the export; None if the folder has none."""
        return _ranges_of(self.export, self.name)

    def token_rows(self, texts: Sequence[str], *, in_chunks: bool = False) -> TokenRows:
        if in_chunks:
            return TokenRows.chunks(self.tokenizer.chunks(texts, max_tokens=self.max_tokens))
        return TokenRows.one_each(*self.tokenizer.ids(texts, max_tokens=self.max_tokens, side=self.side))

    def _batches(self, lengths: Sequence[int], batch_tokens: int | None) -> Iterator[list[int]]:
        return self.graph.batches(lengths, batch_tokens=batch_tokens, pads=self.export.pads)

    @property
    def include_prompt(self) -> bool:
        return self.export.include_prompt

    def prompt_tokens(self, prompt: str) -> int:
        raise UserError(
            f"model {self.name!r} leaves its prompt out of the pooling, which its exported graph cannot do: use the torch backend, or give an"
            " empty prompt"
        )

    def _pooled(self, batches: Iterable[list[list[int]]], *, is_alone: bool, skipped: int) -> Iterator[Float32[np.ndarray, "rows width"]]:
        return (found for (found,) in self.graph.run_all(batches, ["sentence_embedding"], on_one_thread=is_alone))

    def token_vectors(self, text: str) -> TokenVectors:
        """Compute the token vectors of one text after its default prompt, and its vector. A correction changes the vector alone."""
        ids = self._rows([self.default_prompt + text], EncodeOptions(), start=0).ids
        tokens, vector = self.graph.run(ids, ["last_hidden_state", "sentence_embedding"])
        return TokenVectors(tokens[0], vector[0])

    def _corrected(self, vectors: Float32[np.ndarray, "rows width"], language: None, *, is_alone: bool) -> Float32[np.ndarray, "rows dim"]:
        return vectors  # the graph has the correction

    def _running(self, *, deterministic: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def _scales(self, normalize: bool | None) -> bool:
        if normalize is False and self.export.normalize:
            raise UserError(
                f"normalize is off, but the graph of {self.name!r} scales vectors to length 1: leave it out, or use the torch backend"
            )
        return self.normalize or bool(normalize)

    def _scaled(self, vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
        return vectors if self.export.normalize else super()._scaled(vectors)

    def count_tokens(self, texts: Iterable[str]) -> list[int]:
        """Tell how many tokens are read of each text, special tokens included."""
        return [len(ids) for ids in self.tokenizer.ids(list_texts(texts), max_tokens=self.max_tokens)[0]]

    def refuse_language(self, language: str | Sequence[str] | None) -> None:
        """Refuse a language: the graph treats all texts alike.

        Raises:
            UserError: One is given.
        """
        if language is not None:
            raise UserError(f"language is {language!r}, but the exported model {self.name!r} treats all texts alike: leave it out")

    def settings(self) -> dict[str, Any]:
        """What vectors depend on besides the graph and the tokenizer."""
        prompt = {"default-prompt": self.default_prompt} if self.default_prompt else {}
        return {"backend": "onnx", "compute-dtype": self.dtype, "max-tokens": self.max_tokens} | prompt

    def fingerprint(self) -> str:
        """SHA-256 of graph and tokenizer."""
        export = self.export
        parts = [export.digests[export.graphs[self.dtype]], export.digests["tokenizer.json"], export.digests.get(_WEIGHTS, "")]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def recorded_ranges(folder: Path) -> Int8Ranges:
    """Read the ranges for vectors in int8 that the export of a folder recorded.

    Raises:
        UserError: It is no exported encoder, or has no ranges.
    """
    name = str(folder)
    found = _ranges_of(read_export(folder, name=name), name) if exported_folder(folder) is not None else None
    if found is None:
        raise UserError(f"{name!r} has no ranges of int8: give a folder that tain export wrote, or a .ranges.json file")
    return found


def _ranges_of(export: Export, name: str) -> Int8Ranges | None:
    return Int8Ranges.read(export.int8_ranges, what=f"model {name!r}") if export.int8_ranges else None


def open_graph(folder: Path, export: Export, *, name: str, dtype: str, threads: int | None) -> tuple[TransformerGraph, GraphDtype]:
    """Check an export's files and open its graph of a data type.

    Raises:
        UserError: There is no such graph, a file was changed after the export, or onnxruntime cannot run it.
    """
    chosen = "float32" if dtype == "auto" else dtype
    if chosen not in ("float32", "int8"):
        raise UserError(f"dtype is {dtype!r}, but the exported model {name!r} computes in {' or '.join(export.graphs)}: give one of these")
    if chosen not in export.graphs:
        raise UserError(f"dtype is {dtype!r}, but {name!r} was exported without such a graph: export it again with --int8")
    file = export.graphs[chosen]
    weights = export.weights if chosen == "float32" else {}
    needed = [file, "tokenizer.json"]
    if weights or (_WEIGHTS in export.digests and (folder / _WEIGHTS).exists()):  # a container may leave them out
        needed.append(_WEIGHTS)
    refuse_changed(folder, export.digests, needed, name=name)
    graph = TransformerGraph(
        folder / file, name=name, pad_id=export.pad_id, threads=threads, weights=weights, weights_file=folder / _WEIGHTS
    )
    return graph, chosen
