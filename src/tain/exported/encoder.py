"""An exported encoder without torch: texts in, vectors out."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float32

from tain.exported.folder import Export, exported_folder, read_export, refuse_changed
from tain.exported.graph import BATCH_TOKENS, TransformerGraph, batches_of_rows
from tain.exported.tokenizer import FastTokenizer
from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.machine import collect_as_usual
from tain.foundation.progress import Progress
from tain.foundation.slices import in_slices
from tain.foundation.vectors import unit_length
from tain.text.collections import list_texts
from tain.text.encoding import BaseTextEncoder

GraphDtype = Literal["float32", "int8"]

_WEIGHTS = "model.safetensors"
_WINDOW_TEXTS = 16_384  # texts tokenised and sorted together


class ExportedEncoder(BaseTextEncoder):
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
        languages: Empty: an exported graph treats all texts alike.
        normalize: Whether vectors have length 1.
        side: Where long texts are cut: ``right`` or ``left``.
    """

    def __init__(
        self, graph: TransformerGraph, tokenizer: FastTokenizer, *, export: Export, name: str, dtype: GraphDtype, max_tokens: int
    ) -> None:
        self.graph, self.tokenizer, self.export = graph, tokenizer, export
        self.name, self.max_tokens = name, max_tokens
        self.dtype: GraphDtype = dtype
        self.normalize = export.normalize
        self.languages: tuple[str, ...] = ()
        self.truncated = 0
        self.side = export.side

    @classmethod
    def load(
        cls, name: str | Path, *, dtype: GraphDtype | Literal["auto"] = "auto", max_tokens: int | None = None, threads: int | None = None
    ) -> "ExportedEncoder":
        """Load a folder that ``tain export`` wrote, or ``tain-mini``.

        Args:
            name: The folder.
            dtype: Which graph to run; ``auto`` takes float32, whose vectors are those of the model.
            max_tokens: Cut texts at this length; default: the limit of the export.
            threads: Threads of onnxruntime; one is best where several processes share a machine. Default: its own choice.

        Raises:
            UserError: The folder holds no exported encoder, a file was changed after the export, or the folder lacks such a graph.

        Example:
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
        if max_tokens is not None and not 3 <= max_tokens <= export.max_tokens:
            raise UserError(f"max_tokens is {max_tokens}, but model {str(name)!r} reads 3 to {export.max_tokens}: give a number in between")
        graph, chosen = open_graph(folder, export, name=str(name), dtype=dtype, threads=threads)
        tokenizer = FastTokenizer(folder, unknown_id=export.unknown_id, name=str(name))
        return cls(graph, tokenizer, export=export, name=str(name), dtype=chosen, max_tokens=max_tokens or export.max_tokens)

    @property
    def dim(self) -> int:
        return self.export.dim

    def _encode(
        self,
        texts: Iterable[str],
        *,
        language: str | Iterable[str] | None,
        batch_size: int | None,
        batch_tokens: int | None,
        normalize: bool | None,
        progress: Progress | None,
    ) -> Float32[np.ndarray, "texts dim"]:
        texts = list_texts(texts)
        self.refuse_language(language if language is None or isinstance(language, str) else list_texts(language, what="language"))
        if normalize is False and self.export.normalize:
            raise UserError(
                f"normalize is off, but the graph of {self.name!r} scales vectors to length 1: leave it out, or use the torch backend"
            )
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        self.truncated = 0
        with (progress or Progress.silent()).task("encode", len(texts)) as task:
            for start in range(0, len(texts), _WINDOW_TEXTS):
                window = texts[start : start + _WINDOW_TEXTS]
                ids, cut = self.token_ids(window, start=start)
                self.truncated += cut
                for full in batches_of_rows(list(map(len, ids)), batch_tokens=batch_tokens or BATCH_TOKENS, pads=self.export.pads):
                    for batch in in_slices(full, batch_size):
                        (found,) = self.graph.run([ids[row] for row in batch], ["sentence_embedding"])
                        vectors[np.asarray(batch) + start] = found
                        task.advance(len(batch))
        refuse_not_finite(vectors, self.name)
        if normalize and not self.export.normalize:
            unit_length(vectors, out=vectors)
        return vectors

    def token_ids(self, texts: Sequence[str], *, start: int = 0) -> tuple[list[list[int]], int]:
        """Token ids of texts, special tokens included, and how many texts were cut.

        Args:
            texts: The texts.
            start: Number of the first text, for messages.

        Raises:
            UserError: A text has no tokens.
        """
        ids, is_cut = self.tokenizer.ids(texts, max_tokens=self.max_tokens, side=self.side)
        if not all(ids):
            row = next(row for row, each in enumerate(ids) if not each)
            raise UserError(f"text {start + row} ({texts[row]!r:.60}) has no tokens: leave it out")
        return ids, sum(is_cut)

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
        return {"backend": "onnx", "compute-dtype": self.dtype, "max-tokens": self.max_tokens}

    def fingerprint(self) -> str:
        """SHA-256 of graph and tokenizer."""
        export = self.export
        parts = [export.digests[export.graphs[self.dtype]], export.digests["tokenizer.json"], export.digests.get(_WEIGHTS, "")]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()


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
