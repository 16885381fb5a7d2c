"""What a killed process leaves beside an output is named and removed by the next run, and what a running one writes is not."""

import subprocess
import sys
from pathlib import Path

import pytest

from tain.foundation.errors import UserError
from tain.foundation.files import LeftoverWarning, refuse_existing, whole_file, whole_folder

_WRITER = """
import sys, time
from pathlib import Path
from tain.foundation.files import whole_file, whole_folder
whole = whole_folder if sys.argv[2] == "folder" else whole_file
with whole(Path(sys.argv[1])) as partial:
    (partial / "weights" if sys.argv[2] == "folder" else partial).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def write_all(target: Path, kind: str) -> None:
    with (whole_folder if kind == "folder" else whole_file)(target) as partial:
        (partial / "weights" if kind == "folder" else partial).write_text("all")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_leftovers_of_dead_processes_go_and_those_of_running_ones_stay(tmp_path, kind, recwarn):
    target = tmp_path / "out"
    running = subprocess.Popen([sys.executable, "-c", _WRITER, str(target), kind], stdout=subprocess.PIPE)
    assert running.stdout is not None
    try:
        assert running.stdout.readline().strip() == b"writing"
        (left,) = tmp_path.iterdir()
        write_all(tmp_path / "other", kind)
        write_all(target, kind)
        assert left.is_dir()
        assert not [warning for warning in recwarn if warning.category is LeftoverWarning]
    finally:
        running.kill()
        running.wait()
        running.stdout.close()
    target.unlink() if kind == "file" else (target / "weights").unlink()
    if kind == "folder":
        target.rmdir()
    with pytest.warns(LeftoverWarning, match=rf"'{left}' was left by an interrupted run and is removed"):
        write_all(target, kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "out"]


def test_names_that_only_look_like_leftovers_stay(tmp_path):
    for name in (".out.partial-notes", ".out.partial", ".out2.partial-0a1b2c3d", ".out.partial-0a1b2c3de"):
        (tmp_path / name).mkdir()
    (tmp_path / ".out.partial-00000000").symlink_to(tmp_path / ".out.partial-notes")
    write_all(tmp_path / "out", "file")
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_an_output_whose_folder_is_removed_meanwhile_is_one_line(tmp_path, kind):
    import shutil

    (tmp_path / "inner").mkdir()
    with (
        pytest.raises(UserError, match="was removed while it was written: leave its folder alone, and run again"),
        (whole_folder if kind == "folder" else whole_file)(tmp_path / "inner" / "out") as partial,
    ):
        (partial / "weights" if kind == "folder" else partial).write_text("half")
        shutil.rmtree(tmp_path / "inner")
    assert list(tmp_path.iterdir()) == []


def test_the_test_file_of_a_process_killed_at_the_start_goes_too(tmp_path):
    """A process tries whether it can write by an empty file; a file with content is not one."""
    left, foreign = tmp_path / ".out.partial-0a1b2c3d", tmp_path / ".out.partial-0a1b2c3e"
    left.touch()
    foreign.write_text("notes")
    with pytest.warns(LeftoverWarning, match=left.name):
        write_all(tmp_path / "out", "folder")
    assert not left.exists()
    assert foreign.read_text() == "notes"


def test_leftovers_go_as_soon_as_the_output_is_checked(tmp_path):
    """A command that writes its output in another way checks the name too."""
    left = tmp_path / ".out.npy.partial-0a1b2c3d"
    left.touch()
    with pytest.warns(LeftoverWarning, match=left.name):
        refuse_existing(tmp_path / "out.npy", overwrite=False)
    assert not left.exists()
