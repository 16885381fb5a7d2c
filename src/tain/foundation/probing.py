"""Context managers that run a model for a measurement and restore its state."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Stateful(Protocol):
    """Protocol of optimizers with a state dict of tensors, such as ``training.optimizer.Optimizer``."""

    def state(self) -> "dict[str, torch.Tensor]": ...

    def load_state(self, tensors: "dict[str, torch.Tensor]", /) -> None: ...


@contextmanager
def evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Use eval mode inside the block, and restore the mode of every submodule afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def unchanged(module: "torch.nn.Module", *, masters: "Iterable[torch.Tensor]" = (), optimizer: Stateful | None = None) -> Iterator[None]:
    """Run a trial step or another measurement in the block, and restore all state that it may change.

    Restored: gradients, buffers, the mode of every submodule, and the global random states of torch (CPU and the module's GPUs), NumPy
    and Python. The block starts without gradients. With an optimizer, its state and its weights are restored too; without one the
    weights do not change, so they are not copied.

    Args:
        module: The model used in the block.
        masters: Float32 copies of its weights that receive the gradients (``MasterWeights.masters``).
        optimizer: Required if the block takes optimizer steps.
    """
    import numpy as np
    import torch

    weights = list({id(each): each for each in (*module.parameters(), *masters)}.values())
    gradients = [None if each.grad is None else each.grad.clone() for each in weights]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    modes = [(part, part.training) for part in module.modules()]
    stepped = None if optimizer is None else {name: tensor.detach().clone() for name, tensor in optimizer.state().items()}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - code of other models may use it
    gpus = sorted({each.device.index for each in weights if each.device.type == "cuda"})
    for each in weights:
        each.grad = None
    try:
        with torch.random.fork_rng(devices=gpus):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        with torch.no_grad():
            if optimizer is not None and stepped is not None:
                optimizer.load_state(stepped)
            for buffer, kept in buffers:
                if not torch.equal(buffer, kept):
                    buffer.copy_(kept)
        for each, gradient in zip(weights, gradients, strict=True):
            each.grad = gradient
        for part, mode in modes:
            part.training = mode
