"""Inspecting saved models on texts: figures, counts, refusals."""

import dataclasses
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.inspection import run as recipe
from tain.inspection.results import Comparison, Inspection
from tain.inspection.run import inspect, inspect_against
from tain.models.embedder import Embedder


@pytest.fixture(scope="module")
def found(bert_folder: Path, sentences: list[str]) -> Inspection:
    """Read only."""
    return inspect(bert_folder, sentences, shown=3, whole_layer=True)


def overall(inspection: Inspection) -> dict[str, float]:
    return dict(zip(inspection.methods, inspection.statistics.overall.tolist(), strict=True))


def test_statistics_are_the_mean_over_every_token_of_every_text(found: Inspection, bert_folder: Path, sentences: list[str]):
    everything = inspect(bert_folder, sentences, shown=len(sentences), whole_layer=True)
    ratios = np.concatenate([text.ratios for text in everything.texts], axis=-1)
    assert found.statistics.tokens == ratios.shape[-1]
    np.testing.assert_allclose(found.statistics.means, ratios.mean(-1), atol=1e-6)
    np.testing.assert_allclose(found.statistics.maxima, ratios.max(-1), atol=1e-6)
    assert [group.name for group in found.statistics.kinds] == ["[CLS]", "[SEP]", "punctuation", "words"]
    assert found.error < 1e-5


def test_batches_change_nothing(found: Inspection, bert_folder: Path, sentences: list[str]):
    small = inspect(bert_folder, sentences, shown=0, batch_tokens=20, whole_layer=True)
    np.testing.assert_allclose(small.statistics.means, found.statistics.means, atol=1e-6)
    assert small.texts == ()


def test_a_stream_gives_what_a_list_gives(found: Inspection, bert_folder: Path, sentences: list[str]):
    streamed = inspect(bert_folder, (text for text in [*sentences, "  "]), shown=3, whole_layer=True)
    np.testing.assert_array_equal(streamed.statistics.means, found.statistics.means)
    assert (streamed.left_out, found.left_out) == (1, 0)


def test_matrices_tell_where_each_ratio_comes_from(found: Inspection):
    text = found.texts[0]
    assert text.tokens[0] == "[CLS]"
    assert text.tokens[-1] == "[SEP]"
    for layer in range(found.layers):
        weights = text.matrix("Attn-W", layer=layer)
        np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
        np.testing.assert_allclose(1 - weights.diagonal(), text.ratios[layer, 0], atol=1e-5)
        np.testing.assert_allclose(1 - text.matrix("AttnRes-W", layer=layer).diagonal(), text.ratios[layer, 2], atol=1e-5)
        heads = [text.matrix("Attn-N", layer=layer, head=head) for head in range(found.heads)]
        # norms of a sum are no more than the sum of norms
        assert (text.matrix("Attn-N", layer=layer) <= sum(heads) + 1e-5).all()
    for method in ("AttnRes-W", "AttnRes-N", "AttnResLn-N", "Layer-N"):
        np.testing.assert_allclose(text.rolled(method).sum(-1), 1.0)


def test_similarities_are_the_embedders_own_and_sum_exactly(found: Inspection, bert_folder: Path, sentences: list[str]):
    assert [(each.left, each.right) for each in found.similarities] == [(0, 1), (0, 2), (1, 2)]
    vectors = Embedder.load(bert_folder, dtype="float32", device="cpu").encode(sentences[:3], normalize=True)
    for each in found.similarities:
        assert each.contributions.shape == (len(found.texts[each.left].tokens), len(found.texts[each.right].tokens))
        assert each.contributions.sum() == each.cosine
        assert each.cosine == pytest.approx(float(vectors[each.left] @ vectors[each.right]), abs=1e-5)


def test_a_corrected_models_similarity_is_that_of_its_corrected_vectors(bert_folder: Path, sentences: list[str], rng: np.random.Generator):
    from tain.models.correction import LinearCorrection

    embedder = Embedder.load(bert_folder, dtype="float32", device="cpu")
    weight, bias = rng.standard_normal((20, 32)).astype(np.float32), rng.standard_normal(20).astype(np.float32)
    embedder.correction = LinearCorrection(weight, bias)
    (similarity,) = inspect(embedder, sentences[:2]).similarities
    left, right = embedder.encode(sentences[:2], normalize=True)
    assert similarity.cosine == pytest.approx(float(left @ right), abs=1e-5)


