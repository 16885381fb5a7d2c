"""Labelling in shards: each process writes the labels of one share of the texts as JSON lines."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from tain.foundation.files import open_own, refuse_existing, refuse_inputs, whole_file
from tain.foundation.json_files import Field
from tain.foundation.locks import only_writer
from tain.foundation.progress import Progress
from tain.models.label_lines import LabelLines, Predicts
from tain.scale.records import (
    RecordKind,
    complete_records,
    count_of,
    finished_record,
    refuse_other_counts,
    stem_of,
    write_record,
)
from tain.scale.shards import DigestedRows
from tain.text.kept import TextRows, read_text_rows
from tain.text.parts import Share, files_of, identity_of

_KIND = RecordKind(verb="label", endings=(".jsonl",), fields={"truncated": Field(kind=int, least=0)})
_COPIED_BYTES = 1 << 24


@runtime_checkable
class Labels(Predicts, Protocol):
    """A labeller whose content can be recognised."""

    @property
    def name(self) -> str: ...
    def fingerprint(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class LabelRun:
    """What all shards of a run have in common, except for the model.

    Attributes:
        source: The texts, as in ``read_text_rows``; not standard input.
        folder: Folder of the shards.
        count: Number of shards.
        column: Column of the texts.
    """

    source: str
    folder: Path
    count: int
    column: str | None = None

    def file(self, number: int) -> Path:
        """File of the labels of shard ``number``, counted from 1."""
        return self.folder / f"{stem_of(number, self.count)}.jsonl"

    def rows(self, number: int) -> TextRows:
        """Texts of shard ``number``."""
        return read_text_rows(self.source, column=self.column, share=Share(number, self.count))

    def refuse(self, number: int) -> None:
        """Refuse a shard that cannot be made, before a model is loaded.

        Raises:
            UserError: It does not exist; or the folder cannot be written, or holds shards of a run with another number of shards.
        """
        Share(number, self.count)
        refuse_existing(self.file(number), overwrite=True, inputs=files_of(self.source))
        refuse_other_counts(self.folder, self.count)


@dataclass(frozen=True, kw_only=True)
class LabelledShard:
    """Result of ``label_shard``.

    Attributes:
        path: The file.
        texts: Lines in the file, one per text.
        truncated: Texts that were cut at the model's length limit.
        blank: Blank lines and cells that were skipped.
        skipped: The shard was complete already, and nothing was labelled.
    """

    path: Path
    texts: int
    truncated: int
    blank: int
    skipped: bool = False


def label_shard(model: Labels, run: LabelRun, number: int, *, overwrite: bool = False, progress: Progress | None = None) -> LabelledShard:
    """Label one shard of a run: a file of JSON lines, and beside it a record with its digest.

    Nothing is labelled if the shard is complete: its bytes, its texts and the model are those of the record. A damaged shard is made again.

    Args:
        model: Predicts the labels.
        run: The run.
        number: Number of the shard, 1 to ``run.count``.
        overwrite: Make the shard again, whatever is there.
        progress: Progress display; advances with every window.

    Raises:
        UserError: As ``read_text_rows``; the folder holds this shard made by another model or of other texts; or another process writes it.
    """
    progress = progress or Progress.silent()
    run.refuse(number)
    path = run.file(number)
    identity = {"model": model.name, "weights": model.fingerprint(), "settings": {"column": run.column}, "source": identity_of(run.source)}
    identity = json.loads(json.dumps(identity))
    with only_writer(path):
        if not overwrite and (done := _finished(run, number, identity, progress)) is not None:
            return done
        rows = DigestedRows(given := run.rows(number))
        lines = LabelLines(model, (row.text for row in rows), progress=progress)
        with whole_file(path, overwrite=True, follow=False) as partial, partial.open("w", encoding="utf-8") as file:
            texts = sum(1 for line in lines if file.write(f"{line}\n"))
        content = {
            "texts": texts,
            "blank": given.blank,
            "truncated": lines.truncated,
            "texts_sha256": rows.digest,
            "identity": identity,
        }
        write_record(run.folder, number, run.count, path, content)
    return LabelledShard(path=path, texts=texts, truncated=lines.truncated, blank=given.blank)


def merge_labels(folder: str | Path, path: str | Path, *, overwrite: bool = False, progress: Progress | None = None) -> int:
    """Join the shards of a folder into one file of JSON lines, in the order of the texts.

    Args:
        folder: Folder that ``label_shard`` wrote.
        path: The file.
        overwrite: Replace a file of this name.
        progress: Progress display; advances with every shard.

    Returns:
        Number of texts.

    Raises:
        UserError: Shards are missing or damaged, or differ in model or source; or the file exists or cannot be written.
    """
    folder, path = Path(folder), Path(path)
    refuse_existing(path, overwrite=overwrite)
    records = complete_records(folder, count_of(folder, _KIND), _KIND, progress or Progress.silent())
    refuse_inputs(path, [folder / record["file"] for record in records])
    with whole_file(path, overwrite=overwrite) as partial, partial.open("xb") as whole:
        for record in records:
            with open_own(folder / record["file"]) as file:
                shutil.copyfileobj(file, whole, _COPIED_BYTES)
    return sum(record["texts"] for record in records)


def _finished(run: LabelRun, number: int, identity: dict[str, Any], progress: Progress) -> LabelledShard | None:
    """The shard, if it is complete; None if it must be made.

    Raises:
        UserError: It was made by another model, or of other texts.
    """
    path = run.file(number)
    record = finished_record(
        path, number, run.count, _KIND, identity=identity, texts_digest=lambda: DigestedRows(run.rows(number)).of_all(), progress=progress
    )
    if record is None:
        return None
    return LabelledShard(path=path, texts=record["texts"], truncated=record["truncated"], blank=record["blank"], skipped=True)
