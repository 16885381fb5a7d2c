"""Records of shards: what each file of a folder of shards holds, which run made it, and whether it is whole."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tain.foundation.errors import UserError
from tain.foundation.files import open_own, whole_file
from tain.foundation.json_files import Field, read_object
from tain.foundation.progress import Progress

if TYPE_CHECKING:
    from io import BufferedReader

_FORMAT = 1
_RECORD_NAME = re.compile(r"(\d{5,})-of-(\d{5,})\.json")
_MOST_SHOWN = 10
_RECORD = {
    "format": Field(kind=int, among=(_FORMAT,)),
    "texts": Field(kind=int, least=0),
    "blank": Field(kind=int, least=0),
    "bytes": Field(kind=int, least=0),
    "file": Field(kind=str),
    "sha256": Field(kind=str),
    "texts_sha256": Field(kind=str),
    "identity": Field(
        kind=dict,
        fields={"model": Field(kind=str), "weights": Field(kind=str), "settings": Field(kind=dict), "source": Field(kind=list)},
    ),
}


@dataclass(frozen=True, kw_only=True)
class RecordKind:
    """What shards of one verb have in common.

    Attributes:
        verb: The command that makes them.
        endings: Endings of their files.
        fields: Fields of their records besides the common ones.
    """

    verb: str
    endings: tuple[str, ...]
    fields: dict[str, Field]


def write_record(folder: Path, number: int, count: int, path: Path, content: dict[str, Any]) -> None:
    """Write the record of a shard's finished file.

    Args:
        folder: Folder of the shards.
        number: Number of the shard, from 1.
        count: Number of shards.
        path: The file.
        content: Fields of the record, besides those of the file.
    """
    of_file = {"format": _FORMAT, "file": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    with whole_file(record_file(folder, number, count), overwrite=True, follow=False) as partial:
        partial.write_text(json.dumps(of_file | content, indent=2) + "\n", encoding="utf-8")


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Describe in what two identities differ; empty if in nothing."""
    changed = []
    if before["weights"] != now["weights"]:
        same_name = before["model"] == now["model"]
        changed.append(f"the weights of {now['model']!r} differ" if same_name else f"model was {before['model']!r}, now {now['model']!r}")
    for name in sorted({**before["settings"], **now["settings"]}):
        was, is_now = before["settings"].get(name), now["settings"].get(name)
        if was != is_now:
            changed.append(f"{name.replace('_', '-')} was {_spelled(was)}, now {_spelled(is_now)}")
    if before["source"] != now["source"]:
        changed.append("the files of the texts have other names or sizes")
    return "; ".join(changed)


def _spelled(value: object) -> str:
    return {"None": "not given", "True": "on", "False": "off"}.get(str(value), str(value))


def is_whole(path: Path, record: dict[str, Any]) -> bool:
    """Whether a shard's file is the one of its record."""
    if record["file"] != path.name:
        return False
    try:
        return path.stat().st_size == record["bytes"] and sha256_of(path) == record["sha256"]
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    with open_own(path) as file:
        return hashlib.file_digest(cast("BufferedReader", file), "sha256").hexdigest()


def stem_of(number: int, count: int) -> str:
    """Name of a shard's files, without their ending."""
    return f"{number:05d}-of-{count:05d}"


def record_file(folder: Path, number: int, count: int) -> Path:
    return folder / f"{stem_of(number, count)}.json"


def read_record(folder: Path, number: int, count: int, kind: RecordKind) -> dict[str, Any] | None:
    """Record of a shard; None if there is none.

    Raises:
        UserError: It is damaged.
    """
    path = record_file(folder, number, count)
    try:
        open_own(path).close()
        record = read_object(
            path, {**_RECORD, **kind.fields}, damaged=f"shard record {str(path)!r} is damaged", advice="make the shard again"
        )
    except OSError:
        return None
    if record["file"] not in [f"{stem_of(number, count)}{ending}" for ending in kind.endings]:
        raise UserError(f"shard record {str(path)!r} is damaged: make the shard again (its file is {record['file']!r})")
    return record


def recorded(folder: Path) -> list[tuple[int, int]]:
    """Number and count of every record in a folder."""
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted((int(match[1]), int(match[2])) for name in names if (match := _RECORD_NAME.fullmatch(name)))


