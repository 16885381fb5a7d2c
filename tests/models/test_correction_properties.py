"""Corrections of vectors that nobody thought of."""

import numpy as np
import pytest

from tain.models.correction import LanguageCorrection, remove_directions
from tain.models.correction_fitting import Moments, fit_language, fit_top_removal, fit_whitening

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

many = settings(max_examples=60, deadline=None)


def drawn(seed: int, texts: int, dim: int, scale: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (scale * (rng.normal(size=(texts, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim))).astype(np.float32)


def moments_of(vectors: np.ndarray) -> Moments:
    moments = Moments(vectors.shape[1])
    moments.add(vectors)
    return moments


SHAPES = {"seed": st.integers(0, 10_000), "texts": st.integers(60, 200), "dim": st.integers(2, 12), "scale": st.floats(1e-2, 1e3)}


@many
@given(**SHAPES)
def test_directions_of_a_language_are_gone_and_removing_twice_changes_nothing(seed, texts, dim, scale):
    vectors = drawn(seed, texts, dim, scale)
    fit = fit_language(moments_of(vectors), language="de", components=1)
    assert np.allclose(fit.directions @ fit.directions.T, np.eye(1), atol=1e-4)
    once = remove_directions(vectors, fit.directions)
    size = float(np.abs(vectors).max())
    assert float(np.abs(once @ fit.directions.T).max()) < 1e-4 * size * dim
    np.testing.assert_allclose(remove_directions(once, fit.directions), once, atol=1e-4 * size * dim)


@many
@given(**SHAPES)
def test_whitened_vectors_have_mean_zero_and_no_correlation(seed, texts, dim, scale):
    vectors = drawn(seed, texts, dim, scale)
    white = fit_whitening(moments_of(vectors)).correction.apply(vectors).astype(np.float64)
    covariance = white.T @ white / len(white)
    assert np.abs(white.mean(axis=0)).max() < 0.02
    strong = np.linalg.eigvalsh(np.cov(vectors.T, bias=True))
    if strong[0] > 1e-4 * strong[-1]:  # else float32 holds nothing of the weakest direction
        np.testing.assert_allclose(covariance, np.eye(dim), atol=0.05)


@many
@given(**SHAPES)
def test_the_strongest_component_is_removed(seed, texts, dim, scale):
    vectors = drawn(seed, texts, dim, scale)
    made = fit_top_removal(moments_of(vectors), components=1).correction.apply(vectors).astype(np.float64)
    before, after = np.linalg.eigvalsh(np.cov(vectors.T, bias=True)), np.linalg.eigvalsh(np.cov(made.T, bias=True))
    np.testing.assert_allclose(after[1:], before[:-1], rtol=1e-2, atol=1e-4 * before[-1])


@many
@given(seed=st.integers(0, 10_000), languages=st.lists(st.sampled_from(["de", "en", "fr"]), min_size=1, max_size=20))
def test_a_list_of_languages_corrects_each_vector_as_its_own_language_does(seed, languages):
    rng = np.random.default_rng(seed)
    directions = {code: np.linalg.qr(rng.normal(size=(4, 1)))[0].T.astype(np.float32) for code in ("de", "en", "fr")}
    correction = LanguageCorrection(directions)
    vectors = rng.normal(size=(len(languages), 4)).astype(np.float32)
    alone = np.concatenate([correction.apply(vectors[i : i + 1], code) for i, code in enumerate(languages)])
    np.testing.assert_allclose(correction.apply(vectors, languages), alone, atol=1e-6)
