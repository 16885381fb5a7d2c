"""Short lists by FAISS: all lists looked into miss nothing, and what came or went since is minded."""

import importlib

import numpy as np
import pytest
import torch

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.scanning import scan_best
from tain.ranking import approximate
from tain.ranking.approximate import ShortLists
from tain.ranking.index import CandidateIndex


@pytest.fixture
def index(tmp_path, rng):
    index = CandidateIndex.create(tmp_path / "index", dim=16, fingerprint="abc", model="ranker")
    index.append([f"text {number}" for number in range(2000)], rng.normal(size=(2000, 16)))
    return index


@pytest.fixture
def lists(index):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    return ShortLists.of(index)


def test_looking_into_every_list_finds_the_best(index, lists, generator):
    context = torch.randn(5, 16, generator=generator)
    rows = lists.rows(context, k=10, probes=10_000)
    (best,) = scan_best(index.vectors, [context], k=10)
    assert len(rows) <= 5 * 100
    assert set(best.rows) <= set(rows)


def test_fewer_probes_find_fewer(lists, generator):
    context = torch.randn(1, 16, generator=generator)
    exact = set(lists.rows(context, k=25, probes=10_000))
    few = set(lists.rows(context, k=25, probes=1))
    assert len(few & exact) < len(exact)


def test_a_late_row_is_found_and_the_lists_on_the_disk_are_kept(index, lists, generator):
    context = torch.randn(1, 16, generator=generator)
    before = (index.folder / "short.faiss").read_bytes()
    index.append(["late"], 10 * context.numpy())
    rows = ShortLists.of(index).rows(context, k=5, probes=10_000)
    assert 2000 in rows
    assert (index.folder / "short.faiss").read_bytes() == before


def test_deleted_rows_use_up_no_place_on_the_short_list(index, lists, generator):
    context = torch.randn(1, 16, generator=generator)
    (best,) = scan_best(index.vectors, [context], k=500)
    index.delete(best.rows.tolist())
    rows = ShortLists.of(index).rows(context, k=5, probes=10_000)
    assert len(rows) == 100
    assert not set(rows) & set(best.rows)
    (left,) = scan_best(index.vectors, [context], k=5, is_deleted=index.is_deleted)
    assert set(left.rows) <= set(rows)


def damaged(content: bytes) -> dict[str, bytes]:
    """The file, damaged in every field that FAISS trusts."""
    sizes = content.index(b"ilar") + 4 + 16 + 4 + 8
    first_size = int.from_bytes(content[sizes : sizes + 8], "little")
    lists = int.from_bytes(content[sizes - 8 : sizes], "little")
    first_row = sizes + 8 * lists + 16 * first_size

    def with_number(start: int, number: int, size: int = 8) -> bytes:
        return content[:start] + number.to_bytes(size, "little") + content[start + size :]

    return {
        "noise": b"noise",
        "empty": b"",
        "cut": content[: len(content) // 2],
        "one byte short": content[:-1],
        "one byte more": content + b"0",
        "another kind": b"IxFI" + content[4:],
        "another width": with_number(4, 8, 4),
        "more rows than the index": with_number(8, 2001),
        "fewer rows": with_number(8, 1999),
        "no lists": with_number(37, 0),
        "too many lists": with_number(37, 2**40),
        "too large a list": with_number(sizes, first_size + 1),
        "a huge list": with_number(sizes, 2**61),
        "a row that is not there": with_number(first_row, 2000),
        "a negative row": with_number(first_row, 2**64 - 1),
        "a row twice": content[:first_row] + content[first_row + 8 : first_row + 16] + content[first_row + 8 :],
        "a centre of nan": content[:98] + b"\xff" * 4 + content[102:],
    }


def test_damaged_lists_are_refused_before_faiss_reads_them(index, lists, monkeypatch):
    import faiss

    path = index.folder / "short.faiss"
    whole = path.read_bytes()

    def read(name: str):
        pytest.fail(f"FAISS read {name}")

    monkeypatch.setattr(faiss, "read_index", read)
    for what, content in damaged(whole).items():
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"the short lists '.*' are damaged \(.+\): remove that file") as raised:
            ShortLists.of(index)
        assert "\n" not in str(raised.value), what
    monkeypatch.undo()
    path.unlink()
    assert ShortLists.of(index).lists.ntotal == 2000


def test_lists_of_rows_that_came_after_the_index_was_opened_are_no_damage(index, lists, rng):
    earlier = CandidateIndex.open(index.folder)
    index.append([f"late {number}" for number in range(1500)], rng.normal(size=(1500, 16)))
    ShortLists.of(index)
    assert ShortLists.of(earlier).lists.ntotal == 2000


def test_lists_of_which_most_are_empty_are_read(tmp_path, rng):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    index = CandidateIndex.create(tmp_path / "index", dim=4, fingerprint="abc", model="ranker")
    index.append([f"text {number}" for number in range(1000)], np.tile(np.eye(1, 4), (1000, 1)))
    ShortLists.of(index)
    assert b"sprs" in (index.folder / "short.faiss").read_bytes()
    assert ShortLists.of(index).lists.ntotal == 1000


def test_lists_are_not_made_from_a_view_of_before_a_compaction(index, lists):
    index.delete([0, 1])
    view = CandidateIndex.open(index.folder)
    index.compact()
    with pytest.raises(UserError, match="was rewritten meanwhile"):
        ShortLists.of(view)
    view.refresh()
    assert ShortLists.of(view).lists.ntotal == len(index)


def test_lists_that_cannot_be_kept_are_used_all_the_same(index, lists, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    (index.folder / "short.faiss").unlink()
    monkeypatch.setattr(approximate, "_write", full)
    assert ShortLists.of(index, progress=Progress.for_terminal(json=True)).lists.ntotal == 2000
    assert "short lists cannot be saved, so every search will rebuild them: [Errno 28] No space" in capsys.readouterr().err


def test_lists_of_half_the_rows_are_made_anew(index, lists, rng):
    index.append([f"late {number}" for number in range(1500)], rng.normal(size=(1500, 16)))
    before = (index.folder / "short.faiss").stat().st_size
    assert ShortLists.of(index).lists.ntotal == 3500
    assert (index.folder / "short.faiss").stat().st_size > 1.5 * before


def test_without_faiss_it_says_what_to_install(index, monkeypatch):
    real = importlib.import_module

    def absent(name, *more):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(approximate.importlib, "import_module", absent)
    with pytest.raises(UserError, match=r'needs FAISS, which is not installed: run pip install "tain\[scale\]"'):
        ShortLists.of(index)
