"""Checkpoints that a killed run goes on from: tensors in safetensors, the rest in JSON, the folder whole or absent."""

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
_ANEW = "start anew with --overwrite and without --resume"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands.

    Attributes:
        step: Steps done.
        identity: What the run was started with; a resumed run must be started with the same.
        figures: Running figures the recipe wants back.
    """

    step: int
    identity: dict[str, Any]
    figures: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, tensors: dict[str, Tensor]) -> None:
    """Write a checkpoint in place of the folder's earlier one; a kill at any moment leaves one of the two whole."""
    drop_leftovers(folder)
    with whole_folder(folder, overwrite=True, follow=False) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial / "state.safetensors")
        content = {"step": checkpoint.step, "identity": checkpoint.identity, "figures": checkpoint.figures}
        (partial / "state.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def drop_leftovers(folder: Path) -> None:
    """Remove what processes left that were killed while they wrote this checkpoint."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.partial-*"):
        shutil.rmtree(left, ignore_errors=True)


def checkpoint_folder(output: Path, seed: int | None = None) -> Path:
    """Where a run that is cut off leaves what ``--resume`` goes on from; each seed's own, where there may be several."""
    return output.parent / f".{output.name}.checkpoint{'' if seed is None else f'-{seed}'}"


def checkpoint_folders(output: Path, *, seed: int, seeds: int) -> list[Path]:
    """Where a run of several seeds, the first one ``seed``, leaves theirs."""
    return [checkpoint_folder(output, seed + number) for number in range(seeds)]


def refuse_to_lose(folders: Iterable[Path], *, overwrite: bool) -> None:
    """Refuse to begin anew where an earlier run can be gone on with.

    Raises:
        UserError: One of these is a checkpoint, and ``overwrite`` is off.
    """
    left = next((folder for folder in folders if (folder / "state.json").exists()), None)
    if left is not None and not overwrite:
        raise UserError(
            f"the checkpoint of an earlier run, {str(left)!r}, would be lost: go on from it with --resume, or give --overwrite to start anew"
        )


def refuse_nothing_to_resume(folder: Path) -> None:
    """Refuse to go on from a checkpoint that is not there.

    Raises:
        UserError: It is not.
    """
    if not (folder / "state.json").exists():
        raise UserError(f"there is nothing to resume: {str(folder)!r} does not exist; start without --resume")


def dtype_of(folders: Iterable[Path], *, key: str = "number_type") -> str | None:
    """The number type that the run which left these checkpoints computes in; None where there is none that tells.

    What is fastest is measured anew by every process, and a busy machine may find another answer than an idle one.
    """
    for folder in folders:
        try:
            identity = json.loads((folder / "state.json").read_text(encoding="utf-8"))["identity"]
            name = str(identity[key]).removeprefix("torch.")
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # damage is told when the checkpoint is loaded
        if name in ("float32", "bfloat16"):
            return name
    return None


def load_checkpoint(folder: Path, *, identity: dict[str, Any], defaults: dict[str, Any]) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read a checkpoint back.

    Args:
        folder: Where ``save_checkpoint`` wrote it.
        identity: What this run was started with.
        defaults: What a setting is where the checkpoint, older than the setting, does not say.

    Raises:
        UserError: There is no checkpoint, or it comes from a run with other settings (they are named).
    """
    refuse_nothing_to_resume(folder)
    content, tensors = _read(folder)
    # what went through JSON must be compared with what went through JSON
    here = json.loads(json.dumps(identity))
    there = {name: defaults.get(name) for name in here} | renamed(content["identity"])
    changed = sorted(name for name in there if there[name] != here.get(name))
    if changed:
        changes = ", ".join(f"{name} was {there[name]!r} and is {here.get(name)!r}" for name in changed)
        raise UserError(
            f"the checkpoint was made with other settings ({changes}): give the same, or start anew with --overwrite and without --resume"
        )
    return Checkpoint(content["step"], content["identity"], content["figures"]), tensors


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        content = read_object(folder / "state.json", _STATE, damaged=f"the checkpoint {str(folder)!r} is damaged", advice=_ANEW)
        return content, read_tensors(folder / "state.safetensors")
    except (OSError, ValueError) as error:
        raise UserError(f"the checkpoint {str(folder)!r} is damaged: {_ANEW} ({error})") from None
