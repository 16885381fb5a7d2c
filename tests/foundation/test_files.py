import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from tain.foundation import files
from tain.foundation.errors import UserError
from tain.foundation.files import lies_inside, open_own, refuse_existing, refuse_files, whole_file, whole_folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def visible(folder: Path) -> list[str]:
    return [name for name in names(folder) if not name.startswith(".")]


@pytest.fixture(params=["one step", "two steps"])
def swap(request, monkeypatch):
    """Replace folders in one step where this system can, and once in the two steps of other systems."""
    if request.param == "two steps":
        monkeypatch.setattr(files, "_swap", lambda left, right: False)


def test_a_folder_appears_whole_and_leaves_nothing_else(tmp_path):
    with whole_folder(tmp_path / "new" / "out") as partial:
        (partial / "weights").write_text("all")
        assert not (tmp_path / "new" / "out").exists()
    assert (tmp_path / "new" / "out" / "weights").read_text() == "all"
    assert names(tmp_path / "new") == ["out"]


def test_weights_can_be_read_by_whom_other_files_can(tmp_path):
    weights = {"one": np.ones(2, dtype=np.float32)}
    with whole_folder(tmp_path / "out") as partial:
        (partial / "part").mkdir()
        save_file(weights, partial / "part" / "weights.safetensors")
        (partial / "text").write_text("all")
        (partial / "script").write_text("all")
        (partial / "script").chmod(0o755)
    with whole_file(tmp_path / "weights.safetensors") as partial:
        save_file(weights, partial)
    ordinary = (tmp_path / "out" / "text").stat().st_mode
    assert (tmp_path / "out" / "part" / "weights.safetensors").stat().st_mode == ordinary
    assert (tmp_path / "weights.safetensors").stat().st_mode == ordinary
    assert (tmp_path / "out" / "script").stat().st_mode == ordinary | 0o111


@pytest.mark.parametrize("name", ["x" * 240, "x" * 240 + "/out", "new/" + "x" * 240])
def test_a_name_that_is_too_long_is_refused_before_the_work(tmp_path, name):
    with pytest.raises(UserError, match="cannot be written"):
        refuse_existing(tmp_path / name, overwrite=False)
    assert not names(tmp_path)


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: File too large (os error 27)")]
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, error):
    for whole in (whole_folder, whole_file):
        with pytest.raises(UserError, match="free disk space, or choose another path"), whole(tmp_path / "out"):
            raise error
    for other in (OSError(errno.EIO, "broken"), SafetensorError("header too large")):
        with pytest.raises(type(other)), whole_folder(tmp_path / "out"):
            raise other
    assert not names(tmp_path)


