#!/usr/bin/env bash
# Runs a fast part of the suite with the oldest versions that pyproject.toml allows, in a venv of Python 3.11 (PYTHON names another).
# torch has the version of constraints.txt: other spellings pull gigabytes of GPU packages, so its lower bound is not tested here.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3.11}" -c 'import sys; assert sys.version_info[:2] == (3, 11), "the oldest versions need Python 3.11"'
"${PYTHON:-python3.11}" -m venv "$work/venv"
python="$work/venv/bin/python"
"$python" > "$work/oldest.txt" <<'END'
import tomllib

with open("pyproject.toml", "rb") as file:
    content = tomllib.load(file)
project = content["project"]
test_tools = ("beartype", "pytest", "scikit-learn", "scipy")
wanted = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
wanted += [each for each in content["dependency-groups"]["dev"] if each.startswith(test_tools) and "xdist" not in each]
for requirement in wanted:
    if not requirement.startswith("torch"):
        print(requirement.split(",")[0].replace(">=", "=="))
END
grep '^torch==' constraints.txt >> "$work/oldest.txt"
"$python" -m pip install --quiet "$(grep '^torch==' constraints.txt)"
"$python" -m pip install --quiet --requirement "$work/oldest.txt"
"$python" -m pip install --quiet --no-deps .
sort "$work/oldest.txt"
"$python" -m pytest -q -p no:cacheprovider --override-ini testpaths= \
  tests/foundation tests/text tests/batches tests/objectives tests/encoders/test_transformer.py tests/students/test_student.py tests/exported \
  tests/models/test_loading.py tests/ranking/test_index.py tests/inspection/test_inspect.py tests/serving/test_app.py tests/cli/test_main.py tests/test_api.py
