"""Initialise a student from another one, for example a labelling student from one trained on raw text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from tain.foundation.errors import UserError
from tain.foundation.tensors import read_tensors
from tain.recipes.distil.config import DistilConfig
from tain.students.student import Student
from tain.students.torch.qrnn import PQRNN

WEIGHTS_FILE = "weights.safetensors"

_SHAPE = ("features", "ngram_features", "bottleneck", "state", "layers", "kernel_width", "forward_only")
_HEADS = ("text_head.", "token_head.", "skip_head.", "skip_range.")


def start_shape(student: str) -> dict[str, Any]:
    """Settings of a student that another one can start from: its shape, and how it splits texts.

    Raises:
        UserError: There is no such student, or it has no saved training weights.
    """
    record = Student.load(student, backend="numpy").record
    if not (Path(student) / WEIGHTS_FILE).is_file():
        raise UserError(f"student {student!r} has no {WEIGHTS_FILE} to start from: distil it with --keep-weights, or leave out --init-from")
    shape = {name: record["config"][name] for name in _SHAPE}
    return shape | ({"split": record["config"]["split"]} if "split" in record["config"] else {})


def refuse_other_shape(config: DistilConfig, theirs: Mapping[str, Any]) -> None:
    """Refuse settings that differ from those of the student to start from.

    Args:
        config: The settings.
        theirs: As ``start_shape`` returns them.

    Raises:
        UserError: A setting differs.
    """
    asked = {name: getattr(config, name) for name in _SHAPE}
    if other := [name for name, value in asked.items() if value not in (None, theirs[name])]:
        apart = ", ".join(f"{name} is {asked[name]}, there {theirs[name]}" for name in other)
        raise UserError(f"a student started from {config.init_from!r} must have its shape ({apart}): leave these settings out")
    if (split := theirs.get("split", config.split)) != config.split:
        raise UserError(f"a student started from {config.init_from!r} must split tokens as it does: give --split {split}")


def save_weights(module: nn.Module, folder: Path) -> None:
    """Save the training weights that other students can start from."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / WEIGHTS_FILE)


@torch.no_grad()
def begin_with(module: PQRNN, start: str, *, with_heads: bool) -> set[str]:
    """Copy the weights of a student of the same shape; a skip connection counts as part of the heads.

    Args:
        module: The new student.
        start: The other one's folder.
        with_heads: Also copy heads of the same width; not for labels, which differ between students.

    Returns:
        Names of the copied weights.

    Raises:
        UserError: The file of weights is broken, or does not match that student.
    """
    path = Path(start) / WEIGHTS_FILE
    try:
        weights = read_tensors(path)
    except ValueError as error:
        raise UserError(f"{str(path)!r} cannot be read ({error}): distil that student again with --keep-weights") from None
    taken = set()
    for name, tensor in module.state_dict().items():
        fits = name in weights and weights[name].shape == tensor.shape
        if fits and (with_heads or not name.startswith(_HEADS)):
            tensor.copy_(weights[name])
            taken.add(name)
        elif not fits and not name.startswith((*_HEADS, "attention.")):  # a student that only tags has no weights for whole texts
            raise UserError(f"{str(path)!r} does not fit its student ({name}): distil that student again with --keep-weights")
    return taken
