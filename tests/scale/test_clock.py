"""A clock that is set back, or files from the future, change nothing: no decision depends on the time of day or on the age of a file."""

import ast
import os
import time
from pathlib import Path

import numpy as np
import pytest

from tain.foundation.files import LeftoverWarning, whole_folder
from tain.foundation.locks import only_writer

SOURCE = Path(__file__).parents[2] / "src" / "tain"

# what the time of day is shown in, and the one comparison of a file with itself, for equality
SHOWN = {
    "recipes/pretrain/recipe.py": {"time.time"},  # a line of the log
    "serving/service.py": {"time.time"},  # when a model was loaded, for its description
    "serving/dialects/rerank.py": {"time.time"},  # "created" of an answer
    "serving/logs.py": {"datetime.now"},  # a line of the log
    "text/kept.py": {"st_mtime_ns"},  # whether a file changed while it was read
}
_OF_THE_CLOCK = {
    "time.time",
    "time.time_ns",
    "datetime.now",
    "datetime.utcnow",
    "date.today",
    "st_mtime",
    "st_mtime_ns",
    "st_ctime",
    "getmtime",
}


def clock_uses(path: Path) -> set[str]:
    """Names of wall-clock functions and file times in a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            whole = f"{node.value.id}.{node.attr}" if isinstance(node.value, ast.Name) else node.attr
            found |= {whole, node.attr} & _OF_THE_CLOCK
    return found


def test_the_time_of_day_is_only_shown():
    found = {path.relative_to(SOURCE).as_posix(): clock_uses(path) for path in SOURCE.rglob("*.py")}
    assert {name: uses for name, uses in found.items() if uses} == SHOWN


@pytest.fixture
def clock_set_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock is an hour before the last one."""
    now = [time.time()]

    def earlier() -> float:
        now[0] -= 3600
        return now[0]

    monkeypatch.setattr(time, "time", earlier)


def from_the_future(folder: Path) -> None:
    later = time.time() + 10**7
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (later, later))


@pytest.mark.usefixtures("clock_set_back")
def test_leftovers_and_locks_from_the_future_are_handled_like_others(tmp_path):
    (tmp_path / ".out.partial-0a1b2c3d").mkdir()
    (tmp_path / ".out.lock").write_text("1")  # of a process that was killed
    from_the_future(tmp_path)
    with only_writer(tmp_path / "out"), pytest.warns(LeftoverWarning, match="0a1b2c3d"), whole_folder(tmp_path / "out") as partial:
        (partial / "weights").write_text("all")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("clock_set_back")
def test_an_index_from_the_future_is_appended_to_and_deleted_from(tmp_path):
    from tain.ranking.index import CandidateIndex

    index = CandidateIndex.create(tmp_path / "index", model="m", fingerprint="f", dim=4)
    rows = index.append(["a", "b"], np.eye(4, dtype=np.float32)[:2])
    from_the_future(tmp_path / "index")
    again = CandidateIndex.open(tmp_path / "index")
    again.append(["c"], np.eye(4, dtype=np.float32)[2:3])
    again.delete(list(rows)[:1])
    assert [text for _, text in CandidateIndex.open(tmp_path / "index").live_texts()] == ["b", "c"]


@pytest.mark.usefixtures("clock_set_back")
def test_a_shard_is_skipped_and_made_again_whatever_the_time(tmp_path, hash_embedder):
    from tain.scale.shards import ShardedRun, encode_shard

    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")
    run = ShardedRun(source=str(tmp_path / "texts.txt"), folder=tmp_path / "shards", count=1)
    made = encode_shard(hash_embedder(), run, 1)
    from_the_future(tmp_path)
    assert encode_shard(hash_embedder(), run, 1).skipped
    made.path.write_bytes(made.path.read_bytes()[:-1])
    assert not encode_shard(hash_embedder(), run, 1).skipped
