"""The candidate index: what was acknowledged stays, whatever is cut off or killed, and readers keep their view."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.ranking import index as index_module
from tain.ranking.commits import LAYOUTS, Layout
from tain.ranking.index import CandidateIndex, digest_of

DIM = 8


def vectors_of(count, *, seed=0):
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


@pytest.fixture
def index(tmp_path):
    return CandidateIndex.create(tmp_path / "index", dim=DIM, fingerprint="abc", model="ranker")


def test_what_was_appended_is_there_when_it_is_opened_again(index):
    vectors = vectors_of(5)
    assert index.append(["a", "béé", "", "d\ne", "f"], vectors) == range(5)
    assert index.append(["g"], vectors[:1]) == range(5, 6)
    again = CandidateIndex.open(index.folder)
    assert len(again) == 6
    np.testing.assert_array_equal(again.vectors, np.concatenate([vectors, vectors[:1]]))
    np.testing.assert_allclose(again.squares, (again.vectors**2).sum(1), rtol=1e-6)
    assert [again.text(row) for row in range(6)] == ["a", "béé", "", "d\ne", "f", "g"]


def test_texts_are_found_by_what_they_say(index):
    index.append(["a", "b", "c"], vectors_of(3))
    assert index.rows_of(["c", "x", "a"]) == [2, None, 0]
    assert index.rows_of([]) == []


def test_deleted_candidates_are_gone_and_their_rows_stay_taken(index):
    index.append(["a", "b", "c"], vectors_of(3))
    assert index.delete([1, 1]) == 1
    assert index.delete([1]) == 0
    assert index.live == 2
    assert list(index.live_texts()) == [(0, "a"), (2, "c")]
    assert index.rows_of(["b"]) == [None]
    assert index.append(["b"], vectors_of(1)) == range(3, 4)
    assert CandidateIndex.open(index.folder).rows_of(["b"]) == [3]


def test_a_reader_keeps_its_view_while_others_append_and_delete(index):
    index.append(["a", "b"], vectors_of(2))
    reader = CandidateIndex.open(index.folder)
    before = np.array(reader.vectors)
    index.append(["c"] * 500, vectors_of(500, seed=1))
    index.delete([0])
    assert len(reader) == 2
    np.testing.assert_array_equal(reader.vectors, before)
    assert reader.live == 2
    assert reader.refresh()
    assert (len(reader), reader.live) == (502, 501)
    assert not reader.refresh()


def test_a_writer_with_an_old_view_appends_behind_what_others_appended(index):
    other = CandidateIndex.open(index.folder)
    index.append(["a"], vectors_of(1))
    assert other.append(["b"], vectors_of(1, seed=1)) == range(1, 2)
    assert [text for _, text in CandidateIndex.open(index.folder).live_texts()] == ["a", "b"]


def test_two_writers_of_the_same_texts_add_each_once(index):
    other = CandidateIndex.open(index.folder)
    assert index.append(["a", "b"], vectors_of(2), only_new=True) == range(2)
    assert other.append(["b", "c"], vectors_of(2, seed=1), only_new=True) == range(2, 3)  # though it has not seen the first's
    assert list(other.live_texts()) == [(0, "a"), (1, "b"), (2, "c")]
    np.testing.assert_array_equal(other.vectors[2], vectors_of(2, seed=1)[1])
    assert index.append(["a"], vectors_of(1), only_new=True) == range(3, 3)


def test_a_text_is_deleted_from_all_its_rows(index):
    other = CandidateIndex.open(index.folder)
    index.append(["a", "b", "a"], vectors_of(3))
    assert other.delete_texts(["a", "x"]) == 2
    assert list(other.live_texts()) == [(1, "b")]


def test_a_compacted_index_has_the_same_candidates_and_no_deleted_rows(index):
    texts = [f"text {number}" for number in range(100)]
    index.append(texts, vectors_of(100))
    index.tell_source(name="texts.txt", digest="0" * 16, is_complete=True)
    index.delete(range(0, 100, 3))
    size = sum(path.stat().st_size for path in index.folder.glob("*.bin"))
    kept = [number for number in range(100) if number % 3]
    reader, version = CandidateIndex.open(index.folder), index.version
    assert index.compact() == 34
    for found in (index, CandidateIndex.open(index.folder)):
        assert list(found.live_texts()) == [(row, texts[number]) for row, number in enumerate(kept)]
        np.testing.assert_array_equal(found.vectors, vectors_of(100)[kept])
        assert (len(found), found.live, found.version) == (66, 66, version + 1)
        assert found.source["name"] == "texts.txt"
        found.refuse_damaged_vectors()
    assert sum(path.stat().st_size for path in index.folder.glob("*.bin")) < 0.75 * size
    # a view from before stays whole, and its row numbers are not used for the new files
    assert len(reader) == 100 and reader.text(99) == "text 99"
    with pytest.raises(UserError, match="was rewritten meanwhile, so its rows have other numbers: refresh it"):
        reader.delete([5])
    assert reader.append(["new"], vectors_of(1)) == range(66, 67)
    assert reader.delete([66]) == 1 and reader.refresh() is False
    assert index.refresh() and index.live == 66
    assert (index.compact(), index.compact()) == (1, 0)
    assert not [path for path in index.folder.parent.iterdir() if path.name.startswith(".index.")]


@pytest.mark.parametrize("has_links", [True, False])
def test_compacting_keeps_what_is_not_of_the_index(index, has_links, tmp_path, monkeypatch):
    if not has_links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError("no links here")))
    folder = index.folder
    (folder / "notes").mkdir()
    for name in ("README.md", "notes/today.txt", ".hidden", "short.faiss", "fusion.json", ".source.json.partial-0a1b2c3d"):
        (folder / name).write_text(name)
    (folder / "README.md").chmod(0o600)
    (tmp_path / "away.txt").write_text("away")
    (folder / "link").symlink_to(tmp_path / "away.txt")
    (folder / "broken").symlink_to("nowhere")
    index.append(["a", "b"], vectors_of(2))
    index.delete([0])
    assert index.compact() == 1
    for name in ("README.md", "notes/today.txt", ".hidden"):
        assert (folder / name).read_text() == name
    assert (folder / "README.md").stat().st_mode & 0o777 == 0o600
    assert (folder / "link").readlink() == tmp_path / "away.txt" and (folder / "link").read_text() == "away"
    assert (folder / "broken").is_symlink()
    assert not (folder / "short.faiss").exists() and not (folder / "fusion.json").exists()  # of the old rows: the next search makes them
    assert not list(folder.glob(".source*"))
    assert CandidateIndex.open(folder).live == 1
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".index.")]


def test_vectors_of_a_compacted_index_are_checked_again(index):
    index.append(["a", "b", "c"], vectors_of(3))
    index.delete([0])
    reader = CandidateIndex.open(index.folder)
    reader.refuse_damaged_vectors()
    index.compact()
    with (index.folder / "vectors.bin").open("r+b") as file:
        file.write(np.float32(np.nan).tobytes())
    assert reader.refresh()
    with pytest.raises(UserError, match="the vector of row 0 differs"):
        reader.refuse_damaged_vectors()


def test_a_damaged_index_is_not_compacted(index):
    index.append(["a", "b", "c"], vectors_of(3))
    index.delete([0])
    with (index.folder / "texts.bin").open("r+b") as file:
        file.seek(1)
        file.write(b"x")
    before = {path.name: path.read_bytes() for path in index.folder.glob("*.bin")}
    with pytest.raises(UserError, match="the text of row 1 differs"):
        index.compact()
    assert {path.name: path.read_bytes() for path in index.folder.glob("*.bin")} == before


def test_writers_and_readers_that_meet_a_compaction_lose_nothing(index):
    """One process appends, one deletes and compacts, one reads, all without pause."""
    work = textwrap.dedent(f"""
        import sys, time
        import numpy as np
        from tain.ranking.index import CandidateIndex
        index, until_s = CandidateIndex.open({str(index.folder)!r}), time.monotonic() + 3
        number = 0
        while time.monotonic() < until_s:
            {{}}
            number += 1
        print(number)
        """)
    # a text is appended with a vector that its name tells
    append = 'index.append([f"text {number}"], np.full((1, DIM), number, dtype=np.float32))'.replace("DIM", str(DIM))
    compact = 'index.append(["gone"], np.zeros((1, DIM), np.float32)), index.delete_texts(["gone"]), index.compact()'.replace(
        "DIM", str(DIM)
    )
    read = "index.refresh(), [float(index.vectors[row][0]) == float(text.split()[1]) or 1/0 for row, text in index.live_texts() if text != 'gone']"
    read += "; index = CandidateIndex.open(index.folder)"
    processes = [
        subprocess.Popen([sys.executable, "-c", work.replace("{}", each)], stdout=subprocess.PIPE, text=True)
        for each in (append, compact, read)
    ]
    counts = [int(process.communicate(timeout=60)[0]) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0] and min(counts) > 3
    index.refresh()
    assert {text for _, text in index.live_texts()} - {"gone"} == {f"text {number}" for number in range(counts[0])}


def test_an_append_cut_off_anywhere_loses_nothing_acknowledged(index, tmp_path):
    """Cut every file where a killed append could leave it: any length between what was acknowledged and what it wrote."""
    index.append(["a", "b"], vectors_of(2))
    sizes = {path.name: path.stat().st_size for path in index.folder.iterdir() if path.suffix == ".bin"}
    index.append(["c", "d", "e"], vectors_of(3, seed=1))
    longer = {name: (index.folder / name).stat().st_size for name in sizes}
    rng = np.random.default_rng(4)
    for number in range(30):
        copy = tmp_path / f"cut-{number}"
        shutil.copytree(index.folder, copy)
        for name, size in sizes.items():
            with (copy / name).open("r+b") as file:
                end = longer[name] - 1 if name == "commits.bin" else longer[name]  # the commit is what was not yet whole
                file.truncate(int(rng.integers(size, end + 1)))
        cut = CandidateIndex.open(copy)
        assert [text for _, text in cut.live_texts()] == ["a", "b"]
        np.testing.assert_array_equal(cut.vectors, vectors_of(2))
        assert cut.append(["f"], vectors_of(1, seed=2)) == range(2, 3)
        again = CandidateIndex.open(copy)
        assert [text for _, text in again.live_texts()] == ["a", "b", "f"]
        np.testing.assert_array_equal(again.vectors[2:], vectors_of(1, seed=2))


def test_a_commit_of_noise_is_passed_over(index):
    index.append(["a"], vectors_of(1))
    with (index.folder / "commits.bin").open("ab") as log:
        log.write(os.urandom(LAYOUTS[1].commit_bytes))
    assert len(CandidateIndex.open(index.folder)) == 1
    assert index.append(["b"], vectors_of(1)) == range(1, 2)
    assert len(CandidateIndex.open(index.folder)) == 2


def test_a_writer_killed_at_any_moment_loses_nothing_it_acknowledged(index, tmp_path):
    writer = tmp_path / "writer.py"
    writer.write_text(
        textwrap.dedent(f"""
        import sys
        import numpy as np
        from tain.ranking.index import CandidateIndex
        index = CandidateIndex.open({str(index.folder)!r})
        number = 0
        while True:
            rows = index.append([f"text {{number}} {{place}}" for place in range(50)], np.full((50, {DIM}), number, dtype=np.float32))
            print(number, flush=True)
            number += 1
        """)
    )
    for after in (1, 7, 20):
        known = len(CandidateIndex.open(index.folder))
        process = subprocess.Popen([sys.executable, str(writer)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        acknowledged = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        acknowledged += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        said = [int(line) for line in acknowledged if line.endswith("\n")]
        found = CandidateIndex.open(index.folder)
        assert said == list(range(len(said)))
        assert len(found) >= known + 50 * len(said)
        assert (len(found) - known) % 50 == 0
        for number in said:
            rows = slice(known + 50 * number, known + 50 * (number + 1))
            assert (found.vectors[rows] == number).all()
            assert found.text(rows.start) == f"text {number} 0"


def test_opening_reads_one_commit_whatever_the_number_of_candidates(index, monkeypatch):
    for start in range(0, 200, 20):
        index.append([f"t{start + position}" for position in range(20)], vectors_of(20))
    reads = []
    unpacked = Layout.unpacked
    monkeypatch.setattr(Layout, "unpacked", lambda self, content: reads.append(len(content)) or unpacked(self, content))
    opened = CandidateIndex.open(index.folder)
    assert reads == [LAYOUTS[1].commit_bytes]
    assert "is_deleted" not in opened.__dict__  # which would take a pass over the rows
    assert isinstance(opened.vectors, np.memmap)


def test_a_view_does_not_mix_with_an_index_that_takes_the_folders_place(index):
    index.append(["a", "b"], vectors_of(2))
    view = CandidateIndex.open(index.folder)
    other = CandidateIndex.create(index.folder, dim=DIM, fingerprint="def", model="other", overwrite=True)
    other.append(["x", "y", "z"], vectors_of(3, seed=1))
    assert [text for _, text in view.live_texts()] == ["a", "b"]
    np.testing.assert_array_equal(view.vectors, vectors_of(2))


def test_beside_the_vectors_little_is_stored(tmp_path):
    index = CandidateIndex.create(tmp_path / "wide", dim=384, fingerprint="abc", model="ranker")
    index.append(["x" * 60] * 100, np.ones((100, 384), dtype=np.float32))
    total = sum(path.stat().st_size for path in index.folder.iterdir())
    assert total < 1.1 * 100 * 384 * 4


# ---- refusals


def test_another_model_or_another_version_of_it_is_refused(index):
    index.refuse_other_model("abc", "ranker")
    with pytest.raises(UserError, match=r"was made by another model, 'ranker' \(fingerprint abc; 'other' has def\).*make a new index"):
        index.refuse_other_model("def", "other")
    with pytest.raises(UserError, match=r"was made by another version of this model \(fingerprint abc; 'ranker' has def\)"):
        index.refuse_other_model("def", "ranker")


def test_vectors_of_another_width_are_refused_and_nothing_is_written(index):
    with pytest.raises(UserError, match=r"vectors are of shape \(2, 9\), but index .* holds vectors of dimension 8"):
        index.append(["a", "b"], np.ones((2, 9), dtype=np.float32))
    with pytest.raises(UserError, match="2 texts were given with 1 vectors: give one per text"):
        index.append(["a", "b"], vectors_of(1))
    with pytest.raises(UserError, match="vectors contain nan or infinity"):
        index.append(["a"], np.full((1, DIM), np.nan, dtype=np.float32))
    assert len(CandidateIndex.open(index.folder)) == 0


def test_a_changed_candidate_file_is_refused(index):
    index.tell_source(name="answers.txt", digest=digest_of(["a", "b"]), is_complete=True)
    again = CandidateIndex.open(index.folder)
    again.refuse_changed_source(name="answers.txt", digest=digest_of(["a", "b"]))
    for changed in (["a", "c"], ["ab"], ["a", "b", ""]):
        with pytest.raises(
            UserError, match=r"candidate file 'answers.txt' differs from the texts that index .* was made from: give --update"
        ):
            again.refuse_changed_source(name="answers.txt", digest=digest_of(changed))


def test_an_index_made_from_no_file_says_so(index):
    index.append(["a"], vectors_of(1))
    with pytest.raises(UserError, match=r"was not made from a file: give --update to make it hold exactly the candidates of 'answers.txt'"):
        index.refuse_changed_source(name="answers.txt", digest=digest_of(["a"]))


@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_is_one_line_and_loses_nothing(index, monkeypatch, where):
    index.append(["a", "b"], vectors_of(2))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((CandidateIndex, "_commit") if where == "write" else (os, "fsync")), full)
        with pytest.raises(
            UserError, match=r"index '.*' cannot be written \(No space left on device\): its content is safe; free disk space"
        ):
            index.append(["c"], vectors_of(1))
    again = CandidateIndex.open(index.folder)
    assert [text for _, text in again.live_texts()] == ["a", "b"]
    again.append(["c"], vectors_of(1))
    assert CandidateIndex.open(index.folder).live == 3


def test_what_is_no_index_is_refused(tmp_path, index):
    with pytest.raises(UserError, match="does not exist: make it by giving --candidates FILE"):
        CandidateIndex.open(tmp_path / "none")
    with pytest.raises(UserError, match="already exists"):
        CandidateIndex.create(index.folder, dim=DIM, fingerprint="abc", model="ranker")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "index.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged index\.json"):
        CandidateIndex.open(tmp_path / "bad")
    (tmp_path / "bad" / "index.json").write_text('{"kind": "candidate index", "format": 99, "dim": 8}')
    with pytest.raises(UserError, match="of a format that this tain does not read"):
        CandidateIndex.open(tmp_path / "bad")
    for content in ("{}", '{"kind": "something"}'):
        (tmp_path / "bad" / "index.json").write_text(content)
        with pytest.raises(UserError, match=r"has an index\.json that was not written by tain"):
            CandidateIndex.open(tmp_path / "bad")
    for content in ("[]", '{"kind": "candidate index", "format": 1}', '{"kind": "candidate index", "format": "one", "dim": 8}'):
        (tmp_path / "bad" / "index.json").write_text(content)
        with pytest.raises(UserError, match=r"damaged index\.json"):
            CandidateIndex.open(tmp_path / "bad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="exists, but holds no index: give another name, or remove it"):
        CandidateIndex.open(tmp_path / "empty")
    with pytest.raises(UserError, match="has no row 3: it has 0"):
        index.delete([3])


@pytest.mark.parametrize("file", ["commits.bin", "vectors.bin", "gone.bin"])
def test_a_missing_file_is_damage(index, file):
    (index.folder / file).unlink()
    with pytest.raises(UserError, match=f"is damaged: it has no {file}; restore it, or rebuild it"):
        CandidateIndex.open(index.folder)


def test_a_damaged_source_is_refused(index):
    for content in ("{", "[]"):
        (index.folder / "source.json").write_text(content)
        with pytest.raises(UserError, match=r"has a damaged source\.json: remove that file"):
            index.refuse_unfinished()


def test_a_file_shorter_than_was_acknowledged_is_damage(index):
    index.append(["a", "b"], vectors_of(2))
    with (index.folder / "vectors.bin").open("r+b") as file:
        file.truncate(DIM)
    with pytest.raises(UserError, match=r"is damaged: vectors.bin is shorter than its last commit states"):
        CandidateIndex.open(Path(index.folder))


# ---- damage, and folders that somebody else made


def filled(index):
    index.append(["one", "two", "three", "four"], vectors_of(4))
    index.delete([1])
    return index


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"dim": -1}, "dim is -1, less than 1"),
        ({"dim": 0}, "dim is 0, less than 1"),
        ({"dim": 10**9}, "dim is 1,000,000,000, more than 1,048,576"),
        ({"dim": [8]}, r"dim is \[8\], not a whole number"),
        ({"format": -3}, "format is -3, less than 1"),
        ({"format": True}, "format is True, not a whole number"),
        ({"model": {}}, r"model is \{\}, not text"),
        ({"fingerprint": None}, "fingerprint is None, not text"),
    ],
)
def test_every_field_of_an_index_is_checked(index, change, problem):
    path = index.folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"has a damaged index\.json: make the index again \({problem}"):
        CandidateIndex.open(index.folder)


@pytest.mark.parametrize(
    ("file", "values", "problem"),
    [
        ("ends.bin", np.array([3, 2, 11, 15], dtype=np.int64), "ends.bin has invalid text ends"),
        ("ends.bin", np.array([-3, 6, 11, 15], dtype=np.int64), "ends.bin has invalid text ends"),
        ("ends.bin", np.array([3, 6, 11, 99], dtype=np.int64), "ends.bin has invalid text ends"),
        ("gone.bin", np.array([9], dtype=np.int64), "gone.bin has rows that do not exist"),
        ("gone.bin", np.array([-1], dtype=np.int64), "gone.bin has rows that do not exist"),
        ("squares.bin", np.array([1, np.nan, 1, 1], dtype=np.float32), "squares.bin has values that are not squared lengths"),
        ("squares.bin", np.array([1, -1, 1, 1], dtype=np.float32), "squares.bin has values that are not squared lengths"),
    ],
)
def test_files_that_do_not_fit_each_other_are_told_at_opening(index, file, values, problem):
    filled(index)
    (index.folder / file).write_bytes(values.tobytes())
    with pytest.raises(UserError, match=rf"is damaged: {problem}.*; restore it, or rebuild it"):
        CandidateIndex.open(index.folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 1e30])
def test_a_vector_that_is_another_than_was_put_in_is_told_before_it_is_searched(index, value):
    filled(index)
    vectors = np.fromfile(index.folder / "vectors.bin", dtype=np.float32).reshape(4, DIM)
    vectors[2, :] = value
    (index.folder / "vectors.bin").write_bytes(vectors.tobytes())
    opened = CandidateIndex.open(index.folder)
    with pytest.raises(UserError, match="is damaged: the vector of row 2 differs"):
        opened.refuse_damaged_vectors()
    opened.refuse_damaged_vectors(np.array([0, 3]))
    with pytest.raises(UserError, match="the vector of row 2 differs"):
        opened.refuse_damaged_vectors(np.array([0, 2]))


def test_whole_vectors_are_looked_at_once_and_new_ones_too(index, monkeypatch):
    monkeypatch.setattr(index_module, "_CHECKED_ROWS", 3)
    opened, seen = CandidateIndex.open(filled(index).folder), []
    plain = CandidateIndex._refuse_other_lengths
    monkeypatch.setattr(CandidateIndex, "_refuse_other_lengths", lambda self, rows: seen.extend(rows.tolist()) or plain(self, rows))
    opened.refuse_damaged_vectors()
    opened.refuse_damaged_vectors()
    index.append(["five"], vectors_of(1))
    opened.refresh()
    opened.refuse_damaged_vectors()
    assert seen == [0, 1, 2, 3, 4]


def test_a_text_that_is_another_than_was_put_in_is_told_when_it_is_read(index):
    filled(index)
    (index.folder / "texts.bin").write_bytes(b"onetwothr\xffefour")
    opened = CandidateIndex.open(index.folder)
    assert (opened.text(0), opened.text(3)) == ("one", "four")
    with pytest.raises(UserError, match="the text of row 2 differs"):
        opened.text(2)
    (index.folder / "ends.bin").write_bytes(np.array([2, 6, 11, 15], dtype=np.int64).tobytes())  # in order, but wrong
    with pytest.raises(UserError, match="the text of row 0 differs"):
        CandidateIndex.open(index.folder).text(0)


def test_vectors_whose_squared_length_is_infinite_are_refused(index):
    with pytest.raises(UserError, match="overflows float32"):
        index.append(["a"], np.full((1, DIM), 1e30, dtype=np.float32))
    assert len(index) == 0


@pytest.mark.parametrize("file", ["lock", "update.lock", "gone.bin", "vectors.bin", "commits.bin", "source.json", "index.json"])
def test_a_link_in_an_index_is_refused_and_its_target_stays(index, file, tmp_path):
    filled(index)
    index.tell_source(name="candidates.txt", digest="0", is_complete=True)
    notes = tmp_path / "notes.txt"
    content = (index.folder / file).read_bytes() if (index.folder / file).exists() else b""
    notes.write_bytes(content + b"my notes")
    (index.folder / file).unlink(missing_ok=True)
    (index.folder / file).symlink_to(notes)
    with pytest.raises(UserError, match=rf"{file}' is a link to .*, and links inside such a folder are not followed"):
        opened = CandidateIndex.open(index.folder)
        _ = opened.source
        with opened.updating():
            opened.append(["five"], vectors_of(1))
    assert notes.read_bytes() == content + b"my notes"


def test_locks_are_not_emptied(index):
    (index.folder / "lock").write_text("kept")
    filled(index)
    assert (index.folder / "lock").read_text() == "kept"


def test_a_source_of_another_shape_is_refused(index):
    for content in ('{"name": 3, "digest": "x", "complete": true}', '{"name": "a"}', '{"name": "a", "digest": "x", "complete": 1}'):
        (index.folder / "source.json").write_text(content)
        with pytest.raises(UserError, match=r"has a damaged source\.json: remove that file"):
            index.refuse_unfinished()
