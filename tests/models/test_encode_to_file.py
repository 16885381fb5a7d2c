import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models import encode_to_file as vectors
from tain.models.encode_to_file import encode_to_file, partial_folder

TEXTS = [f"text number {number} of a few" for number in range(11)]


class FakeEmbedder:
    """Makes vectors of a text's hash, without torch; says that texts with the word ``long`` were cut."""

    def __init__(self, **changes: Any) -> None:
        self.name, self.dim, self.pooling, self.max_tokens, self.layout, self.normalize = "fake", 5, "mean", 64, "packed", False
        self.truncated = 0
        self.weights = "w"
        self.calls: list[list[str]] = []
        vars(self).update(changes)

    def refuse_language(self, language: str | None) -> None:
        assert language is None

    def settings(self) -> dict[str, Any]:
        return {"pooling": self.pooling, "max-tokens": self.max_tokens, "layout": self.layout}

    def fingerprint(self) -> str:
        return self.weights

    def encode(
        self,
        texts: list[str],
        *,
        language: None = None,
        batch_tokens: int | None = None,
        normalize: bool = False,
        progress: Progress | None = None,
    ) -> np.ndarray:
        self.calls.append(list(texts))
        self.truncated = sum("long" in text for text in texts)
        with (progress or Progress.silent()).task("encode", len(texts)) as task:
            task.advance(len(texts))
        rows = [np.frombuffer(hashlib.sha256(text.encode()).digest()[: 2 * self.dim], np.uint16) / 256 for text in texts]
        vectors = np.array(rows, np.float32).reshape(len(texts), self.dim)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if normalize else vectors


def fake(**changes: Any) -> Any:
    return FakeEmbedder(**changes)


def read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        tensors = load_file(path)
        assert list(tensors) == ["vectors"]
        return tensors["vectors"]
    from pyarrow import parquet

    table = parquet.read_table(path)
    assert table["index"].to_pylist() == list(range(len(table)))
    return np.stack(table["vector"].to_numpy()) if len(table) else np.empty((0, table.schema.field("vector").type.list_size), np.float32)


class StoppedHereError(Exception):
    pass


def stopped(*_: object, **__: object) -> None:
    raise StoppedHereError


def stopping(texts: list[str], *, after: int, error: BaseException | None = None) -> Iterator[str]:
    yield from texts[:after]
    raise error or StoppedHereError


def interrupted(path: Path, *, after: int = 7, embedder: Any = None, **settings: Any) -> None:
    """Leave a run that stops while it reads, with windows of three texts."""
    with pytest.raises(StoppedHereError):
        encode_to_file(embedder or fake(), stopping(TEXTS, after=after), path, window_texts=3, **settings)
    assert not path.exists()


every_format = pytest.mark.parametrize("ending", [".npy", ".parquet", ".safetensors"])


# ---- what is in the file


@every_format
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_file_holds_the_vectors_of_encode_in_order(tmp_path, ending, dtype):
    path = tmp_path / f"vectors{ending}"
    made = encode_to_file(fake(), iter(TEXTS), path, dtype=dtype, window_texts=3)
    assert (made.texts, made.dim, made.resumed, made.path) == (11, 5, 0, path)
    assert read(path).dtype == dtype
    np.testing.assert_array_equal(read(path), fake().encode(TEXTS).astype(dtype))
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_real_encoder_gives_the_vectors_of_its_encode(tmp_path, bert_folder, sentences):
    from tain.models.embedder import Embedder

    embedder = Embedder.load(bert_folder, dtype="float32", device="cpu")
    encode_to_file(embedder, sentences, tmp_path / "vectors.npy", normalize=True, window_texts=5)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), embedder.encode(sentences, normalize=True), atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_npy_bytes_are_those_of_numpy_save(tmp_path, dtype):
    encode_to_file(fake(), TEXTS, tmp_path / "ours.npy", dtype=dtype, window_texts=4)
    np.save(tmp_path / "theirs.npy", fake().encode(TEXTS).astype(dtype))
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


@every_format
def test_windows_do_not_show_in_what_is_read(tmp_path, ending):
    for window_texts in (1, 4, 100):
        encode_to_file(fake(), TEXTS, tmp_path / f"{window_texts}{ending}", window_texts=window_texts)
        np.testing.assert_array_equal(read(tmp_path / f"{window_texts}{ending}"), fake().encode(TEXTS))


