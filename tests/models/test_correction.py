import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tain.evaluation.metrics import unit_rows
from tain.foundation.errors import ShapeError, UserError
from tain.models.correction import LanguageCorrection, LinearCorrection, remove_directions
from tain.models.correction_fitting import Moments, fit_joined, fit_language, fit_top_removal, fit_whitening
from tain.models.embedder import Embedder


def moments_of(vectors: np.ndarray, *, block: int = 7) -> Moments:
    moments = Moments(vectors.shape[1])
    for start in range(0, len(vectors), block):
        moments.add(vectors[start : start + block])
    return moments


def language(rng: np.random.Generator, *, texts: int = 300, dim: int = 12, offset: float = 4.0) -> np.ndarray:
    """Vectors of one language: meaning, and an offset that all of them share."""
    return rng.normal(size=(texts, dim)) + offset * np.eye(dim)[0]


# ---- streaming


def test_moments_do_not_depend_on_the_blocks(rng: np.random.Generator):
    vectors = 100 + rng.normal(size=(203, 5))
    for block in (1, 7, 203):
        moments = moments_of(vectors, block=block)
        np.testing.assert_allclose(moments.mean, vectors.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance(), np.cov(vectors.T, bias=True), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(moments.second_moment(), vectors.T @ vectors / 203, rtol=1e-12)


def test_streamed_directions_are_the_left_singular_vectors_of_all_vectors_together(rng: np.random.Generator):
    vectors = language(rng)
    fit = fit_language(moments_of(vectors), language="en", components=3)
    left = np.linalg.svd(vectors.T, full_matrices=False)[0][:, :3].T
    np.testing.assert_allclose(np.abs(np.einsum("cd,cd->c", fit.directions, left)), 1.0, atol=1e-6)


# ---- the projector (papers' checks of principal component removal)


@pytest.mark.parametrize("components", [1, 2, 5])
def test_nothing_is_left_along_a_removed_direction(components: int, rng: np.random.Generator):
    vectors = language(rng).astype(np.float32)
    fit = fit_language(moments_of(vectors), language="en", components=components)
    left = remove_directions(vectors, fit.directions)
    np.testing.assert_allclose(left @ fit.directions.T, 0, atol=1e-5)
    np.testing.assert_allclose(fit.directions @ fit.directions.T, np.eye(components), atol=1e-6)


def test_removing_twice_is_removing_once(rng: np.random.Generator):
    vectors = language(rng).astype(np.float32)
    fit = fit_language(moments_of(vectors), language="en", components=2)
    once = remove_directions(vectors, fit.directions)
    np.testing.assert_allclose(remove_directions(once, fit.directions), once, atol=1e-5)


def test_a_large_mean_is_what_the_first_direction_takes_out(rng: np.random.Generator):
    fit = fit_language(moments_of(language(rng, offset=8.0)), language="en", components=1)
    assert fit.cosine_to_mean > 0.999
    assert fit.mean_before > 0.8 and fit.mean_after < 0.1
    assert fit.directions[0] @ fit.mean > 0  # the sign is settled


def test_shares_are_those_of_the_squared_length(rng: np.random.Generator):
    vectors = language(rng)
    fit = fit_language(moments_of(vectors), language="en", components=2)
    left = vectors - vectors @ fit.directions.T @ fit.directions
    assert fit.removed_share == pytest.approx(1 - np.square(left).sum() / np.square(vectors).sum(), abs=1e-6)
    assert fit.removed_share == pytest.approx(sum(fit.spectrum[:2]))
    assert fit.mean_after == pytest.approx(np.linalg.norm(left.mean(axis=0)) / np.sqrt(np.square(left).sum(axis=1).mean()), abs=1e-4)


def translations(rng: np.random.Generator, *, offset: float) -> tuple[np.ndarray, np.ndarray]:
    """The same meanings in two languages, each with its own offset, and noise."""
    meaning = rng.normal(size=(200, 24))
    return tuple(meaning + 0.4 * rng.normal(size=meaning.shape) + offset * rng.normal(size=24) for _ in range(2))  # pyright: ignore[reportReturnType]


def found_in_both(left: np.ndarray, right: np.ndarray) -> float:
    """Share of texts whose nearest text among those of both languages, itself left out, is its translation."""
    units = unit_rows(np.concatenate([left, right]))
    cosines = units @ units.T
    np.fill_diagonal(cosines, -1)
    return float((cosines.argmax(axis=1) == np.roll(np.arange(len(units)), len(left))).mean())


def corrected(vectors: np.ndarray) -> np.ndarray:
    fit = fit_language(moments_of(vectors), language="xx", components=1)
    return remove_directions(vectors.astype(np.float32), fit.directions)


def test_translations_find_each_other_once_the_languages_offsets_are_gone(rng: np.random.Generator):
    left, right = translations(rng, offset=4.0)
    assert found_in_both(left, right) < 0.2
    assert found_in_both(corrected(left), corrected(right)) > 0.9


def test_without_offsets_there_is_nothing_to_gain(rng: np.random.Generator):
    left, right = (side - side.mean(axis=0) for side in translations(rng, offset=0.0))
    before, after = found_in_both(left, right), found_in_both(corrected(left), corrected(right))
    assert before > 0.9 and after <= before + 0.01


# ---- whitening and the strongest components


def test_whitened_vectors_have_mean_0_and_covariance_1(rng: np.random.Generator):
    vectors = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)
    fit = fit_whitening(moments_of(vectors))
    white = fit.correction.apply(vectors)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-3)
    np.testing.assert_allclose(fit.correction.weight, fit.correction.weight.T, atol=1e-4)  # nothing is turned


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0])
def test_a_power_leaves_each_component_its_variance_to_the_rest_of_it(power: float, rng: np.random.Generator):
    vectors = (rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 3).astype(np.float32)
    before = np.linalg.eigvalsh(np.cov(vectors.T.astype(np.float64), bias=True))
    white = fit_whitening(moments_of(vectors), power=power).correction.apply(vectors).astype(np.float64)
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(white.T, bias=True)), np.sort(before ** (1 - power)), rtol=1e-3)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-3)


