"""Time and peak memory as work grows: mirror, encode, evaluate, index and search, token shards, serve.

Each measurement runs in a process of its own, forked from one that has imported torch. Time is processor time, which other work on the
machine changes little. The start, estimated from the smallest size, is taken off, and the slope is that of the least-squares line through
the logarithms of size and time: 1 is linear. Memory per item is measured between the two largest sizes.
Memory is the peak of the process, from the kernel. A tiny random BERT (two layers of 32) does the computing, so that what grows is tain's
own work: reading, tokenising, batching, writing.

    python benchmarks/growth.py --quick
    python benchmarks/growth.py --work runs/growth

With ``--work`` a run that was cut off continues with the next kind of work. The full run draws ``docs/growth.svg``.
"""

import argparse
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from faults import WORDS, save_model
from measuring import Claim, Rows, finish, processor_s

DIM = 64
STEEPEST, STEEPEST_QUICK = 1.1, 1.25  # the small sizes give two or three points
SIZES = {
    "mirror": [1_000, 3_000, 10_000, 30_000, 100_000, 300_000],
    "encode npy": [1_000, 10_000, 100_000, 1_000_000, 3_000_000],
    "encode parquet": [1_000, 10_000, 100_000, 1_000_000, 3_000_000],
    "encode shard and merge": [1_000, 10_000, 100_000, 1_000_000],
    "evaluate": [1_000, 3_000, 10_000, 30_000, 100_000],
    "index build": [1_000, 10_000, 100_000, 1_000_000, 3_000_000],
    "index search exact": [1_000, 10_000, 100_000, 1_000_000, 3_000_000],
    "index search approximate": [10_000, 100_000, 1_000_000, 3_000_000],
    "token shards (MB)": [1, 10, 100, 1_000],
    "serve (texts a request)": [1, 8, 64, 512, 2_048],
}
QUICK = {
    "mirror": [1_000, 3_000, 10_000],
    "encode npy": [1_000, 10_000, 50_000],
    "encode parquet": [1_000, 10_000, 50_000],
    "encode shard and merge": [1_000, 10_000, 50_000],
    "evaluate": [1_000, 3_000, 10_000],
    "index build": [1_000, 10_000, 100_000],
    "index search exact": [1_000, 10_000, 100_000],
    "index search approximate": [10_000, 30_000, 100_000],
    "token shards (MB)": [1, 3, 10],
    "serve (texts a request)": [1, 8, 64, 512],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, no results file")
    parser.add_argument("--only", help="kinds of work whose name contains this; no results file")
    parser.add_argument("--work", type=Path, help="folder for rows.jsonl")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    kept = Rows((given.work or Path(tempfile.mkdtemp())) / "rows.jsonl", is_kept=given.work is not None and not given.quick)
    wanted = {work: sizes for work, sizes in (QUICK if given.quick else SIZES).items() if not given.only or given.only in work}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        save_model(root / "model")
        for work, sizes in wanted.items():
            if kept.lacks(work=work, sizes=sizes):
                points = measured_server(root, sizes) if work.startswith("serve") else [measured(WORK[work], root, size) for size in sizes]
                kept.add(**row(work, sizes, points))
    rows = [found for work, sizes in wanted.items() for found in kept.found if (found["work"], found["sizes"]) == (work, sizes)]
    most = STEEPEST_QUICK if given.quick else STEEPEST
    steep = [found for found in rows if found["slope"] is not None and found["slope"] > most]
    claims = [
        Claim(f"{found['work']}: slope of time", found["slope"], "1 is linear", most, (found["slope"], found["slope"]), None)
        for found in rows
        if found["slope"] is not None
    ]
    finish("growth", claims, {"rows": rows}, quick=given.quick or bool(given.only))
    if not given.quick and not given.only:
        draw(rows)
    if steep:
        sys.exit(f"steeper than linear: {', '.join(found['work'] for found in steep)}")


def draw(rows: list[dict[str, Any]]) -> None:
    """Time and memory of each kind of work over its size, on logarithmic axes."""
    from plotting import BLUE, GREY, save, start

    note = "Processor time of the process. Dotted: slope 1. Memory: peak of the process, of which about 290 MiB are torch."
    figure, panels = start("Time and memory as work grows", note=note, height=5.2, panels=2, width=11.0)
    for panel, figures, label in zip(panels, ("processor_s", "peak_mib"), ("processor time, s", "peak memory, MiB"), strict=True):
        panel.set(xscale="log", yscale="log", xlabel="texts, vectors, MB or texts a request", ylabel=label)
        panel.grid(which="major")
        ends = []
        for found in rows:
            panel.plot(found["sizes"], found[figures], color=BLUE, linewidth=1.3, marker="o", markersize=3)
            ends.append((found[figures][-1], found["sizes"][-1], found["work"]))
        low = 0.0
        for value, size, name in sorted(ends):  # one under the other where they would overlap
            low = max(value, low * (1.35 if figures == "processor_s" else 1.07))
            panel.annotate(name, (size, value), (4e6 * 1.6, low), fontsize=7.5, color="#444444", va="center", annotation_clip=False,
                           arrowprops={"arrowstyle": "-", "color": "#cccccc", "linewidth": 0.6})  # fmt: skip
        panel.set_xlim(0.8, 4e6)
    panels[0].plot([1e3, 3e6], [0.05, 150], color=GREY, linewidth=1, linestyle=":")
    save(figure, "growth.svg")


def row(work: str, sizes: list[int], points: list[tuple[float, float]]) -> dict[str, Any]:
    seconds, peaks = [point[0] for point in points], [point[1] for point in points]
    growth = (peaks[-1] - peaks[-2]) / (sizes[-1] - sizes[-2]) * 2**20
    return {
        "work": work,
        "sizes": sizes,
        "processor_s": [round(value, 3) for value in seconds],
        "peak_mib": [round(value, 1) for value in peaks],
        "slope": slope(sizes, seconds),
        "bytes_each": round(growth, 1),
    }


def slope(sizes: list[int], seconds: list[float]) -> float | None:
    """Exponent of the growth; None if too few points are above the start."""
    has_start = seconds[0] > seconds[-1] / 100
    # the time of the smallest size is the start and that size's own share
    each_s = (seconds[-1] - seconds[0]) / (sizes[-1] - sizes[0])
    start_s = max(0.0, seconds[0] - each_s * sizes[0]) if has_start else 0.0
    points = list(zip(sizes, seconds, strict=True))[has_start:]
    above = [(math.log(size), math.log(value - start_s)) for size, value in points if value - start_s > 0.02]
    if len(above) < 2:
        return None
    across, up = np.array(above).T
    return round(float(np.polyfit(across, up, 1)[0]), 3)


def measured(work: Callable[[Path, int], Callable[[], object]], root: Path, size: int) -> tuple[float, float]:
    """Processor seconds and peak MiB of one piece of work in a forked process; what it needs is prepared before the clock starts."""
    folder = root / f"work-{os.urandom(4).hex()}"
    folder.mkdir()
    run = prepared(work, root, folder, size)
    reading, writing = os.pipe()
    number = os.fork()
    if number == 0:
        try:
            with open(os.devnull, "w") as null:  # noqa: PTH123
                os.dup2(null.fileno(), 1)
            began_s = time.process_time()
            run()
            os.write(writing, json.dumps(time.process_time() - began_s).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = pipe.read()
    _, status, usage = os.wait4(number, 0)
    shutil.rmtree(folder)
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"error: {work.__name__} of {size:,} fails")
    return json.loads(found), usage.ru_maxrss / 1024


def prepared(work: Callable[[Path, int], Callable[[], object]], root: Path, folder: Path, size: int) -> Callable[[], object]:
    """Prepare in a process of its own, so that its memory does not count; what it writes is on disk."""
    number = os.fork()
    if number == 0:
        try:
            work(folder, size)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) != 0:
        sys.exit(f"error: {work.__name__} of {size:,} cannot be prepared")
    (folder / "prepared").touch()
    return work(folder, size)


