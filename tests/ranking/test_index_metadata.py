"""An index with ids and metadata: what is found by a filter, replaced by id, deleted, and kept through kills."""

import json
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.ranking.index import CandidateIndex
from tain.text.records import Candidate

DIM = 4


def vectors_of(count, *, seed=0):
    return np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)


def made(path):
    return CandidateIndex.create(path, dim=DIM, fingerprint="abc", model="ranker", has_metadata=True)


@pytest.fixture
def index(tmp_path):
    return made(tmp_path / "index")


@pytest.fixture
def filled(index):
    rows = [("a", "one", {"year": 2019, "lang": "en"}), ("b", "two", {"year": 2021}), (None, "three", {"lang": "de"})]
    index.upsert([Candidate(text, given, metadata) for given, text, metadata in rows], vectors_of(3))
    return index


def live(index):
    return {index.id(row) or text: (text, index.metadata(row)) for row, text in index.live_texts()}


def test_ids_and_metadata_are_there_when_it_is_opened_again(filled):
    again = CandidateIndex.open(filled.folder)
    assert live(again) == {"a": ("one", {"year": 2019, "lang": "en"}), "b": ("two", {"year": 2021}), "three": ("three", {"lang": "de"})}
    assert again.rows_of_ids(["three", "x", "a"]) == [2, None, 0]
    assert again.id(2) is None
    assert again.candidate(1) == Candidate("two", "b", {"year": 2021})
    assert again.fields() == ["lang", "year"]


def test_an_id_that_is_there_is_replaced_in_one_commit(filled):
    reader = CandidateIndex.open(filled.folder)
    version = filled.version
    assert filled.upsert([Candidate("uno", "a", {"n": [1, {"x": None}]}), Candidate("four", "d")], vectors_of(2, seed=1)) == (1, 1)
    assert filled.version == version + 1
    assert reader.live == 3 and reader.text(reader.rows_of_ids(["a"])[0]) == "one"  # its view stays
    again = CandidateIndex.open(filled.folder)
    assert (again.live, len(again)) == (4, 5)
    assert live(again)["a"] == ("uno", {"n": [1, {"x": None}]})
    np.testing.assert_array_equal(again.vectors[again.rows_of_ids(["a"])[0]], vectors_of(2, seed=1)[0])


def test_advice_on_adding_names_the_command_that_keeps_ids_and_metadata(index, tmp_path):
    assert index.how_to_add == "run tain rank index with --candidates FILE"
    assert CandidateIndex.create(tmp_path / "plain", dim=DIM, fingerprint="abc", model="ranker").how_to_add.startswith("give --candidates")
    index.tell_source(name="rows.jsonl", digest="x", is_complete=False)
    with pytest.raises(UserError, match=r"run tain rank index with --candidates rows\.jsonl to continue"):
        index.refuse_unfinished()


def test_a_text_without_id_is_its_own_id(filled):
    assert filled.upsert([Candidate("three", None, {"lang": "fr"})], vectors_of(1)) == (0, 1)
    assert live(filled)["three"] == ("three", {"lang": "fr"})
    assert filled.upsert([Candidate("other text", "three")], vectors_of(1)) == (0, 1)
    assert live(filled)["three"] == ("other text", {})


def test_writers_with_old_views_replace_what_others_wrote(filled):
    other = CandidateIndex.open(filled.folder)
    filled.upsert([Candidate("new", "n")], vectors_of(1))
    assert other.upsert([Candidate("newer", "n")], vectors_of(1)) == (0, 1)
    assert live(CandidateIndex.open(filled.folder))["n"] == ("newer", {})


def test_filters_find_live_rows_only(filled):
    assert filled.matching("year>=2019").tolist() == [True, True, False]
    assert filled.matching("not exists year").tolist() == [False, False, True]
    filled.delete_ids(["b", "unknown"])
    assert filled.matching("year>=2019").tolist() == [True, False, False]
    assert filled.delete_matching("lang in (en, de)") == 2
    assert filled.live == 0
    assert filled.delete_matching("lang in (en, de)") == 0


def test_a_plain_append_leaves_ids_and_metadata_empty(filled):
    rows = filled.append(["plain"], vectors_of(1))
    assert live(filled)["plain"] == ("plain", {})
    assert filled.rows_of_ids(["plain"]) == [rows.start]


def test_an_upsert_cut_off_anywhere_loses_nothing_acknowledged(filled, tmp_path):
    """Cut every file where a killed update could leave it."""
    before = live(filled)
    sizes = {path.name: path.stat().st_size for path in filled.folder.iterdir() if path.suffix == ".bin"}
    filled.upsert([Candidate("uno", "a", {"x": 1}), Candidate("new", "n", {"y": "z"})], vectors_of(2, seed=1))
    longer = {name: (filled.folder / name).stat().st_size for name in sizes}
    rng = np.random.default_rng(4)
    for number in range(20):
        copy = tmp_path / f"cut-{number}"
        shutil.copytree(filled.folder, copy)
        for name, size in sizes.items():
            with (copy / name).open("r+b") as file:
                file.truncate(int(rng.integers(size, longer[name] + (name != "commits.bin"))))
        cut = CandidateIndex.open(copy)
        assert live(cut) == before
        cut.upsert([Candidate("due", "b", {"q": 2})], vectors_of(1))
        assert live(CandidateIndex.open(copy)) == before | {"b": ("due", {"q": 2})}


