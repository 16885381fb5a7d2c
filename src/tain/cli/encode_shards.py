"""``tain encode --shard`` and ``--merge``: encode one share of the texts, and join the shards."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tain.foundation.errors import UserError

if TYPE_CHECKING:
    from tain.foundation.progress import Progress


SHARDS = 64


def refuse_mixed(
    model: str | None,
    texts: str | None,
    *,
    verb: str = "encode",
    shard: str | None,
    ray: bool,
    merge: Path | None,
    resume: bool,
    only_ray: list[Any],
) -> None:
    """Refuse arguments of ``tain encode`` or ``tain label`` that do not go together.

    Raises:
        UserError: More than one of ``--shard``, ``--ray`` and ``--merge`` is given; MODEL or TEXTS is missing or not needed; ``--resume`` is
            given with shards, or an option of ``--ray`` without it.
    """
    if ray and (shard is not None or merge is not None):
        raise UserError(f"--ray {verb}s all shards, but {'--shard' if shard is not None else '--merge'} is given: give one of the two")
    if not ray and any(value is not None for value in only_ray):
        raise UserError("--shards, --workers and --address are for --ray: give --ray, or leave them out")
    if merge is not None:
        if model is not None:
            raise UserError(f"--merge joins shards that exist, but MODEL is {model!r}: give tain {verb} --merge FOLDER -o FILE")
        if shard is not None:
            raise UserError("--shard makes a shard and --merge joins them: give one of the two")
    elif model is None or texts is None:
        raise UserError(
            f"{'MODEL' if model is None else 'TEXTS'} is missing: give tain {verb} MODEL TEXTS -o FILE (see tain {verb} --help)"
        )
    if resume and (shard is not None or ray or merge is not None):
        raise UserError("--resume is for one file, and an interrupted shard is continued by itself: leave --resume out")


def encode_share(
    model: str,
    texts: str,
    folder: Path,
    shard: str,
    options: dict[str, Any],
    columns: dict[str, Any],
    loading: dict[str, Any],
    *,
    overwrite: bool,
    progress: "Progress",
    as_json: bool,
) -> None:
    """Encode one share of the texts and print a line about it.

    Args:
        model: The model, as the user named it.
        texts: The source.
        folder: Folder of the shards.
        shard: ``NUMBER/COUNT``.
        options: Arguments of ``encode_to_file``.
        columns: Column of the texts, and kept columns.
        loading: Arguments of ``load_encoder``.
        overwrite: Make the shard again.
        progress: Progress display; advances with every batch.
        as_json: Print an object instead of a line.
    """
    from tain.cli.models import load_encoder
    from tain.scale.shards import ShardedRun, encode_shard
    from tain.text.parts import Share

    share = Share.parse(shard)
    run = ShardedRun(source=texts, folder=folder, count=share.count, **columns, options=options)
    run.refuse(share.number)
    run.rows(share.number)  # errors in files are reported before torch is loaded
    made = encode_shard(load_encoder(model, progress=progress, **loading), run, share.number, overwrite=overwrite, progress=progress)
    if made.blank and not made.skipped:
        progress.warn(f"{made.blank:,} blank lines were skipped: row numbers count texts, not lines")
    if as_json:
        figures = {"file": str(made.path), "shard": share.number, "shards": share.count, "texts": made.texts, "dim": made.dim}
        figures |= {"truncated": made.truncated, "blank": made.blank, "resumed": made.resumed, "skipped": made.skipped}
        print(json.dumps({**figures, "texts_per_s": round(made.texts_per_s, 1)}, ensure_ascii=False))
    elif made.skipped:
        print(f"shard {shard} is complete: {made.texts:,} vectors of {made.dim} dimensions in {made.path}")
    else:
        resumed = f" ({made.resumed:,} from an earlier run)" if made.resumed else ""
        print(
            f"shard {shard}: {made.texts:,} vectors{resumed} of {made.dim} dimensions, {made.texts_per_s:,.0f} texts/s, saved in {made.path}"
        )


def encode_all_shares(
    model: str,
    texts: str,
    folder: Path,
    count: int | None,
    options: dict[str, Any],
    columns: dict[str, Any],
    loading: dict[str, Any],
    cluster: dict[str, Any],
    *,
    progress: "Progress",
    as_json: bool,
) -> None:
    """Encode all shares with Ray and print a line about them; arguments as in ``encode_share``, ``cluster`` as in ``encode_with_ray``."""
    from functools import partial

    from tain.cli.models import load_encoder
    from tain.foundation.progress import Progress
    from tain.scale.ray_run import encode_with_ray
    from tain.scale.shards import ShardedRun

    count = SHARDS if count is None else count
    run = ShardedRun(source=texts, folder=folder, count=count, **columns, options=options)
    run.refuse(1)
    run.rows(1)
    load = partial(load_encoder, model, progress=Progress.mute(), **loading)
    made = encode_with_ray(load, run, **cluster, progress=progress)
    blank, skipped = sum(shard.blank for shard in made), sum(shard.skipped for shard in made)
    total = sum(shard.texts for shard in made)
    if blank:
        progress.warn(f"{blank:,} blank lines were skipped: row numbers count texts, not lines")
    if as_json:
        figures = {"folder": str(folder), "shards": count, "skipped": skipped, "texts": total, "dim": made[0].dim, "blank": blank}
        print(json.dumps(figures | {"truncated": sum(shard.truncated for shard in made)}, ensure_ascii=False))
        return
    earlier = f" ({skipped:,} from an earlier run)" if skipped else ""
    print(f"{total:,} vectors of {made[0].dim} dimensions in {count:,} shards{earlier}, saved in {folder}")


def merge_into(path: Path, folder: Path, *, overwrite: bool, progress: "Progress", as_json: bool) -> None:
    """Join the shards of a folder and print a line about the file."""
    from tain.scale.shards import merge_shards

    made = merge_shards(folder, path, overwrite=overwrite, progress=progress)
    if as_json:
        figures = {"file": str(made.path), "shards": made.shards, "texts": made.texts, "dim": made.dim}
        print(json.dumps({**figures, "truncated": made.truncated, "blank": made.blank}, ensure_ascii=False))
        return
    print(f"{made.texts:,} vectors of {made.dim} dimensions from {made.shards:,} shards, saved in {made.path}")
