"""What is refused before Ray starts."""

import sys

import pytest

from tain.cli.main import main
from tain.foundation.errors import UserError
from tain.scale.ray_run import encode_with_ray
from tain.scale.shards import ShardedRun


def test_without_ray_it_says_what_to_install(tmp_path, hash_embedder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r'--ray needs Ray, which is not installed: run pip install "tain\[scale\]"'):
        encode_with_ray(hash_embedder, ShardedRun(source="texts.txt", folder=tmp_path, count=2))


def test_no_workers_are_refused(tmp_path, hash_embedder):
    with pytest.raises(UserError, match="workers is 0, but shards need at least one"):
        encode_with_ray(hash_embedder, ShardedRun(source="texts.txt", folder=tmp_path, count=2), workers=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray", "--shard", "1/2"], "--ray encodes all shards, but --shard is given"),
        (["--ray", "--merge", "folder"], "--ray encodes all shards, but --merge is given"),
        (["--workers", "2"], "--shards, --workers and --address are for --ray"),
        (["--shards", "2"], "--shards, --workers and --address are for --ray"),
        (["--ray", "--resume"], "an interrupted shard is continued by itself"),
    ],
)
def test_options_of_ray_are_refused_without_it(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["encode", "tain-mini", "texts.txt", "-o", "out", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
