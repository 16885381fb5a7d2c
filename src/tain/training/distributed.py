"""Multi-process training with ``torchrun``: each process embeds a share of the batch, and all processes see every vector."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from tain.foundation.choices import Dtype
from tain.foundation.errors import UserError

Result = TypeVar("Result")

_PATIENCE = timedelta(days=1)  # others wait while process 0 works alone; torchrun detects a dead process

# parts of the messages of gloo and nccl when the other end is gone
_SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited", "Socket Timeout")


def start_processes(device: str | None = None) -> None:
    """Join the process group if ``torchrun`` started this process; otherwise do nothing.

    Args:
        device: Training device requested by the user; default: a GPU if available.
    """
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        # its functions use the current process group as a default argument. Imported later, as transformers does when it loads a
        # model, it would keep the group alive, and gloo's threads would outlive the interpreter
        import torch.distributed.nn.functional

        is_on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
        dist.init_process_group("nccl" if is_on_gpu else "gloo", timeout=_PATIENCE)
        if is_on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def refuse_idle_processes(items: int, *, what: str) -> None:
    """Refuse a batch with fewer items than processes, since a process without items has no gradient.

    Raises:
        UserError: There are more processes than items.
    """
    if items < world_size():
        raise UserError(
            f"{world_size()} processes share a batch of {items} {what}, and some would have none: start fewer, or give larger batches"
        )


def end_processes(*, waits: bool = True) -> None:
    """Leave the process group and end its threads; does nothing without a group.

    Args:
        waits: Wait for the other processes first. Not after an error, when they may never arrive.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    if waits:
        dist.barrier()
    elif dist.get_backend() == "nccl":
        return  # ending the group would wait for the others too
    dist.destroy_process_group()


@contextmanager
def ending_processes() -> Iterator[None]:
    """Leave the process group at the end of the block, also after an error.

    Raises:
        UserError: Another process of the group has ended, so that this one cannot go on.
    """
    try:
        try:
            yield
            end_processes()
        except RuntimeError as error:
            if world_size() == 1 or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
                raise
            raise UserError(
                "another process of this run has ended, so this one cannot go on: look for its message, and continue with --resume"
            ) from None
    except BaseException:
        end_processes(waits=False)
        raise


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_of(items: int) -> slice:
    """This process's contiguous share of ``items`` items; shares differ by at most one."""
    return _share(items, rank())


def gathered(mine: Float[Tensor, "share dim"], *, total: int) -> Float[Tensor, "total dim"]:
    """Gather the rows of all processes, in the order of ``share_of``. Carries no gradient."""
    return gathered_lists(mine, lengths=[1] * total)


def gathered_lists(mine: Float[Tensor, "share dim"], *, lengths: Sequence[int]) -> Float[Tensor, "total dim"]:
    """Gather the rows of all processes' items, in the order of ``share_of``. Carries no gradient.

    Args:
        mine: Rows of this process's items.
        lengths: Rows of each item of all processes.
    """
    if world_size() == 1:
        return mine
    rows = [sum(lengths[_share(len(lengths), number)]) for number in range(world_size())]
    padded = mine.new_zeros(max(rows), mine.shape[1])
    padded[: len(mine)] = mine
    found = [torch.empty_like(padded) for _ in rows]
    dist.all_gather(found, padded.contiguous())
    return torch.cat([part[:count] for part, count in zip(found, rows, strict=True)])


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Sum gradients over processes. Parameters without a gradient in any process keep none."""
    if world_size() == 1:
        return
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    has_any = torch.tensor([parameter.grad is not None for parameter in trained], dtype=torch.int32, device=_device())
    dist.all_reduce(has_any)
    for parameter, found in zip(trained, has_any.tolist(), strict=True):
        if found:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of process 0, so that all processes start from the same bits."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), 0)


def total(part: Tensor) -> Tensor:
    """Sum a tensor over processes; the gradient passes through the sum."""
    if world_size() == 1:
        return part
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(part)  # pyright: ignore[reportReturnType]


def highest(part: Tensor) -> Tensor:
    """Maximum of a tensor over processes, element by element. Carries no gradient."""
    found = part.detach().clone()
    if world_size() > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return found


def summed(value: int | float) -> float:
    """Sum a number over processes."""
    if world_size() == 1:
        return float(value)
    total = torch.tensor(value, dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    return total.item()


def choose_dtype(asked: Dtype, *, choose: Callable[[Dtype], torch.dtype], begun_in: Callable[[], str | None]) -> torch.dtype:
    """Compute type of all processes: the requested one, that of the resumed run, or the fastest on process 0.

    Args:
        asked: Requested by the user.
        choose: The encoder's ``choose_dtype``.
        begun_in: Returns the data type of the resumed run; None if there is none.

    Raises:
        UserError: The encoder does not support the requested type.
    """
    if asked != "auto":
        return choose(asked)
    chosen = from_first(lambda: begun_in() or str(choose("auto")))
    return getattr(torch, chosen.removeprefix("torch."))


def from_first(make: Callable[[], Any]) -> Any:
    """Compute a value on process 0 only and broadcast it, so that decisions do not differ by rounding.

    Args:
        make: Returns a JSON-compatible value.
    """
    if world_size() == 1:
        return make()
    content = json.dumps(make()).encode() if rank() == 0 else b""
    size = torch.tensor(len(content), device=_device())
    dist.broadcast(size, 0)
    buffer = torch.zeros(int(size), dtype=torch.uint8, device=_device())
    if content:
        buffer.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
    dist.broadcast(buffer, 0)
    return json.loads(bytes(buffer.cpu().numpy()))


def first_then_others(make: Callable[[], Result]) -> Result:
    """Call a function on process 0, and then on the others, which find the files that it stored."""
    if rank() > 0:
        wait_for_all()
        return make()
    made = make()
    wait_for_all()
    return made


def wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"


def _share(items: int, number: int) -> slice:
    processes = world_size()
    return slice(items * number // processes, items * (number + 1) // processes)
