"""Time the backends of one model, each in its own process, so that memory and start-up time are its own too."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tain.exported.choosing import has_torch, runs_exported
from tain.exported.folder import exported_folder, read_export
from tain.foundation.errors import UserError
from tain.foundation.machine import usable_cores
from tain.foundation.progress import Progress

_LIMIT_S = 1800.0
_REFUSED = f"{UserError.__module__}.{UserError.__qualname__}: "  # in the last line of a traceback


@dataclass(frozen=True, kw_only=True)
class BackendFigures:
    """What one backend does on this machine.

    Attributes:
        backend: ``torch`` or ``onnx``.
        dtype: Data type of the computation.
        threads: Threads it may use.
        short_per_s: Texts a second, of about 12 words.
        mixed_per_s: Of two short texts in three, and long ones.
        long_per_s: Of about 150 words.
        p50_ms: Median time of one short text.
        p99_ms: Its 99th percentile.
        start_s: From the start of the process to the first vector.
        memory_mb: Largest memory of the process.
        cosine: Mean cosine of its vectors to those in float32.
        is_auto: ``--backend auto`` takes it.
    """

    backend: str
    dtype: str
    threads: int
    short_per_s: float
    mixed_per_s: float
    long_per_s: float
    p50_ms: float
    p99_ms: float
    start_s: float
    memory_mb: float
    cosine: float
    is_auto: bool


def measure_backends(
    model: str, *, texts: int, repeats: int, threads: Sequence[int] = (), trust_remote_code: bool = False, progress: Progress
) -> list[BackendFigures]:
    """Time every backend that can run a model here.

    Args:
        model: A folder, a hub name, or ``tain-mini``.
        texts: Short texts that are timed.
        repeats: Measurements per figure.
        threads: Numbers of threads; default: 1 and all.
        trust_remote_code: Allow Python code from the model's folder.
        progress: Shows which is running.

    Raises:
        UserError: No backend can run it.
    """
    folder = exported_folder(model)
    ways = [("torch", "float32"), ("torch", "bfloat16")] if has_torch() else []
    if folder is not None:
        ways += [("onnx", dtype) for dtype in read_export(folder, name=model).graphs]
    if not ways:
        raise UserError(f"model {model!r} holds no exported graph and torch is not installed, so nothing can run it: install tain[train]")
    found, reference = [], None
    chosen = "onnx" if runs_exported(model) else "torch"
    for number in threads or dict.fromkeys((1, usable_cores())):
        for backend, dtype in ways:
            progress.note(f"timing {backend} {dtype}, {number} {'thread' if number == 1 else 'threads'}")
            figures = _in_a_process(
                model, backend=backend, dtype=dtype, threads=number, texts=texts, repeats=repeats, trust_remote_code=trust_remote_code
            )
            vectors = np.array(figures.pop("vectors"), dtype=np.float32)
            auto_dtype = figures.pop("auto_dtype")
            reference = vectors if reference is None else reference
            lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
            cosine = float(((vectors * reference).sum(axis=1) / np.maximum(lengths, 1e-12)).mean())
            is_auto = backend == chosen and dtype == ("float32" if backend == "onnx" else auto_dtype)
            found.append(BackendFigures(backend=backend, dtype=dtype, threads=number, cosine=cosine, is_auto=is_auto, **figures))
    return found


def _in_a_process(model: str, **options: object) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": str(options["threads"]), "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "tain.evaluation.backend_process", json.dumps({"model": model, **options})]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, env=environment, check=False)
    except subprocess.TimeoutExpired:
        what = f"{options['backend']} {options['dtype']}"
        raise UserError(f"{what} took longer than {_LIMIT_S / 60:.0f} minutes: give fewer --texts or --repeats") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["the process ended without an error message"])[-1]
        if reason.startswith(_REFUSED):
            raise UserError(reason.removeprefix(_REFUSED))
        raise UserError(f"{options['backend']} {options['dtype']} cannot run model {model!r} here ({reason[:200]}): leave it out")
    return json.loads(done.stdout.splitlines()[-1])