def test_fewer_dimensions_are_the_strongest_ones_at_variance_1(rng: np.random.Generator):
    vectors = (rng.normal(size=(500, 6)) * [9, 7, 5, 1, 1, 1]).astype(np.float32)
    fit = fit_whitening(moments_of(vectors), dimensions=3)
    white = fit.correction.apply(vectors)
    assert white.shape == (500, 3) and fit.correction.dim == 3
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(3), atol=1e-3)
    assert fit.removed_share == pytest.approx(3 / (81 + 49 + 25 + 3), rel=0.2)


def test_a_dimension_that_never_varies_stays_0(rng: np.random.Generator):
    vectors = rng.normal(size=(100, 4)).astype(np.float32)
    vectors[:, 3] = -vectors[:, :3].sum(axis=1)
    white = fit_whitening(moments_of(vectors)).correction.apply(vectors)
    assert np.isfinite(white).all()
    np.testing.assert_allclose(white @ np.ones(4), 0, atol=1e-3)
    with pytest.raises(UserError, match="vary in 3 of 4 only: give 3 or fewer"):
        fit_whitening(moments_of(vectors), dimensions=4)


def test_the_strongest_components_and_the_mean_are_gone(rng: np.random.Generator):
    vectors = (rng.normal(size=(400, 5)) * [9, 5, 1, 1, 1] + 20).astype(np.float32)
    fit = fit_top_removal(moments_of(vectors), components=2)
    left = fit.correction.apply(vectors)
    np.testing.assert_allclose(left.mean(axis=0), 0, atol=1e-4)
    assert np.square(left).sum() == pytest.approx((1 - fit.removed_share) * np.square(vectors - vectors.mean(axis=0)).sum(), rel=1e-3)
    assert fit.removed_share > 0.9 and fit.mean_before > 0.9


# ---- refusals


@pytest.mark.parametrize("components", [0, 12])
def test_a_number_of_components_that_leaves_nothing_or_takes_nothing_is_refused(components: int, rng: np.random.Generator):
    with pytest.raises(UserError, match=rf"components is {components}, but vectors of dimension 12 .*: give 1 to 11"):
        fit_language(moments_of(language(rng)), language="en", components=components)


def test_too_few_texts_are_refused(rng: np.random.Generator):
    few = moments_of(language(rng, texts=2))
    with pytest.raises(UserError, match="language 'en': 2 texts are too few to estimate 2 directions"):
        fit_language(few, language="en", components=2)
    with pytest.raises(UserError, match=r"2 texts are too few .* 12 dimensions"):
        fit_whitening(few)


def test_vectors_that_are_all_alike_are_refused():
    with pytest.raises(UserError, match="all vectors are identical"):
        fit_top_removal(moments_of(np.ones((9, 4))), components=1)
    with pytest.raises(UserError, match="language 'en': all vectors are zero"):
        fit_language(moments_of(np.zeros((9, 4))), language="en", components=1)


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="vectors with nan or infinity"):
        Moments(2).add(np.array([[1.0, np.nan]]))
    with pytest.raises(ShapeError, match="dimension 2"):
        Moments(2).add(np.ones((3, 4)))


