import numpy as np
import pytest

from tain.demo.docstrings import FunctionDocstring
from tain.demo.retrieval import compare_retrieval, fuse, retrieve_by_description
from tain.evaluation.baselines import Lexical
from tain.foundation.errors import ShapeError, UserError

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
    assert perfect.nearest(7, count=1) == [7] and perfect.rank_of_right(7) == 1


def test_an_encoder_with_equal_vectors_scores_chance():
    blind = retrieve_by_description(Constant(), FUNCTIONS)
    first, ten, mrr = (figure.before for figure in compare_retrieval(blind, blind, rng=np.random.default_rng(0)))
    assert (first, ten) == pytest.approx((1 / 40, 10 / 40))
    assert mrr == pytest.approx(np.mean(1 / np.arange(1, 41)))
    assert blind.rank_of_right(0) == 40  # among ties, the last


def test_changes_have_a_direction():
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


def test_tf_idf_is_fitted_on_the_rests_and_finds_them_by_shared_words():
    found = retrieve_by_description(Lexical(weighting="tf-idf"), FUNCTIONS)
    rests, descriptions = ([getattr(function, side) for function in FUNCTIONS] for side in ("rest", "description"))
    np.testing.assert_allclose(found.cosines, Lexical(rests, weighting="tf-idf").index(rests).cosines(descriptions))
    assert found.ranks.recall_at(1).mean() == 1.0  # each number is in one rest alone


def test_a_method_fused_with_itself_ranks_as_it_did():
    one = retrieve_by_description(Fake(0.5), FUNCTIONS)
    both = fuse(one, one)
    np.testing.assert_array_equal(both.ranks.better, one.ranks.better)
    np.testing.assert_array_equal(both.ranks.tied, one.ranks.tied)


def test_two_methods_that_err_in_different_places_are_better_together():
    class Half:
        """Knows the even, or the odd functions, and takes all others for one."""

        def __init__(self, rest):
            self.name, self.rest = f"half {rest}", rest

        def encode(self, texts):
            numbers = [int(text.split()[-1].rstrip(".")) for text in texts]
            return np.stack([np.eye(len(FUNCTIONS) + 1)[n if n % 2 == self.rest else -1] for n in numbers])

    even, odd = (retrieve_by_description(Half(rest), FUNCTIONS) for rest in (0, 1))
    assert fuse(even, odd).ranks.recall_at(1).mean() == 1.0 > even.ranks.recall_at(1).mean()
