"""Read a loss from the GPU without waiting for the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor


def backward(loss: Tensor) -> Callable[[], float]:
    """Run the backward pass of a loss and return a function that reads the loss without waiting for the pass."""
    read = reading(loss)
    loss.backward()
    return read


def reading(number: Tensor) -> Callable[[], float]:
    """Start copying a number to the CPU and return a function that waits for it.

    Queue more work, such as the backward pass, before calling it: it returns as soon as the number is computed, while ``item`` waits
    for all queued work and leaves the GPU idle.
    """
    if number.device.type != "cuda":
        return number.detach().item
    arriving = number.detach().to("cpu", non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record(torch.cuda.current_stream(number.device))  # of the GPU that holds the tensor, which may not be the current one

    def read() -> float:
        arrived.synchronize()
        return arriving.item()

    return read