def test_what_took_a_free_name_during_the_work_is_left_alone_and_the_work_kept(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"), whole_folder(tmp_path / "out"):
        pass
    with pytest.raises(UserError, match="the result is in"), whole_folder(tmp_path / "out", was_free=True) as partial:
        (partial / "weights").write_text("all")
    (kept,) = [path for path in tmp_path.iterdir() if path.name != "out"]
    assert (kept / "weights").read_text() == "all"
    assert not names(tmp_path / "out")


def test_a_file_appears_whole_and_leaves_nothing_else(tmp_path):
    with whole_file(tmp_path / "new" / "out.npy") as partial:
        partial.write_text("all")
        assert not (tmp_path / "new" / "out.npy").exists()
    assert (tmp_path / "new" / "out.npy").read_text() == "all"
    assert names(tmp_path / "new") == ["out.npy"]


@pytest.mark.parametrize("interrupt", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_no_trace(tmp_path, interrupt):
    with pytest.raises(interrupt), whole_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("half")
        raise interrupt
    with pytest.raises(interrupt), whole_file(tmp_path / "out.npy") as file:
        file.write_text("half")
        raise interrupt
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["folder", "file"])
@pytest.mark.parametrize("had_old", [False, True])
def test_a_process_killed_while_it_writes_leaves_the_name_as_it_was(tmp_path, kind, had_old):
    target = tmp_path / "out"
    written = target / "weights" if kind == "folder" else target
    if had_old:
        written.parent.mkdir(exist_ok=True)
        written.write_text("old")
    index = "partial / 'weights'" if kind == "folder" else "partial"
    script = (
        "import sys, time\nfrom pathlib import Path\n"
        f"from tain.foundation.files import whole_{kind}\n"
        f"with whole_{kind}(Path(sys.argv[1]), overwrite={had_old}) as partial:\n"
        f"    ({index}).write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"writing"
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert visible(tmp_path) == (["out"] if had_old else [])
    if had_old:
        assert written.read_text() == "old"

    # what the dead process left does not stand in the way of the next one
    with (whole_folder if kind == "folder" else whole_file)(target, overwrite=had_old) as partial:
        (partial / "weights" if kind == "folder" else partial).write_text("new")
    assert written.read_text() == "new"


def test_overwrite_keeps_the_old_folder_until_the_new_one_is_whole(tmp_path, swap):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with whole_folder(target, overwrite=True) as partial:
        (partial / "new").write_text("new")
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["out"]


def test_overwriting_never_leaves_the_name_empty(tmp_path):
    target = tmp_path / "out"
    (tmp_path / "left").mkdir()
    target.mkdir()
    if not files._swap(tmp_path / "left", target):
        pytest.skip("this disk cannot swap two names in one step")
    seen, done = [], threading.Event()

    def watch():
        while not done.is_set():
            seen.append(target.exists())

    watcher = threading.Thread(target=watch)
    watcher.start()
    for _ in range(100):
        with whole_folder(target, overwrite=True) as partial:
            (partial / "weights").write_text("all")
    done.set()
    watcher.join()
    assert seen
    assert all(seen)


def test_overwrite_that_fails_keeps_the_old_folder(tmp_path, swap):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(ValueError), whole_folder(target, overwrite=True):
        raise ValueError
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    rename = Path.rename
    monkeypatch.setattr(files, "_swap", lambda left, right: False)

    def fail_for_the_new_one(path, to):
        if ".partial-" in path.name:
            raise OSError("the disk went away")
        return rename(path, to)

    monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
    with pytest.raises(OSError, match="went away"), whole_folder(target, overwrite=True) as partial:
        (partial / "new").write_text("new")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


def test_overwriting_a_link_replaces_what_it_points_to(tmp_path, swap):
    kept = tmp_path / "elsewhere" / "kept"
    kept.mkdir(parents=True)
    (kept / "old").write_text("old")
    (tmp_path / "out").symlink_to(kept)
    with whole_folder(tmp_path / "out", overwrite=True) as partial:
        (partial / "new").write_text("new")
    assert (tmp_path / "out").is_symlink()
    assert names(kept) == ["new"]
    assert names(tmp_path) == ["elsewhere", "out"]
    (tmp_path / "file").symlink_to(kept / "new")
    with whole_file(tmp_path / "file", overwrite=True) as partial:
        partial.write_text("newer")
    assert (tmp_path / "file").is_symlink()
    assert (kept / "new").read_text() == "newer"
    (tmp_path / "dangling").symlink_to(kept / "none yet")
    with whole_file(tmp_path / "dangling", overwrite=True) as partial:
        partial.write_text("made")
    assert (kept / "none yet").read_text() == "made"


def test_links_that_the_user_did_not_name_are_replaced_and_not_followed(tmp_path, swap):
    (tmp_path / "kept").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "kept")
    with whole_folder(tmp_path / "out", overwrite=True, follow=False) as partial:
        (partial / "new").write_text("new")
    assert not (tmp_path / "out").is_symlink()
    assert names(tmp_path / "kept") == []
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "file").symlink_to(tmp_path / "notes")
    with whole_file(tmp_path / "file", overwrite=True, follow=False) as partial:
        partial.write_text("new")
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path):
    (tmp_path / "one").symlink_to(tmp_path / "other")
    (tmp_path / "other").symlink_to(tmp_path / "one")
    with pytest.raises(UserError, match="is a circular link: remove it, or choose another name"):
        refuse_existing(tmp_path / "one", overwrite=True)


