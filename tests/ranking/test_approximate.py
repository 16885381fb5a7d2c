"""Short lists by FAISS: all lists looked into miss nothing, and what came or went since is minded."""

import importlib

import pytest
import torch

from tain.foundation.errors import UserError
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
    rows = lists.rows(context, size=50, probes=10_000)
    (best,) = scan_best(index.vectors, [context], k=10)
    assert len(rows) < 300
    assert set(best.rows) <= set(rows)


def test_fewer_probes_find_fewer(lists, generator):
    context = torch.randn(1, 16, generator=generator)
    exact = set(lists.rows(context, size=100, probes=10_000))
    few = set(lists.rows(context, size=100, probes=1))
    assert len(few & exact) < len(exact)


def test_late_rows_are_always_there_and_deleted_ones_never(index, lists, generator, rng):
    context = torch.randn(1, 16, generator=generator)
    first = lists.rows(context, size=5, probes=10_000)
    index.append(["late"], rng.normal(size=(1, 16)))
    index.delete([int(first[0])])
    again = ShortLists.of(index)
    assert again.lists.ntotal == 2000  # read, not made anew
    rows = again.rows(context, size=5, probes=10_000)
    assert 2000 in rows
    assert first[0] not in rows


def test_lists_of_half_the_rows_are_made_anew(index, lists, rng):
    index.append([f"late {number}" for number in range(1500)], rng.normal(size=(1500, 16)))
    assert ShortLists.of(index).lists.ntotal == 3500


def test_without_faiss_it_says_what_to_install(index, monkeypatch):
    real = importlib.import_module

    def absent(name, *more):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(approximate.importlib, "import_module", absent)
    with pytest.raises(UserError, match=r'needs FAISS, which is not installed: run pip install "tain\[scale\]"'):
        ShortLists.of(index)