# ---- in an embedder and its folder


@pytest.fixture
def embedder(bert_folder: Path) -> Embedder:
    return Embedder.load(bert_folder, device="cpu", dtype="float32", pooling="mean")


def saved(embedder: Embedder, folder: Path, **record: Any) -> Path:
    folder.mkdir()
    embedder.save(folder, record={"kind": "encoder", **record}, card="")
    return folder


def by_language(rng: np.random.Generator) -> LanguageCorrection:
    return LanguageCorrection({code: np.linalg.qr(rng.normal(size=(32, 2)))[0].T.astype(np.float32) for code in ("en", "de")})


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("width", [32, 8])
def test_a_linear_correction_gives_the_same_vectors_here_and_in_sentence_transformers(
    embedder: Embedder, sentences: list[str], rng: np.random.Generator, tmp_path: Path, normalize: bool, width: int
):
    from sentence_transformers import SentenceTransformer

    raw = embedder.encode(sentences)
    correction = LinearCorrection(rng.normal(size=(width, 32)).astype(np.float32), rng.normal(size=width).astype(np.float32))
    embedder.correction, embedder.normalize = correction, normalize
    ours = embedder.encode(sentences)
    assert ours.shape == (12, width) and embedder.dim == width
    expected = raw @ correction.weight.T + correction.bias
    np.testing.assert_allclose(ours, unit_rows(expected) if normalize else expected, rtol=1e-4, atol=1e-5)
    folder = saved(embedder, tmp_path / "encoder")
    np.testing.assert_array_equal(Embedder.load(folder, device="cpu", dtype="float32").encode(sentences), ours)
    theirs = SentenceTransformer(str(folder), device="cpu").encode(sentences)
    np.testing.assert_allclose(theirs, ours, atol=1e-4)


def test_a_correction_by_language_is_applied_here_and_passed_over_by_sentence_transformers(
    embedder: Embedder, sentences: list[str], rng: np.random.Generator, tmp_path: Path
):
    from sentence_transformers import SentenceTransformer

    raw = embedder.encode(sentences)
    embedder.correction = by_language(rng)
    folder = saved(embedder, tmp_path / "encoder", correction={"method": "languages"})
    again = Embedder.load(folder, device="cpu", dtype="float32")
    assert again.languages == ("de", "en") and again.dim == 32
    assert isinstance(again.correction, LanguageCorrection)
    german, english = (again.encode(sentences, language=code) for code in ("de", "en"))
    np.testing.assert_allclose(german @ again.correction.directions["de"].T, 0, atol=1e-5)
    assert np.abs(german - english).max() > 0.1
    mixed = again.encode(sentences, language=["de", "en"] * 6)
    np.testing.assert_allclose(mixed[0::2], german[0::2], atol=1e-6)
    np.testing.assert_allclose(mixed[1::2], english[1::2], atol=1e-6)
    np.testing.assert_allclose(SentenceTransformer(str(folder), device="cpu").encode(sentences), raw, atol=1e-5)


def test_a_language_that_is_missing_or_unknown_is_refused(embedder: Embedder, rng: np.random.Generator):
    embedder.correction = by_language(rng)
    with pytest.raises(UserError, match=r"no language was given: give .* one of de, en"):
        embedder.encode(["glass"])
    with pytest.raises(UserError, match=r"language is 'fr', for which model .* has no correction: give one of de, en"):
        embedder.encode(["glass"], language="fr")
    with pytest.raises(UserError, match="language is 'fr'"):
        embedder.encode(["glass", "sand"], language=["de", "fr"])
    with pytest.raises(UserError, match="1 languages for 2 texts: give one per text, or one for all"):
        embedder.encode(["glass", "sand"], language=["de"])
    with pytest.raises(ShapeError, match="2 vectors and 1 languages"):
        embedder.correction.apply(np.zeros((2, 32), dtype=np.float32), ["de"])


def test_a_language_for_a_model_that_treats_all_alike_is_refused(embedder: Embedder):
    with pytest.raises(UserError, match=r"language is 'en', but model .* treats all texts alike"):
        embedder.encode(["glass"], language="en")


def test_other_pooling_than_the_corrections_is_refused(embedder: Embedder, rng: np.random.Generator, tmp_path: Path):
    embedder.correction = by_language(rng)
    folder = saved(embedder, tmp_path / "encoder", correction={"method": "languages"})
    with pytest.raises(UserError, match="correction fitted on vectors pooled by mean: remove it"):
        Embedder.load(folder, pooling="cls")


