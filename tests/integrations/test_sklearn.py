"""The scikit-learn transformer keeps scikit-learn's promises."""

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.sklearn import TainEncoder

SMALL = {"batch_texts": 8, "max_tokens": 40, "held_out": 0, "erase_min_chars": 10}


@pytest.fixture(scope="module")
def texts(sentences):
    return [f"{first} while {second}" for first in sentences for second in sentences[:4]]


def test_parameters_are_kept_unchanged_and_cloned():
    settings = {"max_texts": 100}
    encoder = TainEncoder("tain-mini", recipe="fast", settings=settings, random_state=3)
    assert encoder.get_params()["settings"] is settings
    copy: Any = clone(encoder)
    assert copy is not encoder and copy.get_params() == encoder.get_params()
    assert encoder.set_params(recipe=None).recipe is None
    assert not any(name.endswith("_") for name in vars(encoder))


def test_transform_before_fit_is_refused():
    with pytest.raises(NotFittedError):
        TainEncoder().transform(["a text"])


def test_without_a_recipe_the_vectors_are_the_models(bert_folder, texts):
    encoder = TainEncoder(str(bert_folder), dtype="float32")
    assert encoder.fit(texts) is encoder
    found = encoder.transform(np.array(texts[:5]))
    expected = Embedder.load(bert_folder, dtype="float32").encode(texts[:5], normalize=True)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert encoder.n_features_out_ == found.shape[1] == len(encoder.get_feature_names_out())
    np.testing.assert_array_equal(TainEncoder(str(bert_folder), dtype="float32").fit_transform(texts)[:5], found)
    with pytest.raises(UserError, match="one string"):
        encoder.transform("one text")
    with pytest.raises(UserError, match="nothing was trained"):
        encoder.save("somewhere")


@pytest.mark.parametrize("recipe", [None, "default"])
def test_a_generator_is_read_once(bert_folder, texts, recipe):
    encoder = TainEncoder(str(bert_folder), recipe=recipe, settings=SMALL, dtype="float32", device="cpu")
    np.testing.assert_allclose(encoder.fit_transform(text for text in texts), encoder.transform(texts), atol=1e-6)


def test_pandas_output_keeps_the_index_of_the_texts(bert_folder, texts):
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    encoder = TainEncoder(str(bert_folder), dtype="float32").set_output(transform="pandas")
    found = encoder.fit_transform(pandas.Series(texts[:3], index=[7, 8, 9]))
    assert list(found.index) == [7, 8, 9] and list(found.columns) == list(encoder.get_feature_names_out())


@pytest.mark.parametrize("recipe", [None, "default"])
@pytest.mark.parametrize(
    ("model", "settings", "given", "message"),
    [
        ("TINY", None, ["a text", None], "text 1 is NoneType, not text"),
        ("TINY", None, "one text", "one string"),
        ("TINY", ["max_tokens"], ["a text", "another"], "settings are a list: give a dict"),
        (None, None, ["a text", "another"], "model is a NoneType: give a model folder"),
    ],
)
def test_fit_refuses_what_cannot_work_with_and_without_a_recipe(unchecked, bert_folder, recipe, model, settings, given, message):
    encoder = TainEncoder(str(bert_folder) if model == "TINY" else model, recipe=recipe, settings=settings)
    with pytest.raises(UserError, match=message):
        encoder.fit(given)


def test_with_a_recipe_fit_mirrors_and_save_keeps_it(bert_folder, texts, tmp_path):
    encoder = TainEncoder(str(bert_folder), recipe="default", settings=SMALL, dtype="float32", device="cpu").fit(texts)
    assert encoder.mirrored_.steps == 6
    found = encoder.transform(texts[:3])
    untouched = Embedder.load(bert_folder, dtype="float32").encode(texts[:3], normalize=True)
    assert np.abs(found - untouched).max() > 1e-4
    encoder.save(tmp_path / "mine")
    np.testing.assert_allclose(TainEncoder(str(tmp_path / "mine"), dtype="float32").fit_transform(texts[:3]), found, atol=1e-6)


def test_it_works_in_a_pipeline_and_a_grid_search_over_its_own_parameters(bert_folder, texts):
    labels = [number % 2 for number in range(len(texts))]
    settings = {"held_out": 0, "max_tokens": 40, "whiten": 0.0}
    pipeline = make_pipeline(TainEncoder(str(bert_folder), settings=settings, dtype="float32", device="cpu"), LogisticRegression())
    search = GridSearchCV(pipeline, {"tainencoder__recipe": [None, "fast"]}, cv=2, error_score="raise").fit(texts, labels)
    assert search.best_params_["tainencoder__recipe"] in (None, "fast")
    assert search.predict(texts[:4]).shape == (4,)


def test_equal_seeds_give_equal_vectors(bert_folder, texts):
    one, two = (
        TainEncoder(str(bert_folder), recipe="default", settings=SMALL, dtype="float32", device="cpu").fit_transform(texts)[:4]
        for _ in range(2)
    )
    np.testing.assert_array_equal(one, two)