@every_format
def test_no_texts_make_a_file_without_rows(tmp_path, ending):
    assert encode_to_file(fake(), [], tmp_path / f"none{ending}").texts == 0
    assert read(tmp_path / f"none{ending}").shape == (0, 5)


def test_parquet_stores_texts_only_when_asked_and_a_fixed_size_list(tmp_path):
    from pyarrow import parquet

    encode_to_file(fake(), TEXTS, tmp_path / "plain.parquet")
    encode_to_file(fake(), TEXTS, tmp_path / "full.parquet", with_texts=True, window_texts=3)
    assert parquet.read_schema(tmp_path / "plain.parquet").names == ["index", "vector"]
    assert str(parquet.read_schema(tmp_path / "plain.parquet").field("vector").type) == "fixed_size_list<element: float>[5]"
    assert parquet.read_table(tmp_path / "full.parquet")["text"].to_pylist() == TEXTS
    assert parquet.ParquetFile(tmp_path / "full.parquet").num_row_groups == 4


def test_normalise_follows_the_embedder_unless_told(tmp_path):
    def lengths(name: str, embedder: Any, **settings: Any) -> np.ndarray:
        encode_to_file(embedder, TEXTS, tmp_path / name, **settings)
        return np.linalg.norm(np.load(tmp_path / name), axis=1)

    np.testing.assert_allclose(lengths("told.npy", fake(), normalize=True), 1, rtol=1e-6)
    np.testing.assert_allclose(lengths("own.npy", fake(normalize=True)), 1, rtol=1e-6)
    assert lengths("not.npy", fake(normalize=True), normalize=False).min() > 2


# ---- memory


def test_texts_are_read_one_window_at_a_time(tmp_path):
    embedder, pulled = fake(), 0
    behind: list[int] = []
    encode = embedder.encode

    def watched(texts: list[str], **settings: Any) -> np.ndarray:
        behind.append(pulled - sum(map(len, embedder.calls)))
        return encode(texts, **settings)

    def counted() -> Iterator[str]:
        nonlocal pulled
        for text in TEXTS:
            pulled += 1
            yield text

    embedder.encode = watched
    encode_to_file(embedder, counted(), tmp_path / "vectors.npy", window_texts=3)
    assert behind == [3, 3, 3, 2]  # never a text more than the window holds


def test_long_texts_end_a_window_early(tmp_path):
    embedder = fake()
    encode_to_file(embedder, ["a" * 1_500_000, "b" * 600_000, "c" * 2_000_000, "d", "e"], tmp_path / "vectors.npy")
    assert [len(window) for window in embedder.calls] == [2, 1, 2]


# ---- interrupted and resumed


@pytest.mark.parametrize(("ending", "with_texts"), [(".npy", False), (".safetensors", False), (".parquet", False), (".parquet", True)])
def test_a_resumed_run_gives_the_same_bytes_and_encodes_only_the_rest(tmp_path, ending, with_texts):
    whole, path = tmp_path / f"whole{ending}", tmp_path / f"vectors{ending}"
    encode_to_file(fake(), TEXTS, whole, window_texts=3, with_texts=with_texts)
    interrupted(path, after=4, with_texts=with_texts)
    with pytest.raises(StoppedHereError):  # and once more
        encode_to_file(fake(), stopping(TEXTS, after=8), path, window_texts=3, with_texts=with_texts, resume=True)
    embedder = fake()
    made = encode_to_file(embedder, TEXTS, path, window_texts=3, with_texts=with_texts, resume=True)
    assert path.read_bytes() == whole.read_bytes()
    assert [text for window in embedder.calls for text in window] == TEXTS[6:]
    assert (made.texts, made.resumed) == (11, 6)
    assert not partial_folder(path).exists()


