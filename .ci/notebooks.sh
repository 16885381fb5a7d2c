#!/usr/bin/env bash
# Runs the notebooks of docs/tutorials with the packages of the development environment, and nbclient and ipykernel beside them.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=$(realpath -s "${VENV:-.venv}/bin/python")
"$python" -m pip install --quiet --target "$work" nbclient ipykernel ipywidgets
PYTHONPATH="$work${PYTHONPATH:+:$PYTHONPATH}" "$python" .ci/notebooks.py "$@"
