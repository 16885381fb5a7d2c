"""What ``tain export`` keeps about a folder's graphs: which files there are, their digests, and how texts become inputs."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from tain.foundation.choices import BUILT_IN
from tain.foundation.errors import UserError
from tain.foundation.files import lies_inside
from tain.foundation.json_files import Field, checked_object, read_object

EXPORT_FILE = "onnx/export.json"
FLOAT_FILE, INT8_FILES = "onnx/model.onnx", ("onnx/model_quantized.onnx", "onnx/model_qint8_avx512_vnni.onnx")
FORMAT = 1
_TOWERS = ("", "encoder", "context")  # where an encoder or a ranker keeps its (first) graph

_FIELDS = {
    "format": Field(kind=int, least=1),
    "kind": Field(kind=str, among=("encoder", "pairs")),
    "graphs": Field(kind=dict, items=Field(kind=str)),
    "digests": Field(kind=dict, items=Field(kind=str)),
    "max_tokens": Field(kind=int, least=1),
    "dim": Field(kind=int, least=1),
    "normalize": Field(kind=bool),
    "pads": Field(kind=bool),
    "pad_id": Field(kind=int, least=0),
    "unknown_id": Field(kind=int, may_be_null=True),
    "pooling": Field(kind=str),
    "side": Field(kind=str, among=("left", "right"), is_needed=False),
    "weights": Field(kind=dict, is_needed=False),
    "include_prompt": Field(kind=bool, is_needed=False),
    "pair": Field(kind=dict, is_needed=False),
    "int8_ranges": Field(kind=dict, is_needed=False),
    "check": Field(kind=dict, is_needed=False),
}


@dataclass(frozen=True, kw_only=True)
class Export:
    """The contents of ``onnx/export.json``.

    Attributes:
        kind: ``encoder`` (texts to vectors) or ``pairs`` (pairs of texts to scores).
        graphs: File of the graph for each data type, ``float32`` and perhaps ``int8``, relative to the folder.
        digests: SHA-256 of each file that the vectors depend on.
        max_tokens: Length limit, special tokens included.
        dim: Numbers of a vector; 1 for pairs.
        normalize: The graph scales vectors to length 1.
        pads: Texts of different lengths may share a batch. Off for models whose vectors padding changes.
        pad_id: Token that rows are filled up with.
        unknown_id: The tokenizer's unknown token; None where it has none.
        pooling: How token vectors become one.
        side: Where long texts are cut.
        include_prompt: The graph pools the tokens of a prompt like all others; off where the model leaves them out.
        weights: For a graph file without weights: where each of them is, as (name in ``model.safetensors``, is transposed).
        pair: For pairs: how two texts become one row.
        int8_ranges: Lowest and highest value of each dimension on the texts of the check, for vectors stored in eight bits.
        check: What the check of the export measured.
    """

    kind: str
    graphs: dict[str, str]
    digests: dict[str, str]
    max_tokens: int
    dim: int
    normalize: bool
    pads: bool
    pad_id: int
    unknown_id: int | None
    pooling: str
    side: str = "right"
    include_prompt: bool = True
    weights: dict[str, Any] = field(default_factory=dict)
    pair: dict[str, Any] = field(default_factory=dict)
    int8_ranges: dict[str, list[float]] = field(default_factory=dict)
    check: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write it into an existing folder."""
        (folder / EXPORT_FILE).parent.mkdir(exist_ok=True)
        content = {"format": FORMAT, **{name: value for name, value in asdict(self).items() if value != {}}}
        (folder / EXPORT_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def exported_folder(name: str | Path) -> Path | None:
    """The folder behind a model name if it, or a tower of the ranker in it, holds exported graphs; else None."""
    built_in = BUILT_IN.get(str(name))
    folder = Path(name) if built_in is None else Path(str(resources.files("tain") / "assets" / built_in))
    is_exported = any((folder / tower / EXPORT_FILE).is_file() for tower in _TOWERS)
    return folder if is_exported else None


def read_export(folder: Path, *, name: str) -> Export:
    """Read ``onnx/export.json`` and check that the files of the export are unchanged.

    Args:
        folder: Holds it.
        name: The model's name, for messages.

    Raises:
        UserError: It is damaged or of a newer format, or a file was changed after the export, or is missing.
    """
    damaged, advice = f"model {name!r} has a damaged {EXPORT_FILE}", "export the model again"
    try:
        content = read_object(folder / EXPORT_FILE, {}, damaged=damaged, advice=advice)
    except OSError as error:
        if not (folder / EXPORT_FILE).exists() and exported_folder(folder) is not None:
            raise UserError(
                f"model {name!r} is an exported ranker, not one encoder: use it with tain rank, or give a folder inside it"
            ) from None
        raise UserError(f"{damaged}: {advice} ({error.strerror})") from None
    if isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise UserError(f"model {name!r} was exported in format {content['format']}, newer than this tain reads ({FORMAT}): upgrade tain")
    checked_object(content, _FIELDS, damaged=damaged, advice=advice)
    if outside := [file for file in content["digests"] if not lies_inside(folder, file)]:
        raise UserError(f"{damaged}: {advice} ({outside[0]!r} lies outside of the folder)")
    if unlisted := [file for file in content["graphs"].values() if file not in content["digests"]]:
        raise UserError(f"{damaged}: {advice} ({unlisted[0]} has no digest)")
    return Export(**{known: content[known] for known in _FIELDS if known != "format" and known in content})


def refuse_changed(folder: Path, digests: Mapping[str, str | None], files: Sequence[str], *, name: str) -> None:
    """Refuse files that are not the ones that the export wrote.

    Raises:
        UserError: One is missing or was changed.
    """
    for file in files:
        found = file_digest(folder / file)
        if found is None:
            raise UserError(f"model {name!r} lacks {file}, which its export wrote: copy the whole folder, or export the model again")
        if found != digests.get(file):
            raise UserError(f"model {name!r} has a {file} that was changed after the export, so it was not checked: export the model again")


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