def test_a_real_encoder_resumes_to_the_same_bytes(tmp_path, bert_folder, sentences):
    from tain.models.embedder import Embedder

    def load() -> Embedder:
        return Embedder.load(bert_folder, dtype="float32", device="cpu")

    encode_to_file(load(), sentences, tmp_path / "whole.npy", window_texts=5)
    with pytest.raises(StoppedHereError):
        encode_to_file(load(), stopping(sentences, after=10), tmp_path / "vectors.npy", window_texts=5)
    embedder = load()
    assert any("pooler." in name for name in embedder.encoder.state_dict())  # random at each loading, and not used
    embedder.encode(["an encoder that was used before is still the same one"])
    encode_to_file(embedder, sentences, tmp_path / "vectors.npy", window_texts=5, resume=True)
    assert (tmp_path / "vectors.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_other_weights_under_the_same_name_are_refused(tmp_path, bert_folder, sentences):
    import torch

    from tain.models.embedder import Embedder

    embedder = Embedder.load(bert_folder, dtype="float32", device="cpu")
    with pytest.raises(StoppedHereError):
        encode_to_file(embedder, stopping(sentences, after=5), tmp_path / "vectors.npy", window_texts=5)
    with torch.no_grad():
        next(embedder.encoder.parameters())[7] += 1
    with pytest.raises(UserError, match=r"the weights of '.*' differ"):
        encode_to_file(embedder, sentences, tmp_path / "vectors.npy", window_texts=5, resume=True)


def test_ctrl_c_keeps_finished_windows_and_says_so(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        encode_to_file(
            fake(),
            stopping(TEXTS, after=7, error=KeyboardInterrupt()),
            tmp_path / "vectors.npy",
            window_texts=3,
            progress=Progress.for_terminal(),
        )
    assert "the vectors of the first 6 texts are kept: continue with --resume" in capsys.readouterr().err
    assert encode_to_file(fake(), TEXTS, tmp_path / "vectors.npy", window_texts=3, resume=True).resumed == 6


def test_a_run_that_stops_in_its_first_window_leaves_nothing(tmp_path):
    interrupted(tmp_path / "vectors.npy", after=2)
    assert list(tmp_path.iterdir()) == []


def test_resume_without_an_interrupted_run_starts_and_says_so(tmp_path, capsys):
    made = encode_to_file(fake(), TEXTS, tmp_path / "vectors.npy", resume=True, progress=Progress.for_terminal())
    assert (made.texts, made.resumed) == (11, 0)
    assert "nothing to resume" in capsys.readouterr().err


def test_an_interrupted_run_is_neither_gone_on_with_nor_lost_unless_told(tmp_path):
    path = tmp_path / "vectors.npy"
    interrupted(path)
    with pytest.raises(UserError) as refused:
        encode_to_file(fake(), TEXTS, path, window_texts=3)
    assert str(refused.value) == (
        f"output {str(path)!r} belongs to a run that was interrupted after 6 texts: continue with --resume, or start over with --overwrite"
    )
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, overwrite=True).resumed == 0


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"pooling": "cls", "max_tokens": 32}, {}, "pooling was mean, now cls; max-tokens was 64, now 32"),
        ({}, {"dtype": "float16"}, "dtype was float32, now float16"),
        ({}, {"normalize": True}, "normalise was off, now on"),
        ({}, {"batch_tokens": 128}, "batch-tokens was not given, now 128"),
        ({}, {"window_texts": 4}, "window-texts was 3, now 4"),
        ({"name": "other", "weights": "v"}, {}, "model was 'fake', now 'other'"),
    ],
)
def test_changed_settings_are_named_and_the_run_kept(tmp_path, changes, settings, said):
    path = tmp_path / "vectors.npy"
    interrupted(path)
    with pytest.raises(UserError) as refused:
        encode_to_file(fake(**changes), TEXTS, path, resume=True, **({"window_texts": 3} | settings))
    assert str(refused.value) == (
        f"output {str(path)!r} has an interrupted run with another model or other settings ({said}): "
        "give the same again, or start over with --overwrite and without --resume"
    )
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, resume=True).resumed == 6


@pytest.mark.parametrize("texts", [["another", *TEXTS[1:]], TEXTS[:5], [*TEXTS[:5], "another", *TEXTS[6:]]])
def test_changed_texts_are_refused_and_the_run_kept(tmp_path, texts):
    path = tmp_path / "vectors.npy"
    interrupted(path)
    with pytest.raises(UserError, match=r"interrupted run with other texts \(the first 6 differ\): give the same again, or start over"):
        encode_to_file(fake(), texts, path, window_texts=3, resume=True)
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, resume=True).resumed == 6


