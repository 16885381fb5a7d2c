"""Write results as one JSON object, to standard output or a file."""

from collections.abc import Mapping
from pathlib import Path


def as_object(content: Mapping[str, object], *, indent: int | None = None) -> str:
    import json

    return json.dumps(content, ensure_ascii=False, indent=indent, allow_nan=False)


def write_object(content: Mapping[str, object], target: Path, *, overwrite: bool) -> None:
    """Write it indented and atomically."""
    from tain.foundation.files import whole_file

    with whole_file(target, overwrite=overwrite) as path:
        path.write_text(as_object(content, indent=2) + "\n", encoding="utf-8")
