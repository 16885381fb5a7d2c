"""Cached candidates on disk: vectors memory-mapped, appended to and deleted from without a rebuild, tied to the model that made them.

A folder of append-only files. Data goes first, then one commit of fixed length in ``commits.bin`` that says how much of each file counts:
what a commit covers is on the disk and acknowledged, what lies beyond the last whole one never happened. Opening reads that last
commit and checks what is small: where texts end, which rows are deleted, squared lengths. Vectors are checked against these when they
are first searched, texts against their keys when they are read. Readers keep the view they opened with while a writer appends.

    index.json     format, width, fingerprint and name of the model
    vectors.bin    float32 rows           squares.bin   each row's squared length
    texts.bin      UTF-8, end to end      ends.bin      where each text ends
    keys.bin       a 64-bit key a text    gone.bin      rows that were deleted
    commits.bin    the log                source.json   the candidate file it is brought in line with, if any, and whether that is done
"""

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.files import open_own, refuse_link, whole_file, whole_folder
from tain.foundation.json_files import Field, checked_object, read_object
from tain.text.collections import list_texts

FORMAT = 1

_COMMIT = struct.Struct("<8sQQQQ")  # mark, rows, bytes of texts, deletions, number of the commit; then a checksum
_CHECKSUM = struct.Struct("<I")
_COMMIT_BYTES = _COMMIT.size + _CHECKSUM.size
_MARK = b"tainidx1"
_CHECKED_ROWS = 65_536  # vectors read at a time
_ROUNDING = 1e-4  # of a squared length, summed up in another order
_ABOUT = {
    "format": Field(kind=int, least=1),
    "dim": Field(kind=int, least=1, most=2**20),
    "fingerprint": Field(kind=str),
    "model": Field(kind=str),
}
_SOURCE = {
    "name": Field(kind=str),
    "digest": Field(kind=str),
    "complete": Field(kind=bool),
    "searchable": Field(kind=bool, is_needed=False),
}
_FILES = ("vectors.bin", "squares.bin", "texts.bin", "ends.bin", "keys.bin", "gone.bin", "commits.bin")


@dataclass(frozen=True)
class _State:
    """How much of the files counts."""

    rows: int = 0
    text_bytes: int = 0
    deleted: int = 0
    number: int = 0

    def sizes(self, dim: int) -> dict[str, int]:
        return {
            "vectors.bin": 4 * dim * self.rows,
            "squares.bin": 4 * self.rows,
            "texts.bin": self.text_bytes,
            "ends.bin": 8 * self.rows,
            "keys.bin": 8 * self.rows,
            "gone.bin": 8 * self.deleted,
        }

    def packed(self) -> bytes:
        content = _COMMIT.pack(_MARK, self.rows, self.text_bytes, self.deleted, self.number)
        return content + _CHECKSUM.pack(zlib.crc32(content))

    @classmethod
    def unpacked(cls, content: bytes) -> "_State | None":
        """Read a commit; None where it is damaged or cut short."""
        if len(content) < _COMMIT_BYTES or _CHECKSUM.unpack(content[_COMMIT.size :])[0] != zlib.crc32(content[: _COMMIT.size]):
            return None
        mark, rows, text_bytes, deleted, number = _COMMIT.unpack(content[: _COMMIT.size])
        return cls(rows, text_bytes, deleted, number) if mark == _MARK else None


