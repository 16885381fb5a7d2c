"""Scanning cached candidates finds what scoring them one by one finds."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tain.encoders.heads import poly_scores
from tain.foundation.errors import ShapeError
from tain.models import scanning
from tain.models.scanning import scan_all, scan_best


@pytest.fixture(params=[1, 3, 24])
def contexts(request, generator):
    """Vectors of some contexts: one of a bi-encoder, few, and many that differ in few directions, as a poly-encoder's do."""
    shared = torch.randn(4, 6, 16, generator=generator)
    mixture = torch.randn(4, request.param, 6, generator=generator)
    return list(mixture @ shared / 2 + 0.01 * torch.randn(4, request.param, 16, generator=generator))


@pytest.fixture
def candidates(rng):
    return rng.normal(size=(3000, 16)).astype(np.float32)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(scanning, "_BLOCK_ROWS", (200, 200))


def naive(candidates, context):
    return poly_scores(context[None], torch.from_numpy(candidates))[0].numpy()


@pytest.mark.usefixtures("small_blocks")
def test_all_scores_are_the_heads(candidates, contexts):
    for context in contexts:
        np.testing.assert_allclose(scan_all(candidates, context), naive(candidates, context), atol=1e-4)


def test_what_poly_costs_beyond_bi_grows_with_vectors_times_candidates(candidates, generator):
    """In multiply-adds."""

    def multiply_adds(vectors, number):
        with FlopCounterMode(display=False) as counter:
            scan_all(candidates[:number], torch.randn(vectors, 16, generator=generator))
        return counter.get_total_flops() // 2

    for vectors in (2, 16, 64):
        for number in (500, 1000, 3000):
            assert multiply_adds(vectors, number) - multiply_adds(1, number) == (vectors - 1) * number * 16


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("k", [1, 10, 250])
def test_the_best_are_the_best_of_all_scores(candidates, contexts, k):
    squares = (candidates**2).sum(1)
    for best, context in zip(scan_best(candidates, contexts, k=k, squares=squares), contexts, strict=True):
        expected = naive(candidates, context)
        assert set(best.rows) == set(np.argsort(-expected)[:k])
        np.testing.assert_allclose(best.scores, np.sort(expected)[::-1][:k], atol=1e-4)


@pytest.mark.usefixtures("small_blocks")
def test_pruning_spares_most_whole_scores_where_vectors_share_directions(candidates, generator, monkeypatch):
    context = torch.randn(64, 4, generator=generator) @ torch.randn(4, 16, generator=generator)
    scored = []
    mixed = scanning._mixed
    monkeypatch.setattr(scanning, "_mixed", lambda similarities: scored.append(similarities.shape[1]) or mixed(similarities))
    (best,) = scan_best(candidates, [context], k=5)
    assert sum(scored) < 0.3 * len(candidates)
    assert set(best.rows) == set(np.argsort(-naive(candidates, context))[:5])


@pytest.mark.usefixtures("small_blocks")
def test_what_is_gone_is_not_found(candidates, contexts, rng):
    is_deleted = rng.random(len(candidates)) < 0.5
    is_deleted[200:400] = True  # a whole block
    for best, context in zip(scan_best(candidates, contexts, k=20, is_deleted=is_deleted), contexts, strict=True):
        expected = np.where(is_deleted, -np.inf, naive(candidates, context))
        assert list(best.rows) == list(np.argsort(-expected)[:20])


def test_fewer_candidates_than_wanted_come_all(candidates, contexts):
    is_deleted = np.ones(len(candidates), dtype=bool)
    is_deleted[[5, 9]] = False
    for best in scan_best(candidates, contexts, k=10, is_deleted=is_deleted):
        assert sorted(best.rows) == [5, 9]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("vectors", [1, 3, 24])
def test_of_equal_scores_the_earlier_rows_come_first(vectors):
    candidates = np.ones((500, 16), dtype=np.float32)  # whole numbers: sums are exact in any order
    candidates[[450, 30]] = 2
    contexts = [torch.ones(vectors, 16)] * 2
    for best in scan_best(candidates, contexts, k=7):
        assert list(best.rows) == [30, 450, 0, 1, 2, 3, 4]


@pytest.mark.usefixtures("small_blocks")
def test_many_contexts_are_multiplied_a_few_at_a_time_and_only_tied_rows_are_sorted(candidates, generator, monkeypatch):
    contexts = [torch.randn(1, 16, generator=generator) for _ in range(25)]
    expected = scan_best(candidates, contexts, k=5)
    monkeypatch.setattr(scanning, "_PRODUCT_CONTEXTS", 4)
    widest, sorted_rows = [], []
    real_top, real_sort = scanning._top_of_block, torch.Tensor.sort
    monkeypatch.setattr(scanning, "_top_of_block", lambda scores, k: widest.append(len(scores)) or real_top(scores, k))
    for found, wanted in zip(scan_best(candidates, contexts, k=5), expected, strict=True):
        assert list(found.rows) == list(wanted.rows)
    assert max(widest) == 4
    scores = torch.tensor([[1.0, 3.0, 2.0, 0.0], [1.0, 2.0, 2.0, 2.0]])
    monkeypatch.setattr(torch.Tensor, "sort", lambda self, **more: sorted_rows.append(len(self)) or real_sort(self, **more))
    assert real_top(scores, 2)[1].tolist() == [[1, 2], [1, 2]]
    assert sorted_rows == [1]


def test_a_read_only_map_is_scanned_too(candidates, contexts, tmp_path):
    candidates.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", dtype=np.float32, mode="r", shape=candidates.shape)
    np.testing.assert_array_equal(scan_all(mapped, contexts[0]), scan_all(candidates, contexts[0]))


def test_another_width_is_refused(candidates, unchecked):
    with pytest.raises(ShapeError, match="the dimensions must agree"):
        scan_all(candidates, torch.ones(1, 8))
