"""Ranking losses: closed forms, repeated answers, and gradients (Humeau et al. 2020)."""

import math

import pytest
import torch

from tain.foundation.errors import ShapeError
from tain.objectives.ranking import candidate_cross_entropy, listwise_distillation


def test_equal_scores_give_chance_level():
    assert candidate_cross_entropy(torch.zeros(5, 5), torch.arange(5)).item() == pytest.approx(math.log(5))


def test_it_is_cross_entropy_with_diagonal_targets(generator):
    scores = torch.randn(4, 4, generator=generator)
    expected = -torch.stack([scores[row].log_softmax(0)[row] for row in range(4)]).mean()
    torch.testing.assert_close(candidate_cross_entropy(scores, torch.arange(4)), expected)


def test_barred_candidates_count_as_if_they_were_not_there(generator):
    scores = torch.randn(3, 5, generator=generator)
    is_excluded = torch.zeros(3, 5, dtype=torch.bool)
    is_excluded[:, 3] = True
    found = candidate_cross_entropy(scores, torch.arange(3), is_excluded=is_excluded)
    torch.testing.assert_close(found, candidate_cross_entropy(scores[:, [0, 1, 2, 4]], torch.arange(3)))


def test_a_target_is_never_barred(generator):
    scores = torch.randn(2, 3, generator=generator)
    everything = torch.ones(2, 3, dtype=torch.bool)
    assert candidate_cross_entropy(scores, torch.tensor([0, 2]), is_excluded=everything).item() == pytest.approx(0.0, abs=1e-6)


def test_a_student_that_agrees_has_nothing_to_learn(generator):
    teacher = torch.randn(4, 6, generator=generator)
    assert listwise_distillation(teacher + 3.0, teacher).item() == pytest.approx(0.0, abs=1e-6)  # a shift of a list is no order


def test_distillation_is_the_divergence_from_the_teacher(generator):
    student, teacher = torch.randn(2, 4, 6, generator=generator)
    p, q = (teacher / 2.0).softmax(1), student.softmax(1)
    expected = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(listwise_distillation(student, teacher, temperature=2.0), expected)


def test_no_gradient_flows_into_the_teacher(generator):
    student, teacher = (torch.randn(2, 3, generator=generator, requires_grad=True) for _ in range(2))
    listwise_distillation(student, teacher).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_a_single_candidate_is_refused():
    with pytest.raises(ShapeError, match="at least 2 candidates"):
        candidate_cross_entropy(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ShapeError, match="lists of at least 2"):
        listwise_distillation(torch.zeros(3, 1), torch.zeros(3, 1))