def test_a_link_to_a_foreign_or_working_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_text("a photo")
    (tmp_path / "out").symlink_to(tmp_path / "photos")
    with pytest.raises(UserError, match="is a folder that tain did not write, so it is not replaced"):
        refuse_existing(tmp_path / "out", overwrite=True)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").symlink_to(tmp_path)
    with pytest.raises(UserError, match="would replace a whole working folder"):
        refuse_existing(tmp_path / "here", overwrite=True)


def test_our_own_files_are_opened_without_following_links_or_emptying_them(tmp_path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "notes")
    for settings in ({}, {"writable": True}, {"writable": True, "create": True}):
        with pytest.raises(UserError, match=r"link' is a link to .*notes', and links inside such a folder are not followed"):
            open_own(tmp_path / "link", **settings)
    with open_own(tmp_path / "notes", writable=True, create=True) as file:
        assert file.read() == b"mine"
    with open_own(tmp_path / "new", writable=True, create=True) as file:
        file.write(b"new")
    with open_own(tmp_path / "new") as file:
        assert file.read() == b"new"
    os.mkfifo(tmp_path / "pipe")
    for settings in ({}, {"writable": True}):
        with pytest.raises(UserError, match="is not a regular file"):  # and does not wait for a writer
            open_own(tmp_path / "pipe", **settings)
    with pytest.raises(FileNotFoundError):
        open_own(tmp_path / "none")


@pytest.mark.parametrize(
    ("part", "is_inside"),
    [
        ("", True),
        ("1_Pooling", True),
        ("a/b", True),
        ("..", False),
        ("a/../../b", False),
        ("/etc", False),
        ("..\\b", False),
        ("C:/b", False),
    ],
)
def test_paths_that_a_file_names_must_stay_in_its_folder(part, is_inside, tmp_path):
    assert lies_inside(tmp_path, part) == is_inside


@pytest.mark.parametrize("whole", [whole_folder, whole_file])
def test_what_appeared_meanwhile_is_left_alone_and_the_result_is_kept(tmp_path, whole):
    target = tmp_path / "out"
    with pytest.raises(UserError, match="was created by something else during the run") as caught, whole(target) as partial:
        (partial / "weights" if whole is whole_folder else partial).write_text("mine")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    (kept,) = set(visible(tmp_path)) - {"out"}
    assert kept in str(caught.value)
    path = tmp_path / kept
    assert (path / "weights" if path.is_dir() else path).read_text() == "mine"


def test_an_output_that_exists_is_refused_before_anything_is_written(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(UserError) as caught, whole_folder(target):
        pytest.fail("the block must not run")
    assert str(caught.value) == f"output {str(target)!r} already exists: choose another name or give --overwrite"


def test_a_dangling_link_counts_as_taken(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="already exists"):
        refuse_existing(tmp_path / "out", overwrite=False)


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "notes").write_text("text")
    with pytest.raises(UserError, match=r"is below .*notes', which is a file"):
        refuse_existing(tmp_path / "notes" / "deep" / "out", overwrite=False)


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "out/..", "~"])
def test_working_folders_and_those_around_them_are_never_replaced(tmp_path, monkeypatch, target):
    (tmp_path / "project" / "out").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    path = Path.home() if target == "~" else Path(target)
    with pytest.raises(UserError, match="would replace a whole working folder"):
        refuse_existing(path, overwrite=True)


