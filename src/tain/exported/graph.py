"""Run an exported graph with onnxruntime: rows of token ids in, named arrays out."""

import copy
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tain.foundation.ahead import results_ahead
from tain.foundation.errors import UserError
from tain.foundation.machine import thread_limit, usable_cores
from tain.foundation.tensors import read_arrays

BATCH_TOKENS = 512  # padding included; larger batches fall out of the cache: 2048 is a quarter slower on one thread (MiniLM, int8)
_CALL_TOKENS = 12  # fixed cost of a call, in tokens (MiniLM int8: 3 to 10, tain-mini: 9)
_LEAST_BATCH_TOKENS = 128  # where few rows are shared out among threads


class TransformerGraph:
    """One graph in an onnxruntime session.

    Args:
        path: The ONNX file.
        name: The model's name, for messages.
        pad_id: Token that rows are filled up with.
        threads: Threads to use; default: as ``OMP_NUM_THREADS`` says, else one for each core.
        weights: For a file without weights: name in the graph to (name in the safetensors file, is transposed).
        weights_file: That safetensors file.

    Raises:
        UserError: onnxruntime is missing or cannot run the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        pad_id: int,
        threads: int | None = None,
        weights: dict[str, Any] | None = None,
        weights_file: Path | None = None,
    ) -> None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError:
            raise UserError("onnxruntime is not installed, which runs exported models: run pip install onnxruntime") from None
        self.name, self.pad_id = name, pad_id
        threads = threads or thread_limit()
        self.threads = threads or usable_cores()
        self._path = path
        self._weights = _weights_of(weights, weights_file, name) if weights and weights_file is not None else {}
        self._own_threads = 1 if self.threads == 1 else threads
        self._sessions: dict[int | None, Any] = {}
        self._opening = threading.Lock()
        session = self._session(self._own_threads)
        self.inputs = [each.name for each in session.get_inputs()]
        self.outputs = [each.name for each in session.get_outputs()]

    def on_one_thread(self) -> "TransformerGraph":
        """The same graph, all of whose batches run on one thread; several threads may run it at once."""
        other = copy.copy(self)  # shares the sessions and their lock
        other.threads = other._own_threads = 1
        return other

    def _opened(self, threads: int | None) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        if threads is not None:
            options.intra_op_num_threads = threads
        if self._weights:  # onnxruntime reads these arrays in place
            values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in self._weights.values()]
            options.add_external_initializers(list(self._weights), values)
        try:
            return onnxruntime.InferenceSession(str(self._path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"model {self.name!r} has a graph that onnxruntime cannot run ({reason}): export the model again") from None

    def _session(self, threads: int | None) -> Any:
        """The session with a number of threads, opened when it is first needed."""
        with self._opening:
            if threads not in self._sessions:
                self._sessions[threads] = self._opened(threads)
            return self._sessions[threads]

    def run(
        self,
        ids: Sequence[Sequence[int]],
        outputs: Sequence[str],
        *,
        segments: Sequence[Sequence[int]] | None = None,
        on_one_thread: bool = False,
    ) -> list[np.ndarray]:
        """Run rows of token ids, filled up to the longest.

        Args:
            ids: Token ids of each row.
            outputs: Names of the outputs that are wanted.
            segments: 0 or 1 for each token, for models that tell the two texts of a pair apart; default: all 0.
            on_one_thread: Run on one thread, whatever number the session has; the first time opens a second session.
        """
        rows, is_token = padded(ids, self.pad_id)
        fed = {"input_ids": rows, "attention_mask": is_token}
        if "token_type_ids" in self.inputs:
            fed["token_type_ids"] = np.zeros_like(rows) if segments is None else padded(segments, 0)[0]
        try:
            session = self._session(1 if on_one_thread else self._own_threads)
            found = session.run(list(outputs), {name: fed[name] for name in self.inputs})
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"model {self.name!r} does not run on rows of {rows.shape[1]} tokens in onnxruntime ({reason})") from None
        return [np.asarray(each) for each in found]

    def batches(self, lengths: Sequence[int], *, batch_tokens: int | None = None, pads: bool = True) -> Iterator[list[int]]:
        """Cut rows into batches for ``run_all``: as ``batches_of_rows``, and at least two for each thread where there are rows enough.

        Args:
            lengths: Tokens of each row.
            batch_tokens: Tokens of a batch, padding included; default: what is fastest.
            pads: Off: rows of different lengths never share a batch.
        """
        if batch_tokens is None:
            share = sum(lengths) // (2 * self.threads) if self.threads > 1 else BATCH_TOKENS
            batch_tokens = min(BATCH_TOKENS, max(_LEAST_BATCH_TOKENS, share))
        return batches_of_rows(lengths, batch_tokens=batch_tokens, pads=pads)

    def run_all(
        self,
        batches: Iterable[Sequence[Sequence[int]]],
        outputs: Sequence[str],
        *,
        segments: Iterable[Sequence[Sequence[int]]] | None = None,
        on_one_thread: bool = False,
    ) -> Iterator[list[np.ndarray]]:
        """Run several batches at once, each on one thread, which is faster than one after the other on all threads.

        A single batch runs on all threads.

        Args:
            batches: Token ids of each row of each batch.
            outputs: Names of the outputs that are wanted.
            segments: As in ``run``, for each batch.
            on_one_thread: A single batch runs on one thread, too.

        Yields:
            The outputs of each batch, in order.
        """
        fed = [(ids, None) for ids in batches] if segments is None else list(zip(batches, segments, strict=True))
        if len(fed) < 2 or self.threads == 1:
            for ids, own in fed:
                yield self.run(ids, outputs, segments=own, on_one_thread=on_one_thread)
            return
        tasks = (partial(self.run, ids, outputs, segments=own, on_one_thread=True) for ids, own in fed)
        threads = min(self.threads, len(fed))
        yield from results_ahead(tasks, threads=threads, ahead=2 * threads)


def _weights_of(weights: dict[str, Any], file: Path, name: str) -> dict[str, np.ndarray]:
    try:
        stored = read_arrays(file)
        return {
            inside: np.ascontiguousarray(stored[outside].T if is_transposed else stored[outside], dtype=np.float32)
            for inside, (outside, is_transposed) in weights.items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"model {name!r} has a {file.name} that does not fit its graph ({error}): copy the whole folder again") from None


def padded(rows: Sequence[Sequence[int]], fill: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows filled up to the longest, and 1 on what they held before, int64 both."""
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    is_token = np.arange(int(lengths.max(initial=0))) < lengths[:, None]
    table = np.full(is_token.shape, fill, dtype=np.int64)
    table[is_token] = np.fromiter((token for row in rows for token in row), dtype=np.int64, count=int(lengths.sum()))
    return table, is_token.astype(np.int64)


