#!/usr/bin/env bash
# Proves that the base install runs exported models and the built-in one: a venv with tain alone, no torch and no transformers.
# EXPORTED names an exported folder; without it tain-mini is exported with .venv. Ends with the size and the start-up time of the install.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "${EXPORTED:-}" ]; then
  EXPORTED="$work/exported"
  PYTHONPATH=src .venv/bin/python -m tain export tain-mini -o "$EXPORTED" --no-int8 --quiet
fi
EXPORTED=$(realpath "$EXPORTED")

"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --constraint constraints.txt .
cd "$work"
python="$work/venv/bin/python"
tain="$work/venv/bin/tain"
"$python" -c 'import importlib.util as u; assert not u.find_spec("torch") and not u.find_spec("transformers")'

printf 'a mirror of glass\nthe sea is deep\nrivers run to the sea\n' > texts.txt
printf 'sentence1\tsentence2\tscore\na cat\ta kitten\t5\na cat\ta car\t1\nthe sea\tthe ocean\t4\nthe sea\ta door\t0\n' > pairs.tsv
printf 'context\tanswer\nwhat is deep\tthe sea is deep\nwhat is glass\ta mirror of glass\n' > ranking.tsv
for model in "$EXPORTED" tain-mini; do
  "$tain" encode "$model" texts.txt -o vectors.npy --overwrite --quiet
  "$python" -c 'import numpy as np; v = np.load("vectors.npy"); assert v.shape[0] == 3 and np.isfinite(v).all() and np.abs(v).sum() > 0'
  "$tain" evaluate "$model" --suite pairs.tsv --resamples 200 --quiet
  "$tain" rank score "$model" ranking.tsv --quiet
  rm -rf answers.index
  "$tain" rank search "$model" texts.txt --index answers.index --candidates texts.txt -k 1 --quiet
done

"$python" - "$EXPORTED" <<'END'
import subprocess, sys, sysconfig, time
from pathlib import Path

site = Path(sysconfig.get_paths()["purelib"])
files = {each.name: [file for file in each.rglob("*") if file.is_file()] for each in site.iterdir() if each.is_dir()}
sizes = {name: sum(file.stat().st_size for file in inside) for name, inside in files.items()}
compiled = sum(file.stat().st_size for name, inside in files.items() if name.split("-")[0] != "pip" for file in inside if file.suffix == ".pyc")
assets = sum(file.stat().st_size for file in (site / "tain" / "assets").rglob("*") if file.is_file())
tools = sum(size for name, size in sizes.items() if name.split("-")[0] in ("pip", "setuptools"))
installed = sum(sizes.values()) - tools - assets
print(f"installed: {(installed - compiled) / 1e6:.0f} MB beside the built-in model ({assets / 1e6:.0f} MB), and {compiled / 1e6:.0f} MB of .pyc files (none with pip install --no-compile)")
assert installed - compiled < 200e6, "the base install is to stay below 200 MB"
print("largest: " + ", ".join(f"{name} {size / 1e6:.0f}" for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:6]))


def seconds(code):
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        best = min(best, time.perf_counter() - began)
    return best


print(f"import tain: {seconds('import tain') - seconds('pass'):.2f} s")
print(f"first vector: {seconds(f'import tain; tain.ExportedEncoder.load({sys.argv[1]!r}).encode([{chr(39)}a text{chr(39)}])'):.2f} s from process start")
END
