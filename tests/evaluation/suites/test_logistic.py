import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from tain.evaluation.suites.logistic import LogisticRegressions
from tain.foundation.errors import ShapeError


def texts(rng: np.random.Generator, *, rows: int = 240, dim: int = 9, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal size and far from 0, as encoders give them, with classes that overlap."""
    features = rng.normal(size=(rows, dim)) @ np.diag(np.geomspace(3, 0.05, dim)) @ rng.normal(size=(dim, dim)) + 5
    scores = features @ rng.normal(size=(dim, classes)) + 4 * rng.normal(size=(rows, classes))
    return features, (scores - scores.mean(axis=0)).argmax(axis=1)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_every_fit_is_that_of_scikit_learn_on_its_rows(classes: int, rng: np.random.Generator):
    features, labels = texts(rng, classes=classes)
    is_used = rng.random((4, len(labels))) < 0.8
    strengths = np.array([0.02, 0.25, 1.0, 4.0])
    fits = LogisticRegressions(features, labels, classes=classes).fit(is_used, strengths)
    for fit, (used, strength) in enumerate(zip(is_used, strengths, strict=True)):
        theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=100_000).fit(features[used], labels[used])
        np.testing.assert_allclose(fits.weights[fit], theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max())
        assert (fits.predicted[fit] == theirs.predict(features)).mean() > 0.99


def test_the_loss_is_no_larger_than_a_general_minimiser_finds(rng: np.random.Generator):
    features, labels = texts(rng, rows=60, dim=4)
    signs = 2 * labels - 1

    def loss(weights: np.ndarray, strength: float) -> float:
        margins = signs * (features @ weights[:-1] + weights[-1])
        return weights[:-1] @ weights[:-1] / 2 + strength * np.logaddexp(0, -margins).sum()

    for strength in (0.1, 8.0):
        fits = LogisticRegressions(features, labels, classes=2).fit(np.ones((1, 60), dtype=bool), np.array([strength]))
        ours = loss(np.r_[fits.weights[0, 0], fits.intercepts[0]], strength)
        assert ours <= minimize(loss, np.zeros(5), args=(strength,)).fun * (1 + 1e-6)


def test_other_fits_beside_it_never_change_a_fit(rng: np.random.Generator):
    features, labels = texts(rng)
    is_used = rng.random((5, len(labels))) < 0.9
    strengths = np.array([0.1, 0.3, 1.0, 3.0, 10.0])
    together = LogisticRegressions(features, labels, classes=2).fit(is_used, strengths)
    alone = LogisticRegressions(features, labels, classes=2).fit(is_used[2:3], strengths[2:3])
    np.testing.assert_allclose(together.weights[2], alone.weights[0], rtol=1e-3, atol=1e-4)


def test_a_held_out_row_has_no_say(rng: np.random.Generator):
    features, labels = texts(rng)
    is_used = np.ones((1, len(labels)), dtype=bool)
    is_used[0, :30] = False
    changed = labels.copy()
    changed[:30] = 1 - changed[:30]
    first, second = (LogisticRegressions(features, of, classes=2).fit(is_used, np.array([1.0])) for of in (labels, changed))
    np.testing.assert_array_equal(first.weights, second.weights)


def test_a_shift_of_all_features_changes_the_intercept_alone(rng: np.random.Generator):
    features, labels = texts(rng)
    used = np.ones((1, len(labels)), dtype=bool)
    here, there = (LogisticRegressions(given, labels, classes=2).fit(used, np.array([1.0])) for given in (features, features + 100))
    np.testing.assert_allclose(here.weights, there.weights, atol=1e-6)
    np.testing.assert_allclose(there.intercepts[0], here.intercepts[0] - 100 * here.weights[0].sum(axis=1), atol=1e-3)


def test_separable_classes_and_features_without_variance_still_come_to_an_end():
    labels = np.array([0, 1] * 20)
    features = np.stack([labels * 1e4, np.ones(40), np.zeros(40)], axis=1)
    fits = LogisticRegressions(features, labels, classes=2).fit(np.ones((1, 40), dtype=bool), np.array([8.0]))
    np.testing.assert_array_equal(fits.predicted[0], labels)
    nothing = LogisticRegressions(np.ones((40, 3)), labels, classes=2).fit(np.ones((1, 40), dtype=bool), np.array([8.0]))
    assert np.isfinite(nothing.weights).all()


def test_labels_that_are_no_classes_are_refused():
    with pytest.raises(ShapeError, match="labels must be 0 to classes - 1"):
        LogisticRegressions(np.ones((3, 2)), np.array([0, 1, 2]), classes=2)
