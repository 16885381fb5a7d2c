"""Ray encodes the same shards, to the same bytes, as separate processes; a killed worker costs time and no row."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.scale.label_shards import LabelRun, label_shard
from tain.scale.ray_run import encode_with_ray, label_with_ray, search_with_ray
from tain.scale.shards import ShardedRun, encode_shard, merge_shards
from tain.scale.split_search import SplitIndex, search_part

ray = pytest.importorskip("ray", reason="Ray is not installed")

TEXTS = [f"text number {number} of a few" for number in range(60)]
SLOW = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from conftest import HashEmbedder, HashLabeller, HashRanker

class SlowLabeller(HashLabeller):
    def predict(self, texts, **settings):
        Path({marks!r}, f"{{os.getpid()}}-{{time.monotonic_ns()}}").touch()
        time.sleep(0.5)
        return super().predict(texts, **settings)

class SlowRanker(HashRanker):
    def encode_candidates(self, texts, **settings):
        Path({marks!r}, f"{{os.getpid()}}-{{time.monotonic_ns()}}").touch()
        time.sleep(0.5)
        return super().encode_candidates(texts, **settings)

class Slow(HashEmbedder):
    def encode(self, texts, **settings):
        Path({marks!r}, f"{{os.getpid()}}-{{time.monotonic_ns()}}").touch()
        time.sleep(0.5)
        return super().encode(texts, **settings)
"""


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Any:
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False, object_store_memory=100 << 20)
    yield
    ray.shutdown()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def load(code: str, name: str) -> Any:
    """Build the slow model in the worker, whose own modules know nothing of this test."""
    names: dict[str, Any] = {}
    exec(code, names)
    return names[name]()


def loader(tmp_path: Path, name: str = "Slow") -> Any:
    ray.cloudpickle.register_pickle_by_value(__import__("sys").modules[__name__])
    (tmp_path / "marks").mkdir(exist_ok=True)
    return partial(load, SLOW.format(folder=str(Path(__file__).parent), marks=str(tmp_path / "marks")), name)


def test_bytes_are_equal_with_and_without_ray(source, tmp_path, hash_embedder):
    alone = ShardedRun(source=str(source), folder=tmp_path / "alone", count=5)
    for number in range(1, 6):
        encode_shard(hash_embedder(), alone, number)
    together = ShardedRun(source=str(source), folder=tmp_path / "together", count=5)
    made = encode_with_ray(loader(tmp_path), together, workers=2)
    assert [shard.path for shard in made] == [together.file(number) for number in range(1, 6)]
    for number in range(1, 6):
        assert together.file(number).read_bytes() == alone.file(number).read_bytes()
        assert together.file(number).with_suffix(".json").read_bytes() == alone.file(number).with_suffix(".json").read_bytes()
    again = encode_with_ray(loader(tmp_path), together, workers=1)
    assert all(shard.skipped for shard in again)


@contextmanager
def killing_one(tmp_path: Path) -> Iterator[None]:
    """Kill the first worker that begins to compute."""
    killed: list[int] = []

    def kill_one() -> None:
        deadline_s = time.monotonic() + 600
        while not (marks := list((tmp_path / "marks").iterdir())) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        killed.append(int(marks[0].name.partition("-")[0]))
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    yield
    killer.join()
    assert killed and killed[0] != os.getpid()


def test_a_killed_worker_costs_no_row(source, tmp_path, hash_embedder):
    run = ShardedRun(source=str(source), folder=tmp_path / "shards", count=6)
    load_slow = loader(tmp_path)
    with killing_one(tmp_path):
        made = encode_with_ray(load_slow, run, workers=2)
    assert sum(shard.texts for shard in made) == len(TEXTS)
    merged = merge_shards(run.folder, tmp_path / "merged.npy").path
    np.testing.assert_array_equal(np.load(merged), hash_embedder().encode(TEXTS))


def test_labels_are_equal_with_and_without_ray_and_a_killed_worker_costs_none(source, tmp_path, hash_labeller):
    alone, together = (LabelRun(source=str(source), folder=tmp_path / name, count=4) for name in ("alone", "together"))
    for number in range(1, 5):
        label_shard(hash_labeller(), alone, number)
    load_slow = loader(tmp_path, "SlowLabeller")
    with killing_one(tmp_path):
        made = label_with_ray(load_slow, together, workers=2)
    assert sum(shard.texts for shard in made) == len(TEXTS)
    for path in alone.folder.iterdir():
        assert (together.folder / path.name).read_bytes() == path.read_bytes()
    assert all(shard.skipped for shard in label_with_ray(load_slow, together, workers=1))


def test_hits_are_equal_with_and_without_ray_and_a_killed_worker_costs_none(source, tmp_path, hash_ranker):
    alone, together = (SplitIndex(folder=tmp_path / name, count=3, source=str(source)) for name in ("alone", "together"))
    expected = [search_part(hash_ranker(), alone, number, contexts=TEXTS[:4], k=5) for number in range(1, 4)]
    load_slow = loader(tmp_path, "SlowRanker")
    with killing_one(tmp_path):
        found = search_with_ray(load_slow, together, TEXTS[:4], k=5, workers=2)
    assert found == expected
    again = SplitIndex(folder=together.folder, count=3)
    assert search_with_ray(load_slow, again, TEXTS[:4], k=5, workers=1) == expected


def test_a_refusal_in_a_worker_is_one_line(source, tmp_path):
    source.write_bytes(source.read_bytes() + b"\xff\n")
    with pytest.raises(UserError, match="is not UTF-8") as refused:
        encode_with_ray(loader(tmp_path), ShardedRun(source=str(source), folder=tmp_path / "shards", count=2), workers=1)
    assert "\n" not in str(refused.value)
