"""Vector file formats with appending and resuming: npy, safetensors and parquet."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tain.foundation.choices import OutputDtype
from tain.foundation.errors import UserError
from tain.foundation.files import open_own
from tain.text.kept import KeptField

StoredDtype = OutputDtype

ENDINGS = (".npy", ".parquet", ".safetensors")


class Rows(ABC):
    """Abstract writer of a vector file, which keeps finished windows in a folder.

    Args:
        folder: Folder for the parts.
        dim: Dimension of the vectors.
        dtype: Data type of the stored numbers.
    """

    def __init__(self, folder: Path, *, dim: int, dtype: str) -> None:
        self.folder = folder
        self.dim = dim
        self.dtype = dtype

    @abstractmethod
    def holds(self, *, windows: int, texts: int) -> bool:
        """Whether the given number of windows and texts can be resumed from."""

    @abstractmethod
    def open(self, *, windows: int, texts: int) -> None:
        """Prepare to append after these windows, dropping anything a killed run wrote beyond them."""

    @abstractmethod
    def append(self, vectors: np.ndarray, texts: list[str], kept: list[tuple[object, ...]]) -> None:
        """Write a window durably to disk; ``kept`` has each text's values of the kept columns, if there are any."""

    @abstractmethod
    def finish(self, *, texts: int) -> Path:
        """Complete the file and return its path."""

    def close(self) -> None:  # noqa: B027 - not every format keeps a file open
        """Close open files."""


class _PlainRows(Rows):
    """Rows in sequence after a fixed-length header, which is written last, once their number is known."""

    file: BinaryIO | None = None

    @property
    def path(self) -> Path:
        return self.folder / "vectors"

    @abstractmethod
    def head(self, texts: int) -> bytes:
        """Header for the given number of texts; its length is constant."""

    def _bytes(self, texts: int) -> int:
        return texts * self.dim * np.dtype(self.dtype).itemsize

    def holds(self, *, windows: int, texts: int) -> bool:
        return self.path.is_file() and self.path.stat().st_size >= len(self.head(0)) + self._bytes(texts)

    def open(self, *, windows: int, texts: int) -> None:
        if not texts:
            self.path.unlink(missing_ok=True)
        self.file = open_own(self.path, writable=True, create=True)
        end = len(self.head(0)) + self._bytes(texts)
        self.file.truncate(end)
        self.file.seek(end)

    def append(self, vectors: np.ndarray, texts: list[str], kept: list[tuple[object, ...]]) -> None:
        assert self.file is not None
        self.file.write(np.ascontiguousarray(vectors).data)
        flush(self.file)

    def finish(self, *, texts: int) -> Path:
        assert self.file is not None
        self.file.seek(0)
        self.file.write(self.head(texts))
        flush(self.file)
        self.close()
        return self.path

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


class _NpyRows(_PlainRows):
    """Writer of the same bytes as ``numpy.save``."""

    def head(self, texts: int) -> bytes:
        names = f"{{'descr': '{np.dtype(self.dtype).newbyteorder('<').str}', 'fortran_order': False, 'shape': ({texts}, {self.dim}), }}"
        return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + names.ljust(117).encode("ascii") + b"\n"


class _SafetensorsRows(_PlainRows):
    """Writer of one tensor, ``vectors``."""

    def head(self, texts: int) -> bytes:
        kind = {"float32": "F32", "float16": "F16", "int8": "I8", "uint8": "U8"}[self.dtype]
        tensors = {"vectors": {"dtype": kind, "shape": [texts, self.dim], "data_offsets": [0, self._bytes(texts)]}}
        length = 248  # the format allows blanks after the JSON
        return length.to_bytes(8, "little") + json.dumps(tensors).ljust(length).encode("ascii")


