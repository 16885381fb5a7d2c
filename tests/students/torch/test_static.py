"""The static student: a plain mean, initialisation from a teacher's vectors, and frequency weights."""

import pytest
import torch

from tain.students.torch.static import StaticStudent, frequency_weights


def test_a_text_is_the_mean_of_its_tokens_and_padding_changes_nothing():
    student = StaticStudent(tokens=9, dim=4, outputs=3)
    text, padded = student(torch.tensor([[3, 5]])), student(torch.tensor([[3, 5, 0, 0]]))
    torch.testing.assert_close(text, padded)
    alone = student(torch.tensor([[3], [5]]))
    torch.testing.assert_close(text[0], alone.mean(dim=0))
    assert student(torch.zeros(1, 2, dtype=torch.long)).isfinite().all()


def test_the_start_gives_back_the_teachers_centred_vectors_where_there_is_room():
    vectors, weights = torch.randn(30, 6), torch.rand(30)
    student = StaticStudent(tokens=31, dim=6, outputs=6)
    student.start_from(vectors, weights)
    expected = (vectors - vectors.mean(0)) * weights[:, None]
    torch.testing.assert_close(student(torch.arange(1, 31)[:, None]), expected, atol=0.1, rtol=0)  # eight bits
    narrow = StaticStudent(tokens=31, dim=2, outputs=6)
    narrow.start_from(vectors, weights)
    assert torch.linalg.matrix_rank(narrow(torch.arange(1, 31)[:, None]), rtol=1e-4) <= 2


def test_frequent_tokens_count_less():
    weights = frequency_weights(torch.tensor([0.0, 1.0, 999.0]), smoothing=1e-3)
    assert weights.tolist() == pytest.approx([1.0, 0.5, 1e-3 / 1.0], rel=2e-3)