def refuse_other_counts(folder: Path, count: int) -> None:
    """Refuse a folder of shards from a run with another number of shards.

    Raises:
        UserError: It holds such shards.
    """
    if others := sorted({other for _, other in recorded(folder)} - {count}):
        raise UserError(
            f"output {str(folder)!r} holds shards of a run with {others[0]} shards, not {count}: give the same number, or another folder"
        )


def finished_record(
    path: Path, number: int, count: int, kind: RecordKind, *, identity: dict[str, Any], texts_digest: Callable[[], str], progress: Progress
) -> dict[str, Any] | None:
    """Record of a shard that is complete; None if the shard must be made.

    Args:
        path: The shard's file.
        number: Number of the shard, from 1.
        count: Number of shards.
        kind: What the shards are.
        identity: Identity of this run.
        texts_digest: Computes the digest of the shard's texts; called only if everything else agrees.
        progress: Receives a warning if the shard or its record is damaged.

    Raises:
        UserError: It was made by another model, with other settings, or of other texts.
    """
    name = f"shard {number}/{count} in {str(path.parent)!r}"
    try:
        record = read_record(path.parent, number, count, kind)
    except UserError:
        progress.warn(f"{name} has a damaged record: it is made again")
        return None
    if record is None:
        return None
    if changed := differences(record["identity"], identity):
        raise UserError(f"{name} was made otherwise ({changed}): give the same again, another folder, or --overwrite")
    if not is_whole(path, record):
        progress.warn(f"{name} is damaged: it is made again")
        return None
    if texts_digest() != record["texts_sha256"]:
        raise UserError(f"{name} was made of other texts: give the same again, another folder, or --overwrite")
    return record


def count_of(folder: Path, kind: RecordKind) -> int:
    """Number of shards of the run that made a folder.

    Raises:
        UserError: It holds no shards, or those of several runs.
    """
    counts = {count for _, count in recorded(folder)}
    if not counts:
        problem = "holds no shards" if folder.is_dir() else "is not a folder"
        raise UserError(f"{str(folder)!r} {problem}: give a folder that tain {kind.verb} --shard wrote")
    if len(counts) > 1:
        listed = " and ".join(str(count) for count in sorted(counts))
        raise UserError(
            f"{str(folder)!r} holds shards of several runs ({listed} shards): keep those of one run, or encode into another folder"
        )
    return counts.pop()


def complete_records(folder: Path, count: int, kind: RecordKind, progress: Progress) -> list[dict[str, Any]]:
    """Records of all shards, once each is known to be there, whole, and of the same run.

    Raises:
        UserError: A shard is missing or damaged, or was made by another model, with other settings or from another source.
    """
    there = {number for number, _ in recorded(folder)}
    missing = [number for number in range(1, count + 1) if number not in there]
    if missing:
        raise UserError(f"{str(folder)!r} lacks {listed(missing)} of {count}: make them with tain {kind.verb} --shard, then merge again")
    records, damaged = [], []
    with progress.task("check", count) as task:
        for number in range(1, count + 1):
            try:
                record = read_record(folder, number, count, kind)
            except UserError:
                record = None
            if record is None or not is_whole(folder / record["file"], record):
                damaged.append(number)
            else:
                records.append(record)
            task.advance()
    if damaged:
        raise UserError(f"{str(folder)!r} has damaged files ({listed(damaged)} of {count}): make them again with tain {kind.verb} --shard")
    for record in records[1:]:
        if changed := differences(records[0]["identity"], record["identity"]):
            raise UserError(
                f"{str(folder)!r} has shards that were made otherwise than {records[0]['file']!r} ({record['file']!r}: {changed}): "
                "make them again with the same model, settings and texts"
            )
    return records


def listed(numbers: list[int]) -> str:
    """Spell numbers of shards, runs of them as ``3 to 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [str(first) if first == last else f"{first} to {last}" for first, last in runs[:_MOST_SHOWN]]
    rest = f" and {len(runs) - _MOST_SHOWN} more ranges" if len(runs) > _MOST_SHOWN else ""
    return f"{'shard' if len(numbers) == 1 else 'shards'} {', '.join(shown)}{rest}"
