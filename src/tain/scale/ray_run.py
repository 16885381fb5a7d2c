"""Encoding all shards of a run with Ray: one actor per worker, which loads the model once."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.encode_to_file import ResumableEncoder
from tain.scale.shards import EncodedShard, ShardedRun, encode_shard


def encode_with_ray(
    load: Callable[[], ResumableEncoder],
    run: ShardedRun,
    *,
    address: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[EncodedShard]:
    """Encode every shard of a run with Ray Data.

    Each actor calls ``encode_shard``, so the files are those that separate processes write, and a second call skips finished shards. Ray
    restarts an actor that dies and gives it the same shard again.

    Args:
        load: Loads the encoder, once per actor; it is sent to other processes, which need tain and the same paths.
        run: The run. Its folder and files must be reachable from every machine.
        address: Address of a Ray cluster; default: a cluster in this machine, which ends with the call.
        workers: Number of actors; default: one per GPU, or one per processor core if there is no GPU.
        overwrite: Make finished shards again.
        progress: Told about every shard.

    Returns:
        The shards, in order.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or a shard cannot be encoded; shards that are finished by then are kept.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}, but shards need at least one: give 1 or more")
    ray, data = _import_ray()
    progress = progress or Progress.silent()
    is_path = not run.source.startswith("hf:")
    run = replace(run, source=os.path.abspath(run.source) if is_path else run.source, folder=Path(run.folder).absolute())  # noqa: PTH100
    found: list[tuple[int, EncodedShard]] = []
    with _cluster(ray, address), progress.task("encode", None) as task:
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
        actors = min(workers or gpus or cores, run.count)
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        shards = data.from_items([{"number": number} for number in range(1, run.count + 1)], override_num_blocks=run.count)
        made = shards.map_batches(
            _Worker,
            batch_size=1,
            compute=data.ActorPoolStrategy(size=actors),
            fn_constructor_args=(load, run, overwrite),
            num_cpus=max(1, cores // actors),  # Ray gives torch as many threads
            num_gpus=min(1, gpus / actors) if gpus else None,
        )
        for row in made.iter_rows():
            if row["refusal"]:
                raise UserError(row["refusal"])
            fields = json.loads(row["shard"])
            shard = EncodedShard(**{**fields, "path": Path(fields["path"])})
            found.append((row["number"], shard))
            task.advance(shard.texts)
    return [shard for _, shard in sorted(found, key=lambda pair: pair[0])]


class _Worker:
    """Encodes the shards whose numbers it is given; an actor of Ray Data."""

    def __init__(self, load: Callable[[], ResumableEncoder], run: ShardedRun, overwrite: bool) -> None:
        self._run = run
        self._overwrite = overwrite
        self._refusal = ""
        try:
            self._embedder = load()
        except UserError as error:  # raised here, it would be buried in Ray's own error
            self._refusal = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int] | list[str]]:
        number = int(batch["number"][0])
        shard, refusal = "", self._refusal
        if not refusal:
            try:
                made = encode_shard(self._embedder, self._run, number, overwrite=self._overwrite, progress=Progress.mute())
                shard = json.dumps(asdict(made), default=str)
            except UserError as error:
                refusal = str(error)
        return {"number": [number], "shard": [shard], "refusal": [refusal]}


def _import_ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError('--ray needs Ray, which is not installed: run pip install "tain[scale]", or encode with --shard') from None
    return ray, ray.data


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect to a cluster, or start one, unless this process is connected already."""
    if ray.is_initialized():
        yield
        return
    options = {"address": address} if address else {"include_dashboard": False}
    try:
        ray.init(**options, logging_level="ERROR", log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the Ray cluster at {address or 'this machine'} cannot be used ({first}): check --address") from None
    try:
        yield
    finally:
        ray.shutdown()
