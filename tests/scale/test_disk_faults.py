"""Disks that are full or read-only, outputs that vanish, and inputs that change: one line, exit code 2, nothing half written."""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # else the process dies where a full disk would raise
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from tain.cli.main import main
main(sys.argv[2:])
"""
HERE = ["--compute-dtype", "float32", "--device", "cpu"]


@pytest.fixture
def texts(tmp_path: Path, sentences: list[str]) -> Path:
    path = tmp_path / "texts.txt"
    letters = "abcdefghijklmnopqrstuvwxyz"  # the tokenizer knows no digits, and equal vectors would be packed to almost nothing
    path.write_text("".join(f"{first} {second} {text}\n" for first in letters for second in "xyz" for text in sentences))
    return path


def tain(*arguments: object, most_bytes: int | None = None, code: str = _LIMITED) -> tuple[int, str]:
    """Run tain in its own process, where no file may grow beyond a size; returns its exit code and error output."""
    limit = resource.RLIM_INFINITY if most_bytes is None else most_bytes
    command = [sys.executable, "-c", code, str(limit), *map(str, arguments)]
    # Python 3.11.2 keeps a .pyc that the limit cut off, which no later process could read
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    return done.returncode, "\n".join(line for line in done.stderr.splitlines() if line.startswith(("error", "Traceback")))


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("kind", ["vectors.npy", "vectors.parquet", "vectors.safetensors", "shards"])
def test_a_full_disk_ends_encoding_with_one_line(tmp_path, bert_folder, texts, kind):
    more = ["--shard", "1/2"] if kind == "shards" else []
    code, error = tain("encode", bert_folder, texts, "-o", tmp_path / kind, *more, *HERE, most_bytes=4_000)
    assert code == 2, error
    assert error.startswith("error: output ") and "cannot be written (File too large)" in error and error.count("\n") == 0
    left = visible(tmp_path) - {"texts.txt"}
    assert not left or (left == {"shards"} and not visible(tmp_path / "shards"))


def test_a_full_disk_ends_mirroring_with_one_line(tmp_path, bert_folder, texts):
    where = ["-o", tmp_path / "out", "--max-tokens", "30", "--batch-texts", "64", "--device", "cpu", "--dtype", "float32"]
    code, error = tain("mirror", bert_folder, texts, *where, most_bytes=20_000)
    assert code == 2, error
    assert "cannot be written" in error and error.count("\n") == 0
    assert visible(tmp_path) == {"texts.txt"}


def test_a_full_disk_ends_merging_with_one_line(tmp_path, bert_folder, texts):
    for number in (1, 2):
        assert tain("encode", bert_folder, texts, "-o", tmp_path / "shards", "--shard", f"{number}/2", *HERE)[0] == 0
    code, error = tain("encode", "--merge", tmp_path / "shards", "-o", tmp_path / "out.npy", most_bytes=20_000)
    assert code == 2, error
    assert "cannot be written (File too large): free disk space" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["shards", "texts.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_read_only_folder_is_refused_before_the_model_is_loaded(tmp_path, bert_folder, texts):
    (tmp_path / "fixed").mkdir(mode=0o555)
    code, error = tain("encode", bert_folder, texts, "-o", tmp_path / "fixed" / "out.npy", *HERE)
    assert code == 2
    assert "no permission" in error


_REMOVING = """
import shutil, sys
from pathlib import Path
from tain.models import encode_to_file
real = encode_to_file._keep
def keep_and_remove(run, folder):
    real(run, folder)
    shutil.rmtree(folder.parent)
encode_to_file._keep = keep_and_remove
from tain.cli.main import main
main(sys.argv[2:])
"""


@pytest.mark.parametrize("kind", ["vectors.npy", "vectors.parquet"])
def test_an_output_folder_that_is_removed_on_the_way_is_one_line(tmp_path, bert_folder, texts, kind):
    (tmp_path / "inner").mkdir()
    code, error = tain("encode", bert_folder, texts, "-o", tmp_path / "inner" / kind, *HERE, code=_REMOVING)
    assert code == 2, error
    assert error.startswith("error: output ") and error.count("\n") == 0
    assert visible(tmp_path) == {"texts.txt"}


def test_a_second_process_with_the_same_shard_is_refused(tmp_path, hash_embedder):
    from tain.foundation.errors import UserError
    from tain.scale.shards import ShardedRun, encode_shard

    (tmp_path / "texts.txt").write_text("one\ntwo\nthree\n")
    run = ShardedRun(source=str(tmp_path / "texts.txt"), folder=tmp_path / "shards", count=2)
    started = tmp_path / "started"
    writer = (
        "import sys, time\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from conftest import HashEmbedder\nfrom tain.scale.shards import ShardedRun, encode_shard\n"
        "class Slow(HashEmbedder):\n"
        "    def encode(self, texts, **settings):\n"
        f"        Path({str(started)!r}).touch()\n        time.sleep(60)\n"
        f"encode_shard(Slow(), ShardedRun(source={run.source!r}, folder=Path({str(run.folder)!r}), count=2), 1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", writer])
    try:
        import time

        deadline_s = time.monotonic() + 120
        while not started.exists():
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.05)
        with pytest.raises(UserError, match=f"is being written by process {process.pid}"):
            encode_shard(hash_embedder(), run, 1)
        encode_shard(hash_embedder(), run, 2)  # another shard is free
    finally:
        process.kill()
        process.wait()
    assert encode_shard(hash_embedder(), run, 1).texts == 2


def test_a_file_that_changes_while_it_is_encoded_is_one_line(tmp_path, hash_embedder):
    from tain.foundation.errors import UserError
    from tain.scale.shards import ShardedRun, encode_shard

    source = tmp_path / "texts.txt"
    source.write_text("".join(f"text {number}\n" for number in range(100)))

    class Growing(hash_embedder):
        def encode(self, texts, **settings):
            with source.open("a") as file:
                file.write("more\n")
            return super().encode(texts, **settings)

    run = ShardedRun(source=str(source), folder=tmp_path / "shards", count=1, options={"window_texts": 10})
    with pytest.raises(UserError, match="changed while it was read, so its texts may be mixed"):
        encode_shard(Growing(), run, 1)
    assert not visible(tmp_path / "shards")
    shutil.rmtree(run.folder)
