"""Exported MiniLM against sentence-transformers' default and fastembed: texts a second, latency of one text, STS lost by int8.

Tokenising counts in all. fastembed runs in a venv of its own (--fastembed PYTHON) on the same ONNX file and the same texts.
"""

import argparse
import json
import random
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from measuring import Claim, finish, in_turns, minilm_folder, ratio_of, sts_sentences

_FASTEMBED = """
import json, sys, time
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
folder, file, dim, threads = json.loads(sys.argv[1])
TextEmbedding.add_custom_model(model="tain/exported", pooling=PoolingType.MEAN, normalization=True, dim=dim,
    sources=ModelSource(url="file:///not-used"), model_file=file)
model = TextEmbedding("tain/exported", specific_model_path=folder, threads=threads)
for line in sys.stdin:
    texts = json.loads(line)
    began_s = time.perf_counter()
    vectors = list(model.embed(texts))
    print(json.dumps([time.perf_counter() - began_s, [vector[:4].tolist() for vector in vectors[:4]]]), flush=True)
"""


class Fastembed:
    """fastembed in a process of its own, which times itself."""

    def __init__(self, python: Path, folder: Path, file: str, *, dim: int, threads: int) -> None:
        argument = json.dumps([str(folder), file, dim, threads])
        self._process = subprocess.Popen(
            [str(python), "-c", _FASTEMBED, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def encode(self, texts: list[str]) -> tuple[float, list]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(texts) + "\n")
        self._process.stdin.flush()
        seconds, vectors = json.loads(self._process.stdout.readline())
        return seconds, vectors


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute or two: fewer texts and repeats, no results file")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="folder of the evaluation data")
    parser.add_argument("--fastembed", type=Path, help="Python of a venv with fastembed")
    parser.add_argument("--exported", type=Path, help="MiniLM as tain export wrote it; default: it is exported first")
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    import torch
    from sentence_transformers import SentenceTransformer

    from tain.exported.encoder import ExportedEncoder
    from tain.recipes.export.recipe import export

    torch.set_num_threads(chosen.threads)
    sentences = sts_sentences(chosen.data)
    short = sentences[: 200 if chosen.quick else 2000]
    long = [" ".join(sentences[start : start + 12]) for start in range(0, 1200, 12)][: 20 if chosen.quick else 100]
    mixed = [*short[: len(short) // 2], *long[: len(long) // 3]]
    random.Random(0).shuffle(mixed)
    with tempfile.TemporaryDirectory() as work:
        folder = chosen.exported or export(minilm_folder(), Path(work) / "minilm", texts=sentences[-500:]).folder
        plain = SentenceTransformer(str(minilm_folder()), device="cpu")
        whole, small = (ExportedEncoder.load(folder, dtype=dtype, threads=chosen.threads) for dtype in ("float32", "int8"))
        other = None
        if chosen.fastembed is not None:
            other = Fastembed(chosen.fastembed, folder.resolve(), "onnx/model_quantized.onnx", dim=whole.dim, threads=chosen.threads)
        claims: list[Claim] = []
        details: dict[str, object] = {"threads": chosen.threads}
        for name, texts in {"short": short, "mixed": mixed}.items():
            reference = np.asarray(plain.encode(texts))
            apart = float(np.abs(reference - whole.encode(texts)).max())
            assert apart < 1e-4, f"float32 vectors differ by {apart}"
            lost = 1 - float((reference * small.encode(texts)).sum(1).mean())
            rivals = {
                "sentence-transformers": lambda t=texts: plain.encode(t),
                "onnx float32": lambda t=texts: whole.encode(t),
                "onnx int8": lambda t=texts: small.encode(t),
            }
            times = in_turns(rivals, repeats=1 if chosen.quick else 5)
            if other is not None:
                other.encode(texts)
                times["fastembed int8"] = [other.encode(texts)[0] for _ in times["onnx int8"]]
                ratio, spread = ratio_of(times["fastembed int8"], times["onnx int8"])
                claims.append(Claim(f"int8, {name} texts, against fastembed on the same file", ratio, "times fastembed", 1.3, spread, lost))
            for dtype, goal in (("float32", None), ("int8", 3.0)):
                ratio, spread = ratio_of(times["sentence-transformers"], times[f"onnx {dtype}"])
                claims.append(Claim(f"{dtype}, {name} texts", ratio, "times sentence-transformers", goal, spread, lost if goal else apart))
            details[name] = {"texts": len(texts), "times_s": times}
        alone_ms = []
        for text in short[: 50 if chosen.quick else 500]:
            began_s = time.perf_counter()
            small.encode([text])
            alone_ms.append(1000 * (time.perf_counter() - began_s))
        low, p50, high = (round(float(np.percentile(alone_ms, each)), 3) for each in (5, 50, 99))
        claims.append(Claim("int8, one short text, p50; spread is p5 and p99", p50, "ms", 5.0, (low, high), None))
        if not chosen.quick:
            claims.append(_sts(whole, small, chosen.data))
        finish("export_speed", claims, details, quick=chosen.quick)


def _sts(whole, small, data: Path) -> Claim:
    from tain.evaluation.report import evaluate

    whole.name, small.name = "float32", "int8"
    figures = evaluate([whole, small], ("sts",), data, resamples=1000).headline()[1].figures
    lost = round(figures[0].value - figures[1].value, 3)
    interval = figures[1].difference_interval
    return Claim("int8, mean STS lost", lost, "points", 0.5, (-interval.high, -interval.low), None)


if __name__ == "__main__":
    main()
