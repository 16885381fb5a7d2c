import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tain.evaluation.label_free import (
    LabelFreeReport,
    alignment,
    dropped_copies,
    halves,
    isotropy,
    isotropy_as_published,
    label_free_bootstrap,
    label_free_report,
    label_free_score,
    mean_cosine,
    mean_vector_norm,
    self_retrieval,
    uniformity,
)
from tain.evaluation.metrics import percentile_interval
from tain.foundation.errors import ShapeError, UserError

TEXTS = [f"text {number} speaks of {number} things and then of {number} again" for number in range(30)]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def plus_and_minus(dim: int) -> np.ndarray:
    return np.concatenate([np.eye(dim), -np.eye(dim)])


def test_equal_views_align_perfectly_and_opposite_ones_are_four_apart():
    vectors = rng().normal(size=(5, 3))
    assert alignment(vectors, 2 * vectors) == pytest.approx(0, abs=1e-12)  # length does not count
    assert alignment(vectors, -vectors) == pytest.approx(4)


def test_uniformity_has_its_closed_forms():
    assert uniformity(np.ones((6, 3))) == pytest.approx(0)  # all alike: the worst
    assert uniformity(np.array([[1.0, 0], [-3, 0]])) == pytest.approx(-8)  # opposite: squared distance 4
    assert uniformity(np.eye(4)) == pytest.approx(-4)  # orthogonal: squared distance 2


