"""Commit log of an index: the valid length of every file, in records of a fixed length with a checksum."""

import os
import struct
import zlib
from dataclasses import astuple, dataclass
from pathlib import Path

from tain.foundation.errors import UserError
from tain.foundation.files import open_own, refuse_link

LOG = "commits.bin"

_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class State:
    """Valid lengths of the files; the last two are 0 in an index without ids and metadata."""

    rows: int = 0
    text_bytes: int = 0
    deleted: int = 0
    number: int = 0
    id_bytes: int = 0
    metadata_bytes: int = 0


@dataclass(frozen=True)
class Layout:
    """Files and commits of an index format.

    Attributes:
        format: Format number in ``index.json``.
        mark: First eight bytes of a commit.
        has_metadata: Rows have ids and metadata.
    """

    format: int
    mark: bytes
    has_metadata: bool

    @property
    def commit_bytes(self) -> int:
        return self._content.size + _CHECKSUM.size

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.sizes(State(), 1), LOG)

    def sizes(self, state: State, dim: int) -> dict[str, int]:
        """Valid length of each file in bytes, except the log."""
        sizes = {
            "vectors.bin": 4 * dim * state.rows,
            "squares.bin": 4 * state.rows,
            "texts.bin": state.text_bytes,
            "ends.bin": 8 * state.rows,
            "keys.bin": 8 * state.rows,
            "gone.bin": 8 * state.deleted,
        }
        if self.has_metadata:
            sizes |= {
                "ids.bin": state.id_bytes,
                "id_ends.bin": 8 * state.rows,
                "id_keys.bin": 8 * state.rows,
                "metadata.bin": state.metadata_bytes,
                "metadata_ends.bin": 8 * state.rows,
                "metadata_keys.bin": 8 * state.rows,
            }
        return sizes

    def packed(self, state: State) -> bytes:
        """A commit, with its checksum."""
        content = self._content.pack(self.mark, *astuple(state)[: self._fields])
        return content + _CHECKSUM.pack(zlib.crc32(content))

    def unpacked(self, content: bytes) -> State | None:
        """Parse a commit; None if it is damaged or incomplete."""
        size = self._content.size
        if len(content) < self.commit_bytes or _CHECKSUM.unpack(content[size:])[0] != zlib.crc32(content[:size]):
            return None
        mark, *values = self._content.unpack(content[:size])
        return State(*values) if mark == self.mark else None

    def last_state(self, folder: Path, dim: int) -> tuple[State, int]:
        """The last complete commit, and the length of the log up to it.

        Raises:
            UserError: A file is missing or a link, or shorter than the commit states, so it was damaged externally.
        """
        for file in self.files:
            refuse_link(folder / file)
        missing = [file for file in self.files if not (folder / file).is_file()]
        if missing:
            raise UserError(f"index {str(folder)!r} is damaged: it has no {missing[0]}; restore it, or rebuild it")
        state, end = State(), 0
        with open_own(folder / LOG) as log:
            commits = os.fstat(log.fileno()).st_size // self.commit_bytes
            for number in range(commits, 0, -1):  # usually the last one, unless a power failure damaged it
                log.seek((number - 1) * self.commit_bytes)
                found = self.unpacked(log.read(self.commit_bytes))
                if found is not None:
                    state, end = found, number * self.commit_bytes
                    break
        short = [file for file, size in self.sizes(state, dim).items() if (folder / file).stat().st_size < size]
        if short:
            raise UserError(
                f"index {str(folder)!r} is damaged: {short[0]} is shorter than its last commit states; restore it, or rebuild it"
            )
        return state, end

    @property
    def _fields(self) -> int:
        return 6 if self.has_metadata else 4

    @property
    def _content(self) -> struct.Struct:
        return struct.Struct(f"<8s{self._fields}Q")


LAYOUTS = {
    1: Layout(1, b"tainidx1", has_metadata=False),
    2: Layout(2, b"tainidx2", has_metadata=True),
}
