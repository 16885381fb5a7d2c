"""Validate a FAISS file of inverted lists before FAISS reads it, since FAISS trusts all sizes and row numbers in it.

The layout is that of FAISS's ``IndexIVFScalarQuantizer`` over an ``IndexFlatIP`` with eight bits per number, as written by
``approximate``: little-endian numbers, arrays preceded by their length.
"""

import struct
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tain.foundation.files import open_own

_HEADER = "4siqqq?i"  # kind of index, dimension, rows, two unused, whether it is trained, metric
_INNER_PRODUCT, _EIGHT_BITS = 0, 0


class DamagedListsError(ValueError):
    """The file does not hold valid inverted lists of the index."""


def check_short_lists(path: Path, *, dim: int, rows: int) -> None:
    """Check that a file holds complete inverted lists of the first rows of an index, with each row once.

    Args:
        path: The file.
        dim: Dimension of the index's vectors.
        rows: Largest number of rows in the lists; fewer are allowed, since rows are appended later.

    Raises:
        DamagedListsError: It does not.
        OSError: It cannot be read.
    """
    with open_own(path) as file:
        _Lists(file, path.stat().st_size, dim, rows).check()


class _Lists:
    def __init__(self, file: BinaryIO, size: int, dim: int, rows: int) -> None:
        self._file, self._left, self._dim, self._most_rows = file, size, dim, rows

    def check(self) -> None:
        rows = self._header(b"IwSq", "header")
        if not 0 < rows <= self._most_rows:
            raise DamagedListsError(f"it lists {rows:,} rows, but the index has {self._most_rows:,}")
        lists, _ = self._values("QQ")
        if not 0 < lists <= rows:
            raise DamagedListsError(f"it has {lists:,} lists for {rows:,} rows")
        if self._header(b"IxFI", "header of centres") != lists:
            raise DamagedListsError("it does not have one centre per list")
        self._finite(lists * self._dim, "centres")
        self._expect("direct map", self._values("bQ"), (0, 0))
        kind, _, _, dim, code_bytes = self._values("iifQQ")
        self._expect("quantiser", (kind, dim, code_bytes), (_EIGHT_BITS, self._dim, self._dim))
        self._finite(2 * self._dim, "ranges of the quantiser")
        code_bytes, _ = self._values("Q?")
        self._expect("lists", (code_bytes, *self._values("4sQQ")), (self._dim, b"ilar", lists, self._dim))
        self._rows_once(self._list_sizes(lists, rows), rows)
        if self._left:
            raise DamagedListsError(f"{self._left:,} bytes follow its end")

    def _header(self, kind: bytes, what: str) -> int:
        """Number of rows of an index of this kind."""
        found, dim, rows, _, _, is_trained, metric = self._values(_HEADER)
        self._expect(what, (found, dim, is_trained, metric), (kind, self._dim, True, _INNER_PRODUCT))
        return rows

    def _list_sizes(self, lists: int, rows: int) -> list[int]:
        """Rows per list: one number per list, or pairs of list and number for lists that are not empty."""
        layout, count = self._values("4sQ")
        if layout == b"full" and count == lists:
            sizes = self._array("<u8", count)
        elif layout == b"sprs" and count % 2 == 0 and count <= 2 * lists:
            places, sizes = self._array("<u8", count).reshape(-1, 2).T
            if (np.diff(places.astype(np.int64)) <= 0).any() or (places >= lists).any():
                raise DamagedListsError("it names a list that does not exist, or one twice")
        else:
            raise DamagedListsError("the sizes of its lists are missing")
        if (sizes > rows).any() or int(sizes.sum()) != rows:
            raise DamagedListsError("its lists do not have the stated number of rows")
        return [int(size) for size in sizes if size]

    def _rows_once(self, sizes: list[int], rows: int) -> None:
        is_listed = np.zeros(rows, dtype=bool)
        for size in sizes:
            self._skip(size * self._dim)
            found = self._array("<i8", size)
            if found.min() < 0 or found.max() >= rows:
                raise DamagedListsError("it lists a row that does not exist")
            is_listed[found] = True
        if not is_listed.all():  # entries equal rows in number: a missing row implies a duplicate
            raise DamagedListsError("it lists a row twice")

    def _finite(self, count: int, what: str) -> None:
        self._expect(f"number of {what}", self._values("Q"), (count,))
        if not np.isfinite(self._array("<f4", count)).all():
            raise DamagedListsError(f"its {what} are not finite")

    def _expect(self, what: str, found: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
        if found != wanted:
            raise DamagedListsError(f"its {what} is {found}, but that of this index is {wanted}")

    def _values(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{layout}", self._bytes(struct.calcsize(f"<{layout}")))

    def _array(self, dtype: str, count: int) -> np.ndarray:
        return np.frombuffer(self._bytes(count * np.dtype(dtype).itemsize), dtype=dtype)

    def _bytes(self, count: int) -> bytes:
        self._refuse_short(count)
        found = self._file.read(count)
        if len(found) < count:
            raise DamagedListsError("it ends too soon")
        return found

    def _skip(self, count: int) -> None:
        self._refuse_short(count)
        self._file.seek(count, 1)

    def _refuse_short(self, count: int) -> None:
        """Check before reading or allocating, since a size in a damaged file may be any number."""
        if count > self._left:
            raise DamagedListsError("it ends too soon")
        self._left -= count
