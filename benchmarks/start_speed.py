"""How long a newcomer waits: the help, the import, the first training step."""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measuring import Claim, arguments, finish, minilm_folder, sts_sentences


def seconds_of(command, repeats):
    times = []
    for _ in range(repeats):
        began_s = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - began_s)
    return times


def first_step_s(texts_file, folder, repeats):
    """Process start to the end of the first training step, from the JSON events on stderr."""
    import json

    times = []
    for repeat in range(repeats):
        command = [*TAIN, "mirror", str(folder), str(texts_file), "-o", str(texts_file.parent / f"encoder-{repeat}"), "--json"]
        began_s = time.perf_counter()
        running = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        for line in running.stderr:
            event = json.loads(line)
            if event.get("event") == "progress" and event.get("task") == "mirror":
                times.append(time.perf_counter() - began_s)
                running.kill()
                break
        running.wait()
    return times


TAIN = [sys.executable, "-m", "tain"]


def main():
    chosen = arguments(__doc__)
    repeats = 3 if chosen.quick else 9
    python_s = statistics.median(seconds_of([sys.executable, "-c", "pass"], repeats))
    help_s = seconds_of([*TAIN, "--help"], repeats)
    import_s = [taken - python_s for taken in seconds_of([sys.executable, "-c", "import tain"], repeats)]
    with tempfile.TemporaryDirectory() as scratch:
        texts_file = Path(scratch) / "texts.txt"
        texts_file.write_text("\n".join(sts_sentences(chosen.data)), encoding="utf-8")
        step_s = first_step_s(texts_file, minilm_folder(), 2 if chosen.quick else 5)
    claims = [
        Claim(name, round(statistics.median(times), 3), "seconds", goal, (round(min(times), 3), round(max(times), 3)), None)
        for name, times, goal in (
            ("tain --help", help_s, 0.5),
            ("import tain", import_s, 0.3),
            ("tain mirror to the end of its first step", step_s, 8.0),
        )
    ]
    finish("start_speed", claims, {"python_start_s": python_s}, quick=chosen.quick)


if __name__ == "__main__":
    main()
