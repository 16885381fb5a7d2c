import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tain
from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.encode_to_file import encode_to_file
from tain.recipes.correct.config import CorrectConfig, language_code
from tain.recipes.correct.recipe import correct


@pytest.fixture
def german(sentences: list[str]) -> list[str]:
    return [f"das {sentence[::-1]}" for sentence in sentences]


def test_languages_are_corrected_and_the_folder_says_what_was_done(
    bert_folder: Path, sentences: list[str], german: list[str], tmp_path: Path
):
    result = correct(bert_folder, {"en": sentences, "de": german}, tmp_path / "out", method="languages", device="cpu")
    assert [(fit.language, fit.texts, fit.directions.shape) for fit in result.languages] == [("en", 12, (1, 32)), ("de", 12, (1, 32))]
    assert all(fit.mean_after < fit.mean_before and fit.cosine_to_mean > 0.9 for fit in result.languages)
    (cosines,) = result.mean_cosines.values()
    assert cosines[1] < cosines[0]
    record = json.loads((tmp_path / "out" / "tain.json").read_text())
    assert record["corrected_from"] == str(bert_folder) and record["correction"]["languages"]["de"]["texts"] == 12
    card = (tmp_path / "out" / "README.md").read_text()
    assert "sentence-transformers does not apply this correction" in card and 'language="en"' in card
    again = Embedder.load(tmp_path / "out", device="cpu", dtype="float32")
    np.testing.assert_array_equal(again.encode(sentences, language="en"), result.embedder.encode(sentences, language="en"))


def test_directions_are_those_of_the_vectors_before_they_are_brought_to_length_1(bert_folder: Path, sentences: list[str]):
    raw = Embedder.load(bert_folder, device="cpu", dtype="float32").encode(sentences)
    (fit,) = correct(bert_folder, {"en": sentences}, method="languages", device="cpu").languages
    first = np.linalg.svd(raw.T, full_matrices=False)[0][:, 0]
    assert abs(first @ fit.directions[0]) == pytest.approx(1, abs=1e-5)


