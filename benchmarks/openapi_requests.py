"""Requests made from the server's own OpenAPI description: every answer is 2xx, or a 4xx that the description names.

schemathesis draws valid and invalid requests for every operation of ``tain serve tain-mini``. An answer with status 5xx, or with a status
that the description does not name, counts as a failure. schemathesis needs an environment of its own:

    python -m venv st && st/bin/pip install schemathesis
    python benchmarks/openapi_requests.py --schemathesis st/bin/schemathesis --quick
    python benchmarks/openapi_requests.py --schemathesis st/bin/schemathesis
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from measuring import Claim, finish
from serving_overload import served

_QUICK = 500
_MOST_ROUNDS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemathesis", default="schemathesis", help="its program")
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} requests, no results file")
    given = parser.parse_args()
    program = shutil.which(given.schemathesis)
    if program is None:
        sys.exit(f"error: there is no program {given.schemathesis!r}: install schemathesis and name it with --schemathesis")
    wanted = _QUICK if given.quick else given.requests
    sent, failures, rounds = 0, list[dict[str, Any]](), 0
    with served("tain-mini", "--device", "cpu") as server:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        with urllib.request.urlopen(url) as answer:
            operations = sum(len(methods) for methods in json.load(answer)["paths"].values())
        while sent < wanted and rounds < _MOST_ROUNDS:  # it stops early where an operation has few different requests
            rounds += 1
            report = requests_of(program, url, examples=-(-(wanted - sent) // operations), seed=rounds)
            sent += report["test_cases"]["generated"]
            failures += [*report["failures"], *report["errors"]]
            print(f"round {rounds}: {sent:,} requests, {len(failures)} failures", file=sys.stderr, flush=True)
            if failures:
                break
    for failure in failures:
        print(json.dumps(failure)[:600], file=sys.stderr)
    claim = Claim(
        "answers with status 5xx, or with one that the OpenAPI description does not name",
        float(len(failures)),
        f"of {sent} requests to {operations} operations",
        0.0,
        (len(failures), len(failures)),
        None,
    )
    finish("openapi_requests", [claim], {"requests": sent, "operations": operations, "failures": failures}, quick=given.quick)
    sys.exit(1 if failures or sent < wanted else 0)


def requests_of(program: str, url: str, *, examples: int, seed: int) -> dict[str, Any]:
    """One run of schemathesis; its report."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [program, "run", url, "--phases", "fuzzing", "--max-examples", str(examples), "--seed", str(seed)]
        command += ["--checks", "not_a_server_error,status_code_conformance", "--continue-on-failure", "--generation-database", "none"]
        command += ["--workers", "1", "--suppress-health-check", "all", "--no-color", "--report", "json", "--report-json-path", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        if not report.exists():
            sys.exit(f"error: schemathesis ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        return json.loads(report.read_text())


if __name__ == "__main__":
    main()
