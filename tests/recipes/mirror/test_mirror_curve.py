"""The learning curve, early stopping, the best weights, refusal of a worse encoder, and prefixes of several lengths."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tain.evaluation.label_free import dropped_copies
from tain.foundation.errors import NotFiniteError, ShapeError, UserError
from tain.objectives.contrastive import info_nce, prefix_info_nce
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.mirror.curve import Curve, WithBest, steps_between
from tain.recipes.mirror.model_card import curve_in_words
from tain.recipes.mirror.recipe import mirror
from tain.recipes.mirror.sizes import figures_by_size
from tain.recipes.mirror.trainer import MirrorTrainer
from tain.training.optimizer import MasterWeights, adamw

SMALL = {"batch_texts": 8, "max_tokens": 40, "dtype": "float32", "device": "cpu", "held_out": 8, "erase_min_chars": 10}


@pytest.fixture(scope="module")
def texts(sentences):
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, size=rng.integers(5, 12))) for _ in range(80)]


def a_curve(figures, **settings):
    """A curve over a one-weight model whose figures are given."""
    model = nn.Linear(2, 1, bias=False)
    weights = MasterWeights(model, dtype=torch.float32)
    curve = Curve(["a b c d", "e f g h"], level="sentence", encode=lambda texts: np.eye(len(texts)), every=2, weights=weights, **settings)
    values = iter(figures)
    curve._measure = lambda: next(values)
    return curve, model


# ---- the curve


def test_a_plateau_ends_the_run_and_a_rise_does_not():
    curve, _ = a_curve([0.1, 0.2, 0.3, 0.3, 0.301, 0.3015], patience=2)
    curve.begin()
    ended = []
    for done in range(1, 9):
        curve.after_step(done)
        ended.append(curve.enough(done))
    # measurements at steps 2, 4, 6, 8: 0.2, 0.3, 0.3, 0.301; the last two are no rise of 0.002 above 0.3
    assert ended == [False] * 7 + [True]
    assert curve.finish(8).stopped_early
    rising, _ = a_curve([0.1, 0.2, 0.3, 0.31, 0.32], patience=2)
    rising.begin()
    for done in range(1, 9):
        rising.after_step(done)
        assert not rising.enough(done)


def test_the_best_weights_are_loaded_at_the_end_and_survive_a_checkpoint():
    curve, model = a_curve([0.1, 0.5, 0.4, 0.3], keeps_best=True)
    optimizer = WithBest(adamw(curve.weights, learning_rate=0.1, weight_decay=0.0), curve)
    curve.begin()
    seen = {}
    for done in (1, 2, 3, 4):
        with torch.no_grad():
            model.weight.fill_(float(done))
        curve.after_step(done)
        seen[done] = model.weight.clone()
    state = optimizer.state()
    other, fresh = a_curve([], keeps_best=True)
    other.memory.update(json.loads(json.dumps(curve.memory)))
    WithBest(adamw(other.weights, learning_rate=0.1, weight_decay=0.0), other).load_state(state)
    other._measure = lambda: 0.2
    for each, of in ((curve, model), (other, fresh)):
        record = each.finish(5)
        assert record.kept_step == 2
        torch.testing.assert_close(of.weight, seen[2])
        assert [step for step, _ in record.points] == [0, 2, 4, 5]


def copies_of(*texts):
    return [copy for text in texts for copy in dropped_copies(text, level="sentence") or ()]


def test_the_measurement_is_self_retrieval_of_the_copies():
    curve, _ = a_curve([])
    del curve._measure
    first, second, other_first, other_second = copies_of("a b c d", "e f g h")
    vectors = {first: [1, 0], second: [1, 0.1], other_first: [0, 1], other_second: [0.1, 1]}
    curve._encode = lambda texts: np.array([vectors[text] for text in texts], dtype=np.float32)
    assert curve._measure() == pytest.approx(1.0)
    vectors[second], vectors[other_second] = vectors[other_second], vectors[second]
    assert curve._measure() == pytest.approx(0.5)


def test_vectors_that_are_not_finite_find_nothing_and_leave_the_stop_to_the_loop():
    curve, _ = a_curve([])
    del curve._measure

    def broken(texts):
        raise NotFiniteError("nan")

    curve._encode = broken
    assert curve._measure() == 0.0


def test_measuring_takes_a_tenth_of_the_time_at_most():
    assert steps_between(1000, batch_texts=200, held_texts=500) == 50
    assert steps_between(40, batch_texts=200, held_texts=500) == 10
    assert steps_between(40, batch_texts=8, held_texts=500) == 105  # 500 texts against 105 * 6 * 8


def test_a_run_records_its_curve(bert_folder, texts, tmp_path):
    result = mirror(bert_folder, texts, tmp_path / "out", curve_steps=3, **SMALL)
    curve = result.runs[0].curve
    assert [step for step, _ in curve.points] == [0, 3, 6, 9]
    assert curve.kept_step == 9
    record = json.loads((tmp_path / "out" / "tain.json").read_text())
    assert record["curve"]["points"] == [[step, round(value, 5)] for step, value in curve.points]
    assert "Self-retrieval MRR during training: " in (tmp_path / "out" / "README.md").read_text()
    # the last point is that of the finished encoder: nothing is whitened here
    assert curve.points[-1][1] == pytest.approx(result.after.self_retrieval_mrr, abs=1e-6)
    without = mirror(bert_folder, texts, curve_steps=0, **SMALL)
    assert without.runs[0].curve is None
    np.testing.assert_array_equal(without.embedder.encode(texts[:4]), result.embedder.encode(texts[:4]))


def test_early_stopping_keeps_the_weights_of_the_best_step(bert_folder, texts, monkeypatch):
    figures = iter([0.1, 0.2, 0.5, 0.3, 0.3, 0.3])
    kept = {}
    measure = Curve._add

    def add(self, done):
        kept[done] = [tensor.clone() for tensor in self.weights.masters]
        measure(self, done)

    monkeypatch.setattr(Curve, "_add", add)
    monkeypatch.setattr(Curve, "_measure", lambda self: next(figures))
    result = mirror(bert_folder, texts, curve_steps=1, stop_early=True, patience=3, learning_rate=1e-2, **SMALL)
    assert result.steps == 5 and result.runs[0].curve.kept_step == 2
    trained = dict(result.embedder.encoder.model.named_parameters()).values()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(trained, kept[2], strict=True))
    assert not all(torch.equal(ours, theirs) for ours, theirs in zip(trained, kept[5], strict=True))


def test_a_resumed_run_has_the_curve_and_the_weights_of_an_uninterrupted_one(bert_folder, texts, tmp_path, monkeypatch):
    settings = {**SMALL, "curve_steps": 2, "keep_best": True, "learning_rate": 1e-2, "checkpoint_every_s": 0.0}
    whole = mirror(bert_folder, texts, tmp_path / "whole", **settings)
    original = MirrorTrainer.gradient_step

    def killed(self, batch, *, step: int, seed: int):
        if step == 6:
            raise KeyboardInterrupt
        return original(self, batch, step=step, seed=seed)

    monkeypatch.setattr(MirrorTrainer, "gradient_step", killed)
    with pytest.raises(KeyboardInterrupt):
        mirror(bert_folder, texts, tmp_path / "out", **settings)
    monkeypatch.undo()
    again = mirror(bert_folder, texts, tmp_path / "out", resume=True, **settings)
    assert again.runs[0].curve == whole.runs[0].curve
    np.testing.assert_array_equal(again.embedder.encode(texts[:4]), whole.embedder.encode(texts[:4]))


def test_the_words_for_a_curve():
    curve = {"figure": "self-retrieval MRR", "points": [[0, 0.1], [10, 0.25], [20, 0.2]], "kept_step": 10, "stopped_early": True}
    expected = "self-retrieval MRR during training: 0.100 at step 0, 0.250 at step 10, 0.200 at step 20; kept: the weights of step 10;"
    assert curve_in_words(curve) == f"{expected} training ended at a plateau after 20 steps"
    assert curve_in_words(None) == ""


# ---- refusing a worse encoder


def test_a_worse_encoder_is_not_saved(bert_folder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("tain.evaluation.label_free.LabelFreeReport.is_worse_than", lambda self, other: ["it is worse"])
    with pytest.raises(UserError, match=r"worse than the untouched model \(it is worse\), so nothing was saved"):
        mirror(bert_folder, texts, tmp_path / "out", refuse_worse=True, checkpoint_every_s=0.0, **SMALL)
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match="LOOKS WORSE"):
        mirror(bert_folder, texts, tmp_path / "out", **SMALL)
    assert (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refuse_worse": True, "held_out": 0}, "refuse_worse needs held-out texts"),
        ({"stop_early": True, "recipe": "paper"}, "stop_early needs held-out texts"),
        ({"stop_early": True, "curve_steps": 0}, "curve_steps is 0"),
        ({"dims": "64,32"}, "ascending and joined by commas"),
        ({"dims": "1"}, "2 or more"),
        ({"dims": "8", "whiten": 0.5}, "mix all of them"),
        ({"patience": 0}, "patience is 0: give 1 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        MirrorConfig(**settings)


def test_settings_of_training_are_refused_where_there_is_none():
    for settings in ({"dims": "8"}, {"stop_early": True}):
        with pytest.raises(UserError, match="takes no training step"):
            MirrorConfig(recipe="fast", **settings).refuse_without_effect()


# ---- prefixes


def test_equal_vectors_give_chance_level_for_every_length():
    same = torch.ones(4, 8)
    assert prefix_info_nce(same, same, dims=(2, 4), temperature=0.1).item() == pytest.approx(3 * math.log(7), rel=1e-6)


def test_the_loss_is_the_sum_over_prefixes(generator):
    left, right = torch.randn(2, 6, 8, generator=generator)
    is_same = torch.zeros(6, 6, dtype=torch.bool)
    is_same[0, 1] = is_same[1, 0] = True
    expected = sum(info_nce(left[:, :dim], right[:, :dim], temperature=0.1, is_same=is_same) for dim in (2, 4, 8))
    torch.testing.assert_close(prefix_info_nce(left, right, dims=(2, 4), temperature=0.1, is_same=is_same), expected)
    torch.testing.assert_close(prefix_info_nce(left, right, dims=(), temperature=0.1), info_nce(left, right, temperature=0.1))
    # naming the whole length does not count it twice
    torch.testing.assert_close(prefix_info_nce(left, right, dims=(8,), temperature=0.1), info_nce(left, right, temperature=0.1))
    with pytest.raises(ShapeError):
        prefix_info_nce(left, right, dims=(9,), temperature=0.1)


def test_numbers_behind_a_prefix_have_no_part_in_it(generator):
    left, right = torch.randn(2, 5, 6, generator=generator)
    left = left.requires_grad_()
    whole = torch.autograd.grad(info_nce(left, right, temperature=0.2), left)[0]
    summed = torch.autograd.grad(prefix_info_nce(left, right, dims=(2,), temperature=0.2), left)[0]
    torch.testing.assert_close(summed[:, 2:], whole[:, 2:])
    assert (summed[:, :2] - whole[:, :2]).abs().max() > 1e-3


def test_a_run_with_prefixes_tells_their_quality(bert_folder, texts, tmp_path):
    from sentence_transformers import SentenceTransformer

    result = mirror(bert_folder, texts, tmp_path / "out", dims="8,16", **SMALL)
    assert [size.dim for size in result.sizes] == [8, 16, 32]
    assert all(size.before is not None for size in result.sizes)
    assert result.sizes[-1].self_retrieval_mrr == pytest.approx(result.after.self_retrieval_mrr)
    held = json.loads((tmp_path / "out" / "tain.json").read_text())
    assert [size["dim"] for size in held["sizes"]] == [8, 16, 32]
    assert "| 8 | " in (tmp_path / "out" / "README.md").read_text()
    cut = SentenceTransformer(str(tmp_path / "out"), device="cpu", truncate_dim=8).encode(texts[:3])
    np.testing.assert_allclose(cut, result.embedder.encode(texts[:3], normalize=False)[:, :8], atol=1e-5)


def test_best_with_prefixes_neither_whitens_nor_joins():
    config = MirrorConfig(recipe="best", dims="8").for_texts(has_documents=False)
    resolved = config.resolved(width=32, weight_rms=0.1, model_type="modernbert")
    assert resolved.whiten == 0.0 and resolved.join is False


def test_a_prefix_must_be_shorter_than_the_vectors(bert_folder, texts):
    with pytest.raises(UserError, match="the vectors have 32 numbers: give shorter prefixes only"):
        mirror(bert_folder, texts, dims="16,32", **SMALL)


def test_figures_by_size_cut_the_vectors():
    # the first two numbers tell the texts apart; the third, which is far larger, pairs the wrong copies
    rows = dict(zip(copies_of("a b c d", "e f g h"), ([1, 0, 9], [1, 0, -9], [0, 1, -9], [0, 1, 9]), strict=True))
    encoder = SimpleNamespace(name="x", encode=lambda texts: np.array([rows[text] for text in texts], dtype=np.float32))
    short, whole = figures_by_size(encoder, ["a b c d", "e f g h"], (2, 3))
    assert (short.self_retrieval_mrr, short.self_retrieval_recall_at_1) == (pytest.approx(1.0), pytest.approx(1.0))
    assert (whole.self_retrieval_mrr, whole.self_retrieval_recall_at_1) == (pytest.approx(0.5), pytest.approx(0.0))
    assert short.with_before(whole).before == pytest.approx(0.5)