def test_overwrite_does_not_turn_a_folder_into_a_file_nor_back(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    with pytest.raises(UserError, match="is a folder, but the output is a file"), whole_file(tmp_path / "folder", overwrite=True):
        pytest.fail("the block must not run")
    with pytest.raises(UserError, match="is a file, but the output is a folder"), whole_folder(tmp_path / "file", overwrite=True):
        pytest.fail("the block must not run")


def test_a_name_the_disk_cannot_hold_is_refused_at_once(tmp_path):
    with pytest.raises(UserError, match="cannot be written"), whole_folder(tmp_path / ("x" * 300)):
        pytest.fail("the block must not run")


def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # an administrator may write everywhere, whatever the mode says
    with pytest.raises(UserError, match="cannot be written: no permission in"):
        refuse_existing(tmp_path / "out", overwrite=False)


def test_a_folder_that_tain_did_not_write_is_not_replaced(tmp_path):
    folder = tmp_path / "thesis"
    folder.mkdir()
    refuse_existing(folder, overwrite=True)  # an empty one holds nothing to lose
    (folder / "chapter.txt").write_text("all of it")
    with pytest.raises(UserError, match="is a folder that tain did not write, so it is not replaced"):
        refuse_existing(folder, overwrite=True)
    (folder / "tain.json").write_text("{}")
    refuse_existing(folder, overwrite=True)


@pytest.mark.parametrize(
    "given", ["out", "out/texts.txt", "other/../out/deep/texts.txt", "link/texts.txt", "texts.link", "out/away.txt", "LOOP"]
)
def test_an_output_that_holds_an_input_is_not_replaced(given, tmp_path):
    for folder in ("out/deep", "other", "away"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("out/tain.json", "out/texts.txt", "out/deep/texts.txt", "away/away.txt"):
        (tmp_path / file).touch()
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "texts.link").symlink_to("out/texts.txt")
    (tmp_path / "out" / "away.txt").symlink_to("../away/away.txt")  # the link is in the folder, though its target is not
    if given == "LOOP":
        (tmp_path / "LOOP").symlink_to("LOOP")
        refuse_existing(tmp_path / "out", overwrite=True, inputs=[tmp_path / given])
        return
    for output in ("out", "link"):
        with pytest.raises(UserError, match=f"{output}' would replace '.*{given}', which is read"):
            refuse_existing(tmp_path / output, overwrite=True, inputs=["hf:data", None, tmp_path / given])


@pytest.mark.parametrize("link", ["model/weights", "model/deep/weights", "model/part", "away/weights"])
@pytest.mark.parametrize("output", ["out", "out/file"])
def test_an_output_that_is_read_through_a_link_in_an_input_folder_is_not_replaced(link, output, tmp_path):
    for folder in ("out", "model/deep", "away"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("out/tain.json", "out/file", "model/config.json"):
        (tmp_path / file).touch()
    (tmp_path / "model" / "circle").symlink_to(".")
    (tmp_path / "model" / "nowhere").symlink_to("missing")
    (tmp_path / "model" / "away").symlink_to("../away")
    refuse_existing(tmp_path / output, overwrite=True, inputs=[tmp_path / "model"])
    (tmp_path / link).symlink_to(tmp_path / output)
    with pytest.raises(UserError, match=f"{output}' would replace '.*model', which is read"):
        refuse_existing(tmp_path / output, overwrite=True, inputs=[tmp_path / "model"])


def test_an_output_beside_or_inside_its_input_is_written(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tain.json").touch()
    (tmp_path / "model" / "onnx").mkdir()
    for output in ("new", "model/onnx", "model/new"):
        refuse_existing(tmp_path / output, overwrite=True, inputs=[tmp_path / "model", "tain-mini", "-", tmp_path / "model-2"])
    with pytest.raises(UserError, match=r"a\.json' would replace '.*a\.json', which is read"):
        (tmp_path / "a.json").touch()
        refuse_files(tmp_path / "a.json", overwrite=True, inputs=[tmp_path / "." / "a.json"])


def test_files_are_refused_before_anything_is_computed(tmp_path):
    refuse_files(None, tmp_path / "a.json", tmp_path / "b.SVG", overwrite=False, drawn=tmp_path / "b.SVG")
    with pytest.raises(UserError, match=r"a\.json' is named twice"):
        refuse_files(tmp_path / "a.json", None, tmp_path / "x" / ".." / "a.json", overwrite=True)
    with pytest.raises(UserError, match=r"b\.png' is an SVG picture: give it a name that ends in \.svg"):
        refuse_files(tmp_path / "b.png", overwrite=False, drawn=tmp_path / "b.png")
    (tmp_path / "a.json").touch()
    with pytest.raises(UserError, match="already exists"):
        refuse_files(tmp_path / "a.json", overwrite=False)


def test_a_file_is_not_replaced_by_a_folder_and_is_refused_before_the_work(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match="is a file, but the output is a folder"):
        refuse_existing(tmp_path / "out", overwrite=True, is_folder=True)
    refuse_existing(tmp_path / "out", overwrite=True)  # a file may be replaced by a file
    assert (tmp_path / "out").read_text() == "mine"
