"""A full disk, a folder that is removed, a second writer: one line, exit code 2, nothing half written, and the next run ends as usual.

Each command of ``faults.py`` runs with a limit on the size of files (as a full disk, the error comes from a write), with the folder of
its output removed at random moments, and twice at once.

    python benchmarks/disk_faults.py --only correct
    python benchmarks/disk_faults.py
"""

import argparse
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

from faults import Case, again, all_cases, child, contents, forked, missing
from measuring import Claim, finish

_REMOVALS = 4
_LEAST_BYTES = 4_000  # the smallest limit; what a command prints must fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the commands that end within seconds, no results file")
    parser.add_argument("--only", help="commands whose name contains this")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, dict[str, object]] = {}
    chance = random.Random(13)
    with tempfile.TemporaryDirectory() as name:
        cases = all_cases(Path(name))
        wanted = ("mirror", "correct") if given.quick else tuple(cases)
        for label, case in cases.items():
            if label not in wanted or (given.only and given.only not in label):
                continue
            rows[label] = provoke(Path(name) / label, case, chance)
            print(f"{label}: {rows[label]}", file=sys.stderr, flush=True)
    runs = sum(int(str(row["runs"])) for row in rows.values())
    problems = sum(len(row["problems"]) for row in rows.values() if isinstance(row["problems"], list))
    claim = Claim(
        "disk faults without one clear line and exit code 2, or after which something was broken",
        float(problems),
        f"of {runs} runs with a fault",
        0.0,
        (problems, problems),
        None,
    )
    finish("disk_faults", [claim], {"commands": rows}, quick=given.quick or bool(given.only))
    sys.exit(1 if problems else 0)


def provoke(work: Path, case: Case, chance: random.Random) -> dict[str, object]:
    """Every fault of one command."""
    log, problems = work.parent / f"{work.name}.log", list[str]()

    def arguments(out: Path) -> list[str]:
        return [word.replace("{out}", str(out)) for word in case.command]

    def empty(name: str) -> Path:
        (work / name).mkdir(parents=True)
        return work / name / case.output

    whole = empty("whole")
    began_s = time.monotonic()
    if code := child(arguments(whole), log):
        return {"runs": 0, "problems": [f"the undisturbed run ends with {code}: {log.read_text()[-300:]}"]}
    lasts_s, expected = time.monotonic() - began_s, contents(whole)
    largest = max(path.stat().st_size for path in ([whole] if whole.is_file() else whole.rglob("*")) if path.is_file())
    limits = sorted({_LEAST_BYTES, largest // 2, largest - 1})
    for number, most_bytes in enumerate(limit for limit in limits if _LEAST_BYTES <= limit < largest):
        out = empty(f"full-{number}")
        process = forked(arguments(out), log, first=lambda most_bytes=most_bytes: limit_files(most_bytes))
        problems += judged(f"a limit of {most_bytes:,} bytes", ended(process), log, must_fail=True)
        if os.path.lexists(out) and case.output != "shards":
            problems.append(f"a limit of {most_bytes:,} bytes: {out.name} is there")
        if (code := child(again(arguments(out), out, case.resumes), log)) or missing(contents(out), expected):
            problems.append(f"after a limit of {most_bytes:,} bytes, the next run ends with {code}, or with something else")
    for number in range(_REMOVALS):
        out = empty(f"removed-{number}")
        process = forked(arguments(out), log)
        time.sleep(chance.uniform(0.1, 1.0) * lasts_s)
        shutil.rmtree(out.parent, ignore_errors=True)
        problems += judged("a removed folder", ended(process), log, must_fail=False)
        if os.path.lexists(out) and missing(contents(out), expected):
            problems.append("a removed folder: the output is broken")
    out, other_log = empty("twice"), log.with_suffix(".other")
    process = forked(arguments(out), log)
    deadline_s = time.monotonic() + lasts_s
    while (
        time.monotonic() < deadline_s
        and not any(path.name.endswith("lock") for path in out.parent.rglob(".*/lock"))
        and not [*out.parent.rglob(".*.lock")]
    ):
        time.sleep(0.002)
    second = ended(forked(arguments(out), other_log))
    problems += judged("a second writer", second, other_log, must_fail=True)
    if second == 2 and not any(sign in other_log.read_text() for sign in ("is being written by process", "already exists")):
        problems.append(f"a second writer: {other_log.read_text()[-200:]}")
    if (code := ended(process)) or missing(contents(out), expected):
        problems.append(f"the first of two writers ends with {code}: {log.read_text()[-300:]}")
    return {"runs": len(limits) + _REMOVALS + 1, "problems": problems}


def limit_files(most_bytes: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process dies where a full disk would raise
    sys.dont_write_bytecode = True  # Python 3.11.2 keeps a .pyc that the limit cut off
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


def ended(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def judged(what: str, code: int, log: Path, *, must_fail: bool) -> list[str]:
    """What is wrong with the end of a run: neither 0 nor 2 with one line."""
    said = log.read_text()
    errors = sum(line.startswith("error: ") for line in said.splitlines())
    if code == 0 and not must_fail:
        return []
    if code != 2 or errors != 1 or "Traceback" in said:
        return [f"{what}: exit code {code}, {errors} lines of error: {said[-400:]}"]
    return []


if __name__ == "__main__":
    main()
