"""Begin a student where another one ended: what it learnt of words from raw text serves labels, too."""

from dataclasses import replace
from pathlib import Path

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


def shaped_like_start(config: DistilConfig) -> DistilConfig:
    """Take over the shape of the student to begin with; without one the settings stay as they are.

    Raises:
        UserError: There is no such student, it kept no weights, or its shape is not the one asked for.
    """
    if config.init_from is None:
        return config
    record = Student.load(config.init_from, backend="numpy").record
    if not (Path(config.init_from) / WEIGHTS_FILE).is_file():
        raise UserError(
            f"student {config.init_from!r} has no {WEIGHTS_FILE} to begin with: distil it with --keep-weights, or leave --init-from out"
        )
    theirs = {name: record["config"][name] for name in _SHAPE}
    asked = {name: getattr(config, name) for name in _SHAPE}
    if other := [name for name, value in asked.items() if value not in (None, theirs[name])]:
        apart = ", ".join(f"{name} is {asked[name]} and was {theirs[name]}" for name in other)
        raise UserError(f"a student begun with {config.init_from!r} has its shape ({apart}): leave these settings out")
    if (split := record["config"].get("split", config.split)) != config.split:
        raise UserError(
            f"a student begun with {config.init_from!r} reads as it does (--split {split}), or what was learnt of its tokens is lost: give that"
        )
    return replace(config, **theirs)


def save_weights(module: nn.Module, folder: Path) -> None:
    """Keep everything that training goes on from."""
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, folder / WEIGHTS_FILE)


@torch.no_grad()
def begin_with(module: PQRNN, start: str, *, with_heads: bool) -> set[str]:
    """Take over the weights of a student of the same shape; a skip is part of the heads.

    Args:
        module: The new student.
        start: The other one's folder.
        with_heads: Its heads too, where they are as wide; for labels they mean something else.

    Returns:
        Names of what was taken over.

    Raises:
        UserError: The file of weights is broken, or not of that student.
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
        elif not fits and not name.startswith((*_HEADS, "attention.")):  # a student that only tags has none of these for whole texts
            raise UserError(f"{str(path)!r} does not fit its student ({name}): distil that student again with --keep-weights")
    return taken
