"""Each output has one writer; locks of dead processes are ignored."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tain.foundation.errors import UserError
from tain.foundation.locks import lock_file, only_writer, writes_output

pytest.importorskip("fcntl")


@writes_output
def recipe(model: str, output: str | Path | None = None, *, inside=lambda: None) -> str:
    inside()
    return model


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path: Path):
    message = rf"out' is being written by process {os.getpid()}: wait for it, or choose another name"

    def again() -> None:
        with pytest.raises(UserError, match=message):
            recipe("m", str(tmp_path / "out"))
        assert recipe("m", tmp_path / "other") == "m"
        assert recipe("m") == "m"

    assert recipe("m", tmp_path / "out", inside=again) == "m"
    assert recipe("m", output=tmp_path / "out") == "m"
    assert names(tmp_path) == []


@pytest.mark.parametrize("exists", [True, False])
def test_names_that_lead_to_one_output_have_one_lock(exists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = tmp_path / "real" / "out"
    real.mkdir(parents=True)
    (tmp_path / "one").symlink_to(real)
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    if not exists:
        real.rmdir()
    monkeypatch.chdir(tmp_path / "real")
    others = [real, tmp_path / "two", tmp_path / "folder" / "out", tmp_path / "real" / ".." / "real" / "out", Path("out")]
    with only_writer(tmp_path / "one"):
        for other in others:
            with pytest.raises(UserError, match=f"is being written by process {os.getpid()}"), only_writer(other):
                pytest.fail("two writers")
    assert names(tmp_path / "real") == (["out"] if exists else [])
    with only_writer(tmp_path / "folder" / "other"), only_writer(real):
        pass


def test_an_output_in_a_folder_that_is_not_there_leaves_none(tmp_path: Path):
    with pytest.raises(ZeroDivisionError):
        recipe("m", tmp_path / "a" / "b" / "out", inside=lambda: 1 / 0)
    assert names(tmp_path) == []
    recipe("m", tmp_path / "a" / "out", inside=lambda: (tmp_path / "a" / "out").mkdir())
    assert names(tmp_path / "a") == ["out"]


def test_a_killed_writer_holds_nothing(tmp_path: Path):
    script = """
        import sys, time
        from pathlib import Path
        from tain.foundation.locks import only_writer
        with only_writer(Path(sys.argv[1])):
            print("ready", flush=True)
            time.sleep(600)
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "out")], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    with pytest.raises(UserError, match=f"is being written by process {writer.pid}:"), only_writer(tmp_path / "out"):
        pytest.fail("two writers")
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert lock_file(tmp_path / "out").exists()
    with only_writer(tmp_path / "out"):
        pass
    assert names(tmp_path) == []


def test_where_nothing_can_be_written_nothing_is_locked(tmp_path: Path):
    (tmp_path / "file").write_text("a file")
    with only_writer(tmp_path / "file" / "out"):  # refuse_existing tells what is wrong
        pass
    assert names(tmp_path) == ["file"]


def test_other_processes_of_the_same_run_do_not_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def second() -> None:
        monkeypatch.setenv("RANK", "1")
        assert recipe("m", tmp_path / "out") == "m"
        monkeypatch.delenv("RANK")

    recipe("m", tmp_path / "out", inside=second)


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path):
    (tmp_path / "notes").write_text("mine")
    lock_file(tmp_path / "out").symlink_to(tmp_path / "notes")
    recipe("m", tmp_path / "out")
    assert (tmp_path / "notes").read_text() == "mine"


@pytest.mark.parametrize("verb", ["mirror", "pretrain", "rank", "distil"])
def test_every_recipe_that_leaves_checkpoints_is_the_only_writer_of_its_output(verb: str, tmp_path: Path):
    import tain

    texts = [str(tmp_path / "texts.txt")] if verb == "pretrain" else ["a text"]
    with only_writer(tmp_path / "out"), pytest.raises(UserError, match=f"is being written by process {os.getpid()}"):
        getattr(tain, verb)("tain-mini", texts, tmp_path / "out")
