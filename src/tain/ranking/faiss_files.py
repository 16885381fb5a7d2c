"""Flat FAISS index files, written and read without FAISS.

FAISS trusts every size in a file, and a flat index is a header and an array, so both directions are a few lines here and work without
the package. The layout is that of ``faiss.write_index`` for ``IndexFlatIP`` and ``IndexFlatL2``, alone or inside ``IndexIDMap``:
little-endian numbers, arrays preceded by their length.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.files import whole_file
from tain.ranking.index import CandidateIndex

_HEADER = struct.Struct("<4siqqq?i")  # kind of index, dimension, rows, two unused, whether it is trained, metric
_LENGTH = struct.Struct("<Q")
_UNUSED = 1 << 20  # as FAISS writes it
_INNER_PRODUCT = 0
_FLAT = {b"IxFI", b"IxF2", b"IxFl"}
_WITH_IDS = {b"IxMp", b"IxM2"}
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class FlatVectors:
    """Vectors of a flat FAISS index.

    Attributes:
        vectors: Float32 (rows, dim), memory-mapped.
        ids: FAISS's own number of each row, int64 (rows,); None without an ``IndexIDMap``.
    """

    vectors: np.ndarray
    ids: np.ndarray | None


def write_flat(index: CandidateIndex, path: str | Path, *, overwrite: bool = False) -> np.ndarray:
    """Write the live vectors of an index as ``IndexFlatIP``.

    Args:
        index: The candidates.
        path: The file.
        overwrite: Replace an existing file.

    Returns:
        The written rows of the index in order; row ``i`` of the file is row ``rows[i]`` of the index.

    Raises:
        UserError: The file exists or cannot be written, or a vector is damaged.
    """
    rows = np.flatnonzero(~index.is_deleted)
    index.refuse_damaged_vectors()
    with whole_file(Path(path), overwrite=overwrite) as partial, partial.open("wb") as file:
        file.write(_HEADER.pack(b"IxFI", index.dim, len(rows), _UNUSED, _UNUSED, True, _INNER_PRODUCT))
        file.write(_LENGTH.pack(len(rows) * index.dim))
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(index.vectors[rows[start : start + _ROWS_AT_ONCE]], dtype="<f4").tobytes())
    return rows


def read_flat(path: str | Path) -> FlatVectors:
    """Read the vectors of a flat FAISS index; every size is checked before it is used.

    Raises:
        UserError: The file cannot be read, holds another kind of index, or is damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except OSError as error:
        raise UserError(f"FAISS file {str(path)!r} cannot be read ({error.strerror or error}): give a file of faiss.write_index") from None


def _read(file: BinaryIO, path: Path) -> FlatVectors:
    size = os.fstat(file.fileno()).st_size
    kind, dim, rows = _header(file, path)
    has_ids = kind in _WITH_IDS
    if has_ids:
        kind, inner_dim, inner_rows = _header(file, path)
        if (inner_dim, inner_rows) != (dim, rows):
            raise _damaged(path, "its two headers disagree")
    if kind not in _FLAT:
        name = kind.decode("ascii", "replace")
        raise UserError(
            f"FAISS file {str(path)!r} holds an index of kind {name!r}, which does not keep every vector exactly: "
            "give an IndexFlatIP or IndexFlatL2, alone or in an IndexIDMap"
        )
    if rows == 0:
        raise UserError(f"FAISS file {str(path)!r} has no vectors: add some to it first")
    if dim < 1 or rows < 0:
        raise _damaged(path, f"it has {rows:,} rows of {dim:,} numbers")
    start = file.tell() + _LENGTH.size
    if _length(file, path) != rows * dim or size - start < 4 * rows * dim:
        raise _damaged(path, "its size and its number of vectors disagree")
    vectors = np.memmap(file, dtype="<f4", mode="r", offset=start, shape=(rows, dim))
    for first in range(0, rows, _ROWS_AT_ONCE):
        if not np.isfinite(vectors[first : first + _ROWS_AT_ONCE]).all():
            raise _damaged(path, "a vector has nan or infinity")
    file.seek(start + 4 * rows * dim)
    ids = None
    if has_ids:
        if _length(file, path) != rows or size - file.tell() != 8 * rows:
            raise _damaged(path, "its ids and its vectors differ in number")
        ids = np.frombuffer(file.read(8 * rows), dtype="<i8")
    elif file.tell() != size:
        raise _damaged(path, "bytes follow its end")
    return FlatVectors(vectors, ids)


def _header(file: BinaryIO, path: Path) -> tuple[bytes, int, int]:
    """Kind, dimension and rows of the index that begins here."""
    content = file.read(_HEADER.size)
    if len(content) < _HEADER.size:
        raise _damaged(path, "it is too short for a header")
    kind, dim, rows, _, _, is_trained, metric = _HEADER.unpack(content)
    if not is_trained or (kind in _FLAT | _WITH_IDS and metric not in (0, 1)):
        raise _damaged(path, "its header is invalid")
    return kind, dim, rows


def _length(file: BinaryIO, path: Path) -> int:
    content = file.read(_LENGTH.size)
    if len(content) < _LENGTH.size:
        raise _damaged(path, "it ends too soon")
    return _LENGTH.unpack(content)[0]


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"FAISS file {str(path)!r} is damaged, or not of FAISS ({why}): write it again with faiss.write_index")
