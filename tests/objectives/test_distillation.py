"""Distillation losses: closed forms, gradients, and a toy task where a clean teacher beats noisy labels."""

import math

import pytest
import torch
import torch.nn.functional as F

from tain.foundation.errors import ShapeError
from tain.objectives.distillation import (
    contrastive_distillation,
    labelled_cross_entropy,
    mixed_cross_entropy,
    similarity_matching,
    vector_matching,
)


def by_teacher(student, teacher, *, scale):
    """The loss of texts without labels."""
    return mixed_cross_entropy(student, teacher, torch.full((len(student),), -1), scale=scale, label_weight=0.5)


def test_a_certain_teacher_is_a_label():
    student, labels = torch.randn(6, 4), torch.randint(4, (6,))
    teacher = F.one_hot(labels, 4) * 1e4
    torch.testing.assert_close(by_teacher(student, teacher.float(), scale=1.0), F.cross_entropy(student, labels))


def test_the_gradient_is_the_difference_of_probabilities():
    student, teacher = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    by_teacher(student, teacher, scale=2.0).backward()
    torch.testing.assert_close(student.grad, (student.softmax(-1) - (2 * teacher).softmax(-1)).detach() / 5)


def test_scaling_sharpens_the_teacher():
    teacher = torch.tensor([[2.0, 1.0, 0.0]])
    losses = [by_teacher(teacher * 9, teacher, scale=scale).item() for scale in (0.5, 1.0, 9.0)]
    assert losses == sorted(losses, reverse=True)


def test_hard_labels_count_where_they_are_given():
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([2, -1, 0, -1])
    only_soft = mixed_cross_entropy(student, teacher, labels, scale=1.0, label_weight=0.0)
    torch.testing.assert_close(only_soft, by_teacher(student, teacher, scale=1.0))
    all_hard = mixed_cross_entropy(student, teacher, labels, scale=1.0, label_weight=1.0)
    given, rest = [0, 2], [1, 3]
    expected = (F.cross_entropy(student[given], labels[given]) + by_teacher(student[rest], teacher[rest], scale=1.0)) / 2
    torch.testing.assert_close(all_hard, expected)


def test_where_the_teacher_did_not_read_the_given_label_counts_alone():
    student, teacher, labels = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([2, -1, 0, -1])
    is_taught = torch.tensor([True, True, False, False])
    found = mixed_cross_entropy(student, teacher, labels, scale=1.0, label_weight=0.25, is_taught=is_taught)
    read = mixed_cross_entropy(student[:2], teacher[:2], labels[:2], scale=1.0, label_weight=0.25)
    torch.testing.assert_close(found, (2 * read + F.cross_entropy(student[2:3], labels[2:3])) / 3)
    nobody = mixed_cross_entropy(student[3:], teacher[3:], labels[3:], scale=1.0, label_weight=0.25, is_taught=is_taught[3:])
    assert nobody.item() == 0.0


def test_without_a_teacher_unlabelled_rows_do_not_count():
    student, labels = torch.randn(4, 3), torch.tensor([2, -1, 0, -1])
    torch.testing.assert_close(labelled_cross_entropy(student, labels), F.cross_entropy(student[[0, 2]], labels[[0, 2]]))
    assert labelled_cross_entropy(student, torch.full((4,), -1)).item() == 0.0


def test_equal_vectors_give_chance_level():
    same = torch.ones(8, 5)
    assert contrastive_distillation(same, same, temperature=0.05).item() == pytest.approx(math.log(8), rel=1e-5)


def test_contrastive_distillation_equals_a_plain_sum():
    student, teacher, temperature = torch.randn(4, 3), torch.randn(4, 3), 0.3
    cosines = [[F.cosine_similarity(one, other, dim=0) / temperature for other in teacher] for one in student]
    total = 0.0
    for own in range(4):
        row, column = torch.stack(cosines[own]), torch.stack([cosines[other][own] for other in range(4)])
        total += (row.logsumexp(0) - row[own] + column.logsumexp(0) - column[own]).item() / 2
    assert contrastive_distillation(student, teacher, temperature=temperature).item() == pytest.approx(total / 4, rel=1e-5)


def test_the_same_text_twice_is_no_negative_of_itself():
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    is_same = torch.eye(5, dtype=torch.bool)
    is_same[1, 3] = is_same[3, 1] = True
    total = 0.0
    for own in range(5):
        others = [index for index in range(5) if index == own or not is_same[own, index]]
        for here, there in ((student, teacher), (teacher, student)):
            row = torch.stack([F.cosine_similarity(here[own], there[other], dim=0) / 0.3 for other in others])
            total += (row.logsumexp(0) - row[others.index(own)]).item() / 2
    found = contrastive_distillation(student, teacher, temperature=0.3, is_same=is_same)
    assert found.item() == pytest.approx(total / 5, rel=1e-5)
    alone = contrastive_distillation(student, teacher, temperature=0.3, is_same=torch.ones(5, 5, dtype=torch.bool))
    assert alone.item() == 0.0


def test_turned_and_stretched_vectors_match_in_similarity():
    teacher = torch.randn(6, 4)
    turn = torch.linalg.qr(torch.randn(7, 4)).Q
    assert similarity_matching(3 * teacher @ turn.T, teacher).item() == pytest.approx(0.0, abs=1e-10)
    assert similarity_matching(torch.randn(6, 4), teacher) > 0.01


def test_vectors_match_whatever_their_length_and_not_when_they_share_a_shift():
    teacher = torch.randn(6, 4)
    assert vector_matching(3 * teacher, teacher).item() == pytest.approx(0.0, abs=1e-6)
    assert vector_matching(-teacher, teacher).item() == pytest.approx(2.0)
    assert vector_matching(teacher + 5, teacher) > 0.1


@pytest.mark.parametrize("loss", [lambda v: contrastive_distillation(v, v, temperature=1.0), lambda v: similarity_matching(v, v)])
def test_one_text_is_refused(loss):
    with pytest.raises(ShapeError, match="needs at least 2 texts"):
        loss(torch.randn(1, 3))


def test_a_clean_teacher_teaches_what_noisy_labels_cannot(generator):
    """Papers.md 4f, check 8: the student gets near its teacher though two labels of five are wrong."""
    truth = torch.randn(20, 2, generator=generator)
    inputs = torch.randn(120, 20, generator=generator)
    right = (inputs @ truth).argmax(1)
    is_wrong = torch.rand(120, generator=generator) < 0.4
    noisy = torch.where(is_wrong, 1 - right, right)
    unseen = torch.randn(2000, 20, generator=generator)

    def accuracy(loss):
        weight = torch.zeros(20, 2, requires_grad=True)
        optimizer = torch.optim.Adam([weight], lr=0.05)
        for _ in range(300):
            optimizer.zero_grad()
            loss(inputs @ weight).backward()
            optimizer.step()
        return ((unseen @ weight).argmax(1) == (unseen @ truth).argmax(1)).float().mean().item()

    with_teacher = accuracy(lambda logits: by_teacher(logits, inputs @ truth, scale=1.0))
    assert with_teacher > 0.97
    assert with_teacher > accuracy(lambda logits: F.cross_entropy(logits, noisy)) + 0.1