def tain(*arguments: object) -> None:
    from tain.cli import main as command_line

    command_line.main([*map(str, arguments), "--quiet"])


def write_texts(path: Path, count: int) -> None:
    if path.exists():
        return
    chance = random.Random(count)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            # every text has as many digits, which are tokens: else the texts of a larger run would be longer
            file.write(f"{number:07d} {' '.join(chance.choices(WORDS, k=6))}\n")


# ---- the work: each function writes its input once, and returns what is timed


def mirror(folder: Path, size: int) -> Callable[[], object]:
    write_texts(folder / "texts.txt", size)
    where = (
        "-o",
        folder / "out",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--batch-texts",
        "200",
        "--max-tokens",
        "40",
        "--max-texts",
        str(size),
    )
    return lambda: tain("mirror", folder.parent / "model", folder / "texts.txt", *where)


def encode(ending: str, *more: object) -> Callable[[Path, int], Callable[[], object]]:
    def work(folder: Path, size: int) -> Callable[[], object]:
        write_texts(folder / "texts.txt", size)
        where = ("-o", folder / f"out{ending}", "--device", "cpu", "--compute-dtype", "float32", *more)
        return lambda: tain("encode", folder.parent / "model", folder / "texts.txt", *where)

    return work


def shard_and_merge(folder: Path, size: int) -> Callable[[], object]:
    write_texts(folder / "texts.txt", size)

    def run() -> None:
        for number in range(1, 5):
            where = ("-o", folder / "shards", "--device", "cpu", "--compute-dtype", "float32", "--shard", f"{number}/4")
            tain("encode", folder.parent / "model", folder / "texts.txt", *where)
        tain("encode", "--merge", folder / "shards", "-o", folder / "out.npy")

    return run


