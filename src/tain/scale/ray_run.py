"""All shards of a run with Ray: one actor per worker, which loads the model once."""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.encode_to_file import ResumableEncoder
from tain.scale.label_shards import LabelledShard, LabelRun, Labels, label_shard
from tain.scale.shards import EncodedShard, ShardedRun, encode_shard
from tain.scale.split_search import PartHits, Searcher, SplitIndex, as_part, search_part

_Loaded = TypeVar("_Loaded")


def run_with_ray(
    load: Callable[[], _Loaded],
    work: Callable[[_Loaded, int], dict[str, Any]],
    *,
    count: int,
    what: str,
    address: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Do the work of every shard with Ray Data.

    Ray restarts an actor that dies and gives it the same shard again, so the work of a shard must be repeatable.

    Args:
        load: Loads the model, once per actor; it is sent to other processes, which need tain and the same paths.
        work: Does one shard, by its number from 1, and returns what a JSON object can hold.
        count: Number of shards.
        what: Name of the work in the progress display.
        address: Address of a Ray cluster; default: a cluster in this machine, which ends with the call.
        workers: Number of actors; default: one per GPU, or one per processor core if there is no GPU.
        progress: Progress display; advances by the ``texts`` of each shard.

    Returns:
        What ``work`` returned for each shard, in order.

    Raises:
        UserError: Ray is not installed, the cluster cannot be reached, or a shard is refused; shards that are finished by then are kept.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}, but shards need at least one: give 1 or more")
    ray, data = _import_ray()
    progress = progress or Progress.silent()
    found: dict[int, dict[str, Any]] = {}
    with _cluster(ray, address), progress.task(what, None) as task:
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), max(1, int(resources.get("CPU", 1)))
        actors = min(workers or gpus or cores, count)
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        shards = data.from_items([{"number": number} for number in range(1, count + 1)], override_num_blocks=count)
        made = shards.map_batches(
            _Worker,
            batch_size=1,
            compute=data.ActorPoolStrategy(size=actors),
            fn_constructor_args=(load, work),
            num_cpus=max(1, cores // actors),  # Ray gives torch as many threads
            num_gpus=min(1, gpus / actors) if gpus else None,
        )
        for row in made.iter_rows():
            if row["refusal"]:
                raise UserError(row["refusal"])
            found[row["number"]] = json.loads(row["made"])
            task.advance(found[row["number"]].get("texts", 0))
    return [found[number] for number in sorted(found)]


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

    Each actor calls ``encode_shard``, so the files are those that separate processes write, and a second call skips finished shards.

    Args:
        load: Loads the encoder, once per actor.
        run: The run. Its folder and files must be reachable from every machine.
        address: As in ``run_with_ray``.
        workers: As in ``run_with_ray``.
        overwrite: Make finished shards again.
        progress: Progress display; advances with every shard.

    Returns:
        The shards, in order.

    Raises:
        UserError: As ``run_with_ray``, or a shard cannot be encoded.
    """
    run = replace(run, source=absolute_source(run.source), folder=Path(run.folder).absolute())
    work = partial(_encoded, run=run, overwrite=overwrite)
    made = run_with_ray(load, work, count=run.count, what="encode", address=address, workers=workers, progress=progress)
    return [EncodedShard(**{**fields, "path": Path(fields["path"])}) for fields in made]


def label_with_ray(
    load: Callable[[], Labels],
    run: LabelRun,
    *,
    address: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> list[LabelledShard]:
    """Label every shard of a run with Ray Data; each actor calls ``label_shard``. Arguments as in ``encode_with_ray``."""
    run = replace(run, source=absolute_source(run.source), folder=Path(run.folder).absolute())
    work = partial(_labelled, run=run, overwrite=overwrite)
    made = run_with_ray(load, work, count=run.count, what="label", address=address, workers=workers, progress=progress)
    return [LabelledShard(**{**fields, "path": Path(fields["path"])}) for fields in made]


def search_with_ray(
    load: Callable[[], Searcher],
    index: SplitIndex,
    contexts: Sequence[str],
    *,
    k: int,
    probes: int | None = None,
    address: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> list[PartHits]:
    """Build and search every part of a split index with Ray Data; each actor calls ``search_part``.

    Args:
        load: Loads the ranker, once per actor.
        index: The index.
        contexts: Query texts.
        k: Hits per context and part.
        probes: As in ``search``.
        address: As in ``run_with_ray``.
        workers: As in ``run_with_ray``.
        progress: Progress display; advances with every part.

    Raises:
        UserError: As ``run_with_ray`` and ``search_part``.
    """
    source = None if index.source is None else absolute_source(index.source)
    index = replace(index, source=source, folder=index.folder.absolute())
    work = partial(_searched, index=index, contexts=list(contexts), k=k, probes=probes)
    made = run_with_ray(load, work, count=index.count, what="search", address=address, workers=workers, progress=progress)
    return [as_part(part) for part in made]


def absolute_source(source: str) -> str:
    """Name of a source that other processes can open; hub data sets keep theirs."""
    return source if source.startswith("hf:") else os.path.abspath(source)  # noqa: PTH100


def _encoded(embedder: ResumableEncoder, number: int, *, run: ShardedRun, overwrite: bool) -> dict[str, Any]:
    return asdict(encode_shard(embedder, run, number, overwrite=overwrite, progress=Progress.mute()))


def _labelled(model: Labels, number: int, *, run: LabelRun, overwrite: bool) -> dict[str, Any]:
    return asdict(label_shard(model, run, number, overwrite=overwrite, progress=Progress.mute()))


def _searched(ranker: Searcher, number: int, *, index: SplitIndex, contexts: list[str], k: int, probes: int | None) -> dict[str, Any]:
    return asdict(search_part(ranker, index, number, contexts=contexts, k=k, probes=probes, progress=Progress.mute()))


class _Worker:
    """Does the shards whose numbers it is given; an actor of Ray Data."""

    def __init__(self, load: Callable[[], Any], work: Callable[[Any, int], dict[str, Any]]) -> None:
        self._work = work
        self._refusal = ""
        try:
            self._model = load()
        except UserError as error:  # raised here, it would be buried in Ray's own error
            self._refusal = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int] | list[str]]:
        number = int(batch["number"][0])
        made, refusal = "", self._refusal
        if not refusal:
            try:
                made = json.dumps(self._work(self._model, number), default=str)
            except UserError as error:
                refusal = str(error)
        return {"number": [number], "made": [made], "refusal": [refusal]}


def _import_ray() -> tuple[Any, Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry
    try:
        import ray
        import ray.data
    except ImportError:
        raise UserError('--ray needs Ray, which is not installed: run pip install "tain[scale]", or leave --ray out') from None
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
