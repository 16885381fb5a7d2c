"""bitext_retrieval: closed forms (Yang et al. 2021)."""

import math

import pytest
import torch

from tain.foundation.errors import ShapeError
from tain.objectives.bitext import bitext_retrieval


def test_without_a_margin_it_is_the_in_batch_softmax_of_both_directions(generator):
    left, right = torch.randn(2, 6, 5, generator=generator)
    expected = 0.0
    for first, second in ((left, right), (right, left)):
        for i in range(6):
            scores = [20 * float(torch.cosine_similarity(first[i], second[j], dim=0)) for j in range(6)]
            expected -= math.log(math.exp(scores[i]) / sum(map(math.exp, scores))) / 6
    assert bitext_retrieval(left, right, margin=0.0, scale=20.0).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_swapping_the_languages_changes_nothing(margin, generator):
    left, right = torch.randn(2, 7, 4, generator=generator)
    forth = bitext_retrieval(left, right, margin=margin, scale=10.0)
    torch.testing.assert_close(bitext_retrieval(right, left, margin=margin, scale=10.0), forth)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_a_larger_margin_never_lowers_the_loss(scale, generator):
    for _ in range(20):
        left, right = torch.randn(2, 5, 3, generator=generator)
        losses = [bitext_retrieval(left, right, margin=margin, scale=scale).item() for margin in (0.0, 0.1, 0.3, 1.0)]
        assert losses == sorted(losses)
        assert losses[0] < losses[-1]


def test_equal_vectors_give_chance_level_and_the_margins_closed_form():
    same = torch.ones(4, 3)
    assert bitext_retrieval(same, same, margin=0.0, scale=20.0).item() == pytest.approx(2 * math.log(4), rel=1e-6)
    # the translation's score is lower by scale * margin than its three rivals'
    expected = 2 * math.log(1 + 3 * math.exp(20 * 0.3))
    assert bitext_retrieval(same, same, margin=0.3, scale=20.0).item() == pytest.approx(expected, rel=1e-5)


def test_vector_length_does_not_matter_and_both_sides_get_gradients(generator):
    left, right = torch.randn(2, 5, 4, generator=generator)
    left.requires_grad_()
    right.requires_grad_()
    loss = bitext_retrieval(left, right, margin=0.3, scale=10.0)
    torch.testing.assert_close(bitext_retrieval(3.0 * left, 0.5 * right, margin=0.3, scale=10.0), loss)
    loss.backward()
    assert left.grad.abs().sum() > 0
    assert right.grad.abs().sum() > 0


def test_a_single_pair_is_refused():
    with pytest.raises(ShapeError, match=r"at least 2 pairs for negatives, got \(1, 4\)"):
        bitext_retrieval(torch.ones(1, 4), torch.ones(1, 4), margin=0.3, scale=1.0)
