"""The process that ``backends`` starts: loads a model in one way, times it, and prints the figures as one JSON line."""

import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from tain.foundation.machine import process_age_s

_WORDS = [
    "a",
    "small",
    "mirror",
    "hangs",
    "on",
    "the",
    "old",
    "wall",
    "beside",
    "the",
    "door",
    "of",
    "our",
    "house",
    "near",
    "the",
    "river",
    "and",
    "shows",
    "every",
    "light",
    "that",
    "passes",
    "at",
    "night",
]
_SHORT, _LONG = 12, 150  # words
_ONE_BY_ONE = 60  # texts timed alone


def main() -> None:
    """Read the options from the first argument."""
    options: dict[str, Any] = json.loads(sys.argv[1])
    encoder = _loaded(options)
    encoder.encode([_text(0, _SHORT)])
    start_s = process_age_s()
    short = [_text(row, _SHORT + row % 7 - 3) for row in range(options["texts"])]
    long = [_text(row, _LONG + row % 31 - 15) for row in range(max(4, options["texts"] // 10))]
    mixed = [*short[: 2 * len(long)], *long]
    rates = {
        f"{name}_per_s": statistics.median(len(texts) / _seconds(encoder, texts) for _ in range(options["repeats"]))
        for name, texts in (("short", short), ("mixed", mixed), ("long", long))
    }
    alone_ms = [1000 * _seconds(encoder, [text]) for text in short[:_ONE_BY_ONE]]
    vectors = np.asarray(encoder.encode([*short[:16], *long[:4]]))
    figures = {
        **rates,
        "p50_ms": float(np.percentile(alone_ms, 50)),
        "p99_ms": float(np.percentile(alone_ms, 99)),
        "start_s": start_s,
        "memory_mb": _memory_mb(),
        "auto_dtype": _auto_dtype(encoder),
        "vectors": vectors.tolist(),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


def _loaded(options: dict[str, Any]) -> Any:
    if options["backend"] == "onnx":
        from tain.exported.encoder import ExportedEncoder

        return ExportedEncoder.load(options["model"], dtype=options["dtype"], threads=options["threads"])
    import torch

    from tain.models.embedder import Embedder

    torch.set_num_threads(options["threads"])
    return Embedder.load(options["model"], device="cpu", dtype=options["dtype"], trust_remote_code=options["trust_remote_code"])


def _auto_dtype(encoder: Any) -> str:
    if not hasattr(encoder, "encoder"):
        return "float32"
    return str(encoder.encoder.choose_dtype("auto")).removeprefix("torch.")


def _text(row: int, words: int) -> str:
    return " ".join(_WORDS[(row * 7 + step * (1 + row % 5)) % len(_WORDS)] for step in range(words))


def _seconds(encoder: Any, texts: list[str]) -> float:
    began_s = time.perf_counter()
    encoder.encode(texts)
    return time.perf_counter() - began_s


def _memory_mb() -> float:
    """The largest resident memory of this process so far."""
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
