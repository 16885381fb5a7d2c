"""What each part of encoding costs on one core: reading, tokenising, computing, writing, checking and merging.

Short texts of about eleven words. Rates are per second of processor time on one core, so that other work on the machine changes them
little; waiting for the disk is not counted. The model is tain-mini in float32, exported (``--backend auto``).

    python benchmarks/scale.py --quick
    python benchmarks/scale.py
"""

import argparse
import gzip
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

import numpy as np

from measuring import Claim, finish
from tain.exported.encoder import ExportedEncoder
from tain.models.encode_to_file import encode_to_file, texts_digest
from tain.scale.shards import ShardedRun, encode_shard, merge_shards
from tain.text.kept import read_text_rows

SYLLABLES = ["ba", "do", "fi", "ka", "lu", "mo", "ne", "po", "ri", "sa", "te", "vu"]
DIM = 384


class NoModel:
    """Gives the same vectors whatever the text, so that what is left is tain's own work."""

    name, dim, max_tokens, normalize, truncated = "none", DIM, 128, False, 0
    vectors = np.random.default_rng(1).normal(size=(16_384, DIM)).astype(np.float32)

    def refuse_language(self, language: str | None) -> None: ...

    def settings(self) -> dict[str, Any]:
        return {}

    def fingerprint(self) -> str:
        return "none"

    def encode(self, texts: list[str], **settings: Any) -> np.ndarray:
        return self.vectors[: len(texts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer texts, no results file")
    quick = parser.parse_args().quick
    count, repeats = (30_000, 3) if quick else (300_000, 5)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        texts = drawn_texts(count)
        sources = write_sources(root, texts)
        rates = {
            f"read {kind}": rate(lambda path=path, more=more: consume(path, **more), count, repeats)
            for kind, (path, more) in sources.items()
        }
        rates["digest of texts"] = rate(lambda: texts_digest("", texts), count, repeats)
        mini = ExportedEncoder.load("tain-mini", dtype="float32", threads=1)
        few = texts[: 300 if quick else 2_000]
        rates["tokenise (tain-mini)"] = rate(lambda: mini.tokenizer.ids(texts[:20_000], max_tokens=128), 20_000, repeats)
        rates["encode (tain-mini, float32)"] = rate(lambda: mini.encode(few), len(few), repeats)
        for ending in (".npy", ".parquet"):
            rates[f"read and write {ending}"] = rate(lambda e=ending: write(root, sources["txt"][0], e), count, repeats)
        run = ShardedRun(source=str(sources["txt"][0]), folder=root / "shards", count=4)
        for number in range(1, 5):
            encode_shard(NoModel(), run, number)
        rates["check a complete shard"] = rate(lambda: [encode_shard(NoModel(), run, number) for number in range(1, 5)], count, repeats)
        rates["merge .npy"] = rate(lambda: merge(root), count, repeats)
    for work, (median, low, high) in rates.items():
        print(f"{work}: {median:,.0f} texts/s ({low:,.0f} to {high:,.0f})")
    claims = [
        Claim(work, round(median), "texts/s a core", None, (round(low), round(high)), None) for work, (median, low, high) in rates.items()
    ]
    sizes = {"texts": count, "mean_bytes": round(sum(len(text) + 1 for text in texts) / count, 1), "dim": DIM}
    finish("scale", claims, {"sizes": sizes}, quick=quick)


def rate(work: Callable[[], object], count: int, repeats: int) -> tuple[float, float, float]:
    """Median, least and most texts per second of processor time."""
    found = []
    for _ in range(repeats):
        began_s = time.process_time()
        work()
        found.append(count / max(time.process_time() - began_s, 1e-9))
    return statistics.median(found), min(found), max(found)


def drawn_texts(count: int) -> list[str]:
    chance = random.Random(1)
    known = [first + second + third for first in SYLLABLES for second in SYLLABLES for third in SYLLABLES]
    return [f"{' '.join(chance.choices(known, k=max(2, round(11 * chance.lognormvariate(0, 0.4)))))} {number}" for number in range(count)]


def write_sources(root: Path, texts: list[str]) -> dict[str, tuple[Path, dict[str, Any]]]:
    import pyarrow as pa
    from pyarrow import parquet

    plain = "".join(f"{text}\n" for text in texts)
    (root / "a.txt").write_text(plain)
    (root / "a.txt.gz").write_bytes(gzip.compress(plain.encode(), 6))
    (root / "a.jsonl").write_text("".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts)))
    (root / "a.csv").write_text("id,text\n" + "".join(f'{number},"{text}"\n' for number, text in enumerate(texts)))
    parquet.write_table(pa.table({"id": range(len(texts)), "text": texts}), root / "a.parquet")
    table = {"column": "text"}
    return {kind: (root / f"a.{kind}", {} if kind.startswith("txt") else table) for kind in ("txt", "txt.gz", "jsonl", "csv", "parquet")}


def consume(path: Path, **columns: Any) -> None:
    for _ in read_text_rows(path, **columns):
        pass


def write(root: Path, source: Path, ending: str) -> None:
    rows = read_text_rows(source)
    encode_to_file(NoModel(), (row.text for row in rows), root / f"out{ending}", overwrite=True)


def merge(root: Path) -> None:
    merge_shards(root / "shards", root / "merged.npy", overwrite=True)
    shutil.rmtree(root / "merged.npy", ignore_errors=True)


if __name__ == "__main__":
    main()
