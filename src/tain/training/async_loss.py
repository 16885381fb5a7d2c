"""Reads a loss that a GPU is still computing, while its backward pass runs."""

from collections.abc import Callable

import torch
from torch import Tensor


def backward(loss: Tensor) -> Callable[[], float]:
    """Run the backward pass of a loss and return what reads it: at once, not when the pass is done."""
    read = reading(loss)
    loss.backward()
    return read


def reading(number: Tensor) -> Callable[[], float]:
    """Send a number on its way to the CPU and return what waits for it.

    Asked for only after more work was queued, such as the backward pass of the loss, it keeps the GPU from running idle: it is
    there as soon as the number itself is computed, while ``item`` waits for everything.
    """
    if number.device.type != "cuda":
        return number.detach().item
    arriving = number.detach().to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(number.device))  # of the GPU that holds it, which need not be the current one

    def read() -> float:
        arrived.synchronize()
        return arriving.item()

    return read
