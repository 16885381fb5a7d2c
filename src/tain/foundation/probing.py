"""Run a model to measure something, and leave it as it was."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    import torch


@runtime_checkable
class Stateful(Protocol):
    """An optimizer whose state is a dict of tensors, as ``training.optimizer.Optimizer`` is."""

    def state(self) -> "dict[str, torch.Tensor]": ...

    def load_state(self, tensors: "dict[str, torch.Tensor]", /) -> None: ...


@contextmanager
def evaluating(module: "torch.nn.Module") -> Iterator[None]:
    """Switch to eval mode inside the block, and give every submodule its own mode back afterwards."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@contextmanager
def unchanged(module: "torch.nn.Module", *, masters: "Iterable[torch.Tensor]" = (), optimizer: Stateful | None = None) -> Iterator[None]:
    """Run a trial step or another measurement inside the block, and restore everything that it may change afterwards.

    Restored: gradients, buffers, the train or eval mode of every submodule, and the global random states of torch (CPU and the
    module's GPUs), NumPy and Python. The block begins without gradients. With an optimizer, its state and the weights that it
    steps are restored too; without one nothing steps the weights, so no copy of them is made.

    Args:
        module: The model that the block runs.
        masters: Float32 copies of its weights that gradients are moved to (``MasterWeights.masters``).
        optimizer: Given where the block takes optimizer steps.
    """
    import numpy as np
    import torch

    weights = list({id(each): each for each in (*module.parameters(), *masters)}.values())
    gradients = [None if each.grad is None else each.grad.clone() for each in weights]
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    modes = [(part, part.training) for part in module.modules()]
    stepped = None if optimizer is None else {name: tensor.detach().clone() for name, tensor in optimizer.state().items()}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - code of foreign models may draw from it
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
