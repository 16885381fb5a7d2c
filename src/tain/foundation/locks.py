"""Lock so that each output has a single writer; released when the process ends, however it ends."""

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, ParamSpec, TypeVar

from tain.foundation.errors import UserError

Given = ParamSpec("Given")
Result = TypeVar("Result")

_MOST_TRIES = 100  # the last owner may remove a lock file while we open it


def lock_file(output: Path) -> Path:
    """Lock file of an output, beside it; independent of links in the given path."""
    real = Path(os.path.realpath(output))  # unlike Path.resolve, never raises
    return real.parent / f".{real.name}.lock"


@contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Hold the exclusive lock of an output and its checkpoints during the block.

    Uses the system's ``flock``, so a killed process holds no lock. If the system or disk has no locks, or the folder cannot be written,
    nothing is locked; unwritable outputs are reported by ``refuse_existing``.

    Args:
        output: The output file or folder.

    Raises:
        UserError: Another process is writing it.
    """
    path = lock_file(output)
    made = _missing_parents(path.parent)
    try:
        file = _locked(path, output)
    except OSError:
        file = None
    try:
        yield
    finally:
        if file is not None:
            with suppress(OSError):
                path.unlink()  # before it is released, so that no process locks a removed file
            file.close()
        for folder in made:
            with suppress(OSError):
                folder.rmdir()  # unless it is not empty


def writes_output(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Hold the lock of a recipe's argument ``output`` while it runs; among the processes of one run, the first holds it.

    Raises:
        UserError: As ``only_writer``, before the recipe starts.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def alone(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        output = signature.bind(*args, **kwargs).arguments.get("output")
        if not isinstance(output, str | Path) or os.environ.get("RANK", "0") != "0":
            return function(*args, **kwargs)
        with only_writer(Path(output)):
            return function(*args, **kwargs)

    return alone


def lock(file: IO[bytes]) -> bool:
    """Lock an open file and write this process's number into it; False if another process holds the lock.

    Raises:
        OSError: The disk does not support locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    file.seek(0)
    file.truncate()
    file.write(str(os.getpid()).encode())
    file.flush()
    return True


def refusal(output: Path, path: Path) -> UserError:
    """Error that names the process writing an output, read from its lock file."""
    try:
        number = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        number = ""
    writer = f"process {number}" if number.isdigit() else "another process"
    return UserError(f"output {str(output)!r} is being written by {writer}: wait for it, or choose another name")


def _locked(path: Path, output: Path) -> IO[bytes]:
    for _ in range(_MOST_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
        file = os.fdopen(os.open(path, flags, 0o666), "r+b")
        try:
            if not lock(file):
                raise refusal(output, path)
            if is_at(path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    raise OSError(f"{str(path)!r} is removed repeatedly")


def is_at(path: Path, file: IO[bytes]) -> bool:
    """Whether an open file still has this path; a file that was removed or replaced has not."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError:
        return False


def _missing_parents(folder: Path) -> list[Path]:
    """Folders that must be created before this one exists, the innermost first."""
    return [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
