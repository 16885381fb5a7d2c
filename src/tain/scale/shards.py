"""Encoding in shards: each process writes one share of the vectors, and the shards are joined at the end."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.files import open_own, refuse_inputs, whole_file
from tain.foundation.json_files import Field
from tain.foundation.progress import Progress
from tain.models.encode_to_file import ResumableEncoder, encode_to_file, partial_folder, ranges_file, refuse_output, texts_digest
from tain.models.vector_files import header_of
from tain.scale.records import (
    RecordKind,
    complete_records,
    count_of,
    finished_record,
    refuse_other_counts,
    stem_of,
    write_record,
)
from tain.text.kept import KeptColumns, TextRow, TextRows, read_text_rows
from tain.text.parts import Share, files_of, identity_of

_COPIED_BYTES = 1 << 24
_COPIED_ROWS = 16_384
_KIND = RecordKind(
    verb="encode",
    endings=(".npy", ".parquet"),
    fields={"truncated": Field(kind=int, least=0), "dim": Field(kind=int, least=1)},
)


@dataclass(frozen=True, kw_only=True)
class ShardedRun:
    """What all shards of a run have in common, except for the model.

    Attributes:
        source: The texts, as in ``read_text_rows``; not standard input.
        folder: Folder of the shards.
        count: Number of shards.
        column: Column of the texts.
        keep: Columns to keep.
        id_column: Column that is kept under the name ``id``.
        options: Further arguments of ``encode_to_file``: ``dtype``, ``dims``, ``language``, ``normalize``, ``with_texts`` and so on.
    """

    source: str
    folder: Path
    count: int
    column: str | None = None
    keep: tuple[str, ...] = ()
    id_column: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ending(self) -> str:
        """``.parquet`` if the shards hold more than vectors, else ``.npy``."""
        return ".parquet" if self.keep or self.id_column is not None or self.options.get("with_texts") else ".npy"

    def file(self, number: int) -> Path:
        """File of the vectors of shard ``number``, counted from 1."""
        return self.folder / f"{stem_of(number, self.count)}{self.ending}"

    def rows(self, number: int) -> TextRows:
        """Texts of shard ``number``, with the kept columns."""
        share = Share(number, self.count)
        return read_text_rows(self.source, column=self.column, keep=self.keep, id_column=self.id_column, share=share)

    def refuse(self, number: int) -> None:
        """Refuse a shard that cannot be made, before a model is loaded.

        Raises:
            UserError: It does not exist; ``int8`` is asked for without ranges; the folder cannot be written, is a file, or holds shards of a run with another number of shards; or
                another process is writing this shard.
        """
        Share(number, self.count)
        if self.options.get("dtype") == "int8" and self.options.get("int8_ranges") is None:
            raise UserError(
                "shards of int8 need the same ranges, but none are given: give --int8-ranges, from a run over some of the texts"
            )
        refuse_output(
            self.file(number),
            dtype=self.options.get("dtype", "float32"),
            batch_tokens=self.options.get("batch_tokens"),
            with_texts=bool(self.options.get("with_texts")),
            overwrite=True,
            inputs=files_of(self.source),
        )
        refuse_other_counts(self.folder, self.count)


@dataclass(frozen=True, kw_only=True)
class EncodedShard:
    """Result of ``encode_shard``.

    Attributes:
        path: The file.
        texts: Vectors in the file.
        dim: Dimension of the vectors.
        truncated: Texts that were truncated at the length limit.
        blank: Blank lines and cells that were skipped.
        resumed: Texts whose vectors came from an interrupted run.
        seconds: Encoding time of the other texts.
        skipped: The shard was complete already, and nothing was encoded.
    """

    path: Path
    texts: int
    dim: int
    truncated: int
    blank: int
    resumed: int = 0
    seconds: float = 0.0
    skipped: bool = False

    @property
    def texts_per_s(self) -> float:
        return (self.texts - self.resumed) / max(self.seconds, 1e-9)


def encode_shard(
    embedder: ResumableEncoder, run: ShardedRun, number: int, *, overwrite: bool = False, progress: Progress | None = None
) -> EncodedShard:
    """Encode one shard of a run: a file of vectors, and beside it a record with its digest.

    Nothing is encoded if the shard is complete: its bytes, its texts, the model and the settings are those of the record. A damaged shard is
    made again, and one of an interrupted process is continued.

    Args:
        embedder: Computes the vectors.
        run: The run.
        number: Number of the shard, 1 to ``run.count``.
        overwrite: Make the shard again, whatever is there.
        progress: Progress display; advances with every batch.

    Raises:
        UserError: As ``read_text_rows`` and ``encode_to_file``; or the folder holds this shard made by another model, with other settings or
            of other texts.
    """
    progress = progress or Progress.silent()
    run.refuse(number)
    path, identity = run.file(number), _identity(embedder, run)
    if not overwrite:
        done = _finished(run, number, identity, progress)
        if done is not None:
            return done
    rows = run.rows(number)
    digested = DigestedRows(rows)
    columns = KeptColumns(digested, rows.fields)
    is_begun = (partial_folder(path) / "state.json").exists()
    made = encode_to_file(
        embedder,
        columns.texts(),
        path,
        columns=columns,
        **run.options,
        resume=is_begun and not overwrite,
        overwrite=True,
        progress=progress,
    )
    content = {
        "texts": made.texts,
        "blank": rows.blank,
        "truncated": made.truncated,
        "dim": made.dim,
        "texts_sha256": digested.digest,
        "identity": identity,
    }
    write_record(run.folder, number, run.count, path, content)
    return EncodedShard(
        path=path,
        texts=made.texts,
        dim=made.dim,
        truncated=made.truncated,
        blank=rows.blank,
        resumed=made.resumed,
        seconds=made.seconds,
    )


@dataclass(frozen=True, kw_only=True)
class MergedFile:
    """Result of ``merge_shards``.

    Attributes:
        path: The file.
        texts: Vectors in the file.
        dim: Dimension of the vectors.
        truncated: Texts that were truncated at the length limit.
        blank: Blank lines and cells that were skipped.
        shards: Number of shards.
    """

    path: Path
    texts: int
    dim: int
    truncated: int
    blank: int
    shards: int


def merge_shards(folder: str | Path, path: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> MergedFile:
    """Join the shards of a folder into one file, in the order of the texts and in bounded memory.

    Args:
        folder: Folder that ``encode_shard`` wrote.
        path: Ends in ``.npy``, ``.parquet`` or ``.safetensors``. Shards with texts or kept columns need parquet.
        overwrite: Replace a file of this name.
        progress: Progress display; advances with every shard.

    Raises:
        UserError: Shards are missing or damaged, or differ in model, settings or source; or the file exists or cannot be written.
    """
    folder, path = Path(folder), Path(path)
    progress = progress or Progress.silent()
    refuse_output(path, overwrite=overwrite)
    count = count_of(folder, _KIND)
    records = complete_records(folder, count, _KIND, progress)
    files = [folder / record["file"] for record in records]
    refuse_inputs(path, files)
    ranges = records[0]["identity"]["settings"].get("int8_ranges")
    if ranges is not None:
        refuse_output(path, dtype="int8", overwrite=overwrite)
    first = records[0]
    if files[0].suffix == ".parquet" and path.suffix != ".parquet":
        raise UserError(
            f"shards of {str(folder)!r} hold texts or columns besides their vectors, which a {path.suffix} file cannot: "
            "use an output ending in .parquet"
        )
    texts = sum(record["texts"] for record in records)
    with whole_file(path, overwrite=overwrite) as partial, progress.task("merge", texts) as task:
        if path.suffix != ".parquet":
            _join_plain(files, partial, path, texts, task.advance)
        elif files[0].suffix == ".npy":
            _join_parquet(_rows_of_npy(files), partial, task.advance)
        else:
            _join_parquet(_rows_of_parquet(files), partial, task.advance)
        if ranges is not None:  # first, so that no file of int8 is ever without its ranges
            with whole_file(ranges_file(path), overwrite=overwrite) as partial_ranges:
                partial_ranges.write_text(ranges, encoding="utf-8")
    totals = {name: sum(record[name] for record in records) for name in ("texts", "truncated", "blank")}
    return MergedFile(path=path, dim=first["dim"], shards=count, **totals)


# ---- state of a shard


class DigestedRows(Iterator[TextRow]):
    """Rows, and the digest of all that were read.

    Attributes:
        digest: Chained SHA-256 of the texts so far, and of their values of the kept columns.
    """

    def __init__(self, rows: TextRows) -> None:
        self._rows = rows
        self._has_values = bool(rows.fields)
        self.digest = ""

    def __next__(self) -> TextRow:
        row = next(self._rows)
        self.digest = texts_digest(self.digest, [row.text], [row.values] if self._has_values else [])
        return row

    def of_all(self) -> str:
        """Read what is left, and return the digest of all rows."""
        for _ in self:
            pass
        return self.digest


def _identity(embedder: ResumableEncoder, run: ShardedRun) -> dict[str, Any]:
    """Everything that shards of one run share, as it is after a trip through JSON."""
    normalize = run.options.get("normalize")
    ranges = run.options.get("int8_ranges")
    settings = {
        **run.options,
        "int8_ranges": None if ranges is None else ranges.to_json(),
        "normalize": embedder.normalize if normalize is None else normalize,
        "column": run.column,
        "keep": list(run.keep),
        "id_column": run.id_column,
        **embedder.settings(),
    }
    made = {"model": embedder.name, "weights": embedder.fingerprint(), "settings": settings, "source": identity_of(run.source)}
    return json.loads(json.dumps(made))


def _finished(run: ShardedRun, number: int, identity: dict[str, Any], progress: Progress) -> EncodedShard | None:
    """The shard, if it is complete; None if it must be made.

    Raises:
        UserError: It was made by another model, with other settings, or of other texts.
    """
    path = run.file(number)
    record = finished_record(
        path, number, run.count, _KIND, identity=identity, texts_digest=lambda: DigestedRows(run.rows(number)).of_all(), progress=progress
    )
    if record is None:
        return None
    return EncodedShard(
        path=path, texts=record["texts"], dim=record["dim"], truncated=record["truncated"], blank=record["blank"], skipped=True
    )


# ---- joining


def _npy_header(file: BinaryIO, path: Path) -> tuple[int, int, np.dtype]:
    """Rows, width and data type of an npy file; afterwards the file is at its first row."""
    try:
        np.lib.format.read_magic(file)
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        rows, width = shape
    except ValueError as error:
        raise UserError(f"shard {str(path)!r} is damaged: make it again ({error})") from None
    if is_fortran or dtype.hasobject or file.tell() + rows * width * dtype.itemsize != os.fstat(file.fileno()).st_size:
        raise UserError(f"shard {str(path)!r} is damaged: make it again (its size does not fit its header)")
    return rows, width, dtype


def _join_plain(files: list[Path], partial: Path, path: Path, texts: int, advance: Any) -> None:
    with partial.open("xb") as whole:
        for number, each in enumerate(files):
            with open_own(each) as file:
                rows, width, dtype = _npy_header(file, each)
                if number == 0:
                    whole.write(header_of(path, texts=texts, dim=width, dtype=dtype.name))
                while piece := file.read(_COPIED_BYTES):
                    whole.write(piece)
            advance(rows)


def _rows_of_npy(files: list[Path]) -> Iterator[Any]:
    """Arrow tables of the vectors, in order, without their index."""
    import pyarrow as pa

    for each in files:
        with open_own(each) as file:
            rows, width, dtype = _npy_header(file, each)
            for first in range(0, max(rows, 1), _COPIED_ROWS):  # once also without rows: its schema may be the only one
                wanted = min(_COPIED_ROWS, rows - first) * width
                numbers = np.frombuffer(file.read(wanted * dtype.itemsize), dtype)
                yield pa.table({"vector": pa.FixedSizeListArray.from_arrays(pa.array(numbers), width)})


def _rows_of_parquet(files: list[Path]) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for each in files:
        with open_own(each) as opened, pq.ParquetFile(opened) as file:
            schema = pa.schema([entry for entry in file.schema_arrow if entry.name != "index"])
            yield schema.empty_table()
            for batch in file.iter_batches(batch_size=_COPIED_ROWS, columns=schema.names):
                yield pa.Table.from_batches([batch], schema=batch.schema).select(schema.names).cast(schema)


def _join_parquet(tables: Iterator[Any], partial: Path, advance: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer, texts = None, 0
    with partial.open("xb") as whole:
        try:
            for table in tables:
                indexed = table.add_column(0, "index", pa.array(np.arange(texts, texts + len(table))))
                if writer is None:
                    writer = pq.ParquetWriter(whole, indexed.schema, use_dictionary=False, compression="zstd")
                if len(table):
                    writer.write_table(indexed)
                texts += len(table)
                advance(len(table))
        finally:
            if writer is not None:
                writer.close()
