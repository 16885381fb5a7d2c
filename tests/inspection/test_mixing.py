"""Streamed statistics equal those computed from all ratios at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from tain.evaluation.metrics import spearman
from tain.inspection.mixing import MixingMeter, MixingStatistics, PieceKinds

METHODS = ("one", "two")
IDS = torch.tensor([2, 30, 31, 7, 3, 2, 30, 30, 32, 7, 3, 33])
BATCHES = (5, 6, 1)


def kind_of(piece: int) -> str:
    return {2: "[CLS]", 3: "[SEP]", 7: "punctuation"}.get(piece, "words")


@pytest.fixture
def ratios(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(3, 2, len(IDS), generator=generator)


def measured(ratios: torch.Tensor, **settings: Any) -> MixingStatistics:
    meter = MixingMeter(METHODS, layers=3, vocabulary=40, **settings)
    for ids, part in zip(IDS.split(BATCHES), ratios.split(BATCHES, dim=-1), strict=True):
        meter.add(ids, part, texts=1)
    return meter.statistics(kind_of, special=("[CLS]", "[SEP]", "[MASK]"), correlation=spearman)


def test_figures_by_layer_equal_those_of_all_tokens_at_once(ratios: torch.Tensor):
    found, plain = measured(ratios), ratios.double().numpy()
    assert (found.texts, found.tokens) == (3, 12)
    np.testing.assert_allclose(found.means, plain.mean(-1))
    np.testing.assert_allclose(found.deviations, plain.std(-1), atol=1e-9)
    np.testing.assert_allclose(found.minima, plain.min(-1))
    np.testing.assert_allclose(found.maxima, plain.max(-1))
    np.testing.assert_allclose(found.overall, plain.mean((0, 2)))


def test_kinds_of_tokens_make_up_all_tokens(ratios: torch.Tensor):
    found = measured(ratios)
    assert {group.name: group.tokens for group in found.kinds} == {"[CLS]": 2, "[SEP]": 2, "punctuation": 2, "words": 6}
    total = sum(group.tokens * group.means for group in found.kinds)
    np.testing.assert_allclose(total / found.tokens, found.means)
    marks = [group for group in found.kinds if group.name == "punctuation"]
    np.testing.assert_allclose(marks[0].means, ratios[..., IDS == 7].double().mean(-1).numpy())


def test_frequent_words_come_first(ratios: torch.Tensor, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tain.inspection.mixing._BINS", (1, 3))
    found = measured(ratios).by_frequency
    assert [(group.name, group.tokens) for group in found] == [
        ("words of rank 1 to 1", 3),
        ("words of rank 2 to 3", 2),
        ("words of rank 4 to 4", 1),
    ]
    np.testing.assert_allclose(found[0].means, ratios[..., IDS == 30].double().mean(-1).numpy())


def test_the_correlation_is_that_of_frequency_ranks_and_ratios_averaged_over_layers(ratios: torch.Tensor):
    found = measured(ratios)
    counts = np.bincount(IDS.numpy())[IDS.numpy()]
    means = ratios.double().mean(0).float().numpy()
    is_word = ~np.isin(IDS.numpy(), [2, 3])
    for method in (0, 1):
        assert found.frequency_correlation[method] == pytest.approx(spearmanr(-counts, means[method])[0])
        assert found.frequency_correlation_words[method] == pytest.approx(spearmanr(-counts[is_word], means[method][is_word])[0])
    assert found.correlated_tokens == 12


def test_a_ratio_that_falls_with_frequency_rank_gives_minus_one():
    meter = MixingMeter(("one",), layers=1, vocabulary=10)
    ids = torch.tensor([1, 1, 1, 2, 2, 3])
    meter.add(ids, torch.tensor([0.9, 0.9, 0.9, 0.5, 0.5, 0.1])[None, None], texts=1)  # the frequent take most from others
    found = meter.statistics(lambda _: "words", special=(), correlation=spearman)
    assert found.frequency_correlation[0] == pytest.approx(-1.0)


def test_the_correlation_keeps_a_limited_number_of_tokens(ratios: torch.Tensor):
    found = measured(ratios, kept_tokens=7)
    assert found.correlated_tokens == 7
    assert found.tokens == 12


def test_how_texts_are_batched_changes_no_figure(ratios: torch.Tensor):
    meter = MixingMeter(METHODS, layers=3, vocabulary=40)
    meter.add(IDS, ratios, texts=3)
    whole = meter.statistics(kind_of, special=("[CLS]", "[SEP]"), correlation=spearman)
    found = measured(ratios)
    np.testing.assert_allclose(found.means, whole.means)
    np.testing.assert_allclose(found.frequency_correlation, whole.frequency_correlation)


def test_kinds_of_pieces_are_those_a_reader_would_name(tiny_tokenizer: Callable[..., Any]):
    tokenizer = tiny_tokenizer()
    kinds = PieceKinds(tokenizer)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in ("[CLS]", "[MASK]", ",", "!", "a", "##a", "the")}
    assert [kinds(ids[name]) for name in ids] == ["[CLS]", "[MASK]", "punctuation", "punctuation", "words", "words", "words"]
    assert kinds.shown(ids["##a"]) == "##a"
    assert "[SEP]" in kinds.special