class CandidateIndex:
    """A view of an index, as of its last commit when it was opened or refreshed.

    Args:
        folder: Where it is.
        about: What ``index.json`` says.
        state: How much of the files counts.

    Attributes:
        vectors: Float32 (rows, dim), memory-mapped; what is written into it stays in memory.
        squares: Squared length of each vector, float32 (rows,), memory-mapped.
    """

    def __init__(self, folder: Path, about: dict[str, Any], state: _State) -> None:
        self.folder = folder
        self.about = about
        self.dim: int = about["dim"]
        self._checked = 0  # rows whose vectors were looked at
        self._show(state)
        self._refuse_damage()

    @classmethod
    def create(cls, folder: str | Path, *, dim: int, fingerprint: str, model: str, overwrite: bool = False) -> "CandidateIndex":
        """Make an empty index.

        Args:
            folder: Where to; appears whole or not at all.
            dim: Width of the vectors.
            fingerprint: Of the model that will make them.
            model: The model's name, for messages.
            overwrite: Replace what is there.

        Raises:
            UserError: As ``whole_folder``.
        """
        with whole_folder(Path(folder), overwrite=overwrite) as partial:
            about = {"format": FORMAT, "kind": "candidate index", "dim": dim, "fingerprint": fingerprint, "model": model}
            (partial / "index.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
            for file in _FILES:
                (partial / file).touch()
        return cls.open(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "CandidateIndex":
        """Open an index. Reads its last commit and 12 bytes a candidate.

        Raises:
            UserError: There is none, it is of a newer format, its files do not fit each other or its last commit, or one is a link.
        """
        folder = Path(folder)
        damaged, advice = f"index {str(folder)!r} has a damaged index.json", "make the index again"
        try:
            refuse_link(folder / "index.json")
            about = read_object(folder / "index.json", {}, damaged=damaged, advice=advice)
        except (FileNotFoundError, NotADirectoryError):
            if folder.exists():
                raise UserError(f"index {str(folder)!r} is there, but holds no index: give another name, or remove it") from None
            raise UserError(f"index {str(folder)!r} does not exist: make it by giving --candidates FILE with it") from None
        except OSError as error:
            raise UserError(f"{damaged}: {advice} ({error.strerror})") from None
        if about.get("kind") != "candidate index":
            raise UserError(f"index {str(folder)!r} has an index.json that tain did not write: give the folder of an index, or a new one")
        number = about.get("format")
        if isinstance(number, int) and number > FORMAT:
            raise UserError(f"index {str(folder)!r} is of a format that this tain does not read ({FORMAT}): upgrade tain, or make it again")
        checked_object(about, _ABOUT, damaged=damaged, advice=advice)
        return cls(folder, about, _last_state(folder, about["dim"])[0])

    def refuse_other_model(self, fingerprint: str, name: str) -> None:
        """Refuse a model that did not make these vectors, or did in another version.

        Raises:
            UserError: The fingerprints differ.
        """
        if fingerprint != self.about["fingerprint"]:
            was = self.about["model"]
            is_same_place = was == name or (Path(was).exists() and Path(was).resolve() == Path(name).resolve())
            which = "another version of this model" if is_same_place else f"another model, {was!r}"
            raise UserError(
                f"index {str(self.folder)!r} was made by {which} (fingerprint {self.about['fingerprint']}; {name!r} has {fingerprint}), "
                "so its vectors mean something else: make a new index with this model"
            )

    def __len__(self) -> int:
        """Rows, deleted ones included."""
        return self._state.rows

    def committed_rows(self) -> int:
        """Rows that the folder has by now: more than this view where a writer appended since."""
        return _last_state(self.folder, self.dim)[0].rows

    @property
    def live(self) -> int:
        """Candidates that can be found."""
        return self._state.rows - self._state.deleted

    @cached_property
    def is_deleted(self) -> np.ndarray:
        """True on deleted rows (rows,)."""
        deleted = np.zeros(self._state.rows, dtype=bool)
        deleted[self._deleted] = True
        return deleted

    def text(self, row: int) -> str:
        """The candidate's text."""
        begin = int(self._ends[row - 1]) if row else 0
        found = bytes(self._texts[begin : int(self._ends[row])])
        if _key(found) != int(self._keys[row]):
            raise self._damage(f"the text of row {row} is another than the one that was put in")
        return found.decode("utf-8")

    def live_texts(self) -> Iterator[tuple[int, str]]:
        """Rows and texts of the candidates that can be found."""
        for row in np.flatnonzero(~self.is_deleted):
            yield int(row), self.text(int(row))

    def rows_of(self, texts: Iterable[str]) -> list[int | None]:
        """Living rows of texts; None for one that is not there. Takes one pass over the keys, 8 bytes a candidate."""
        texts = list_texts(texts)
        row_of = {text: row for row, text in self._live_rows(texts)}
        return [row_of.get(text) for text in texts]

    def _live_rows(self, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """Every live row of these texts."""
        wanted = np.array(sorted({_key(text.encode("utf-8")) for text in texts}), dtype=np.uint64)
        known = set(texts)
        for row in np.flatnonzero(np.isin(self._keys, wanted) & ~self.is_deleted):
            text = self.text(int(row))
            if text in known:  # another text may have the same key
                yield int(row), text

    def refresh(self) -> bool:
        """Take up what was committed since; True where there was something."""
        state, _ = _last_state(self.folder, self.dim)
        if state == self._state:
            return False
        self._show(state)
        self._refuse_damage()
        return True

    def append(self, texts: Iterable[str], vectors: np.ndarray, *, only_new: bool = False) -> range:
        """Add candidates; when this returns they are on the disk to stay.

        Args:
            texts: Their texts.
            vectors: Their vectors (texts, dim).
            only_new: Leave out those that the index holds by now: another writer may have been faster.

        Returns:
            The rows that were added.

        Raises:
            UserError: The vectors are of another width, not finite, or not one a text.
        """
        texts, vectors = list_texts(texts), np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UserError(
                f"vectors are of shape {vectors.shape}, but index {str(self.folder)!r} holds vectors of {self.dim} numbers: "
                "give vectors of the model that made the index"
            )
        if len(vectors) != len(texts):
            raise UserError(f"{len(texts):,} texts came with {len(vectors):,} vectors: give one a text")
        if not np.isfinite(vectors).all():
            raise UserError("vectors hold nan or infinity, which no score can compare: check the model's weights")
        added = np.ascontiguousarray(vectors, dtype=np.float32)
        with np.errstate(over="ignore"):
            squares = np.einsum("nd,nd->n", added, added)
        if not np.isfinite(squares).all():
            raise UserError("vectors are too long for float32, which cannot hold their squared length: scale them down")
        with self._writing() as (state, files):
            if only_new:
                self._show(state)
                first = {text: position for position, text in reversed(list(enumerate(texts)))}
                chosen = [
                    position for position, row in enumerate(self.rows_of(texts)) if row is None and first[texts[position]] == position
                ]
                texts, added, squares = [texts[position] for position in chosen], added[chosen], squares[chosen]
            encoded = [text.encode("utf-8") for text in texts]
            ends = state.text_bytes + np.cumsum([len(text) for text in encoded], dtype=np.int64)
            files["vectors.bin"].write(added.tobytes())
            files["squares.bin"].write(squares.tobytes())
            files["texts.bin"].write(b"".join(encoded))
            files["ends.bin"].write(ends.tobytes())
            files["keys.bin"].write(np.array([_key(text) for text in encoded], dtype=np.uint64).tobytes())
            end = state.text_bytes + sum(map(len, encoded))
            self._commit(files, _State(state.rows + len(texts), end, state.deleted, state.number + 1))
        return range(state.rows, state.rows + len(texts))

    def delete(self, rows: Sequence[int]) -> int:
        """Let candidates no more be found; when this returns that is on the disk. Their rows are never given to others.

        Returns:
            How many were live.

        Raises:
            UserError: There is no such row.
        """
        with self._writing() as (state, files):
            wrong = [row for row in rows if not 0 <= row < state.rows]
            if wrong:
                raise UserError(f"index {str(self.folder)!r} has no row {wrong[0]}: it has {state.rows:,}")
            self._show(state)
            return self._mark_deleted(rows, state, files)

    def delete_texts(self, texts: Iterable[str]) -> int:
        """Let texts no more be found, in whatever rows they are; when this returns that is on the disk.

        Returns:
            How many rows that took.
        """
        texts = list_texts(texts)
        with self._writing() as (state, files):
            self._show(state)
            return self._mark_deleted([row for row, _ in self._live_rows(texts)], state, files)

    def _mark_deleted(self, rows: Sequence[int], state: _State, files: dict[str, Any]) -> int:
        live = sorted({row for row in rows if not self.is_deleted[row]})
        files["gone.bin"].write(np.array(live, dtype=np.int64).tobytes())
        self._commit(files, _State(state.rows, state.text_bytes, state.deleted + len(live), state.number + 1))
        return len(live)

    @property
    def source(self) -> dict[str, Any]:
        """What ``tell_source`` was told; empty where it never was."""
        path = self.folder / "source.json"
        refuse_link(path)
        if not path.exists():
            return {}
        damaged = f"index {str(self.folder)!r} has a damaged source.json"
        return read_object(path, _SOURCE, damaged=damaged, advice="remove that file and give --candidates FILE with --update")

    def tell_source(self, *, name: str, digest: str, is_complete: bool) -> None:
        """Remember the candidate file that the index agrees with, or is about to. What could be searched before stays searchable."""
        content = {"name": name, "digest": digest, "complete": is_complete, "searchable": is_complete or self.is_searchable}
        with whole_file(self.folder / "source.json", overwrite=True, follow=False) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @property
    def is_complete(self) -> bool:
        """False where bringing it in line with a candidate file was begun and cut off, or nothing was ever put in."""
        return self.source.get("complete", len(self) > 0)

    @property
    def is_searchable(self) -> bool:
        """False where the first candidate file is not in yet; an update that is running or was cut off takes nothing away."""
        return self.is_complete or self.source.get("searchable", False)

    def refuse_unfinished(self) -> None:
        """Refuse to search an index whose first candidate file is not in yet.

        Raises:
            UserError: It is not.
        """
        if self.source and not self.is_searchable:
            name = self.source["name"]
            raise UserError(
                f"index {str(self.folder)!r} lacks candidates: putting in those of {name!r} is not finished; wait for the process that is at it, "
                f"or, if it was cut off, give --candidates {name} to go on"
            )

    def refuse_changed_source(self, *, name: str, digest: str) -> None:
        """Refuse a candidate file whose content differs from what was indexed.

        Raises:
            UserError: It does, or the index was made from no file.
        """
        if not self.source:
            raise UserError(
                f"index {str(self.folder)!r} was not made from a file: "
                f"give --update to let it hold what {name!r} does and nothing else, or leave --candidates out"
            )
        if self.source["digest"] != digest:
            raise UserError(
                f"candidate file {name!r} holds other texts than index {str(self.folder)!r} was made from: "
                "give --update to add its new candidates and delete those that are gone, or leave --candidates out"
            )

    # ---- files

    def _show(self, state: _State) -> None:
        """Map every file as far as it counts: all at once, so that a folder replaced later does not mix in. Reads nothing."""
        self._state = state
        self.vectors = self._mapped("vectors.bin", np.float32, (state.rows, self.dim))
        self.squares = self._mapped("squares.bin", np.float32, (state.rows,))
        self._texts = self._mapped("texts.bin", np.uint8, (state.text_bytes,))
        self._ends = self._mapped("ends.bin", np.int64, (state.rows,))
        self._keys = self._mapped("keys.bin", np.uint64, (state.rows,))
        self._deleted = self._mapped("gone.bin", np.int64, (state.deleted,))
        self.__dict__.pop("is_deleted", None)

    def _mapped(self, file: str, dtype: Any, shape: tuple[int, ...]) -> np.ndarray:
        if not np.prod(shape):
            return np.empty(shape, dtype=dtype)  # nothing cannot be mapped
        with open_own(self.folder / file) as opened:
            # copy on write: torch takes such an array as it lies, and would warn of one that may not be written
            return np.memmap(opened, dtype=dtype, mode="c", shape=shape)

    def _damage(self, what: str) -> UserError:
        return UserError(f"index {str(self.folder)!r} is damaged: {what}; restore it, or make it again")

    def _refuse_damage(self) -> None:
        """Refuse files that do not fit each other, as far as that shows without reading vectors and texts."""
        ends, deleted = self._ends, self._deleted
        if len(ends) and (ends[0] < 0 or int(ends[-1]) != self._state.text_bytes or (np.diff(ends) < 0).any()):
            raise self._damage("ends.bin does not say where texts end")
        if len(deleted) and (deleted.min() < 0 or deleted.max() >= self._state.rows or len(np.unique(deleted)) < len(deleted)):
            raise self._damage("gone.bin names rows that are not there, or one twice")
        if not np.isfinite(self.squares).all() or (self.squares < 0).any():
            raise self._damage("squares.bin holds numbers that are no lengths")

    def refuse_damaged_vectors(self, rows: np.ndarray | None = None) -> None:
        """Refuse vectors that are not those which were put in, by their squared lengths; each is looked at once.

        Args:
            rows: Look at these alone; default: at all that were not looked at.

        Raises:
            UserError: There is one, such as a vector with nan.
        """
        if rows is not None:
            self._refuse_other_lengths(rows)
            return
        for start in range(self._checked, self._state.rows, _CHECKED_ROWS):
            self._refuse_other_lengths(np.arange(start, min(start + _CHECKED_ROWS, self._state.rows)))
        self._checked = self._state.rows

    def _refuse_other_lengths(self, rows: np.ndarray) -> None:
        part = slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows  # a slice copies nothing
        vectors, wanted = self.vectors[part], self.squares[part]
        with np.errstate(invalid="ignore", over="ignore"):
            is_as_was = np.abs(np.einsum("nd,nd->n", vectors, vectors) - wanted) <= _ROUNDING * wanted + 1e-30  # false for nan
        if not is_as_was.all():
            raise self._damage(f"the vector of row {int(rows[int(np.argmin(is_as_was))])} is another than the one that was put in")

    @contextmanager
    def _writing(self) -> Iterator[tuple[_State, dict[str, Any]]]:
        """Be the only writer, go back to the last commit, and open every file at its end."""
        import fcntl  # readers do without it, also where a system has none

        try:
            with ExitStack() as opened:
                lock = opened.enter_context(open_own(self.folder / "lock", writable=True, create=True))
                fcntl.flock(lock, fcntl.LOCK_EX)  # a killed process lets go of it
                state, commits_bytes = _last_state(self.folder, self.dim)
                files: dict[str, Any] = {}
                for file, size in {**state.sizes(self.dim), "commits.bin": commits_bytes}.items():
                    files[file] = opened.enter_context(open_own(self.folder / file, writable=True))
                    files[file].truncate(size)  # what a cut-off append left; no reader has it in view
                    files[file].seek(size)
                yield state, files
        except OSError as error:
            raise UserError(
                f"index {str(self.folder)!r} cannot be written ({error.strerror or error}): what it held is safe; make room or mend the disk, "
                "then give the same command again"
            ) from None

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Be the only one to bring the index in line with a file; others wait. Single appends and deletions go on meanwhile."""
        import fcntl

        try:
            lock = open_own(self.folder / "update.lock", writable=True, create=True)
        except OSError as error:
            raise UserError(f"index {str(self.folder)!r} cannot be written ({error.strerror}): ask for permission, or copy it") from None
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _commit(self, files: dict[str, Any], state: _State) -> None:
        for name, file in files.items():
            if name != "commits.bin":
                file.flush()
                os.fsync(file.fileno())
        files["commits.bin"].write(state.packed())
        files["commits.bin"].flush()
        os.fsync(files["commits.bin"].fileno())
        self._show(state)


def _last_state(folder: Path, dim: int) -> tuple[_State, int]:
    """The last whole commit, and how long the log is up to it.

    Raises:
        UserError: A file is shorter than that commit says: it was damaged from outside.
    """
    for file in _FILES:
        refuse_link(folder / file)
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise UserError(f"index {str(folder)!r} is damaged: it has no {missing[0]}; restore it, or make it again")
    state, end = _State(), 0
    with open_own(folder / "commits.bin") as log:
        commits = os.fstat(log.fileno()).st_size // _COMMIT_BYTES
        for number in range(commits, 0, -1):  # the last one, unless a power cut spoilt it
            log.seek((number - 1) * _COMMIT_BYTES)
            found = _State.unpacked(log.read(_COMMIT_BYTES))
            if found is not None:
                state, end = found, number * _COMMIT_BYTES
                break
    short = [file for file, size in state.sizes(dim).items() if (folder / file).stat().st_size < size]
    if short:
        raise UserError(f"index {str(folder)!r} is damaged: {short[0]} is shorter than was acknowledged; restore it, or make it again")
    return state, end


def _key(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def digest_of(texts: Sequence[str]) -> str:
    """Sixteen hexadecimal digits that differ between files of candidates, whatever their format."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        encoded = text.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
