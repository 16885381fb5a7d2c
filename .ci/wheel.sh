#!/usr/bin/env bash
# Checks of a release: builds the wheel, installs it alone and with each extra that has no torch, and resolves it for newer Pythons.
# PYTHONS names the versions to resolve for (default: 3.12 3.13 3.14); nothing of those is run. PYTHON is the one that installs.
set -euo pipefail
cd "$(dirname "$0")/.."
export HF_HUB_OFFLINE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
most=45000000 # bytes of the wheel, the model included

"$python" -m pip wheel --quiet --no-deps --wheel-dir "$work/dist" .
wheel=$(echo "$work"/dist/tain-*.whl)
size=$(wc -c < "$wheel")
echo "$(basename "$wheel"): $((size / 1000000)) MB"
if [ "$size" -gt "$most" ]; then
  echo "error: the wheel has $size bytes, more than $most" >&2
  exit 1
fi
"$python" - "$wheel" <<'END'
import sys
import zipfile

names = zipfile.ZipFile(sys.argv[1]).namelist()
for needed in ("tain/py.typed", "tain/assets/tain_mini/model.safetensors", "tain/inspection/page.css"):
    assert needed in names, f"{needed} is not in the wheel"
assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]
END

# the extra train needs torch, which is installed by its exact pin in the test suite
declare -A imports=([base]=onnxruntime [data]="pyarrow datasets" [scale]="faiss bm25s" [serve]="uvicorn starlette pydantic")
for extra in base data scale serve; do
  "$python" -m venv "$work/$extra"
  target=$wheel
  [ "$extra" = base ] || target="$wheel[$extra]"
  "$work/$extra/bin/python" -m pip install --quiet --constraint constraints.txt "$target"
  (
    cd "$work"
    for module in ${imports[$extra]} tain; do "$work/$extra/bin/python" -c "import $module"; done
    "$work/$extra/bin/python" -c "import importlib.util as u; assert not u.find_spec('torch')"
    "$work/$extra/bin/tain" --version > /dev/null
    "$work/$extra/bin/python" -c "import tain; assert tain.load('tain-mini').encode('a text').shape == (384,)"
  )
  echo "installed and imported: $extra"
  rm -rf "${work:?}/$extra"
done

for version in ${PYTHONS:-3.12 3.13 3.14}; do
  "$python" -m pip install --quiet --dry-run --ignore-installed --target "$work/none" --python-version "$version" --only-binary=:all: \
    "$wheel[data,scale,serve]"
  echo "resolved for Python $version, wheels only: base, data, scale, serve"
done
