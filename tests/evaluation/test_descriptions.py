import numpy as np
import pytest

from tain.evaluation.descriptions import compare_retrieval, retrieve_by_description
from tain.foundation.errors import ShapeError, UserError
from tain.text.docstrings import FunctionDocstring

FUNCTIONS = [FunctionDocstring(f"package.f{number}", f"Do thing {number}.", f"More on thing {number}.") for number in range(40)]


class Fake:
    """Vectors by number: a description is its own axis, a rest too, blurred by noise."""

    def __init__(self, noise: float):
        self.name = f"fake {noise}"
        self.noise = noise

    def encode(self, texts):
        rng = np.random.default_rng(0)
        vectors = np.stack([np.eye(len(FUNCTIONS))[int(text.split()[-1].rstrip("."))] for text in texts])
        return (vectors + self.noise * rng.normal(size=vectors.shape)).astype(np.float32)


class Constant:
    name = "constant"

    def encode(self, texts):
        return np.ones((len(texts), 3), dtype=np.float32)


def test_a_perfect_encoder_finds_every_docstring():
    perfect = retrieve_by_description(Fake(0.0), FUNCTIONS)
    change = compare_retrieval(perfect, perfect, rng=np.random.default_rng(0))
    assert [figure.after for figure in change] == [1.0, 1.0, 1.0]
    assert [figure.direction for figure in change] == [0, 0, 0]
    assert perfect.nearest(7, count=1) == [7] and perfect.place_of_right(7) == 1


def test_an_encoder_that_tells_nothing_apart_scores_chance():
    blind = retrieve_by_description(Constant(), FUNCTIONS)
    first, ten, mrr = (figure.before for figure in compare_retrieval(blind, blind, rng=np.random.default_rng(0)))
    assert (first, ten) == pytest.approx((1 / 40, 10 / 40))
    assert mrr == pytest.approx(np.mean(1 / np.arange(1, 41)))
    assert blind.place_of_right(0) == 40  # among ties, the last


def test_better_and_worse_are_told_apart():
    sharp, blurred = (retrieve_by_description(Fake(noise), FUNCTIONS) for noise in (0.1, 1.0))
    assert [figure.direction for figure in compare_retrieval(blurred, sharp, rng=np.random.default_rng(0))] == [1, 1, 1]
    assert [figure.direction for figure in compare_retrieval(sharp, blurred, rng=np.random.default_rng(0))] == [-1, -1, -1]
    for figure in compare_retrieval(blurred, sharp, rng=np.random.default_rng(0)):
        assert figure.before_interval.low <= figure.before <= figure.before_interval.high
        assert figure.difference.low <= figure.after - figure.before <= figure.difference.high


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="at least 2"):
        retrieve_by_description(Fake(0.0), FUNCTIONS[:1])
    with pytest.raises(ShapeError):
        compare_retrieval(
            retrieve_by_description(Fake(0.0), FUNCTIONS), retrieve_by_description(Fake(0.0), FUNCTIONS[:9]), rng=np.random.default_rng(0)
        )


def test_an_encoder_with_nan_is_refused():
    class Broken:
        name = "broken"

        def encode(self, texts):
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(UserError, match="'broken' gave no finite vector"):
        retrieve_by_description(Broken(), FUNCTIONS)
