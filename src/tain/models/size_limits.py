"""Check the sizes in an untrusted ``config.json`` against the stored weights before building the model."""

import json
import re
from pathlib import Path
from typing import Any

from tain.foundation.errors import UserError

_SIZE = re.compile(r"(^|_)(size|dim|hidden|inner|heads|layers|experts|d_model|d_ff)(_|$)")
_LAYERS = re.compile(r"(^|_)layers$")
_SPARE_LAYERS = 64  # a model may share its layers' weights, as ALBERT does
_MOST_HEADER_BYTES = 100 * 2**20  # same limit as the safetensors package


def refuse_large_sizes(folder: Path, *, name: str) -> None:
    """Refuse a folder whose config asks for a model far larger than its weights, which would exhaust memory or take hours.

    Args:
        folder: A local model folder. Skipped if it has no safetensors files or no readable config.
        name: Name given by the user.

    Raises:
        UserError: A size exceeds the number of weights, or there are far more layers than tensors.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return
    files = list(folder.glob("*.safetensors"))
    if not isinstance(config, dict) or not files:
        return
    tensors = weights = 0
    for file in files:
        shapes = _shapes(file)
        if shapes is None:
            return
        tensors += len(shapes)
        weights += sum(_product(shape) for shape in shapes)
    for key, size in _sizes(config):
        most = tensors + _SPARE_LAYERS if _LAYERS.search(key) else weights
        if size > most:
            what = f"{tensors:,} tensors" if _LAYERS.search(key) else f"{weights:,} weights"
            raise UserError(f"model {name!r} has {key} {size:,} in its config.json, but holds {what}: the files do not belong together")


def _sizes(config: dict[str, Any]) -> list[tuple[str, int]]:
    found = []
    for key, value in config.items():
        if isinstance(value, dict):
            found += _sizes(value)
        elif isinstance(value, int) and not isinstance(value, bool) and _SIZE.search(str(key)):
            found.append((str(key), value))
    return found


def _shapes(file: Path) -> list[list[int]] | None:
    """Tensor shapes of a safetensors file; None if its header cannot be read."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > _MOST_HEADER_BYTES:
                return None
            header = json.loads(stream.read(length))
        return [about["shape"] for key, about in header.items() if key != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _product(shape: list[int]) -> int:
    found = 1
    for size in shape:
        found *= size
    return found