def test_without_mean_pooling_there_is_a_reason_in_place_of_similarities(bert_folder: Path, sentences: list[str]):
    found = inspect(Embedder.load(bert_folder, dtype="float32", device="cpu", pooling="cls"), sentences[:2])
    assert found.similarities == ()
    assert "pooled by cls" in found.why_no_similarity


def test_float64_leaves_nothing_over(bert_folder: Path, sentences: list[str]):
    assert inspect(bert_folder, sentences[:2], dtype="float64").error < 1e-12


def test_masked_tokens_are_a_kind_of_their_own(found: Inspection, bert_folder: Path, sentences: list[str]):
    masked = inspect(bert_folder, sentences, shown=1, masking_rate=0.12)
    (mask,) = [group for group in masked.statistics.kinds if group.name == "[MASK]"]
    assert mask.tokens == sum(max(1, round(0.12 * (len(text.tokens) - 2))) for text in _all_shown(bert_folder, sentences))
    assert masked.statistics.tokens == found.statistics.tokens
    assert "[MASK]" not in masked.texts[0].tokens
    again = inspect(bert_folder, sentences, shown=1, masking_rate=0.12)
    np.testing.assert_array_equal(again.statistics.means, masked.statistics.means)


def _all_shown(folder: Path, texts: list[str]) -> Any:
    return inspect(folder, texts, shown=len(texts)).texts


def test_cut_texts_and_tokens_are_counted(bert_folder: Path, sentences: list[str]):
    whole = inspect(bert_folder, sentences[:2], max_tokens=40)
    lengths = [len(text.tokens) for text in whole.texts]
    cut = inspect(bert_folder, sentences[:2], max_tokens=10)
    assert (whole.truncated, whole.cut_tokens) == (0, 0)
    assert cut.truncated == 2
    assert cut.cut_tokens == sum(lengths) - 20
    assert [text.cut for text in cut.texts] == [length - 10 for length in lengths]
    assert cut.texts[0].tokens == (*whole.texts[0].tokens[:9], "[SEP]")


def test_everything_goes_into_json_and_csv(found: Inspection):
    plain = json.loads(json.dumps(found.to_dict(matrices=True), allow_nan=False))
    assert plain["methods"] == ["Attn-W", "Attn-N", "AttnRes-W", "AttnRes-N", "AttnResLn-N", "Layer-N"]
    assert np.array(plain["texts"][0]["norms"]["AttnResLn-N"]).shape == (2, len(found.texts[0].tokens), len(found.texts[0].tokens))
    lines = found.to_csv().splitlines()
    assert len(lines) == 1 + sum(text.ratios.size for text in found.texts)
    assert lines[1].startswith(f"{found.title},1,1,[CLS],[CLS],1,Attn-W,0.")


def test_results_are_frozen(found: Inspection):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(found, "model", "another")  # noqa: B010 - a type checker would refuse it sooner


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"method": "Attn"}, "method is 'Attn': give one of Attn-W"),
        ({"method": "Attn-W", "layer": 2}, "layers go from 0 to 1"),
        ({"method": "Attn-N", "head": 9}, "heads from 0 to 3"),
        ({"method": "AttnResLn-N", "head": 0}, "all heads together"),
    ],
)
def test_a_matrix_that_is_not_there_is_refused(found: Inspection, asked: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        found.texts[0].matrix(**({"layer": 0} | asked))


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ([], {}, "no text was given"),
        (["a mirror", " \n"], {}, "text 2 is empty"),
        (["a mirror", "[SEP] [CLS]"], {}, r"text 2 \('\[SEP\] \[CLS\]'\) has only special tokens"),
        (["a mirror"], {"shown": -1, "masking_rate": 1.0}, "shown is -1.*; masking_rate is 1.0"),
        (["a mirror"], {"batch_tokens": 0}, "batch_tokens is 0"),
        (["a mirror"], {"seed": -1}, "seed is -1: give a whole number, 0 or more"),
        (["a mirror"], {"max_tokens": 41}, "accepts 3 to 40"),
    ],
)
def test_what_cannot_work_is_refused(bert_folder: Path, texts: list[str], settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        inspect(bert_folder, texts, **settings)


def test_similarities_are_explained_among_the_first_texts(bert_folder: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]):
    found = inspect(bert_folder, sentences + sentences[:3], shown=15, progress=Progress.for_terminal(json=True))
    assert len(found.texts) == 15
    assert [(each.left, each.right) for each in found.similarities] == list(combinations(range(12), 2))
    assert "similarities are explained among the first 12 of the 15 texts shown" in capsys.readouterr().err


