"""Files and folders that appear whole or not at all."""

import errno
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tain.foundation.choices import BUILT_IN
from tain.foundation.errors import UserError

_OF_TAIN = {"tain.json", "index.json", "demo.json"}  # one of these lies in every folder that a verb wrote


def refuse_files(*targets: Path | None, overwrite: bool, drawn: Path | None = None) -> None:
    """Refuse output files before anything is computed for them; those that are None were not asked for.

    Args:
        targets: Each file's name.
        overwrite: Replace what is there.
        drawn: Which of them is drawn as SVG.

    Raises:
        UserError: As ``refuse_existing``; or two are the same; or ``drawn`` promises another kind of picture.
    """
    given = [Path(target) for target in targets if target is not None]
    for target in given:
        if [_resolved(other) for other in given].count(_resolved(target)) > 1:
            raise UserError(f"output {str(target)!r} is named twice: give each file a name of its own")
        refuse_existing(target, overwrite=overwrite)
    if drawn is not None and drawn.suffix.lower() != ".svg":
        raise UserError(f"output {str(drawn)!r} is drawn as SVG: give it a name that ends in .svg")


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Refuse an output path that is taken, or that cannot be written.

    Raises:
        UserError: The path exists and ``overwrite`` is off, it cannot be made, or ``overwrite`` would replace a folder that tain did
            not write, or one that holds more than an output: a root, the home or the working folder, or one above these; or it is
            the built-in model's name.
    """
    if str(target) in BUILT_IN:
        raise UserError(f"output {str(target)!r} is the built-in model's name, which would be loaded in its place: choose another name")
    _refuse_taken(target, overwrite=overwrite)
    if overwrite and (real := followed(Path(target))) != Path(target):
        _refuse_taken(real, overwrite=True)
    if _is_foreign(Path(target)):
        raise UserError(
            f"output {str(target)!r} is a folder of other files than tain's, which are not replaced: choose another name, or remove it"
        )


def followed(target: Path) -> Path:
    """Where a link leads, so that what is written replaces the link's target and not the link; any other path as it is.

    Raises:
        UserError: The link leads in a circle.
    """
    if not target.is_symlink():
        return target
    real = Path(os.path.realpath(target))
    if real.is_symlink():
        raise UserError(f"output {str(target)!r} is a link that leads in a circle: remove it, or choose another name")
    return real


def _is_foreign(folder: Path) -> bool:
    """True for a folder that holds something, and nothing that says tain wrote it."""
    try:
        names = {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return bool(names) and not names & _OF_TAIN


def _refuse_taken(target: Path, *, overwrite: bool) -> None:
    target = Path(target)
    shown = repr(str(target))
    around = {folder for start in (Path.cwd(), _home()) for folder in (start, *start.parents)}
    if not target.name or _resolved(target) in around:
        raise UserError(f"output is {shown}, which would replace a whole working folder: name a new folder inside it")
    if os.path.lexists(target) and not overwrite:
        raise UserError(f"output {shown} already exists: choose another name or give --overwrite")
    for parent in target.absolute().parents:
        if os.path.lexists(parent):
            if not os.path.isdir(parent):  # noqa: PTH112 - unlike Path.is_dir, never raises
                raise UserError(f"output {shown} lies below {str(parent)!r}, which is a file: choose another place")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise UserError(f"output {shown} cannot be written: no permission in {str(parent)!r}")
            missing = target.absolute().relative_to(parent).parts
            _probe(parent / _hidden(max(missing, key=lambda part: len(os.fsencode(part)))), target)
            break


def open_own(path: Path, *, writable: bool = False, create: bool = False) -> BinaryIO:
    """Open a file inside one of our folders without following a link and without emptying it.

    A folder may come from somebody else. A link in it could lead to any file of the user, who would lose it when we write.

    Args:
        path: The file.
        writable: Open it for reading and writing, at its beginning.
        create: Make it where it is missing; needs ``writable``.

    Raises:
        UserError: It is a link, or no regular file.
        OSError: It cannot be opened.
    """
    refuse_link(path)
    flags = (os.O_RDWR if writable else os.O_RDONLY) | (os.O_CREAT if create else 0)
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"):  # not every system has each; a pipe would block
        flags |= getattr(os, name, 0)
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            refuse_link(path)
        raise
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise UserError(f"{str(path)!r} is no regular file: restore the folder it lies in, or make it again")
    return os.fdopen(number, "r+b" if writable else "rb")


def refuse_link(path: Path) -> None:
    """Refuse a link among the files of one of our folders.

    Raises:
        UserError: It is one.
    """
    if path.is_symlink():
        raise UserError(
            f"{str(path)!r} is a link to {str(path.readlink())!r}, and links inside such a folder are not followed: put the file itself there"
        )


def lies_inside(folder: Path, part: str) -> bool:
    """True where a relative path that a folder's file names stays in that folder, links to other folders included."""
    path = PurePosixPath(part.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in part:
        return False
    try:
        return (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


@contextmanager
def whole_folder(target: Path, *, overwrite: bool = False, was_free: bool = False, follow: bool = True) -> Iterator[Path]:
    """Yield a hidden folder beside ``target`` that takes its name when the block ends well.

    A block that raises, or a process that is killed, leaves ``target`` as it was. Leftovers of a killed
    process are hidden folders named ``.NAME.partial-*``. Old and new change names in one step where the
    system can do that (Linux). Elsewhere it takes two, and a process killed between them leaves the old
    folder whole, but under the hidden name ``.NAME.replaced-*``.

    Args:
        target: The folder's name.
        overwrite: Replace what is there.
        was_free: The name was free when the work for it began: what took it since is treated as what takes it while the block runs.
        follow: Where ``target`` is a link that may be replaced, replace what it leads to. Off for names that the user did not give.

    Raises:
        UserError: As ``refuse_existing``, or ``target`` is a file, or it appeared while the block ran and
            ``overwrite`` is off; the finished folder then stays under a name that the message tells.
    """
    target = followed(Path(target)) if overwrite and follow else Path(target)
    if overwrite and os.path.isfile(target):  # noqa: PTH113 - unlike Path.is_file, never raises
        raise UserError(f"output {str(target)!r} is a file, but a folder is to be written: choose another name")
    partial, mode = _partial_beside(target, overwrite=overwrite or was_free)
    partial.mkdir()
    try:
        with _room_for(target):
            yield partial
        _settle(partial, mode)
        _refuse_late_arrival(partial, target, overwrite=overwrite)
        if not os.path.lexists(target):
            partial.rename(target)
        elif not _swap(partial, target):  # swapped, what is removed below is the old folder
            # a folder cannot be renamed onto a filled one: the old one steps aside first, and back if that fails
            aside = target.with_name(f".{target.name}.replaced-{uuid.uuid4().hex[:8]}")
            target.rename(aside)
            try:
                partial.rename(target)
            except BaseException:
                aside.rename(target)
                raise
            _remove(aside)
    finally:
        _remove(partial)


@contextmanager
def whole_file(target: Path, *, overwrite: bool = False, follow: bool = True) -> Iterator[Path]:
    """Yield a hidden path beside ``target`` that takes its name when the block ends well; ``follow`` as in ``whole_folder``.

    Raises:
        UserError: As ``whole_folder``, with file and folder exchanged.
    """
    target = followed(Path(target)) if overwrite and follow else Path(target)
    if overwrite and os.path.isdir(target):  # noqa: PTH112
        raise UserError(f"output {str(target)!r} is a folder, but a file is to be written: name a file inside it")
    partial, mode = _partial_beside(target, overwrite=overwrite)
    try:
        with _room_for(target):
            yield partial
        _settle(partial, mode)
        _refuse_late_arrival(partial, target, overwrite=overwrite)
        partial.replace(target)
    finally:
        _remove(partial)


def _partial_beside(target: Path, *, overwrite: bool) -> tuple[Path, int]:
    """The hidden path, free, and the mode that this process gives new files there."""
    _refuse_taken(target, overwrite=overwrite)
    partial = target.with_name(_hidden(target.name))
    return partial, _probe(partial, target)


def _hidden(name: str) -> str:
    return f".{name}.partial-{uuid.uuid4().hex[:8]}"


def _probe(partial: Path, target: Path) -> int:
    """Write a file and remove it: a read-only disk and a name too long show now, not when the work is done. Gives the file's mode."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.touch()
        mode = stat.S_IMODE(partial.stat().st_mode)
        partial.unlink()
    except OSError as error:
        raise UserError(f"output {str(target)!r} cannot be written ({error.strerror}): choose another place or name") from None
    return mode


@contextmanager
def _room_for(target: Path) -> Iterator[None]:
    """Say in one line that a disk is full, whichever library found it out."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise UserError(f"output {str(target)!r} cannot be written ({error.strerror}): make room there, or choose another place") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError" or "I/O error" not in str(error):
            raise
        raise UserError(f"output {str(target)!r} cannot be written ({error}): make room there, or choose another place") from None


def _refuse_late_arrival(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite or not os.path.lexists(target):
        return
    kept = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}")
    partial.rename(kept)
    raise UserError(f"output {str(target)!r} appeared while this ran and is left alone: the result is in {str(kept)!r}")


def _swap(left: Path, right: Path) -> bool:
    """Let two paths change names in one step; False, and nothing done, where the system or the disk cannot."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    relative_to_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: Python offers no call for it
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return renameat2 is not None and renameat2(relative_to_cwd, os.fsencode(left), relative_to_cwd, os.fsencode(right), exchange) == 0


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links is no folder anyone works in
        return None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _settle(made: Path, mode: int) -> None:
    """Put files on the disk to stay, and let others read them as they may any new file: safetensors makes its own for their owner alone."""
    for path in (made, *made.rglob("*")):
        if path.is_file():
            with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:  # Windows flushes only what may be written
                os.fsync(file.fileno())
            path.chmod(stat.S_IMODE(path.stat().st_mode) | mode)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