def test_texts_mended_after_the_finished_windows_are_taken(tmp_path):
    path, mended = tmp_path / "vectors.npy", [*TEXTS[:7], "mended", "and", "more"]
    interrupted(path)
    encode_to_file(fake(), mended, path, window_texts=3, resume=True)
    np.testing.assert_array_equal(np.load(path), fake().encode(mended))


def test_texts_added_behind_a_last_short_window_are_taken(tmp_path, monkeypatch):
    path = tmp_path / "vectors.npy"
    with monkeypatch.context() as patch, pytest.raises(StoppedHereError):
        patch.setattr(vectors, "_place", stopped)
        encode_to_file(fake(), TEXTS, path, window_texts=4)  # 4, 4 and 3
    made = encode_to_file(fake(), [*TEXTS, "one", "more"], path, window_texts=4, resume=True)
    assert (made.texts, made.resumed) == (13, 11)
    np.testing.assert_array_equal(np.load(path), fake().encode([*TEXTS, "one", "more"]))


def test_a_moved_model_is_the_same_model(tmp_path):
    interrupted(tmp_path / "vectors.npy")
    assert encode_to_file(fake(name="elsewhere"), TEXTS, tmp_path / "vectors.npy", window_texts=3, resume=True).resumed == 6


def test_a_run_of_another_version_is_refused(tmp_path):
    path = tmp_path / "vectors.npy"
    interrupted(path)
    state = partial_folder(path) / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="interrupted run of another tain version: start over with --overwrite and without --resume"):
        encode_to_file(fake(), TEXTS, path, window_texts=3, resume=True)
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, overwrite=True).texts == 11


def test_resume_with_overwrite_replaces_the_old_file_at_the_end(tmp_path):
    path = tmp_path / "vectors.npy"
    encode_to_file(fake(), TEXTS[:1], path)
    old = path.read_bytes()
    with pytest.raises(StoppedHereError):
        encode_to_file(fake(), stopping(TEXTS, after=7), path, window_texts=3, overwrite=True)
    assert path.read_bytes() == old
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, overwrite=True, resume=True).resumed == 6
    np.testing.assert_array_equal(np.load(path), fake().encode(TEXTS))


# ---- killed

