#!/bin/sh
# One call on a machine with a GPU, under ten minutes: every figure that waits for one, as JSON.
#
#     sh benchmarks/gpu_day.sh            # on the day
#     sh benchmarks/gpu_day.sh --tiny     # rehearsal on a CPU, with tiny shapes
#
# PYTHON names the interpreter (default: .venv/bin/python, else python3), OUT the folder of the results (default: benchmarks/results).
# Each step has a time limit, and a step that fails does not stop the others. Exit code 0 if all steps gave their figures.
set -u
cd "$(dirname "$0")/.." || exit 1
python=${PYTHON:-.venv/bin/python}
command -v "$python" > /dev/null 2>&1 || python=python3
out=${OUT:-benchmarks/results}
tiny=""
if [ "${1:-}" = "--tiny" ]; then
    tiny="--tiny"
elif [ $# -gt 0 ]; then
    echo "usage: sh benchmarks/gpu_day.sh [--tiny]" >&2
    exit 2
fi
mkdir -p "$out" || exit 1
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false

failed=""
while read -r step limit_s; do
    [ -z "$tiny" ] || limit_s=$((limit_s * 10)) # a rehearsal may share its processor
    echo "== $step (at most $limit_s s)" >&2
    if ! timeout "$limit_s" "$python" benchmarks/gpu_day.py "$step" --output "$out/gpu_day-$step.json" $tiny; then
        failed="$failed $step"
    fi
done << STEPS
dropout 40
mirror 200
reference 60
encode 120
pretrain 120
STEPS
"$python" benchmarks/gpu_day.py collect --output "$out/gpu_day.json" $tiny || failed="$failed collect"
if [ -n "$failed" ]; then
    echo "failed:$failed" >&2
    exit 1
fi