def test_a_missing_or_foreign_correction_is_refused(embedder: Embedder, rng: np.random.Generator, tmp_path: Path):
    embedder.correction = by_language(rng)
    folder = saved(embedder, tmp_path / "encoder", correction={"method": "languages"})
    LanguageCorrection({"en": np.eye(16, dtype=np.float32)[:1]}).save(folder)
    with pytest.raises(UserError, match="correction for vectors of dimension 16, but its encoder gives 32"):
        Embedder.load(folder)
    (folder / "language_correction.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"language_correction.safetensors with its per-language corrections is damaged"):
        Embedder.load(folder)
    (folder / "language_correction.safetensors").unlink()
    with pytest.raises(UserError, match=r"language_correction.safetensors, which is missing"):
        Embedder.load(folder)


def test_a_layer_with_an_unknown_activation_is_refused(embedder: Embedder, tmp_path: Path):
    embedder.correction = LinearCorrection(np.eye(32, dtype=np.float32), np.zeros(32, dtype=np.float32))
    folder = saved(embedder, tmp_path / "encoder")
    config = folder / "2_Dense" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"activation_function": "os.system"}))
    with pytest.raises(UserError, match=r"Dense layer with the activation os.system, which tain does not support"):
        Embedder.load(folder)


def test_a_pickled_layer_is_never_opened(embedder: Embedder, tmp_path: Path):
    embedder.correction = LinearCorrection(np.eye(32, dtype=np.float32), np.zeros(32, dtype=np.float32))
    folder = saved(embedder, tmp_path / "encoder")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled weights are not read"):
        Embedder.load(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.float8_e5m2])
def test_a_dense_layer_of_any_number_type_is_read(
    dtype: torch.dtype, embedder: Embedder, sentences: list[str], rng: np.random.Generator, tmp_path: Path
):
    embedder.correction = LinearCorrection(rng.normal(size=(8, 32)).astype(np.float32), np.zeros(8, dtype=np.float32))
    folder = saved(embedder, tmp_path / "encoder")
    file = folder / "2_Dense" / "model.safetensors"
    stored = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    save_file(stored, file)
    found = Embedder.load(folder, device="cpu", dtype="float32")
    assert isinstance(found.correction, LinearCorrection)
    np.testing.assert_array_equal(found.correction.weight, stored["linear.weight"].float().numpy())
    assert np.isfinite(found.encode(sentences)).all()


def test_a_dense_layer_that_is_not_finite_is_refused(embedder: Embedder, tmp_path: Path):
    embedder.correction = LinearCorrection(np.full((8, 32), np.nan, dtype=np.float32), np.zeros(8, dtype=np.float32))
    folder = saved(embedder, tmp_path / "encoder")
    with pytest.raises(UserError, match=r"linear.weight in model.safetensors has numbers that are not finite"):
        Embedder.load(folder)


def test_joined_halves_count_alike_and_the_strongest_directions_come_first(rng: np.random.Generator):
    first = (rng.normal(size=(2000, 4)) * [8, 4, 2, 1] + 5).astype(np.float32)
    second = (rng.normal(size=(2000, 4)) * 0.01).astype(np.float32)
    vectors = np.hstack([first, second])
    whole = fit_joined(moments_of(vectors), powers=(1.0, 0.0))
    found = whole.apply(vectors).astype(np.float64)
    white = fit_whitening(moments_of(first)).correction.apply(first)
    plain = second - second.mean(axis=0)
    parts = [part / np.sqrt(np.square(part).sum(axis=1).mean()) for part in (white, plain)]
    expected = parts[0] @ parts[0].T + parts[1] @ parts[1].T  # inner products: those of the two halves, each of mean length 1
    np.testing.assert_allclose(found @ found.T, expected, atol=1e-3)
    assert (np.diff(np.square(found).sum(axis=0)) <= 0).all()
    uncentred = fit_joined(moments_of(vectors), powers=(0.0, 0.0), second_share=0.75, centred=False)
    assert not uncentred.bias.any()
    found = uncentred.apply(vectors).astype(np.float64)
    parts = [part / np.sqrt(np.square(part).sum(axis=1).mean()) for part in (first.astype(np.float64), second.astype(np.float64))]
    np.testing.assert_allclose(found @ found.T, 0.5 * parts[0] @ parts[0].T + 1.5 * parts[1] @ parts[1].T, atol=1e-3)
    with pytest.raises(UserError, match=r"4 texts are too few .* 4 dimensions"):
        fit_joined(moments_of(vectors[:4]), powers=(1.0, 0.0))