KILLED_EVERYWHERE = """
import os, shutil, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_encode_to_file import TEXTS, fake
from tain.models.encode_to_file import encode_to_file, partial_folder

os.fsync = lambda _: None  # a killed process loses nothing that a flush would save, and it is slow

folder, ending, stride = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
path, whole = folder / f"vectors{ending}", folder / f"whole{ending}"
encode_to_file(fake(), TEXTS, whole, window_texts=4)

def run_and_die(line):
    left = line
    def trace(frame, event, _):
        nonlocal left
        if not frame.f_code.co_filename.endswith(("/encode_to_file.py", "/vector_files.py")):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    encode_to_file(fake(), TEXTS, path, window_texts=4)
    sys.settrace(None)
    os._exit(0)

line, deaths, resumed = 1, 0, set()
while True:
    child = os.fork()
    if not child:
        run_and_die(line)
    died = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    seen = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if path.exists():  # named, so whole; killed while tidying up, or not at all
        assert path.read_bytes() == whole.read_bytes(), line
        path.unlink()
    else:
        assert seen == [whole.name], (line, seen)
    resumed.add(encode_to_file(fake(), TEXTS, path, window_texts=4, resume=True).resumed)
    assert path.read_bytes() == whole.read_bytes(), line
    assert not partial_folder(path).exists(), line
    path.unlink()
    if not died:
        break
    line, deaths = line + stride, deaths + 1
print(deaths, sorted(resumed))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which this system lacks")
@pytest.mark.parametrize(("ending", "stride", "least"), [(".npy", 3, 70), (".parquet", 11, 20)])
def test_killed_at_any_line_no_broken_file_is_seen_and_resume_gives_the_same_bytes(tmp_path, ending, stride, least):
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", KILLED_EVERYWHERE, here, str(tmp_path), ending, str(stride)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    deaths, resumed = done.stdout.split(maxsplit=1)
    assert int(deaths) >= least
    assert resumed.strip() == "[0, 4, 8, 11]"


# ---- what is said


def test_cut_texts_are_counted_over_a_resumed_run_and_warned_of_once(tmp_path, capsys):
    texts = ["long one", "b", "c", "d", "long two", "f", "long three"]
    with pytest.raises(StoppedHereError):
        encode_to_file(fake(), stopping(texts, after=4), tmp_path / "vectors.npy", window_texts=3)
    with pytest.warns(UserWarning, match="3 of 7 texts are longer than 64 tokens and were truncated: raise --max-tokens"):
        made = encode_to_file(fake(), texts, tmp_path / "vectors.npy", window_texts=3, resume=True)
    assert made.truncated == 3
    encode_to_file(fake(), texts, tmp_path / "quiet.npy", progress=Progress.for_terminal(quiet=True))
    assert capsys.readouterr().err.count("3 of 7 texts") == 1


def test_one_task_counts_all_windows_from_where_the_earlier_run_stopped(tmp_path, capsys):
    interrupted(tmp_path / "vectors.npy")
    encode_to_file(
        fake(), TEXTS, tmp_path / "vectors.npy", window_texts=3, resume=True, total=11, progress=Progress.for_terminal(json=True)
    )
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(event["task"], event["done"], event["total"]) for event in events if event["event"] == "progress"] == [("encode", 11, 11)]


@contextmanager
def refused(said: str) -> Iterator[None]:
    with pytest.raises(UserError) as error:
        yield
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_settings_that_cannot_work_are_refused_together(tmp_path):
    with refused(
        "vectors.csv' ends in .csv, which is not a vector format: use .npy, .parquet or .safetensors; "
        "batch_tokens is 0, but a batch needs at least one token: give 1 or more, or leave it out; "
        "window_texts is 0, but a window needs at least one text: give 1 or more"
    ):
        encode_to_file(fake(), TEXTS, tmp_path / "vectors.csv", batch_tokens=0, window_texts=0)
    with refused("' has no ending, which is not a vector format"):
        encode_to_file(fake(), TEXTS, tmp_path / "vectors")
    with refused("texts cannot be stored in a .npy file, which holds vectors only: use an output ending in .parquet"):
        encode_to_file(fake(), TEXTS, tmp_path / "vectors.npy", with_texts=True)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_dtype_is_refused(tmp_path, unchecked):
    with refused("dtype is 'int4', which is not supported for stored vectors: give float32 or float16"):
        encode_to_file(fake(), TEXTS, tmp_path / "vectors.npy", dtype="int4")  # type: ignore[arg-type]


def test_places_that_cannot_be_written_are_refused(tmp_path):
    (tmp_path / "taken.npy").write_bytes(b"mine")
    with refused("taken.npy' already exists: choose another name or give --overwrite"):
        encode_to_file(fake(), TEXTS, tmp_path / "taken.npy")
    (tmp_path / "folder.npy").mkdir()
    with refused("folder.npy' is a folder, but the vectors go into a file: name a file inside it"):
        encode_to_file(fake(), TEXTS, tmp_path / "folder.npy", overwrite=True)
    with refused("cannot be written (File name too long): choose another path"):
        encode_to_file(fake(), TEXTS, tmp_path / f"{'n' * 250}.npy")
    assert (tmp_path / "taken.npy").read_bytes() == b"mine"


def test_parquet_without_pyarrow_names_the_package_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused('needs pyarrow: run pip install "tain[data]", or write .npy or .safetensors'):
        encode_to_file(fake(), TEXTS, tmp_path / "vectors.parquet")


def test_texts_that_are_none_are_refused(tmp_path, unchecked):
    with refused("one string, which would be read character by character: give a list of texts"):
        encode_to_file(fake(), "one string", tmp_path / "vectors.npy")
    with refused("text 4 is int, not text: give strings"):
        encode_to_file(fake(), [*TEXTS[:4], 4], tmp_path / "vectors.npy", window_texts=3)  # type: ignore[list-item]


def test_a_disk_that_is_full_at_once_advises_no_resume(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(vectors, "_keep", full)  # the first window is written, but not kept
    with refused(
        "cannot be written (No space left on device): free disk space or repair the disk, then run the same command again: nothing is kept"
    ):
        encode_to_file(fake(), TEXTS, tmp_path / "vectors.npy", window_texts=3)
    assert list(tmp_path.iterdir()) == []


def test_overwriting_a_link_replaces_the_file_that_it_leads_to(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target.npy", tmp_path / "vectors.npy"
    target.write_bytes(b"old")
    link.symlink_to(target)
    made = encode_to_file(fake(), TEXTS, link, overwrite=True)
    assert (made.path, link.is_symlink(), len(np.load(target))) == (link, True, len(TEXTS))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "target.npy", "vectors.npy"]


def test_a_run_that_is_going_on_is_no_interrupted_one(tmp_path):
    path = tmp_path / "vectors.npy"
    told = []

    def texts():
        for index, text in enumerate(TEXTS):
            if index == 7:
                for settings in ({}, {"resume": True}, {"overwrite": True}):
                    with pytest.raises(UserError) as caught:
                        vectors.refuse_output(path, **settings)
                    told.append(str(caught.value))
            yield text

    encode_to_file(fake(), texts(), path, window_texts=3)
    assert told == [f"output {str(path)!r} is being written by process {os.getpid()}: wait for it, or choose another name"] * 3


def test_a_second_process_is_kept_out(tmp_path):
    path = tmp_path / "vectors.npy"

    def texts() -> Iterator[str]:
        yield from TEXTS[:5]
        with refused(f"is being written by process {os.getpid()}: wait for it, or choose another name"):
            encode_to_file(fake(), TEXTS, path, window_texts=3, overwrite=True)
        yield from TEXTS[5:]

    pytest.importorskip("fcntl")
    assert encode_to_file(fake(), texts(), path, window_texts=3).texts == 11


def test_a_file_that_appears_meanwhile_is_left_alone_and_nothing_is_lost(tmp_path):
    path = tmp_path / "vectors.npy"

    def texts() -> Iterator[str]:
        yield from TEXTS
        path.write_bytes(b"theirs")

    with refused("was created by something else during the run and is kept: give --resume --overwrite to replace it"):
        encode_to_file(fake(), texts(), path, window_texts=3)
    assert path.read_bytes() == b"theirs"
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, resume=True, overwrite=True).resumed == 11


def test_a_full_disk_is_named_and_what_is_finished_is_kept(tmp_path, monkeypatch):
    path = tmp_path / "vectors.npy"
    flushes = 0

    def fsync(_: int) -> None:
        nonlocal flushes
        flushes += 1
        if flushes == 5:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        with refused("cannot be written (No space left on device): free disk space or repair the disk, then continue with --resume"):
            encode_to_file(fake(), TEXTS, path, window_texts=3)
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, resume=True).resumed == 6


def test_vectors_that_are_not_finite_are_refused(tmp_path):
    embedder = fake()
    embedder.encode = lambda texts, **_: np.full((len(texts), 5), 1e6, np.float32)
    with refused("the vector of text 0 is too large for float16: use float32, or normalize the vectors"):
        encode_to_file(embedder, TEXTS, tmp_path / "large.npy", dtype="float16")
    embedder.encode = lambda texts, **_: np.array([[0.0] * 5] * (len(texts) - 1) + [[np.nan] * 5], np.float32)
    with refused("the model gives a vector that is not finite for text 10: its weights are damaged, give another model"):
        encode_to_file(embedder, TEXTS, tmp_path / "broken.npy")


@pytest.mark.parametrize("content", ["[]", "{", '{"format": 3}', '{"format": 3, "settings": [], "model": "m"}'])
def test_a_damaged_state_is_refused(content, tmp_path):
    path = tmp_path / "vectors.npy"
    interrupted(path)
    (partial_folder(path) / "state.json").write_text(content)
    with pytest.raises(UserError, match=r"damaged state .*: start over with --overwrite and without --resume"):
        encode_to_file(fake(), TEXTS, path, window_texts=3, resume=True)
    assert encode_to_file(fake(), TEXTS, path, window_texts=3, overwrite=True).texts == 11