def test_uniformity_equals_the_double_loop(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tain.evaluation.label_free._ROWS_AT_ONCE", 4)  # several blocks
    vectors = rng().normal(size=(11, 3))
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = [np.exp(-2 * np.sum((units[i] - units[j]) ** 2)) for i in range(11) for j in range(i)]
    assert uniformity(vectors) == pytest.approx(np.log(np.mean(pairs)), abs=1e-12)


def test_plus_and_minus_basis_vectors_are_perfectly_isotropic():
    assert isotropy(plus_and_minus(5)) == pytest.approx(1)


def test_a_narrow_cone_is_not_isotropic_at_all():
    cone = np.r_[np.full(8, 10.0)] + 0.1 * rng().normal(size=(50, 8))
    assert isotropy(cone) < 1e-9


def test_isotropy_equals_its_definition_over_both_signs_of_the_eigenvectors():
    vectors = rng().normal(size=(40, 6)) + 0.3
    _, directions = np.linalg.eig(vectors.T @ vectors)
    sums = [np.exp(sign * vectors @ c).sum() for c in directions.T for sign in (1, -1)]
    assert isotropy(vectors) == pytest.approx(min(sums) / max(sums), rel=1e-9)


def test_isotropy_does_not_depend_on_which_way_eigenvectors_point():
    vectors = rng().normal(size=(40, 6)) + 0.3
    assert isotropy(-vectors) == pytest.approx(isotropy(vectors), rel=1e-9)


def test_isotropy_as_published_runs_over_rows_of_the_eigenvector_matrix():
    vectors = rng().normal(size=(30, 4)) + 0.5
    matrix = np.linalg.eigh(vectors.T @ vectors)[1]
    sums = [sum(math.exp(float(row @ vector)) for vector in vectors) for row in matrix]
    assert isotropy_as_published(vectors) == pytest.approx(min(sums) / max(sums), rel=1e-9)


@pytest.mark.parametrize(("norm", "published"), [(13.79, 0.043), (7.89, 0.169), (2.11, 0.599), (0.71, 0.825)])
def test_only_rows_give_the_figures_of_the_papers_table(norm, published):
    """Mirror-BERT's table of isotropy, words: mean-vector norm and IS of BERT before and after training (768 dimensions)."""
    draw = rng()
    logs = []
    for _ in range(8):  # one draw depends on the linear algebra library: by a factor of 1.5 at the longest mean
        direction = draw.normal(size=768)
        vectors = norm * direction / np.linalg.norm(direction) + draw.normal(size=(400, 768)) * 0.02
        logs.append(np.log(isotropy_as_published(vectors)))
        assert isotropy(vectors) < np.exp(-norm)
    assert np.mean(logs) == pytest.approx(np.log(published), abs=0.35)


def test_isotropy_of_very_long_vectors_neither_overflows_nor_warns():
    with np.errstate(over="raise", invalid="raise"):
        assert isotropy(1e4 * (rng().normal(size=(40, 6)) + 1)) == 0.0
    assert isotropy(1000 * plus_and_minus(3)) == pytest.approx(1)


def test_mean_vector_norm_and_mean_cosine_have_their_closed_forms():
    assert mean_vector_norm(plus_and_minus(3)) == pytest.approx(0)
    assert mean_vector_norm(np.array([[3.0, 4], [3, 4]])) == pytest.approx(5)
    assert mean_cosine(np.eye(4)) == pytest.approx(0)
    assert mean_cosine(np.array([[1.0, 0], [2, 0], [-1, 0]])) == pytest.approx(-1 / 3)


@pytest.mark.parametrize("figure", [uniformity, mean_cosine])
def test_figures_over_pairs_need_a_pair(figure: Callable[[np.ndarray], float]):
    with pytest.raises(ShapeError, match="at least 2"):
        figure(np.ones((1, 3)))


@pytest.mark.parametrize("words", [4, 5, 10, 23])
def test_each_copy_lacks_a_block_of_its_words_at_another_place(words: int):
    for number in range(40):
        parts = [f"{number}.{place}" for place in range(words)]
        copies = dropped_copies("  " + "  ".join(parts), level="sentence")
        assert copies is not None and copies[0] != copies[1]
        for copy in copies:
            kept = copy.split()
            assert len(kept) == words - round(0.6 * words)
            assert any(kept == parts[:start] + parts[start + words - len(kept) :] for start in range(len(kept) + 1))


def test_copies_depend_on_the_text_alone_and_differ_between_texts():
    texts = [f"the {noun} of {number} men and {number} women" for number in range(20) for noun in ("house", "road")]
    copies = [dropped_copies(text, level="sentence") for text in texts]
    assert copies == [dropped_copies(text, level="sentence") for text in texts]
    begins = {pair[0].split()[0] == "the" for pair in copies if pair}
    assert begins == {True, False}  # the block is not always at the same place


def test_copies_of_words_lack_a_letter_and_short_texts_have_none():
    copies = dropped_copies("glass", level="word")
    assert copies is not None and copies[0] != copies[1]
    assert all(len(copy) == 4 and any(copy == "glass"[:at] + "glass"[at + 1 :] for at in range(5)) for copy in copies)
    assert dropped_copies("sea", level="word") is None
    assert dropped_copies("one two three", level="phrase") is None
    assert dropped_copies("我爱北京天安", level="sentence") is None
    chinese = dropped_copies("我爱北京天安门广", level="sentence")
    assert chinese is not None and all(len(copy) == 3 for copy in chinese)


def test_sentences_are_halved_at_words_and_words_at_letters():
    assert halves(" one two  three four five ", level="sentence") == ("one two", "three four five")
    assert halves("one two three", level="phrase") is None
    assert halves("mirror", level="word") == ("mir", "ror")
    assert halves("glass", level="word") is None


def test_self_retrieval_is_perfect_for_equal_halves_and_chance_for_equal_vectors():
    apart = np.eye(7)
    assert self_retrieval(apart, apart).recall_at(1).tolist() == [1.0] * 14
    alike = self_retrieval(np.ones((7, 3)), np.ones((7, 3)))
    np.testing.assert_allclose(alike.recall_at(1), 1 / 7)


def test_self_retrieval_in_blocks_equals_self_retrieval_at_once(monkeypatch: pytest.MonkeyPatch):
    first, second = rng(1).normal(size=(23, 4)), rng(2).normal(size=(23, 4))
    at_once = self_retrieval(first, second).reciprocal_rank()
    monkeypatch.setattr("tain.evaluation.label_free._ROWS_AT_ONCE", 5)
    np.testing.assert_array_equal(self_retrieval(first, second).reciprocal_rank(), at_once)


def test_a_collapsed_encoder_is_seen_by_every_figure(constant: Any):
    report = label_free_report(constant, TEXTS, rng=rng())
    assert report.self_retrieval_recall_at_1 == pytest.approx(1 / 30)
    assert report.alignment == pytest.approx(0, abs=1e-12)  # the best there is, which is why it never counts alone
    assert report.uniformity == pytest.approx(0, abs=1e-12)
    assert report.mean_cosine == pytest.approx(1)
    assert report.mean_vector_share == pytest.approx(1)


def test_what_was_left_out_is_counted(bag: Any):
    report = label_free_report(bag(), [*TEXTS, TEXTS[3].upper(), "too short", "  Too  short "], rng=rng())
    assert (report.texts, report.repeated, report.too_short) == (31, 2, 1)


def test_each_text_is_encoded_once(bag: Any):
    encoder = bag()
    label_free_report(encoder, TEXTS, rng=rng())
    assert len(encoder.asked) == len(set(encoder.asked))


def test_texts_too_short_for_copies_leave_retrieval_without_an_answer(bag: Any):
    report = label_free_report(bag(), ["one two", "three four", "five six"], rng=rng())
    assert math.isnan(report.self_retrieval_mrr) and math.isnan(report.alignment)
    assert report.to_dict()["self_retrieval_mrr"] is None
    assert report.is_worse_than(report) == []
    assert math.isfinite(label_free_score(report))


def test_twins_take_the_place_of_copies_in_alignment_only(bag: Any):
    copied = label_free_report(bag(), TEXTS, rng=rng())
    twinned = label_free_report(bag(), TEXTS, twins=TEXTS, rng=rng())
    assert (copied.views, twinned.views) == ("copies", "twins")
    assert twinned.alignment == pytest.approx(0, abs=1e-6)
    assert twinned.self_retrieval_mrr == copied.self_retrieval_mrr


def test_twins_must_be_as_many_as_texts(bag: Any):
    with pytest.raises(ShapeError, match="one twin"):
        label_free_report(bag(), TEXTS, twins=TEXTS[1:], rng=rng())


def test_one_distinct_text_is_refused(bag: Any):
    with pytest.raises(UserError, match="at least 2"):
        label_free_report(bag(), ["same text", "Same  text"], rng=rng())


def test_equal_generators_draw_the_same_texts(bag: Any):
    drawn = [label_free_report(bag(), TEXTS, max_texts=10, rng=rng(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0].texts == 10


class NormalVectors:
    name = "normal"

    def encode(self, texts: list[str], /) -> np.ndarray:
        return np.stack([np.random.default_rng(list(text.encode())).normal(size=64) for text in texts]).astype(np.float32)


def test_the_interval_of_a_small_mean_surrounds_it():
    report, replicates = label_free_bootstrap(NormalVectors(), [f"text {number}" for number in range(300)], resamples=500, rng=rng())
    assert report.mean_vector_norm < 0.6  # of which drawing 300 of 300 texts again adds as much
    interval = percentile_interval(replicates["mean_vector_norm"])
    assert interval.low <= report.mean_vector_norm <= interval.high
    assert np.square(replicates["mean_vector_norm"]).mean() == pytest.approx(report.mean_vector_norm**2, rel=0.1)


def test_bootstrap_of_the_report_surrounds_the_report(bag: Any):
    report, replicates = label_free_bootstrap(bag(), TEXTS, resamples=200, rng=rng())
    assert report == label_free_report(bag(), TEXTS, rng=rng())
    for name in ("self_retrieval_mrr", "alignment", "uniformity", "mean_cosine", "mean_vector_norm", "mean_length"):
        values = replicates[name]
        assert len(values) == 200
        assert abs(getattr(report, name) - values.mean()) < 4 * values.std(), name


def report(**changes: float) -> LabelFreeReport:
    plain = LabelFreeReport(
        level="sentence",
        texts=100,
        repeated=0,
        too_short=0,
        views="copies",
        self_retrieval_recall_at_1=0.6,
        self_retrieval_mrr=0.7,
        alignment=0.5,
        uniformity=-2.0,
        isotropy=0.3,
        mean_vector_norm=4.0,
        mean_length=10.0,
        mean_cosine=0.2,
    )
    return replace(plain, **changes)  # pyright: ignore[reportArgumentType]


def test_a_report_is_not_worse_than_itself_nor_by_a_trifle():
    assert report().is_worse_than(report()) == []
    assert report(self_retrieval_mrr=0.695).is_worse_than(report()) == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"self_retrieval_mrr": 0.5}, "retrieve each other less well"),
        ({"uniformity": -1.0}, "alignment \\+ uniformity"),
        ({"mean_vector_norm": 8.0}, "concentrate more in one direction"),
    ],
)
def test_what_is_worse_is_said_in_words(changes: dict[str, float], words: str):
    (reason,) = report(**changes).is_worse_than(report())
    assert re.search(words, reason)


