"""Machine and process settings: device, data type, seeds, garbage collection, process age."""

import gc
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

from tain.foundation.errors import UserError

if TYPE_CHECKING:
    import torch

_IMPORTED_S = time.monotonic()


def process_age_s() -> float:
    """Seconds since this process started; if the system does not tell, since tain was imported."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat:  # noqa: PTH123 - read once, no path work
            started_ticks = int(stat.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as uptime:  # noqa: PTH123
            return float(uptime.read().split()[0]) - started_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.monotonic() - _IMPORTED_S


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limit() -> int | None:
    """Number of threads that ``OMP_NUM_THREADS`` allows, which Ray and others set for each process; None if it is not set.

    torch obeys that variable, onnxruntime does not.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(given) if given.isascii() and given.isdigit() and int(given) > 0 else None


def put_off_collection() -> None:
    """Almost disable garbage collection until ``collect_as_usual``; for our own processes, at their start.

    Importing torch and transformers creates close to a million permanent objects. Collecting garbage meanwhile, and once more at the end,
    takes a quarter of the time of a short command (docs/LOG.md, 2026-11-28).
    """
    gc.set_threshold(_PUT_OFF)


def collect_as_usual() -> None:
    """Re-enable garbage collection, excluding the objects that exist now; does nothing if it was not put off."""
    if gc.get_threshold()[0] == _PUT_OFF:
        gc.freeze()
        gc.set_threshold(*_USUAL)


_USUAL, _PUT_OFF = gc.get_threshold(), 1_000_000  # new objects between two collections


def choose_device(name: str | None = None) -> "torch.device":
    """Convert a device name to a device; by default a GPU if there is one.

    Raises:
        UserError: The name is unknown to torch, or this machine has no such device.
    """
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device is {name!r}, which torch does not know: give cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"device is {name!r}, which tain does not run on: give cpu, cuda or cuda:N")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"device is {name!r}, but torch finds no such device here: give cpu")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device is {name!r}, but torch finds no GPU here: give cpu, or install a CUDA build of torch")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(
            f"device is {name!r}, but there are {torch.cuda.device_count()} GPUs here: give cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    return device


@cache
def fastest_dtype(device_type: str) -> "torch.dtype":
    """The faster of bfloat16 and float32 for matrix products on this machine, measured in a few milliseconds.

    Processors with AVX512-BF16 or AMX multiply bfloat16 two to three times faster; others emulate it, which is far slower.
    """
    import torch

    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device_type != "cpu":
        return torch.float32

    def best_of(dtype: torch.dtype) -> float:
        rows, columns = torch.ones(512, 384, dtype=dtype), torch.ones(384, 512, dtype=dtype)
        times_s = []
        for _ in range(8):
            began_s = time.perf_counter()
            torch.mm(rows, columns)
            times_s.append(time.perf_counter() - began_s)
        return min(times_s[2:])  # the first products include set-up time

    return torch.bfloat16 if best_of(torch.bfloat16) < 0.8 * best_of(torch.float32) else torch.float32


def keep_freed_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the system; does nothing with another C library.

    Otherwise every tensor of a few megabytes is mapped, zeroed and unmapped in every step, which costs 5 to 15% of a training step
    on a CPU. The process stays at its peak memory.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h


def set_dtype(model: "torch.nn.Module", dtype: "torch.dtype") -> None:
    """Convert a model's parameters, but not its buffers, to another data type.

    Rotary frequencies are buffers: in bfloat16 they would rotate the hundredth position by a quarter of a radian.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in torch on one thread inside the block: how a product is divided among threads changes the order of its additions."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def versions() -> dict[str, str]:
    """Versions of the packages that affect a saved figure."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("tain", "torch", "transformers", "tokenizers", "numpy", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