def test_long_texts_are_read_few_at_a_time(found: Inspection, bert_folder: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(recipe, "_WINDOW_CHARACTERS", 60)
    again = inspect(bert_folder, sentences, shown=0, whole_layer=True)
    np.testing.assert_allclose(again.statistics.means, found.statistics.means, atol=1e-6)


def test_a_stream_of_nothing_but_special_tokens_is_refused(bert_folder: Path):
    with pytest.raises(UserError, match="none of the texts has tokens"):
        inspect(bert_folder, iter(["[SEP]", "[CLS]"]))


def test_half_precision_is_refused(bert_folder: Path):
    with pytest.raises(UserError, match="loaded in bfloat16"):
        inspect(Embedder.load(bert_folder, dtype="bfloat16", device="cpu"), "a mirror")


def test_settings_of_loading_are_refused_for_a_loaded_model(bert_folder: Path):
    with pytest.raises(UserError, match="is loaded already"):
        inspect(Embedder.load(bert_folder, dtype="float32", device="cpu"), "a mirror", max_tokens=10)


def test_texts_too_long_to_be_shown_are_refused_but_can_be_counted(
    bert_folder: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tain.inspection.run._MOST_WEIGHTS", 1000)
    with pytest.raises(UserError, match="attention weights would fill the memory"):
        inspect(bert_folder, sentences)
    assert inspect(bert_folder, sentences, shown=0).statistics.texts == len(sentences)


@pytest.fixture(scope="module")
def compared(save_masked_lm: Callable[..., Path], bert_folder: Path, sentences: list[str]) -> Comparison:
    """Read only. Against the same architecture with fewer layers, from a stream."""
    return inspect_against(bert_folder, save_masked_lm("bert", num_hidden_layers=1), iter(sentences), shown=2)


def test_two_models_read_the_same_texts(compared: Comparison, sentences: list[str]):
    assert compared.first.statistics.tokens == compared.second.statistics.tokens
    assert (compared.first.layers, compared.second.layers) == (2, 1)
    np.testing.assert_allclose(compared.change(), compared.second.statistics.overall - compared.first.statistics.overall)
    assert compared.first.texts[0].tokens == compared.second.texts[0].tokens
    assert "than" in compared.claim()
    lines = compared.to_csv().splitlines()
    assert len(lines) == 1 + sum(text.ratios.size for each in (compared.first, compared.second) for text in each.texts)
    json.dumps(compared.to_dict(), allow_nan=False)


def test_their_geometry_is_that_of_the_label_free_report(compared: Comparison, bert_folder: Path, sentences: list[str]):
    from tain.evaluation.label_free import label_free_report

    report = label_free_report(Embedder.load(bert_folder, dtype="float32"), sentences, rng=np.random.default_rng(13))
    assert compared.geometry is not None
    assert compared.geometry[0]["isotropy"] == pytest.approx(report.isotropy, rel=1e-4)
    assert compared.geometry[0]["mean_vector_share"] == pytest.approx(report.mean_vector_share, rel=1e-4)


def test_a_model_against_itself_does_not_change(bert_folder: Path):
    same = inspect_against(bert_folder, bert_folder, "a mirror of glass")
    assert (same.change() == 0).all()
    assert same.geometry is None  # one text has none
    assert "as" in same.claim()


def test_the_built_in_kind_of_model_is_read_too(modernbert_folder: Path, sentences: list[str]):
    found = inspect(modernbert_folder, sentences)
    assert not found.is_post
    np.testing.assert_array_equal(found.statistics.means[:, 3], found.statistics.means[:, 4])
    assert overall(found)["AttnRes-N"] < overall(found)["Attn-N"]
