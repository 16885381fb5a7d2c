"""Candidate index on disk: memory-mapped vectors with cheap appends and deletions, bound to the model that made them.

A folder of append-only files. Data is written first, then a fixed-length commit in ``commits.bin`` with the valid length of each file:
data covered by a commit is durable, data after the last complete commit is ignored. Opening reads the last commit and checks the small
files: text ends, deleted rows, squared lengths. Vectors are checked against their squared lengths when first searched, texts against
their keys when read. Readers keep their view while a writer appends.

    index.json     format, dimension, fingerprint and name of the model
    vectors.bin    float32 rows           squares.bin   squared length of each row
    texts.bin      UTF-8, concatenated    ends.bin      end of each text
    keys.bin       64-bit key per text    gone.bin      deleted rows
    commits.bin    the log                source.json   the synchronized candidate file, if any, and whether the sync was completed
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

_MOST_SHOWN = 1_000  # characters of a name in a message
_COMMIT = struct.Struct("<8sQQQQ")  # mark, rows, bytes of texts, deletions, number of the commit; then a checksum
_CHECKSUM = struct.Struct("<I")
_COMMIT_BYTES = _COMMIT.size + _CHECKSUM.size
_MARK = b"tainidx1"
_CHECKED_ROWS = 65_536  # vectors read at a time
_ROUNDING = 1e-4  # of a squared length, depending on the order of summation
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
    """Valid lengths of the files."""

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
        """Parse a commit; None if it is damaged or incomplete."""
        if len(content) < _COMMIT_BYTES or _CHECKSUM.unpack(content[_COMMIT.size :])[0] != zlib.crc32(content[: _COMMIT.size]):
            return None
        mark, rows, text_bytes, deleted, number = _COMMIT.unpack(content[: _COMMIT.size])
        return cls(rows, text_bytes, deleted, number) if mark == _MARK else None


class CandidateIndex:
    """View of an index as of its last commit when it was opened or refreshed.

    Args:
        folder: Folder of the index.
        about: Content of ``index.json``.
        state: Valid lengths of the files.

    Attributes:
        vectors: Float32 (rows, dim), memory-mapped; writes to it stay in memory.
        squares: Squared length of each vector, float32 (rows,), memory-mapped.

    Examples:
        >>> import tain
        >>> encoder = tain.load("tain-mini")
        >>> texts = ["rivers run to the sea", "a red door", "glass is made of sand"]
        >>> index = tain.CandidateIndex.create("texts.index", dim=encoder.dim, fingerprint="mine", model="tain-mini")
        >>> index.append(texts, encoder.encode(texts))
        range(0, 3)
        >>> index.delete_texts(["a red door"])
        1
        >>> tain.CandidateIndex.open("texts.index").live
        2
    """

    def __init__(self, folder: Path, about: dict[str, Any], state: _State) -> None:
        self.folder = folder
        self.about = about
        self.dim: int = about["dim"]
        self._checked = 0  # rows with checked vectors
        self._show(state)
        self._refuse_damage()

    @classmethod
    def create(cls, folder: str | Path, *, dim: int, fingerprint: str, model: str, overwrite: bool = False) -> "CandidateIndex":
        """Create an empty index.

        Args:
            folder: Target folder; written atomically.
            dim: Dimension of the vectors.
            fingerprint: Fingerprint of the model.
            model: The model's name, for messages.
            overwrite: Replace an existing folder.

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
        """Open an index. Reads its last commit and 12 bytes per candidate.

        Raises:
            UserError: The index does not exist, has a newer format, has inconsistent files, or a file is a link.
        """
        folder = Path(folder)
        damaged, advice = f"index {str(folder)!r} has a damaged index.json", "make the index again"
        try:
            refuse_link(folder / "index.json")
            about = read_object(folder / "index.json", {}, damaged=damaged, advice=advice)
        except (FileNotFoundError, NotADirectoryError):
            if folder.exists():
                raise UserError(f"index {str(folder)!r} exists, but holds no index: give another name, or remove it") from None
            raise UserError(f"index {str(folder)!r} does not exist: make it by giving --candidates FILE with it") from None
        except OSError as error:
            raise UserError(f"{damaged}: {advice} ({error.strerror})") from None
        if about.get("kind") != "candidate index":
            raise UserError(
                f"index {str(folder)!r} has an index.json that was not written by tain: give the folder of an index, or a new one"
            )
        number = about.get("format")
        if isinstance(number, int) and number > FORMAT:
            raise UserError(f"index {str(folder)!r} is of a format that this tain does not read ({FORMAT}): upgrade tain, or make it again")
        checked_object(about, _ABOUT, damaged=damaged, advice=advice)
        return cls(folder, about, _last_state(folder, about["dim"])[0])

    def refuse_other_model(self, fingerprint: str, name: str) -> None:
        """Refuse a model, or version of a model, that did not make these vectors.

        Raises:
            UserError: The fingerprints differ.
        """
        if fingerprint != self.about["fingerprint"]:
            was = self.about["model"][:_MOST_SHOWN]  # the folder may come from someone else
            is_same_place = was == name or (os.path.exists(was) and Path(was).resolve() == Path(name).resolve())  # noqa: PTH110 - unlike Path.exists, never raises
            which = "another version of this model" if is_same_place else f"another model, {was!r}"
            raise UserError(
                f"index {str(self.folder)!r} was made by {which} (fingerprint {self.about['fingerprint'][:_MOST_SHOWN]}; {name!r} has {fingerprint}), "
                "so its vectors are not comparable: make a new index with this model"
            )

    def __len__(self) -> int:
        """Number of rows, including deleted ones."""
        return self._state.rows

    def committed_rows(self) -> int:
        """Current number of rows in the folder; higher than in this view if a writer has appended since."""
        return _last_state(self.folder, self.dim)[0].rows

    @property
    def live(self) -> int:
        """Number of candidates that are not deleted."""
        return self._state.rows - self._state.deleted

    @cached_property
    def is_deleted(self) -> np.ndarray:
        """True for deleted rows (rows,)."""
        deleted = np.zeros(self._state.rows, dtype=bool)
        deleted[self._deleted] = True
        return deleted

    def text(self, row: int) -> str:
        """Text of a candidate."""
        begin = int(self._ends[row - 1]) if row else 0
        found = bytes(self._texts[begin : int(self._ends[row])])
        if _key(found) != int(self._keys[row]):
            raise self._damage(f"the text of row {row} differs from the stored key")
        return found.decode("utf-8")

    def live_texts(self) -> Iterator[tuple[int, str]]:
        """Rows and texts of the candidates that are not deleted."""
        for row in np.flatnonzero(~self.is_deleted):
            yield int(row), self.text(int(row))

    def rows_of(self, texts: Iterable[str]) -> list[int | None]:
        """Live rows of texts; None for a missing text. Takes one pass over the keys, 8 bytes per candidate."""
        texts = list_texts(texts)
        row_of = {text: row for row, text in self._live_rows(texts)}
        return [row_of.get(text) for text in texts]

    def _live_rows(self, texts: Sequence[str]) -> Iterator[tuple[int, str]]:
        """All live rows of these texts."""
        wanted = np.array(sorted({_key(text.encode("utf-8")) for text in texts}), dtype=np.uint64)
        known = set(texts)
        for row in np.flatnonzero(np.isin(self._keys, wanted) & ~self.is_deleted):
            text = self.text(int(row))
            if text in known:  # another text may have the same key
                yield int(row), text

    def refresh(self) -> bool:
        """Update the view to the latest commit; True if there was a newer one."""
        state, _ = _last_state(self.folder, self.dim)
        if state == self._state:
            return False
        self._show(state)
        self._refuse_damage()
        return True

    def append(self, texts: Iterable[str], vectors: np.ndarray, *, only_new: bool = False) -> range:
        """Append candidates; they are durable when this returns.

        Args:
            texts: Candidate texts.
            vectors: Candidate vectors (texts, dim).
            only_new: Skip texts that the index already holds, possibly added by another writer.

        Returns:
            The added rows.

        Raises:
            UserError: The vectors have another dimension, are not finite, or their number differs from the texts.
        """
        texts, vectors = list_texts(texts), np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise UserError(
                f"vectors are of shape {vectors.shape}, but index {str(self.folder)!r} holds vectors of dimension {self.dim}: "
                "give vectors of the model that made the index"
            )
        if len(vectors) != len(texts):
            raise UserError(f"{len(texts):,} texts were given with {len(vectors):,} vectors: give one per text")
        if not np.isfinite(vectors).all():
            raise UserError("vectors contain nan or infinity, which cannot be scored: check the model's weights")
        added = np.ascontiguousarray(vectors, dtype=np.float32)
        with np.errstate(over="ignore"):
            squares = np.einsum("nd,nd->n", added, added)
        if not np.isfinite(squares).all():
            raise UserError("vectors are too long: their squared length overflows float32: scale them down")
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
        """Delete candidates; the deletion is durable when this returns. Rows are never reused.

        Returns:
            Number of rows that were live.

        Raises:
            UserError: A row does not exist.
        """
        with self._writing() as (state, files):
            wrong = [row for row in rows if not 0 <= row < state.rows]
            if wrong:
                raise UserError(f"index {str(self.folder)!r} has no row {wrong[0]}: it has {state.rows:,}")
            self._show(state)
            return self._mark_deleted(rows, state, files)

    def delete_texts(self, texts: Iterable[str]) -> int:
        """Delete texts from all their rows; the deletion is durable when this returns.

        Returns:
            Number of deleted rows.
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
        """Record written by ``tell_source``; empty if there is none."""
        path = self.folder / "source.json"
        refuse_link(path)
        if not path.exists():
            return {}
        damaged = f"index {str(self.folder)!r} has a damaged source.json"
        return read_object(path, _SOURCE, damaged=damaged, advice="remove that file and give --candidates FILE with --update")

    def tell_source(self, *, name: str, digest: str, is_complete: bool) -> None:
        """Record the candidate file that the index is synchronized with. Searchable candidates stay searchable."""
        content = {"name": name, "digest": digest, "complete": is_complete, "searchable": is_complete or self.is_searchable}
        with whole_file(self.folder / "source.json", overwrite=True, follow=False) as path:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    @property
    def is_complete(self) -> bool:
        """False if a synchronization was interrupted, or nothing was ever added."""
        return self.source.get("complete", len(self) > 0)

    @property
    def is_searchable(self) -> bool:
        """False until the first candidate file is complete; a running or interrupted update does not change it."""
        return self.is_complete or self.source.get("searchable", False)

    def refuse_unfinished(self) -> None:
        """Refuse to search an index while its first candidate file is incomplete.

        Raises:
            UserError: It is incomplete.
        """
        if self.source and not self.is_searchable:
            name = self.source["name"]
            raise UserError(
                f"index {str(self.folder)!r} lacks candidates: adding those of {name!r} is not finished; wait for the process that adds them, "
                f"or, if it was interrupted, give --candidates {name} to continue"
            )

    def refuse_changed_source(self, *, name: str, digest: str) -> None:
        """Refuse a candidate file with other content than was indexed.

        Raises:
            UserError: The content differs, or the index was not made from a file.
        """
        if not self.source:
            raise UserError(
                f"index {str(self.folder)!r} was not made from a file: "
                f"give --update to make it hold exactly the candidates of {name!r}, or remove --candidates"
            )
        if self.source["digest"] != digest:
            raise UserError(
                f"candidate file {name!r} differs from the texts that index {str(self.folder)!r} was made from: "
                "give --update to add its new candidates and delete the missing ones, or remove --candidates"
            )

    # ---- files

    def _show(self, state: _State) -> None:
        """Map the valid part of every file, all at once, so that a replaced folder does not mix in. Reads no data."""
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
            return np.empty(shape, dtype=dtype)  # an empty file cannot be mapped
        with open_own(self.folder / file) as opened:
            # copy on write: torch accepts such an array without copying, but warns about read-only ones
            return np.memmap(opened, dtype=dtype, mode="c", shape=shape)

    def _damage(self, what: str) -> UserError:
        return UserError(f"index {str(self.folder)!r} is damaged: {what}; restore it, or rebuild it")

    def _refuse_damage(self) -> None:
        """Refuse inconsistent files, without reading vectors and texts."""
        ends, deleted = self._ends, self._deleted
        if len(ends) and (ends[0] < 0 or int(ends[-1]) != self._state.text_bytes or (np.diff(ends) < 0).any()):
            raise self._damage("ends.bin has invalid text ends")
        if len(deleted) and (deleted.min() < 0 or deleted.max() >= self._state.rows or len(np.unique(deleted)) < len(deleted)):
            raise self._damage("gone.bin has rows that do not exist, or one twice")
        if not np.isfinite(self.squares).all() or (self.squares < 0).any():
            raise self._damage("squares.bin has values that are not squared lengths")

    def refuse_damaged_vectors(self, rows: np.ndarray | None = None) -> None:
        """Refuse vectors with wrong squared lengths; each vector is checked once.

        Args:
            rows: Rows to check; default: all unchecked rows.

        Raises:
            UserError: A vector is wrong, for example nan.
        """
        if rows is not None:
            self._refuse_other_lengths(rows)
            return
        for start in range(self._checked, self._state.rows, _CHECKED_ROWS):
            self._refuse_other_lengths(np.arange(start, min(start + _CHECKED_ROWS, self._state.rows)))
        self._checked = self._state.rows

    def _refuse_other_lengths(self, rows: np.ndarray) -> None:
        part = slice(rows[0], rows[-1] + 1) if len(rows) and rows[-1] - rows[0] == len(rows) - 1 else rows  # a slice avoids a copy
        vectors, wanted = self.vectors[part], self.squares[part]
        with np.errstate(invalid="ignore", over="ignore"):
            is_as_was = np.abs(np.einsum("nd,nd->n", vectors, vectors) - wanted) <= _ROUNDING * wanted + 1e-30  # False for nan
        if not is_as_was.all():
            raise self._damage(f"the vector of row {int(rows[int(np.argmin(is_as_was))])} differs from its stored length")

    @contextmanager
    def _writing(self) -> Iterator[tuple[_State, dict[str, Any]]]:
        """Acquire the write lock, truncate to the last commit, and open every file at its end."""
        import fcntl  # only writers need it; some systems lack it

        try:
            with ExitStack() as opened:
                lock = opened.enter_context(open_own(self.folder / "lock", writable=True, create=True))
                fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process is killed
                state, commits_bytes = _last_state(self.folder, self.dim)
                files: dict[str, Any] = {}
                for file, size in {**state.sizes(self.dim), "commits.bin": commits_bytes}.items():
                    files[file] = opened.enter_context(open_own(self.folder / file, writable=True))
                    files[file].truncate(size)  # drop the rest of an interrupted append, which no reader sees
                    files[file].seek(size)
                yield state, files
        except OSError as error:
            raise UserError(
                f"index {str(self.folder)!r} cannot be written ({error.strerror or error}): its content is safe; free disk space or repair the disk, "
                "then run the same command again"
            ) from None

    @contextmanager
    def updating(self) -> Iterator[None]:
        """Lock the synchronization with a file; others wait. Single appends and deletions remain possible."""
        import fcntl

        try:
            lock = open_own(self.folder / "update.lock", writable=True, create=True)
        except OSError as error:
            raise UserError(
                f"index {str(self.folder)!r} cannot be written ({error.strerror}): change its permissions, or copy it"
            ) from None
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
    """The last complete commit, and the length of the log up to it.

    Raises:
        UserError: A file is shorter than the commit states, so it was damaged externally.
    """
    for file in _FILES:
        refuse_link(folder / file)
    missing = [file for file in _FILES if not (folder / file).is_file()]
    if missing:
        raise UserError(f"index {str(folder)!r} is damaged: it has no {missing[0]}; restore it, or rebuild it")
    state, end = _State(), 0
    with open_own(folder / "commits.bin") as log:
        commits = os.fstat(log.fileno()).st_size // _COMMIT_BYTES
        for number in range(commits, 0, -1):  # usually the last one, unless a power failure damaged it
            log.seek((number - 1) * _COMMIT_BYTES)
            found = _State.unpacked(log.read(_COMMIT_BYTES))
            if found is not None:
                state, end = found, number * _COMMIT_BYTES
                break
    short = [file for file, size in state.sizes(dim).items() if (folder / file).stat().st_size < size]
    if short:
        raise UserError(f"index {str(folder)!r} is damaged: {short[0]} is shorter than its last commit states; restore it, or rebuild it")
    return state, end


def _key(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def digest_of(texts: Sequence[str]) -> str:
    """Sixteen hexadecimal digits that differ between sets of candidates, independent of the file format."""
    digest = hashlib.blake2b(digest_size=8)
    for text in texts:
        encoded = text.encode("utf-8")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()