def evaluate(folder: Path, size: int) -> Callable[[], object]:
    table = folder / "pairs.tsv"
    if not table.exists():
        chance = random.Random(size)
        lines = (
            f"{number} {' '.join(chance.choices(WORDS, k=6))}\t{' '.join(chance.choices(WORDS, k=6))}\t{chance.randint(0, 5)}\n"
            for number in range(size)
        )
        table.write_text("sentence1\tsentence2\tscore\n" + "".join(lines))
    where = ("--suite", table, "--device", "cpu", "--dtype", "float32", "--resamples", "100")
    return lambda: tain("evaluate", folder.parent / "model", *where)


def index_of(folder: Path, size: int) -> Path:
    from tain.ranking.index import CandidateIndex

    index = CandidateIndex.create(folder / "index", dim=DIM, fingerprint="f", model="m")
    rng = np.random.default_rng(1)
    for first in range(0, size, 10_000):
        count = min(10_000, size - first)
        index.append([f"candidate {first + number}" for number in range(count)], rng.normal(size=(count, DIM)).astype(np.float32))
    return folder / "index"


def index_build(folder: Path, size: int) -> Callable[[], object]:
    return lambda: index_of(folder, size)


def index_search(folder: Path, size: int) -> Callable[[], object]:
    if not (folder / "index").exists():
        index_of(folder, size)

    def run() -> None:
        from tain.models.scanning import scan_best
        from tain.ranking.index import CandidateIndex

        index = CandidateIndex.open(folder / "index")
        index.refuse_damaged_vectors()
        asked = [torch.randn(1, DIM, generator=torch.Generator().manual_seed(number)) for number in range(32)]
        scan_best(index.vectors, asked, k=10, is_deleted=None, squares=index.squares)

    return run


def index_search_approximate(folder: Path, size: int) -> Callable[[], object]:
    from tain.ranking.approximate import ShortLists
    from tain.ranking.index import CandidateIndex

    if not (folder / "index").exists():
        index_of(folder, size)
    if not (folder / "prepared").exists():
        ShortLists.of(CandidateIndex.open(folder / "index"))

    def run() -> None:
        short = ShortLists.of(CandidateIndex.open(folder / "index"))
        for number in range(200):
            short.rows(torch.randn(1, DIM, generator=torch.Generator().manual_seed(number)), k=10, probes=8)

    return run


def token_shards(folder: Path, size: int) -> Callable[[], object]:
    path = folder / "texts.txt"
    if not path.exists():
        chance = random.Random(1)
        line = " ".join(chance.choices(WORDS, k=12)) + "\n"
        with path.open("w", encoding="utf-8") as file:
            for _ in range(size * 10**6 // len(line)):
                file.write(line)

    def run() -> None:
        from transformers import AutoTokenizer

        from tain.batches.shards import Sources, tokenised

        tokenizer = AutoTokenizer.from_pretrained(folder.parent / "model", trust_remote_code=False)
        tokenised(folder / "shards", Sources((str(path),)), tokenizer)

    return run


WORK: dict[str, Callable[[Path, int], Callable[[], object]]] = {
    "mirror": mirror,
    "encode npy": encode(".npy"),
    "encode parquet": encode(".parquet", "--with-texts"),
    "encode shard and merge": shard_and_merge,
    "evaluate": evaluate,
    "index build": index_build,
    "index search exact": index_search,
    "index search approximate": index_search_approximate,
    "token shards (MB)": token_shards,
}


# ---- the server


def measured_server(root: Path, sizes: list[int]) -> list[tuple[float, float]]:
    """The server's processor seconds for a request of each size, median of five, and its peak memory after them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tain", "serve", str(root / "model"), "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).read()
                break
            except OSError:
                if time.monotonic() > deadline_s or process.poll() is not None:
                    sys.exit("error: the server does not start")
                time.sleep(0.2)
        chance, points = random.Random(1), []
        for size in sizes:
            body = json.dumps({"model": "model", "input": [" ".join(chance.choices(WORDS, k=6)) for _ in range(size)]}).encode()
            times = []
            for _ in range(5):
                request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/embeddings", body, {"Content-Type": "application/json"})
                began_s = processor_s(process.pid)
                urllib.request.urlopen(request, timeout=600).read()
                times.append(processor_s(process.pid) - began_s)
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
            points.append((sorted(times)[2], peak_kib / 1024))
        return points
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
