"""What changes under ``torchrun``: each process embeds a share of the batch, all see every vector."""

import os

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn


def start_processes() -> None:
    """Join the process group when ``torchrun`` started this process; do nothing otherwise."""
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def end_processes() -> None:
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share_of(items: int) -> slice:
    """This process's contiguous share of ``items`` things; shares differ by one at most."""
    return _share(items, rank())


def gathered(mine: Float[Tensor, "share dim"], *, total: int) -> Float[Tensor, "total dim"]:
    """Collect every process's rows, in the order of ``share_of``. Carries no gradient."""
    if world_size() == 1:
        return mine
    shares = [_share(total, number) for number in range(world_size())]
    longest = max(share.stop - share.start for share in shares)
    padded = mine.new_zeros(longest, mine.shape[1])
    padded[: len(mine)] = mine
    rows = [torch.empty_like(padded) for _ in shares]
    dist.all_gather(rows, padded.contiguous())
    return torch.cat([part[: share.stop - share.start] for part, share in zip(rows, shares, strict=True)])


def sum_gradients(model: nn.Module) -> None:
    """Add up the processes' gradients: each holds the part that its own texts caused."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)


def summed(value: float) -> float:
    """Add up a number over the processes."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(total)
    return total.item()


def wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()


def _share(items: int, number: int) -> slice:
    processes = world_size()
    return slice(items * number // processes, items * (number + 1) // processes)
