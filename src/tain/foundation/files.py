"""Atomic writing of files and folders."""

import errno
import glob
import os
import shutil
import stat
import sys
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tain.foundation.choices import BUILT_IN
from tain.foundation.errors import UserError

_OF_TAIN = {"tain.json", "index.json", "demo.json"}  # every folder written by a command has one of these


def refuse_files(
    *targets: Path | None, overwrite: bool, drawn: Path | None = None, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """Refuse unusable output files before any computation; None stands for an output that was not requested.

    Args:
        targets: Name of each file.
        overwrite: Replace existing files.
        drawn: The target that is written as SVG.
        inputs: As in ``refuse_existing``.

    Raises:
        UserError: As ``refuse_existing``; or two targets are equal; or ``drawn`` has another ending than .svg.
    """
    given = [Path(target) for target in targets if target is not None]
    inputs = list(inputs)
    for target in given:
        if [_resolved(other) for other in given].count(_resolved(target)) > 1:
            raise UserError(f"output {str(target)!r} is named twice: give each file a different name")
        refuse_existing(target, overwrite=overwrite, inputs=inputs)
    if drawn is not None and drawn.suffix.lower() != ".svg":
        raise UserError(f"output {str(drawn)!r} is an SVG picture: give it a name that ends in .svg")


def refuse_existing(
    target: Path, *, overwrite: bool, is_folder: bool = False, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> None:
    """Refuse an output path that exists or cannot be written.

    Args:
        target: The output.
        overwrite: Replace it if it exists.
        is_folder: The output is a folder, so a file is not replaced.
        inputs: Everything that is read to make the output, as in ``refuse_inputs``.

    Raises:
        UserError: The path exists and ``overwrite`` is off; it cannot be created; ``overwrite`` would replace an input, a folder not written
            by tain, or one that holds more than an output (a root, the home or the working folder, or one above these); or it is
            the built-in model's name.
    """
    if str(target) in BUILT_IN:
        raise UserError(f"output {str(target)!r} is the built-in model's name, which would be loaded instead: choose another name")
    _refuse_taken(target, overwrite=overwrite)
    if overwrite and (real := followed(Path(target))) != Path(target):
        _refuse_taken(real, overwrite=True)
    refuse_inputs(Path(target), inputs)
    if is_folder:
        _refuse_file(followed(Path(target)))
    if _is_foreign(Path(target)):
        raise UserError(
            f"output {str(target)!r} is a folder that tain did not write, so it is not replaced: choose another name, or remove it"
        )


def refuse_inputs(target: Path, inputs: Iterable[str | os.PathLike[str] | None]) -> None:
    """Refuse to replace or remove a path that is an input or holds one, also through links, and through links in a folder that is an input.

    Args:
        target: Path that will be replaced or removed, if it exists.
        inputs: Paths. Names of other things (hub names, standard input) and None have no effect.

    Raises:
        UserError: An input would be lost.
    """
    for given in inputs:
        if given is not None and str(given) not in BUILT_IN and _holds(target, Path(given)):
            raise UserError(f"output {str(target)!r} would replace {str(given)!r}, which is read: choose another name for the output")


def _holds(target: Path, path: Path) -> bool:
    """Whether a path, or a link in the folder that it names, is ``target`` or lies inside it: as it is named, or what it links to."""
    try:
        replaced = target.stat()
    except OSError:  # a target that does not exist holds nothing
        return False
    return any(_lies_in(replaced, each) for each in (path, *_links_in(path)))


def _links_in(folder: Path) -> Iterator[Path]:
    """Yield the links in a folder, and in the folders that they lead to."""
    seen: set[str] = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # links may run in circles
            folders.clear()
            continue
        seen.add(real)
        yield from (path for name in (*folders, *files) if (path := Path(here, name)).is_symlink())


def _lies_in(folder: os.stat_result, path: Path) -> bool:
    named = Path(os.path.realpath(path.absolute().parent), path.name)
    try:
        return any(os.path.samestat(folder, each.stat()) for end in (named, Path(os.path.realpath(path))) for each in (end, *end.parents))
    except OSError:  # a link that leads nowhere is not read
        return False


def _refuse_file(target: Path) -> None:
    if os.path.isfile(target):  # noqa: PTH113 - unlike Path.is_file, never raises
        raise UserError(f"output {str(target)!r} is a file, but the output is a folder: choose another name")


def followed(target: Path) -> Path:
    """Target of a link, so that writing replaces the target and not the link; other paths are returned unchanged.

    Raises:
        UserError: The link is circular.
    """
    if not target.is_symlink():
        return target
    real = Path(os.path.realpath(target))
    if real.is_symlink():
        raise UserError(f"output {str(target)!r} is a circular link: remove it, or choose another name")
    return real


def _is_foreign(folder: Path) -> bool:
    """Whether a folder has content, but nothing that shows that tain wrote it."""
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
                raise UserError(f"output {shown} is below {str(parent)!r}, which is a file: choose another path")
            if not os.access(parent, os.W_OK | os.X_OK):
                raise UserError(f"output {shown} cannot be written: no permission in {str(parent)!r}")
            missing = target.absolute().relative_to(parent).parts
            _remove_leftovers(target)
            _probe(parent / _hidden(max(missing, key=lambda part: len(os.fsencode(part)))), target)
            break


def open_own(path: Path, *, writable: bool = False, create: bool = False) -> BinaryIO:
    """Open a file inside one of our folders without following a link and without truncating it.

    A folder may come from an untrusted source: a link in it could point to any file of the user, which writing would destroy.

    Args:
        path: The file.
        writable: Open for reading and writing, at the beginning.
        create: Create a missing file; needs ``writable``.

    Raises:
        UserError: It is a link, or not a regular file.
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
        raise UserError(f"{str(path)!r} is not a regular file: restore its folder, or make it again")
    return os.fdopen(number, "r+b" if writable else "rb")


def refuse_link(path: Path) -> None:
    """Refuse a link among the files of one of our folders.

    Raises:
        UserError: It is a link.
    """
    if path.is_symlink():
        raise UserError(
            f"{str(path)!r} is a link to {str(path.readlink())!r}, and links inside such a folder are not followed: replace it by the file itself"
        )


def lies_inside(folder: Path, part: str) -> bool:
    """Whether a relative path in a folder's file stays in that folder, also through links to other folders."""
    path = PurePosixPath(part.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in part:
        return False
    try:
        return (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):
        return False


@contextmanager
def whole_folder(
    target: Path,
    *,
    overwrite: bool = False,
    was_free: bool = False,
    follow: bool = True,
    replaced: Callable[[str], bool] | None = None,
) -> Iterator[Path]:
    """Yield a hidden folder beside ``target`` that is renamed to it when the block succeeds.

    If the block raises or the process is killed, ``target`` is unchanged. A killed process leaves a hidden folder named
    ``.NAME.partial-*``, which the next run that writes ``target`` names and removes. Replacing an existing folder is a single step if the
    system supports it (Linux). Otherwise it takes two steps, and a process killed in between leaves the complete old folder under the
    hidden name ``.NAME.replaced-*``.

    Args:
        target: Final path of the folder.
        overwrite: Replace an existing folder.
        was_free: The path was free when the work began; anything created there since is handled like something created during the block.
        follow: If ``target`` is a replaceable link, replace its target. Off for names not given by the user.
        replaced: Which names of an existing folder are replaced or dropped; it keeps everything else. Default: all.

    Raises:
        UserError: As ``refuse_existing``; or ``target`` is a file; or it was created during the block and
            ``overwrite`` is off, in which case the finished folder is kept under the name given in the message.
    """
    target = followed(Path(target)) if overwrite and follow else Path(target)
    if overwrite:
        _refuse_file(target)
    with _partial_beside(target, overwrite=overwrite or was_free) as (partial, mode), _writing(target, partial):
        yield partial
        _settle(partial, mode)
        _refuse_late_arrival(partial, target, overwrite=overwrite)
        if replaced is not None and target.is_dir():
            _keep_others(target, partial, replaced)
        if not os.path.lexists(target):
            partial.rename(target)
        elif not _swap(partial, target):  # after the swap, what is removed below is the old folder
            # a folder cannot be renamed onto a non-empty one: move the old one away first, and back if that fails
            aside = target.with_name(f".{target.name}.replaced-{uuid.uuid4().hex[:8]}")
            target.rename(aside)
            try:
                partial.rename(target)
            except BaseException:
                aside.rename(target)
                raise
            _remove(aside)


@contextmanager
def whole_file(target: Path, *, overwrite: bool = False, follow: bool = True) -> Iterator[Path]:
    """Yield a path in a hidden folder beside ``target``; its file is renamed to ``target`` when the block succeeds.

    Args:
        target: Final path of the file.
        overwrite: Replace an existing file.
        follow: As in ``whole_folder``, and so are leftovers.

    Raises:
        UserError: As ``whole_folder``, with file and folder exchanged.
    """
    target = followed(Path(target)) if overwrite and follow else Path(target)
    if overwrite and os.path.isdir(target):  # noqa: PTH112
        raise UserError(f"output {str(target)!r} is a folder, but the output is a file: name a file inside it")
    with _partial_beside(target, overwrite=overwrite) as (folder, mode), _writing(target, folder):
        partial = folder / target.name
        yield partial
        _settle(partial, mode)
        _refuse_late_arrival(partial, target, overwrite=overwrite)
        partial.replace(target)


def _keep_others(old: Path, new: Path, replaced: Callable[[str], bool]) -> None:
    """Give a new folder the files of the old one that are not replaced, with their permissions, before the old one goes."""

    def linked(source: str, copy: str) -> None:
        try:
            os.link(source, copy, follow_symlinks=False)
        except (OSError, NotImplementedError):  # not every disk has such links, nor may every file be linked
            shutil.copy2(source, copy, follow_symlinks=False)

    for path in old.iterdir():
        if replaced(path.name):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, copy_function=linked)
        else:
            linked(str(path), str(new / path.name))


class LeftoverWarning(UserWarning):
    """Warning about what a killed process left, which is removed."""


@contextmanager
def _partial_beside(target: Path, *, overwrite: bool) -> Iterator[tuple[Path, int]]:
    """Yield a new hidden folder, locked during the block and then removed, and the default mode of new files there."""
    _refuse_taken(target, overwrite=overwrite)
    while True:
        partial = target.with_name(_hidden(target.name))
        mode = _probe(partial, target)
        partial.mkdir()
        lock = _folder_lock(partial, waits=True)
        if partial.is_dir():  # else another process took it for a leftover before it was locked
            break
        _release(lock)
    try:
        yield partial, mode
    finally:
        _remove(partial)
        _release(lock)


def _remove_leftovers(target: Path) -> None:
    """Name and remove the hidden folders and test files that killed processes left; folders of running processes are locked and stay."""
    pattern = f".{glob.escape(target.name)}.partial-{'[0-9a-f]' * 8}"
    for left in sorted(target.parent.glob(pattern)):
        if not _is_ours(left) or (lock := _folder_lock(left, waits=False)) is None:
            continue
        _remove(left)
        _release(lock)
        warnings.warn(f"{str(left)!r} was left by an interrupted run and is removed", LeftoverWarning, stacklevel=4)


def _is_ours(left: Path) -> bool:
    """Whether a hidden path is what a process leaves: a folder, or the empty file of ``_probe``."""
    try:
        found = left.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and not found.st_size)


def _folder_lock(folder: Path, *, waits: bool) -> int | None:
    """Lock a folder and return its descriptor; None if another process holds it, or the system or disk has no such locks."""
    try:
        import fcntl

        number = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
    except OSError:
        os.close(number)
        return None
    return number


def _release(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _hidden(name: str) -> str:
    return f".{name}.partial-{uuid.uuid4().hex[:8]}"


def _probe(partial: Path, target: Path) -> int:
    """Write and remove a test file, so that a read-only disk or a too long name shows before the work starts. Returns the file's mode."""
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        partial.unlink(missing_ok=True)  # another process may have taken it for a leftover
    except OSError as error:
        raise UserError(f"output {str(target)!r} cannot be written ({error.strerror}): choose another path") from None
    return mode


@contextmanager
def _writing(target: Path, partial: Path) -> Iterator[None]:
    """Convert errors of any library about a full disk, or a folder that was removed meanwhile, to a one-line ``UserError``."""
    try:
        yield
    except OSError as error:
        if not os.path.isdir(partial):  # noqa: PTH112
            raise UserError(f"output {str(target)!r} was removed while it was written: leave its folder alone, and run again") from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            raise
        raise UserError(f"output {str(target)!r} cannot be written ({error.strerror}): free disk space, or choose another path") from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError" or "I/O error" not in str(error):
            raise
        raise UserError(f"output {str(target)!r} cannot be written ({error}): free disk space, or choose another path") from None


def _refuse_late_arrival(partial: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite or not os.path.lexists(target):
        return
    kept = target.with_name(f"{target.name}-{uuid.uuid4().hex[:8]}")
    partial.rename(kept)
    raise UserError(f"output {str(target)!r} was created by something else during the run and is kept: the result is in {str(kept)!r}")


def _swap(left: Path, right: Path) -> bool:
    """Exchange two paths atomically; returns False, without changes, if the system or disk does not support it."""
    if not sys.platform.startswith("linux"):
        return False
    import ctypes

    relative_to_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE: Python has no function for it
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    return renameat2 is not None and renameat2(relative_to_cwd, os.fsencode(left), relative_to_cwd, os.fsencode(right), exchange) == 0


def _resolved(path: Path) -> Path | None:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a circular link is not a working folder
        return None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _settle(made: Path, mode: int) -> None:
    """Flush files to disk and give them default permissions: safetensors creates files readable by their owner only."""
    for path in (made, *made.rglob("*")):
        if path.is_file():
            with path.open("r+b" if os.access(path, os.W_OK) else "rb") as file:  # Windows flushes only writable files
                os.fsync(file.fileno())
            path.chmod(stat.S_IMODE(path.stat().st_mode) | mode)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