def batches_of_rows(lengths: Sequence[int], *, batch_tokens: int, pads: bool = True) -> Iterator[list[int]]:
    """Cut rows into batches of at most ``batch_tokens`` tokens, padding included, rows of like length together.

    Of all ways to cut the rows, sorted by length, this is one with the least work: padded tokens and ``_CALL_TOKENS`` per batch. Filling
    each batch to the limit instead pads a few rows of mixed lengths to 1.5 to 2 times their tokens.

    Args:
        lengths: Tokens of each row.
        batch_tokens: A row that is longer makes a batch by itself.
        pads: Off: rows of different lengths never share a batch.

    Yields:
        The batch's rows as indices into ``lengths``, longest first.
    """
    rows = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    longest = np.array([lengths[row] for row in rows], dtype=np.int64)  # of a batch that begins at this row
    least = np.zeros(len(rows) + 1, dtype=np.int64)  # work of the rows before this one
    begins = np.zeros(len(rows), dtype=np.int64)  # where the batch begins whose last row is this one
    first = 0
    for last in range(len(rows)):
        while first < last and ((last + 1 - first) * longest[first] > batch_tokens or not (pads or longest[first] == longest[last])):
            first += 1  # no later batch can begin here either
        starts = np.arange(first, last + 1)
        work = least[starts] + (last + 1 - starts) * longest[starts] + _CALL_TOKENS
        best = int(work.argmin())
        least[last + 1], begins[last] = work[best], first + best
    cuts = [len(rows)]
    while cuts[-1]:
        cuts.append(int(begins[cuts[-1] - 1]))
    for end, start in reversed(list(pairwise(cuts))):
        yield rows[start:end]


def sigmoid(values: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return ((1 + np.tanh(values * 0.5)) * 0.5).astype(values.dtype)
