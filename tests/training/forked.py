"""Processes that train together, forked from one that has imported torch, since importing it in each takes longer than the tests."""

import os
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch


def start(processes: int, work: Callable[[], object], *, log: Path | None = None) -> list[int]:
    """Fork processes with the environment that torchrun sets, each of which does the work and ends.

    Args:
        processes: Number of processes; a single one gets no environment.
        work: Called in each.
        log: Output of process n goes to a file of this name with ``-n``; None leaves it where it is.

    Returns:
        Their process numbers, by rank.
    """
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [_fork(rank, processes, port, work, log) for rank in range(processes)]


def codes(numbers: list[int]) -> list[int]:
    """Wait for the processes; their exit codes, or minus the signals that ended them."""
    return [os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in numbers]


def run(processes: int, work: Callable[[], object]) -> None:
    """Fork processes, and fail if one of them fails."""
    found = codes(start(processes, work))
    assert found == [0] * processes, f"{processes} processes end with {found}"


def _fork(rank: int, processes: int, port: int, work: Callable[[], object], log: Path | None) -> int:
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        torch.set_num_threads(1)
        if log is not None:
            with log.with_name(f"{log.name}-{rank}").open("w") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
        if processes > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