def test_a_writer_killed_at_any_moment_leaves_each_id_once(index, tmp_path):
    writer = tmp_path / "writer.py"
    writer.write_text(
        textwrap.dedent(f"""
        import numpy as np
        from tain.ranking.index import CandidateIndex
        from tain.text.records import Candidate
        index = CandidateIndex.open({str(index.folder)!r})
        number = 0
        while True:
            batch = [Candidate(f"text {{number}}", f"id {{place}}", {{"round": number}}) for place in range(20)]
            index.upsert(batch, np.full((20, {DIM}), number, dtype=np.float32))
            print(number, flush=True)
            number += 1
        """)
    )
    for after in (1, 9):
        process = subprocess.Popen([sys.executable, str(writer)], stdout=subprocess.PIPE, text=True)
        said = [process.stdout.readline() for _ in range(after)]
        process.send_signal(signal.SIGKILL)
        said += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        found = CandidateIndex.open(index.folder)
        assert sorted(live(found)) == sorted(f"id {place}" for place in range(20))
        rounds = {metadata["round"] for _, metadata in live(found).values()}
        assert len(rounds) == 1  # all of an update, or nothing of it
        (last,) = rounds
        assert last >= len([line for line in said if line.endswith("\n")]) - 1
        assert (found.vectors[~found.is_deleted] == last).all()


# ---- refusals


@pytest.mark.parametrize(
    ("candidates", "problem"),
    [
        ([Candidate("x", "a"), Candidate("y", "a")], "id 'a' is given twice: give every candidate an id of its own"),
        ([Candidate("x"), Candidate("x")], "text 'x' is given twice"),
        ([Candidate("x", " ")], "the id of text 'x' is blank"),
        ([Candidate("x", "a", {"n": float("nan")})], "the metadata of 'a' are no JSON"),
        ([Candidate("x", "a", {"n": object()})], "the metadata of 'a' are no JSON"),
        ([Candidate("x", "a", {"n": "\ud800"})], "the metadata of 'a' are no JSON"),
        ([Candidate("x\ud800")], "has half of a surrogate pair"),
        ([Candidate("x", "\udfff")], "has half of a surrogate pair"),
    ],
)
def test_what_cannot_be_stored_is_refused_and_nothing_is_written(filled, candidates, problem):
    with pytest.raises(UserError, match=problem):
        filled.upsert(candidates, vectors_of(len(candidates)))
    assert len(CandidateIndex.open(filled.folder)) == 3


def test_what_is_no_candidate_is_refused(filled, unchecked):
    cases = {
        "the metadata of 'a' are no object with names": Candidate("x", "a", None),
        "the id of text 'y' is 3, not text: give a string, or None": Candidate("y", 3),
        "the text of candidate 1 is 3, not text: give a string": Candidate(3),
        "candidate 1 is 'x': give a Candidate": "x",
    }
    for problem, wrong in cases.items():
        with pytest.raises(UserError, match=problem):
            filled.upsert([Candidate("first", "1"), wrong], vectors_of(2))
    assert filled.live == 3


@pytest.mark.parametrize("wrong", [None, 3, ["year=2020"]])
def test_what_is_no_filter_is_refused(filled, wrong, unchecked):
    for use in (filled.matching, filled.delete_matching):
        with pytest.raises(UserError, match=r"filter is .*, not text: "):
            use(wrong)
    assert filled.live == 3


def test_half_of_a_surrogate_pair_is_refused(filled):
    with pytest.raises(UserError, match="has half of a surrogate pair"):
        filled.append(["x", "\ud800"], vectors_of(2))
    assert filled.live == 3


def test_an_index_without_metadata_is_read_as_before_and_refuses_ids(tmp_path):
    plain = CandidateIndex.create(tmp_path / "plain", dim=DIM, fingerprint="abc", model="ranker")
    plain.append(["a"], vectors_of(1))
    assert json.loads((plain.folder / "index.json").read_text())["format"] == 1
    assert not (plain.folder / "ids.bin").exists()
    assert (plain.id(0), plain.metadata(0)) == (None, {})
    for refused in (
        lambda: plain.upsert([Candidate("a")], vectors_of(1)),
        lambda: plain.matching("a=1"),
        lambda: plain.delete_ids(["a"]),
        lambda: plain.rows_of_ids(["a"]),
        lambda: plain.delete_matching("a=1"),
    ):
        with pytest.raises(UserError, match="was made without ids and metadata: make a new one with tain rank index"):
            refused()


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("metadata.bin", b'{"lang":"xx","year":2019}{"year":2021}{"lang":"de"}', "the metadata of row 0 differs from the stored key"),
        ("ids.bin", b"xb", "the id of row 0 differs from the stored key"),
        ("metadata_ends.bin", np.array([30, 20, 51], np.int64).tobytes(), "metadata_ends.bin has invalid ends of metadata"),
        ("id_ends.bin", np.array([1, 1, 9], np.int64).tobytes(), "id_ends.bin has invalid ends of ids"),
        ("metadata_keys.bin", b"", "metadata_keys.bin is shorter than its last commit states"),
    ],
)
def test_damage_is_told(filled, file, content, problem):
    (filled.folder / file).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        opened = CandidateIndex.open(filled.folder)
        opened.matching("lang=en")
        live(opened)


@pytest.mark.parametrize("file", ["ids.bin", "metadata.bin", "metadata_keys.bin"])
def test_a_link_among_the_files_of_metadata_is_refused(filled, file, tmp_path):
    (tmp_path / "mine").write_bytes((filled.folder / file).read_bytes())
    (filled.folder / file).unlink()
    (filled.folder / file).symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="links inside such a folder are not followed"):
        CandidateIndex.open(filled.folder)