def test_many_texts_are_never_held_at_once(bert_folder: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tain.recipes.correct.recipe._WINDOW_TEXTS", 5)
    held: list[int] = []
    encode = Embedder.encode

    def counting(self: Embedder, texts: list[str], **options: Any) -> np.ndarray:
        held.append(len(texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(Embedder, "encode", counting)

    def stream() -> Iterator[str]:
        yield from sentences

    result = correct(bert_folder, stream(), method="remove-top", device="cpu")
    assert held == [5, 5, 2] and result.linear is not None and result.linear.texts == 12


def test_remove_top_works_in_sentence_transformers_and_can_be_read_again(bert_folder: Path, sentences: list[str], tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    result = correct(bert_folder, sentences, tmp_path / "out", method="remove-top", components=2, device="cpu")
    ours = Embedder.load(tmp_path / "out", device="cpu", dtype="float32").encode(sentences)
    np.testing.assert_allclose(ours.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(sentences), ours, atol=1e-4)
    assert result.to_dict()["removed_share"] > 0.2 and "32 dimensions" in (tmp_path / "out" / "README.md").read_text()


def test_a_power_below_one_whitens_partially(bert_folder: Path, sentences: list[str]):
    texts = [f"{left[:12]} {right[:12]}" for left in sentences for right in sentences]

    def variances(**settings: Any) -> np.ndarray:
        vectors = correct(bert_folder, texts, method="whiten", device="cpu", **settings).embedder.encode(texts, normalize=False)
        return np.sort(np.linalg.eigvalsh(np.cov(vectors.T, bias=True)))[1:]  # a component without variance stays 0

    raw = correct(bert_folder, texts, method="remove-top", components=1, device="cpu").embedder
    raw.correction = None
    before = np.sort(np.linalg.eigvalsh(np.cov(raw.encode(texts, normalize=False).T, bias=True)))[1:]
    is_large = before > before.max() * 1e-4
    assert variances()[is_large] == pytest.approx(1.0, rel=1e-3)
    assert variances(power=1.0)[is_large] == pytest.approx(1.0, rel=1e-3)
    assert variances(power=0.5)[is_large] == pytest.approx(np.sqrt(before)[is_large], rel=1e-2)


def test_whitening_to_fewer_dimensions_changes_the_width(bert_folder: Path, sentences: list[str]):
    result = correct(bert_folder, sentences, method="whiten", dimensions=4, device="cpu")
    white = result.embedder.encode(sentences)
    assert white.shape == (12, 4)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(4), atol=1e-3)


def test_the_first_texts_of_a_source_are_taken(bert_folder: Path, sentences: list[str], german: list[str]):
    result = correct(bert_folder, {"en": sentences, "de": german}, method="languages", max_texts=3, device="cpu")
    assert [fit.texts for fit in result.languages] == [3, 3]


def test_encode_to_file_corrects_and_never_goes_on_with_another_language(
    bert_folder: Path, sentences: list[str], german: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    embedder = correct(bert_folder, {"en": sentences, "de": german}, method="languages", device="cpu").embedder
    encode_to_file(embedder, sentences, tmp_path / "en.npy", language="en")
    np.testing.assert_array_equal(np.load(tmp_path / "en.npy"), embedder.encode(sentences, language="en"))
    with pytest.raises(UserError, match="no language was given"):
        encode_to_file(embedder, sentences, tmp_path / "none.npy")
    calls = []
    encode = Embedder.encode

    def breaking(self: Embedder, texts: list[str], **options: Any) -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, texts, **options)

    monkeypatch.setattr(Embedder, "encode", breaking)
    with pytest.raises(KeyboardInterrupt):
        encode_to_file(embedder, sentences, tmp_path / "cut.npy", language="en", window_texts=6)
    with pytest.raises(UserError, match="language was en, now de"):
        encode_to_file(embedder, sentences, tmp_path / "cut.npy", language="de", window_texts=6, resume=True)


def test_mirroring_leaves_a_correction_out_and_says_so(bert_folder: Path, sentences: list[str], tmp_path: Path):
    correct(bert_folder, sentences, tmp_path / "out", method="remove-top", device="cpu")
    with pytest.warns(UserWarning, match="correction of .* is dropped, because mirroring changes the vectors"):
        result = tain.mirror(tmp_path / "out", sentences, batch_texts=6, device="cpu", max_tokens=20, held_out=0)
    assert result.embedder.correction is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "languages", "components": 0}, "components is 0: give 1 or more"),
        ({"method": "whitening"}, "method is 'whitening': give languages, whiten, remove-top"),
        ({"method": "remove-top", "dimensions": 3}, "dimensions is 3, but remove-top keeps all dimensions"),
        ({"method": "whiten", "power": 0.0}, "power is 0.0: give a number above 0, at most 1"),
        ({"method": "remove-top", "power": 0.5}, "power is 0.5, but remove-top scales nothing"),
        ({"method": "whiten", "max_texts": -1, "batch_tokens": 0}, "max_texts is -1.*batch_tokens is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict[str, Any], words: str, unchecked: None):
    with pytest.raises(UserError, match=words):
        CorrectConfig(**settings)


def test_settings_are_given_once_and_by_names_that_there_are(bert_folder: Path, sentences: list[str]):
    with pytest.raises(UserError, match="settings were given twice, as config and as components"):
        correct(bert_folder, sentences, config=CorrectConfig(method="remove-top"), components=3)
    with pytest.raises(UserError, match="correct needs method: give it by name"):
        correct(bert_folder, ["a text"])
    with pytest.raises(UserError, match="correct has no setting component: give one of method"):
        correct(bert_folder, sentences, method="remove-top", component=3)


def test_texts_of_the_wrong_kind_are_refused(sentences: list[str], unchecked: None):
    with pytest.raises(UserError, match="needs texts per language"):
        correct("tain-mini", sentences, method="languages")
    with pytest.raises(UserError, match="texts are given per language, but whiten does not distinguish languages"):
        correct("tain-mini", {"en": sentences}, method="whiten")
    with pytest.raises(UserError, match="two are the same"):
        correct("tain-mini", {"en": sentences, "EN": sentences}, method="languages")
    with pytest.raises(UserError, match="read character by character"):
        correct("tain-mini", "one text", method="whiten")


def test_a_corrected_model_is_not_corrected_again(bert_folder: Path, sentences: list[str], tmp_path: Path):
    correct(bert_folder, sentences, tmp_path / "out", method="remove-top", device="cpu")
    with pytest.raises(UserError, match="already has a correction: give the encoder that it was made from"):
        correct(tmp_path / "out", sentences, method="remove-top", device="cpu")


def test_codes_are_small_letters():
    assert language_code(" EN ") == "en" and language_code("zh-Hant") == "zh-hant"
    with pytest.raises(UserError, match="language is 'e n', which is not a language code"):
        language_code("e n")