class _ParquetRows(Rows):
    """Writer of one row group per window, joined at the end, since a truncated parquet file cannot be appended to."""

    def __init__(self, folder: Path, *, dim: int, dtype: str, with_texts: bool, fields: Sequence[KeptField]) -> None:
        super().__init__(folder, dim=dim, dtype=dtype)
        self.with_texts = with_texts
        self.fields = fields
        self.windows = self.texts = 0

    def _window(self, number: int) -> Path:
        return self.folder / f"{number:08d}.parquet"

    def holds(self, *, windows: int, texts: int) -> bool:
        return all(self._window(number).is_file() for number in range(windows))

    def open(self, *, windows: int, texts: int) -> None:
        self.windows, self.texts = windows, texts

    def append(self, vectors: np.ndarray, texts: list[str], kept: list[tuple[object, ...]]) -> None:
        import pyarrow as pa

        schema = self._schema()
        columns = [pa.array(np.arange(self.texts, self.texts + len(texts)))]
        for index, field in enumerate(self.fields):
            columns.append(_arrow_values([values[index] for values in kept], schema.field(field.name).type, field))
        if self.with_texts:
            columns.append(pa.array(texts))
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), self.dim))
        with self._writer(self._window(self.windows)) as writer:
            writer.write_table(pa.table(columns, schema=schema))
        self.windows, self.texts = self.windows + 1, self.texts + len(texts)

    def finish(self, *, texts: int) -> Path:
        import pyarrow.parquet as pq

        whole = self.folder / "whole.parquet"
        with self._writer(whole) as writer:
            for number in range(self.windows):
                writer.write_table(pq.read_table(self._window(number), schema=self._schema()))
        return whole

    def _schema(self) -> Any:
        import pyarrow as pa

        number = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8(), "uint8": pa.uint8()}[self.dtype]
        kept = [(field.name, _arrow_type(field)) for field in self.fields]
        texts = [("text", pa.string())] if self.with_texts else []
        return pa.schema([("index", pa.int64()), *kept, *texts, ("vector", pa.list_(number, self.dim))])

    @contextmanager
    def _writer(self, path: Path) -> Iterator[Any]:
        import pyarrow.parquet as pq

        with path.open("wb") as file:
            # values rarely repeat, so a dictionary would only cost space
            with pq.ParquetWriter(file, self._schema(), use_dictionary=False, compression="zstd") as writer:
                yield writer
            flush(file)


def rows_for(path: Path, folder: Path, *, dim: int, dtype: str, with_texts: bool, fields: Sequence[KeptField] = ()) -> Rows:
    """Choose the writer by the ending of ``path``, one of ``ENDINGS``; ``folder`` keeps its parts, ``fields`` are kept columns (parquet)."""
    if path.suffix == ".parquet":
        return _ParquetRows(folder, dim=dim, dtype=dtype, with_texts=with_texts, fields=fields)
    return (_NpyRows if path.suffix == ".npy" else _SafetensorsRows)(folder, dim=dim, dtype=dtype)


def header_of(path: Path, *, texts: int, dim: int, dtype: str) -> bytes:
    """Header of an npy or safetensors file, after which the rows follow."""
    kind = _NpyRows if path.suffix == ".npy" else _SafetensorsRows
    return kind(path.parent, dim=dim, dtype=dtype).head(texts)


def _arrow_type(field: KeptField) -> Any:
    import pyarrow as pa

    if field.kind == "arrow":
        return field.arrow.value_type if pa.types.is_dictionary(field.arrow) else field.arrow
    return {"text": pa.string(), "whole number": pa.int64(), "number": pa.float64(), "truth value": pa.bool_()}[field.kind]


def _arrow_values(values: list[object], kind: Any, field: KeptField) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values, type=kind)
    except (pa.ArrowException, OverflowError) as error:
        raise UserError(f"column {field.column!r} has values that do not fit its type {kind} ({error}): write the column again") from None


def flush(file: Any) -> None:
    """Flush a file to disk, so that it survives a power failure."""
    file.flush()
    os.fsync(file.fileno())
