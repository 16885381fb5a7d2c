"""info_nce: closed forms and equality with a double loop (Liu et al. 2021)."""

import math

import pytest
import torch

from tain.foundation.errors import ShapeError
from tain.objectives.contrastive import info_nce, paired_info_nce


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(5)


def naive(left, right, temperature, is_same=None):
    views = [*left, *right]
    batch = len(left)

    def similarity(first, second):
        return float(first @ second / (first.norm() * second.norm())) / temperature

    total = 0.0
    for anchor in range(2 * batch):
        twin = (anchor + batch) % (2 * batch)
        candidates = []
        for other in range(2 * batch):
            barred = other == anchor or (
                is_same is not None and other % batch != anchor % batch and bool(is_same[anchor % batch, other % batch])
            )
            if not barred:
                candidates.append(math.exp(similarity(views[anchor], views[other])))
        total -= math.log(math.exp(similarity(views[anchor], views[twin])) / sum(candidates))
    return total / (2 * batch)


def test_identical_embeddings_give_chance_level():
    same = torch.ones(4, 8)  # 4 texts, so each anchor has 7 equal candidates
    assert info_nce(same, same, temperature=0.04).item() == pytest.approx(math.log(7), rel=1e-6)


def test_chance_level_of_the_papers_batch_is_5_9890():
    same = torch.ones(200, 3)
    assert info_nce(same, same, temperature=0.2).item() == pytest.approx(5.9890, abs=1e-4)


@pytest.mark.parametrize(("temperature", "expected"), [(0.2, math.log(1 + 398 * math.exp(-5))), (0.04, 5.5e-9)])
def test_orthogonal_texts_with_identical_twins_give_the_closed_form(temperature, expected):
    basis = torch.eye(200)
    assert info_nce(basis, basis, temperature=temperature).item() == pytest.approx(expected, abs=1e-7, rel=1e-4)


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_it_equals_a_double_loop(batch, generator):
    left, right = torch.randn(2, batch, 5, generator=generator)
    assert info_nce(left, right, temperature=0.3).item() == pytest.approx(naive(left, right, 0.3), rel=1e-5)


def test_same_texts_do_not_push_each_other_away_and_equal_the_double_loop(generator):
    left, right = torch.randn(2, 5, 4, generator=generator)
    is_same = torch.zeros(5, 5, dtype=torch.bool)
    is_same[1, 3] = is_same[3, 1] = True
    found = info_nce(left, right, temperature=0.1, is_same=is_same).item()
    assert found == pytest.approx(naive(left, right, 0.1, is_same), rel=1e-5)
    assert found < info_nce(left, right, temperature=0.1).item()


def test_a_same_diagonal_does_not_bar_the_twin(generator):
    left, right = torch.randn(2, 4, 6, generator=generator)
    only_itself = torch.eye(4, dtype=torch.bool)
    torch.testing.assert_close(info_nce(left, right, temperature=0.1, is_same=only_itself), info_nce(left, right, temperature=0.1))


def test_vector_length_sides_and_order_do_not_matter(generator):
    left, right = torch.randn(2, 6, 8, generator=generator)
    plain = info_nce(left, right, temperature=0.1)
    torch.testing.assert_close(info_nce(3.0 * left, 0.5 * right, temperature=0.1), plain)
    torch.testing.assert_close(info_nce(right, left, temperature=0.1), plain)
    shuffled = torch.randperm(6, generator=generator)
    torch.testing.assert_close(info_nce(left[shuffled], right[shuffled], temperature=0.1), plain)


def test_gradient_reaches_both_views_and_is_orthogonal_to_them(generator):
    left, right = (torch.randn(4, 6, generator=generator).requires_grad_() for _ in range(2))
    info_nce(left, right, temperature=0.2).backward()
    for view in (left, right):
        assert view.grad is not None
        assert view.grad.norm() > 1e-3
        # length does not matter, so no gradient runs along the vector: in particular none comes from a vector's cosine with itself
        torch.testing.assert_close((view.grad * view.detach()).sum(1), torch.zeros(4), atol=1e-5, rtol=0)


def test_one_text_is_refused():
    with pytest.raises(ShapeError, match="at least 2 texts"):
        info_nce(torch.ones(1, 4), torch.ones(1, 4), temperature=0.1)


def test_bfloat16_vectors_are_compared_in_float32(generator):
    left, right = torch.randn(2, 6, 8, generator=generator).to(torch.bfloat16)
    found = info_nce(left, right, temperature=0.04)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, info_nce(left.float(), right.float(), temperature=0.04))


def naive_pairs(left, right, temperature, is_same=None):
    batch, total = len(left), 0.0
    for queries, keys, same in ((left, right, is_same), (right, left, None if is_same is None else is_same.T)):
        for i in range(batch):
            scores = {
                j: math.exp(float(queries[i] @ keys[j] / (queries[i].norm() * keys[j].norm())) / temperature)
                for j in range(batch)
                if j == i or same is None or not bool(same[i, j])
            }
            total -= math.log(scores[i] / sum(scores.values()))
    return total / (2 * batch)


def test_identical_pairs_are_at_the_chance_level_of_one_side():
    same = torch.ones(4, 8)
    assert paired_info_nce(same, same, temperature=0.04).item() == pytest.approx(math.log(4), rel=1e-6)


@pytest.mark.parametrize("batch", [2, 3, 7])
def test_the_loss_of_pairs_equals_a_double_loop(batch, generator):
    left, right = torch.randn(2, batch, 5, generator=generator)
    is_same = torch.rand(batch, batch, generator=generator) < 0.3
    assert paired_info_nce(left, right, temperature=0.3).item() == pytest.approx(naive_pairs(left, right, 0.3), rel=1e-5)
    masked = paired_info_nce(left, right, temperature=0.3, is_same=is_same).item()
    assert masked == pytest.approx(naive_pairs(left, right, 0.3, is_same), rel=1e-5)


def test_a_pair_alone_has_no_negatives():
    with pytest.raises(ShapeError, match="at least 2 pairs"):
        paired_info_nce(torch.ones(1, 3), torch.ones(1, 3), temperature=0.1)
