"""Checkpoints for resuming: tensors in safetensors, other state in JSON, written atomically."""

import glob
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tain.foundation.errors import UserError
from tain.foundation.files import whole_folder
from tain.foundation.json_files import Field, read_object
from tain.foundation.old_names import renamed
from tain.foundation.tensors import read_tensors

_STATE = {"step": Field(kind=int, least=0), "identity": Field(kind=dict), "figures": Field(kind=dict)}
_ANEW = "start over with --overwrite and without --resume"


@dataclass(frozen=True)
class Checkpoint:
    """State of a run at a step.

    Attributes:
        step: Steps done.
        identity: Settings of the run; a resumed run must have the same.
        figures: Running figures of the recipe.
    """

    step: int
    identity: dict[str, Any]
    figures: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Replace the folder's checkpoint; after a kill at any moment, one of the two is complete."""
    drop_leftovers(folder)
    with whole_folder(folder, overwrite=True, follow=False) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / "state.safetensors")
        content = {"step": checkpoint.step, "identity": checkpoint.identity, "figures": checkpoint.figures}
        (partial / "state.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def drop_leftovers(folder: Path) -> None:
    """Remove partial checkpoints left by killed processes."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)


def checkpoint_folder(output: Path, seed: int | None = None) -> Path:
    """Checkpoint folder of an interrupted run, used by ``--resume``; one per seed if there are several."""
    return output.parent / f".{output.name}.checkpoint{'' if seed is None else f'-{seed}'}"


def checkpoint_folders(output: Path, *, seed: int, seeds: int) -> list[Path]:
    """Checkpoint folders of a run with several seeds, starting with ``seed``."""
    return [checkpoint_folder(output, seed + number) for number in range(seeds)]


def refuse_to_lose(folders: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to overwrite a checkpoint that can be resumed.

    Raises:
        UserError: One of the folders holds a checkpoint, and ``overwrite`` is off.
    """
    left = next((folder for folder in folders if (folder / "state.json").exists()), None)
    if left is not None and not overwrite:
        raise UserError(
            f"the checkpoint of an earlier run, {str(left)!r}, would be lost: continue it with --resume, or give --overwrite to start over"
        )


def refuse_nothing_to_resume(folder: Path) -> None:
    """Refuse to resume without a checkpoint.

    Raises:
        UserError: There is no checkpoint.
    """
    if not (folder / "state.json").exists():
        raise UserError(f"there is nothing to resume: {str(folder)!r} does not exist; start without --resume")


def dtype_of(folders: Iterable[Path], *, key: str = "number_type") -> str | None:
    """Data type stored in these checkpoints; None if none of them has one.

    Each process benchmarks the fastest type, and a busy machine may get another result than an idle one.
    """
    for folder in folders:
        try:
            identity = json.loads((folder / "state.json").read_text(encoding="utf-8"))["identity"]
            name = str(identity[key]).removeprefix("torch.")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # damage is reported when the checkpoint is loaded
        if name in ("float32", "bfloat16"):
            return name
    return None


def load_checkpoint(folder: Path, *, identity: dict[str, Any], defaults: dict[str, Any]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Load a checkpoint.

    Args:
        folder: Folder written by ``save_checkpoint``.
        identity: Settings of the current run.
        defaults: Values of settings that are missing in older checkpoints.

    Raises:
        UserError: There is no checkpoint, or it belongs to a run with other settings, which are named.
    """
    refuse_nothing_to_resume(folder)
    content, tensors = _read(folder)
    # compare only values that went through JSON
    here = json.loads(json.dumps(identity))
    there = {name: defaults.get(name) for name in here} | renamed(content["identity"])
    changed = sorted(name for name in there if there[name] != here.get(name))
    if changed:
        changes = ", ".join(f"{name} was {there[name]!r} and is {here.get(name)!r}" for name in changed)
        raise UserError(
            f"the checkpoint was made with other settings ({changes}): give the same, or start over with --overwrite and without --resume"
        )
    return Checkpoint(content["step"], content["identity"], content["figures"]), tensors


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = read_object(folder / "state.json", _STATE, damaged=f"the checkpoint {str(folder)!r} is damaged", advice=_ANEW)
        return content, read_tensors(folder / "state.safetensors")
    except (OSError, ValueError) as error:
        raise UserError(f"the checkpoint {str(folder)!r} is damaged: {_ANEW} ({error})") from None
