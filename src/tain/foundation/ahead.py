"""Compute the next results in threads while the caller uses the last one."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def results_ahead(tasks: Iterable[Callable[[], Result]], *, threads: int, ahead: int) -> Generator[Result, None, None]:
    """Results of tasks in their order, computed by threads that work ahead of the caller.

    Args:
        tasks: The tasks; taken in the caller's thread, when they are due.
        threads: Threads that compute them.
        ahead: Tasks that are computed, or wait, before the caller has taken the result before them.

    Raises:
        Exception: That of the first task that failed; at most ``ahead`` later ones have begun.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="tain-ahead") as pool:  # not kept: it would not survive a fork
        coming: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                coming.append(pool.submit(task))
                if len(coming) > ahead:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
