"""What this machine is and how it is set for a run: device, number type, seeds, time since the start."""

import gc
import os
import sys
import time
from functools import cache
from typing import TYPE_CHECKING

from tain.foundation.errors import UserError

if TYPE_CHECKING:
    import torch

_IMPORTED_S = time.time()


def process_age_s() -> float:
    """Seconds since this process started; where the system does not tell, since tain was imported."""
    try:
        with open("/proc/self/stat", encoding="ascii") as stat:  # noqa: PTH123 - read once, no path work
            started_ticks = int(stat.read().rpartition(")")[2].split()[19])
        with open("/proc/uptime", encoding="ascii") as uptime:  # noqa: PTH123
            return float(uptime.read().split()[0]) - started_ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return time.time() - _IMPORTED_S


def put_off_collection() -> None:
    """Hardly look for garbage until ``collect_as_usual``; for a process that is ours, at its start.

    Importing torch and transformers makes close to a million objects, all of which stay. Python looks through them again and again
    meanwhile, and once more at the end: a quarter of a short command's time (docs/LOG.md, 2026-11-28).
    """
    gc.set_threshold(_PUT_OFF)


def collect_as_usual() -> None:
    """Look for garbage again, but no more among what is there by now; does nothing where it was not put off."""
    if gc.get_threshold()[0] == _PUT_OFF:
        gc.freeze()
        gc.set_threshold(*_USUAL)


_USUAL, _PUT_OFF = gc.get_threshold(), 1_000_000  # new objects between two rounds


def choose_device(name: str | None = None) -> "torch.device":
    """Turn a device name into a device; without a name take the GPU when there is one.

    Raises:
        UserError: The name means nothing to torch, or the device is not on this machine.
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
    """Tell whether bfloat16 or float32 products are faster here, by timing both for a few milliseconds.

    Processors with AVX512-BF16 or AMX multiply bfloat16 two to three times faster; others emulate it, far slower.
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
        return min(times_s[2:])  # the first products pay for set-up

    return torch.bfloat16 if best_of(torch.bfloat16) < 0.8 * best_of(torch.float32) else torch.float32


def keep_freed_memory() -> None:
    """Tell the C library to keep freed memory instead of handing it back to the system; does nothing where it is not glibc.

    Every tensor of a few megabytes is otherwise mapped, zeroed page by page and unmapped again, in every step: 5 to 15% of a
    training step on a CPU. The process stays at its peak memory.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h


def set_dtype(model: "torch.nn.Module", dtype: "torch.dtype") -> None:
    """Turn a model's parameters, and only those, into another number type.

    Buffers stay: rotary frequencies in bfloat16 would turn the hundredth position by a quarter of a radian.
    """
    for parameter in model.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)


def versions() -> dict[str, str]:
    """The versions that a saved figure depends on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("tain", "torch", "transformers", "tokenizers", "numpy", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
