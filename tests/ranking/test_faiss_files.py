"""Flat FAISS files: byte for byte those of FAISS, and one line for anything else."""

import struct

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.ranking.faiss_files import read_flat, write_flat
from tain.ranking.index import CandidateIndex


@pytest.fixture
def index(tmp_path, rng):
    index = CandidateIndex.create(tmp_path / "index", dim=8, fingerprint="abc", model="ranker")
    index.append([f"text {number}" for number in range(50)], rng.normal(size=(50, 8)))
    index.delete([3, 40])
    return index


def test_what_is_written_can_be_read_again(index, tmp_path):
    rows = write_flat(index, tmp_path / "x.faiss")
    assert len(rows) == 48 and not {3, 40} & set(rows.tolist())
    found = read_flat(tmp_path / "x.faiss")
    np.testing.assert_array_equal(found.vectors, index.vectors[rows])
    assert found.ids is None


def test_faiss_writes_the_same_bytes_and_finds_the_same(index, tmp_path, rng):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    rows = write_flat(index, tmp_path / "x.faiss")
    theirs = faiss.IndexFlatIP(8)
    theirs.add(np.ascontiguousarray(index.vectors[rows]))
    faiss.write_index(theirs, str(tmp_path / "theirs.faiss"))
    assert (tmp_path / "x.faiss").read_bytes() == (tmp_path / "theirs.faiss").read_bytes()
    asked = rng.normal(size=(5, 8)).astype(np.float32)
    _, found = faiss.read_index(str(tmp_path / "x.faiss")).search(asked, 10)
    scores = asked @ index.vectors.T
    scores[:, index.is_deleted] = -np.inf
    np.testing.assert_array_equal(rows[found], np.argsort(-scores, axis=1)[:, :10])


@pytest.mark.parametrize("kind", ["IndexFlatIP", "IndexFlatL2", "IndexFlat"])
@pytest.mark.parametrize("wrapper", [None, "IndexIDMap", "IndexIDMap2"])
def test_flat_indexes_of_faiss_are_read(kind, wrapper, tmp_path, rng):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    vectors, ids = rng.normal(size=(20, 6)).astype(np.float32), rng.permutation(100)[:20]
    made = getattr(faiss, kind)(6)
    if wrapper is None:
        made.add(vectors)
    else:
        made = getattr(faiss, wrapper)(made)
        made.add_with_ids(vectors, ids)
    faiss.write_index(made, str(tmp_path / "x.faiss"))
    found = read_flat(tmp_path / "x.faiss")
    np.testing.assert_array_equal(found.vectors, vectors)
    assert (found.ids is None) if wrapper is None else (found.ids.tolist() == ids.tolist())


def test_indexes_that_lose_something_are_refused(tmp_path, rng):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    made = faiss.IndexHNSWFlat(6, 4)
    made.add(rng.normal(size=(20, 6)).astype(np.float32))
    faiss.write_index(made, str(tmp_path / "x.faiss"))
    with pytest.raises(UserError, match=r"holds an index of kind 'IHNf', which does not keep every vector exactly: give an IndexFlatIP"):
        read_flat(tmp_path / "x.faiss")


HEADER = struct.pack("<4siqqq?i", b"IxFI", 2, 3, 0, 0, True, 0)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is too short for a header"),
        (b"noise" * 20, "is damaged|holds an index of kind"),
        (HEADER, "it ends too soon"),
        (HEADER + struct.pack("<Q", 6) + b"\0" * 20, "its size and its number of vectors disagree"),
        (HEADER + struct.pack("<Q", 2**60) + b"\0" * 24, "its size and its number of vectors disagree"),
        (HEADER + struct.pack("<Q", 6) + b"\0" * 25, "bytes follow its end"),
        (HEADER + struct.pack("<Q", 6) + np.full(6, np.nan, "<f4").tobytes(), "a vector has nan or infinity"),
        (struct.pack("<4siqqq?i", b"IxFI", 2**31 - 1, 2**62, 0, 0, True, 0) + b"\0" * 8, "its size and its number of vectors disagree"),
        (struct.pack("<4siqqq?i", b"IxFI", 4, 0, 0, 0, True, 0) + b"\0" * 8, "has no vectors: add some to it first"),
        (struct.pack("<4siqqq?i", b"IxFI", -2, 3, 0, 0, True, 0) + b"\0" * 8, "it has 3 rows of -2 numbers"),
        (struct.pack("<4siqqq?i", b"IxM2", 2, 3, 0, 0, True, 0) + HEADER + struct.pack("<Q", 6) + b"\0" * 24, "it ends too soon"),
        (struct.pack("<4siqqq?i", b"IxM2", 2, 4, 0, 0, True, 0) + HEADER, "its two headers disagree"),
        (
            struct.pack("<4siqqq?i", b"IxM2", 2, 3, 0, 0, True, 0) + HEADER + struct.pack("<Q", 6) + b"\0" * 24 + struct.pack("<Q", 9),
            "its ids and its vectors differ in number",
        ),
    ],
)
def test_damaged_files_are_one_line(content, problem, tmp_path):
    (tmp_path / "x.faiss").write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read_flat(tmp_path / "x.faiss")


def test_a_missing_file_and_one_that_exists_are_refused(index, tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_flat(tmp_path / "none")
    (tmp_path / "x.faiss").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        write_flat(index, tmp_path / "x.faiss")
    assert (tmp_path / "x.faiss").read_text() == "mine"
