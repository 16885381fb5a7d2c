import numpy as np
import pytest

from tain.foundation.errors import ShapeError
from tain.inspection.similarity import token_pair_contributions


def test_contributions_sum_to_the_cosine_of_the_mean_vectors(rng: np.random.Generator):
    left, right = rng.standard_normal((7, 16)) + 0.4, rng.standard_normal((12, 16)) + 0.2
    found = token_pair_contributions(left, right)
    p, q = left.mean(0), right.mean(0)
    assert found.shape == (7, 12)
    assert found.sum() == pytest.approx(p @ q / np.linalg.norm(p) / np.linalg.norm(q), abs=1e-14)


def test_swapping_the_texts_transposes_the_table(rng: np.random.Generator):
    left, right = rng.standard_normal((3, 8)), rng.standard_normal((5, 8))
    np.testing.assert_allclose(token_pair_contributions(left, right), token_pair_contributions(right, left).T)


def test_a_text_with_itself_gives_one_in_all(rng: np.random.Generator):
    text = rng.standard_normal((6, 8)).astype(np.float32)
    assert token_pair_contributions(text, text).sum() == pytest.approx(1.0)


def test_lengthening_all_vectors_of_a_text_changes_nothing(rng: np.random.Generator):
    left, right = rng.standard_normal((3, 8)), rng.standard_normal((5, 8))
    np.testing.assert_allclose(token_pair_contributions(9.0 * left, right), token_pair_contributions(left, right))


def test_orthogonal_tokens_contribute_nothing():
    left, right = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[3.0, 0.0]])
    found = token_pair_contributions(left, right)
    assert found[1, 0] == 0.0
    assert found[0, 0] == pytest.approx(1 / np.sqrt(2))


def test_a_mean_vector_of_zero_has_no_cosine():
    with pytest.raises(ShapeError, match="undefined"):
        token_pair_contributions(np.array([[1.0, 0.0], [-1.0, 0.0]]), np.ones((2, 2)))
