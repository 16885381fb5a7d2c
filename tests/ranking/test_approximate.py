"""Short lists by FAISS: all lists looked into miss nothing, and what came or went since is minded."""

import importlib

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


def test_damaged_lists_are_made_anew(index, lists, generator):
    (index.folder / "short.faiss").write_bytes(b"noise")
    assert ShortLists.of(index).lists.ntotal == 2000
    assert len((index.folder / "short.faiss").read_bytes()) > 2000


def test_lists_that_cannot_be_kept_are_used_all_the_same(index, lists, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    (index.folder / "short.faiss").unlink()
    monkeypatch.setattr(approximate, "_write", full)
    assert ShortLists.of(index, progress=Progress.for_terminal(json=True)).lists.ntotal == 2000
    assert "short lists cannot be kept, and every search will make them anew: [Errno 28] No space" in capsys.readouterr().err


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