def test_a_collapse_is_worse_although_its_alignment_is_best(constant: Any, bag: Any):
    collapsed, sound = (label_free_report(encoder, TEXTS, rng=rng()) for encoder in (constant, bag()))
    assert collapsed.alignment < sound.alignment
    assert len(collapsed.is_worse_than(sound)) == 3
    assert sound.is_worse_than(collapsed) == []


def test_rescaling_all_vectors_is_no_loss():
    assert report(mean_vector_norm=400.0, mean_length=1000.0, isotropy=0.0).is_worse_than(report()) == []


def test_reports_on_different_texts_do_not_compare():
    with pytest.raises(ValueError, match="same texts"):
        replace(report(), texts=99).is_worse_than(report())


def test_score_follows_retrieval_first_and_then_alignment_plus_uniformity():
    assert label_free_score(report(self_retrieval_mrr=0.75)) > label_free_score(report(uniformity=-4.0))
    assert label_free_score(report(uniformity=-2.5)) > label_free_score(report())


def test_isotropy_of_fewer_vectors_than_dimensions_is_that_of_all_eigenvectors(rng: np.random.Generator):
    vectors = rng.normal(size=(7, 30))
    directions = np.linalg.eigh(vectors.T @ vectors)[1]
    sums = np.exp(vectors @ np.concatenate([directions, -directions], axis=1)).sum(axis=0)
    assert isotropy(vectors) == pytest.approx(sums.min() / sums.max(), rel=1e-9)
    assert isotropy(np.zeros((3, 5))) == pytest.approx(1.0)
