"""Identity fine-tuning end to end on a tiny model: figures, folders, resume, two processes, and every refusal."""

import itertools
import json
import math
import shutil
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tain.batches.ahead import Ahead
from tain.batches.packing import pack
from tain.batches.views import twin_views
from tain.encoders.dropout import set_dropout
from tain.evaluation.label_free import label_free_report
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.objectives.contrastive import info_nce
from tain.recipes.mirror import measuring, recipe
from tain.recipes.mirror import trainer as mirror_trainer
from tain.recipes.mirror.budget import Budget, plan_for_budget
from tain.recipes.mirror.config import PRESETS, MirrorConfig
from tain.recipes.mirror.data import training_set
from tain.recipes.mirror.preparing import set_limits, weight_rms
from tain.recipes.mirror.recipe import mirror
from tain.recipes.mirror.trainer import MirrorTrainer, trainer_for
from tain.recipes.mirror.views import check_views
from tain.training.optimizer import MasterWeights

SMALL: dict[str, Any] = {"batch_texts": 8, "max_tokens": 40, "dtype": "float32", "device": "cpu", "held_out": 8, "erase_min_chars": 10}


@pytest.fixture(scope="module")
def texts(sentences):
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, size=rng.integers(5, 12))) for _ in range(80)]


def trainer(folder, texts, **settings):
    """A trainer that has not begun, for looking at single steps."""
    config = MirrorConfig(**{**SMALL, "held_out": 0, **settings}).for_texts(has_documents=False)
    data = training_set(texts, config)
    embedder = Embedder.load(folder, dtype="float32", device="cpu")
    resolved = config.resolved(width=embedder.dim, weight_rms=weight_rms(embedder.encoder))
    set_limits(embedder.encoder, resolved)
    set_dropout(embedder.encoder.model, hidden=resolved.dropout, attention=resolved.attention_dropout)
    made = trainer_for(embedder, data, resolved)
    made.encoder.train()
    return made


def gradients(made, indices, **where):
    made.encoder.zero_grad()
    loss = made.gradient_step(made.batch(np.asarray(indices), step=0, seed=1), step=0, seed=1)
    return loss, {name: p.grad.clone() for name, p in made.encoder.named_parameters() if p.grad is not None}


# ---- the whole run


def test_a_run_saves_an_encoder_that_sentence_transformers_reads_alike(bert_folder, texts, sentences, tmp_path):
    from sentence_transformers import SentenceTransformer

    result = mirror(bert_folder, texts, tmp_path / "encoder", epochs=6, learning_rate=2e-3, **SMALL)
    assert result.steps == 54  # 80 texts less 8 held out make 9 steps of 8, six times
    losses = result.runs[0].losses
    assert np.mean(losses[-9:]) < np.mean(losses[:9])
    ours = result.embedder.encode(sentences)
    loaded = Embedder.load(tmp_path / "encoder", dtype="float32").encode(sentences)
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu").encode(sentences)
    np.testing.assert_array_equal(loaded, ours)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)
    untouched = Embedder.load(bert_folder, dtype="float32").encode(sentences)
    assert np.abs(untouched - ours).max() > 1e-3
    record = json.loads((tmp_path / "encoder" / "tain.json").read_text())
    assert record["kind"] == "encoder"
    assert record["config"]["temperature"] == 0.04
    assert record["figures"]["after"]["texts"] == record["figures"]["lexical"]["texts"] == 8
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "SentenceTransformer" in card
    assert "self-retrieval MRR" in card and "| word overlap, no model |" in card


def test_mirroring_makes_planted_topics_stand_out(bert_folder):
    """Three topic words among eight common ones: untouched vectors mostly hold the common words."""
    rng = np.random.default_rng(0)
    topics = [["rivers", "sand", "stones", "sea"], ["stars", "planets", "sun", "books"], ["glass", "mirrors", "metal", "house"]]
    common = ["the", "a", "of", "and", "to", "in", "is", "are", "into", "but", "never", "every", "two", "at", "same", "he"]
    labels = rng.integers(0, 3, size=240)
    planted = [" ".join(rng.permutation([*rng.choice(topics[label], size=3), *rng.choice(common, size=8)])) for label in labels]
    trained = {**SMALL, "held_out": 0, "keep_duplicates": True, "seed": 1}
    before = mirror(bert_folder, planted, epochs=1, learning_rate=1e-9, **trained).embedder
    after = mirror(bert_folder, planted, epochs=4, learning_rate=2e-3, **trained).embedder

    def purity(embedder):
        """Share of texts whose nearest neighbour has the same topic, and the mean cosine."""
        vectors = embedder.encode(planted, normalize=True)
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -2)
        return float(np.mean(labels[cosines.argmax(1)] == labels)), float(cosines[cosines > -2].mean())

    (pure_before, cosine_before), (pure_after, cosine_after) = purity(before), purity(after)
    assert pure_before < 0.7
    assert pure_after > pure_before + 0.15
    assert cosine_after < cosine_before - 0.05


def test_five_seeds_keep_the_best_and_report_the_spread(bert_folder, texts):
    result = mirror(bert_folder, texts, seeds=3, learning_rate=1e-3, **SMALL)
    scores = [recipe.score(run) for run in result.runs]
    assert result.best == int(np.argmax(scores))
    assert [run.seed for run in result.runs] == [13, 14, 15]
    alone = mirror(bert_folder, texts, seeds=1, learning_rate=1e-3, seed=13, **SMALL)
    assert alone.runs[0].losses == result.runs[0].losses  # a later seed starts from the untouched model, and so did the first
    spread = result.spread()["uniformity"]
    assert spread["standard_deviation"] > 0
    assert spread["mean"] == pytest.approx(np.mean([run.after.uniformity for run in result.runs]))
    assert [figures and figures["uniformity"] for figures in result.figures_of_seeds()] == [run.after.uniformity for run in result.runs]
    assert alone.spread() == {}
    kept = label_free_report(
        result.embedder,
        training_set(texts, result.config).held_left,
        level="sentence",
        max_texts=500,
        rng=np.random.default_rng([13, 2]),
    )
    assert kept.self_retrieval_mrr == pytest.approx(result.runs[result.best].after.self_retrieval_mrr, abs=1e-6)


@pytest.mark.parametrize("level", ["word", "phrase", "sentence"])
def test_presets_are_the_papers(level):
    config = MirrorConfig(level=level).resolved(width=768, weight_rms=0.043)
    assert (config.learning_rate, config.weight_decay, config.batch_texts, config.dropout) == (2e-5, 0.01, 200, 0.1)
    expected = {"word": (0.2, 0, 2, 25, "cls"), "phrase": (0.04, 2, 2, 25, "cls"), "sentence": (0.04, 5, 1, 50, "mean")}[level]
    assert (config.temperature, config.erased_chars, config.epochs, config.max_tokens, config.pooling) == expected
    assert config.temperature == PRESETS[level].temperature


def test_the_default_learning_rate_grows_with_the_weights_and_as_models_narrow(bert_folder):
    rate = MirrorConfig().resolved(width=768, weight_rms=0.086).learning_rate
    assert rate == pytest.approx(4e-5)
    assert MirrorConfig().resolved(width=384, weight_rms=0.043).learning_rate == pytest.approx(2e-5 * 2**2.1, rel=0.05)
    assert MirrorConfig().resolved(width=1024, weight_rms=0.043).learning_rate == pytest.approx(2e-5)
    encoder = Embedder.load(bert_folder, dtype="float32").encoder
    before = weight_rms(encoder)
    with torch.no_grad():
        encoder.model.embeddings.word_embeddings.weight.mul_(100)  # tables do not count
        for parameter in encoder.model.encoder.parameters():
            parameter.mul_(2)
    assert weight_rms(encoder) > 1.8 * before


def test_a_folder_says_how_it_wants_to_be_mirrored_and_what_is_given_wins(bert_folder, texts, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(bert_folder, folder)
    record = {"format": 1, "kind": "masked language model", "mirror": {"learning_rate": 3e-4, "dropout": 0.05}}
    (folder / "tain.json").write_text(json.dumps(record))
    config = mirror(folder, texts, tmp_path / "mirrored", **SMALL).config
    assert (config.learning_rate, config.dropout, config.attention_dropout) == (3e-4, 0.05, 0.05)
    assert json.loads((tmp_path / "mirrored" / "tain.json").read_text())["mirror"] == record["mirror"]
    config = mirror(folder, texts, learning_rate=1e-3, dropout=0.2, **SMALL).config
    assert (config.learning_rate, config.dropout, config.attention_dropout) == (1e-3, 0.2, 0.2)
    (folder / "tain.json").write_text(json.dumps({**record, "mirror": {"temperature": 0.1}}))
    with pytest.raises(UserError, match=r"suggests .* for mirroring: it may name learning_rate"):
        mirror(folder, texts, **SMALL)


def test_a_folder_suggests_pairs_and_muons_step_to_the_recipes_that_have_them():
    suggested = {"max_pairs": 300, "matrix_learning_rate": 0.002}

    def filled(**given):
        config = MirrorConfig(**given).for_texts(has_documents=True, suggested=suggested)
        return config.resolved(width=384, weight_rms=0.1, suggested=suggested, model_type="modernbert")

    best = filled(recipe="best")
    assert (best.max_pairs, best.matrix_learning_rate) == (300, 0.002)
    given = filled(recipe="best", max_pairs=500, matrix_learning_rate=0.01)
    assert (given.max_pairs, given.matrix_learning_rate) == (500, 0.01)
    assert filled().matrix_learning_rate is None  # AdamW has none
    assert MirrorConfig().for_texts(has_documents=True).max_pairs == 20_000


def test_what_is_given_wins_over_the_preset():
    assert MirrorConfig(level="word", temperature=0.5).resolved(width=768, weight_rms=0.043).temperature == 0.5


def test_drophead_replaces_dropout(bert_folder, texts):
    result = mirror(bert_folder, texts, drophead=0.2, **SMALL)
    assert (result.config.dropout, result.config.attention_dropout) == (0.0, 0.0)
    # nothing else makes these views differ, and another seed drops other heads
    same = {"erased_chars": 0, "allow_identical_views": True}
    still, _ = gradients(trainer(bert_folder, texts, dropout=0.0, **same), range(8))
    dropped = trainer(bert_folder, texts, drophead=0.5, **same)
    losses = [dropped.gradient_step(dropped.batch(np.arange(8), step=0, seed=seed), step=0, seed=seed) for seed in (1, 2)]
    assert min(abs(loss - still) for loss in losses) > 1e-3
    assert abs(losses[0] - losses[1]) > 1e-3


def test_dropout_that_is_given_beside_drophead_stays():
    found = MirrorConfig(drophead=0.2, dropout=0.1).resolved(width=768, weight_rms=0.043)
    assert (found.dropout, found.attention_dropout) == (0.1, 0.0)
    found = MirrorConfig(drophead=0.2, attention_dropout=0.3).resolved(width=768, weight_rms=0.043, suggested={"dropout": 0.05})
    assert (found.dropout, found.attention_dropout) == (0.0, 0.3)


def test_parts_that_no_weights_are_saved_of_change_nothing(bert_folder, texts, tmp_path):
    rms = {weight_rms(Embedder.load(bert_folder, dtype="float32", device="cpu").encoder) for _ in range(3)}
    assert len(rms) == 1
    saved = [mirror(bert_folder, texts, tmp_path / name, **SMALL) and load_file(tmp_path / name / "model.safetensors") for name in "ab"]
    assert any("pooler." in name for name in saved[0])
    assert all(torch.equal(tensor, saved[1][name]) for name, tensor in saved[0].items())


def test_parts_gradients_add_up_in_float32(bert_folder, texts):
    made = trainer(bert_folder, texts, dropout=0.0, micro_batch_tokens=20)
    expected = gradients(made, range(8))[1]
    made = trainer(bert_folder, texts, dropout=0.0, micro_batch_tokens=20)
    made.weights = MasterWeights(made.encoder.model, dtype=torch.bfloat16)
    gradients(made, range(8))
    made.weights.take_gradients()
    assert all(parameter.grad is None for parameter in made.weights.parameters)
    masters = zip(made.weights.names, made.weights.masters, strict=True)
    found = {f"model.{name}": master.grad for name, master in masters if master.grad is not None}
    assert {found[name].dtype for name in expected} == {torch.float32}
    mine, theirs = (torch.cat([one.flatten() for one in each]) for each in ([found[name] for name in expected], list(expected.values())))
    assert (mine - theirs).norm() < 0.05 * theirs.norm()


def test_views_are_looked_at_where_something_is_erased(bert_folder, texts):
    mixed = ["a red sun", "the sea", *(f"a sun {number}" for number in range(30)), *texts[:8]]
    made = trainer(bert_folder, mixed, dropout=0.0, erase_min_chars=25)
    with pytest.warns(UserWarning, match="32 of 40 texts have fewer than 25 characters, so nothing is erased"):
        check_views(made.encoder, made.views, made.config, progress=Progress.silent())


def test_settings_reach_what_they_are_for(bert_folder, texts, monkeypatch):
    asked: dict[str, list[Any]] = {"dropout": [], "decay": [], "level": [], "twins": []}

    def watched(module, name, what):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, **more: what(more) or real(*given, **more))

    watched(recipe, "set_dropout", lambda more: asked["dropout"].append((more["hidden"], more["attention"])))
    watched(mirror_trainer, "adamw", lambda more: asked["decay"].append((more["learning_rate"], more["weight_decay"])))
    watched(
        measuring,
        "label_free_report",
        lambda more: asked["level"].append(more["level"]) or asked["twins"].append(more.get("twins")),
    )
    own = {"dropout": 0.3, "attention_dropout": 0.2, "weight_decay": 0.5, "learning_rate": 1e-3, "level": "phrase"}
    mirror(bert_folder, texts, **own, **SMALL)
    assert asked == {
        "dropout": [(0.3, 0.2)],
        "decay": [(1e-3, 0.5)],
        "level": ["phrase"] * 3,
        "twins": [None] * 3,
    }  # before, after and word overlap
    asked["twins"].clear()
    pairs = [(text, f"{text} again") for text in texts]
    mirror(bert_folder, pairs, **SMALL)
    assert asked["twins"].pop() is None  # of word overlap, which has no use for them
    assert len(asked["twins"]) == 2
    for twins in asked["twins"]:
        assert len(twins) == 8
        assert all(twin.endswith(" again") for twin in twins)


def test_the_temperature_divides_the_similarities(bert_folder, texts):
    same = {"dropout": 0.0, "erased_chars": 0, "allow_identical_views": True}
    for temperature in (0.04, 0.5):
        made = trainer(bert_folder, texts, temperature=temperature, **same)
        loss, _ = gradients(made, range(8))
        ids, _ = made.views(np.arange(8), step=0, seed=1)
        with torch.no_grad():
            vectors = made.encoder(pack(ids))
        assert loss == pytest.approx(info_nce(vectors, vectors, temperature=temperature).item(), rel=1e-4)


def test_views_have_the_ids_that_their_texts_have(bert_folder, texts):
    given = [*texts[:20], "sea"]  # too short to have anything erased
    made = trainer(bert_folder, given)
    indices = np.arange(len(made.views.data.left))[::-1]
    left, right = made.views(indices, step=3, seed=1)
    ordered = [made.views.data.left[index] for index in indices]
    twins = twin_views(ordered, chars=5, floor=10, mask_token="[MASK]", rng=np.random.default_rng([1, 3, 3]))
    assert [left, right] == [made.views.tokenizer(list(side))["input_ids"] for side in twins]
    assert left[ordered.index("sea")] == right[ordered.index("sea")]
    assert left != right


def test_pairs_have_the_ids_that_their_texts_have(bert_folder, texts):
    made = trainer(bert_folder, list(zip(texts[:20], texts[20:40], strict=True)), max_tokens=6)
    indices = np.array([5, 0, 7])
    assert list(made.views(indices, step=0, seed=1)) == [
        made.views.tokenizer([side[index] for index in indices], truncation=True, max_length=6)["input_ids"]
        for side in (made.views.data.left, made.views.data.right)
    ]


# ---- which texts


def test_what_is_held_out_is_not_trained_on(texts):
    config = MirrorConfig(**SMALL).for_texts(has_documents=False)
    data = training_set(texts, config)
    assert len(data.held_left) == 8
    assert sorted(data.left + data.held_left) == sorted(texts)
    repeated = training_set(
        [text for text in texts for _ in range(3)], MirrorConfig(keep_duplicates=True, **SMALL).for_texts(has_documents=False)
    )
    assert not set(repeated.held_left) & set(repeated.left)
    pairs = [(texts[index // 2], texts[40 + index // 2] + str(index)) for index in range(80)]  # each left side twice
    split = training_set(pairs, config)
    assert len(split.held_left) == 8
    assert not set(split.held_left) & set(split.left)


def test_no_more_texts_are_trained_on_than_asked_for(texts):
    data = training_set(texts, MirrorConfig(max_texts=16, **SMALL).for_texts(has_documents=False))
    assert (len(data.left), data.counts["left_over"]) == (16, 56)


def test_too_few_texts_left_to_train_on_are_refused(bert_folder, texts):
    with pytest.raises(UserError, match="max_texts is 4, fewer than a batch of 8"):
        mirror(bert_folder, texts, max_texts=4, **SMALL)
    many = [text for text in texts[:12] for _ in range(5)]
    with pytest.raises(UserError, match=r"6 texts are held out, and 3\d others are left to train on, fewer than 36"):
        mirror(bert_folder, many, keep_duplicates=True, **SMALL | {"batch_texts": 36})


def test_texts_of_either_side_that_are_cut_are_counted(bert_folder, texts):
    pairs = [(text, " ".join(texts[:8])) for text in texts]
    with pytest.warns(UserWarning, match="80 of 160 texts are longer than 40 tokens"):
        assert mirror(bert_folder, pairs, keep_duplicates=True, **SMALL | {"held_out": 0}).counts["truncated"] == 80


@pytest.mark.parametrize("given", ["one text", [1, 2], [("a", "b"), ("a",)], [("a", "b"), ("a", 3)]])
def test_what_is_no_list_of_texts_is_refused(bert_folder, given, unchecked):
    with pytest.raises(UserError, match=r"read character by character|give texts, or pairs of two texts"):
        mirror(bert_folder, given, **SMALL)


def test_what_no_saved_encoder_can_have_is_said(bert_folder, texts, sentences, tmp_path):
    with pytest.warns(UserWarning, match="trained with mean-with-padding, which saved encoders do not support"):
        result = mirror(bert_folder, texts, tmp_path / "encoder", pooling="mean-with-padding", **SMALL)
    loaded = Embedder.load(tmp_path / "encoder", dtype="float32").encode(sentences)
    np.testing.assert_array_equal(loaded, result.embedder.encode(sentences))
    with pytest.raises(UserError, match="drophead needs packed attention"):
        MirrorConfig(pooling="mean-with-padding", drophead=0.1)


def test_pairs_train_on_what_belongs_together(bert_folder, texts):
    pairs = list(zip(texts[:40], texts[40:], strict=True))
    result = mirror(bert_folder, pairs, epochs=6, learning_rate=2e-3, **{**SMALL, "held_out": 0})
    assert result.runs[0].losses[-1] < result.runs[0].losses[0] - 0.3
    assert result.texts == 40


# ---- what a step does


def test_any_micro_batch_gives_the_same_gradient(bert_folder, texts):
    still = {"dropout": 0.0}
    loss, whole = gradients(trainer(bert_folder, texts, **still), range(16))
    for micro_batch_tokens in (1, 40, 200):
        part_loss, parts = gradients(trainer(bert_folder, texts, micro_batch_tokens=micro_batch_tokens, **still), range(16))
        assert part_loss == pytest.approx(loss, rel=1e-5)
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4)


def test_a_step_is_a_pure_function_of_seed_and_step(bert_folder, texts):
    made = trainer(bert_folder, texts)
    first, _ = gradients(made, range(8))
    torch.manual_seed(99)
    again, _ = gradients(made, range(8))
    assert first == again


def test_repeated_texts_do_not_push_each_other_away(bert_folder, texts):
    repeated = [*texts[:6], texts[0].upper(), f"  {texts[1]}"]
    made = trainer(bert_folder, repeated, keep_duplicates=True)
    indices = np.arange(8)
    is_same = made.views.pairs.is_same(indices)
    assert is_same is not None
    by_text = {text: index for index, text in enumerate(made.views.data.left)}
    first, second = by_text[texts[0]], by_text[texts[0].upper()]
    assert is_same[first, second]
    assert is_same[second, first]
    assert int(is_same.sum()) == 4
    assert (made.views.data.counts["repeated"], made.views.pairs.sharing()) == (2, 4)
    assert trainer(bert_folder, texts).views.pairs.is_same(indices) is None
    assert trainer(bert_folder, texts).views.pairs.sharing() == 0
    pairs = [("a b", "c d"), ("e f", "C D"), ("c d", "g h"), ("i j", "k l")]  # a side that another has, on either side
    made = trainer(bert_folder, pairs, batch_texts=4)
    assert made.views.pairs.sharing() == 3
    shared = made.views.pairs.is_same(np.arange(4))
    assert shared is not None
    index = {made.views.data.left[row]: row for row in range(4)}
    found = {frozenset((left, right)) for left in index for right in index if left != right and shared[index[left], index[right]]}
    assert found == {frozenset(("a b", "e f")), frozenset(("a b", "c d")), frozenset(("e f", "c d"))}


def test_two_processes_give_the_one_process_gradient(bert_folder, texts, tmp_path, in_two_processes):
    _, expected = gradients(trainer(bert_folder, texts, dropout=0.0), range(10))
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    in_two_processes(f"""
        import json
        from test_mirror import gradients, trainer
        from tain.training import distributed
        texts = json.loads(open({str(tmp_path / "texts.json")!r}).read())
        loss, found = gradients(trainer({str(bert_folder)!r}, texts, dropout=0.0, micro_batch_tokens=60), range(10))
        torch.save(found, {str(tmp_path)!r} + f"/gradients-{{distributed.rank()}}.pt")
        """)
    for rank in (0, 1):
        found = torch.load(tmp_path / f"gradients-{rank}.pt", weights_only=True)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-4)


def test_batches_made_ahead_change_nothing(bert_folder, texts, sentences, monkeypatch):
    expected = mirror(bert_folder, texts, **SMALL)
    made: list[int] = []

    class Watched(Ahead):
        def __init__(self, make, *, workers):
            assert workers == 0, "a CPU has no use for them"
            super().__init__(lambda step: made.append(step) or make(step), workers=1)

    monkeypatch.setattr(mirror_trainer, "Ahead", Watched)
    found = mirror(bert_folder, texts, **SMALL)
    assert max(made) > found.steps  # the last steps' batches were made ahead too, for nobody
    assert found.runs[0].losses == expected.runs[0].losses
    assert np.array_equal(found.embedder.encode(sentences), expected.embedder.encode(sentences))


def test_an_interrupted_run_resumes_bit_for_bit(bert_folder, texts, sentences, tmp_path, interrupting):
    settings = {**SMALL, "epochs": 2, "checkpoint_every_s": 0.0, "learning_rate": 1e-3}
    expected = mirror(bert_folder, texts, tmp_path / "whole", **settings).embedder.encode(sentences)
    with interrupting(MirrorTrainer, 7):
        mirror(bert_folder, texts, tmp_path / "cut", **settings)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(UserError, match=r"checkpoint of an earlier run, .*checkpoint-13', would be lost: continue it with --resume"):
        mirror(bert_folder, texts, tmp_path / "cut", **settings)
    found = mirror(bert_folder, texts, tmp_path / "cut", resume=True, **settings).embedder.encode(sentences)
    np.testing.assert_array_equal(found, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]  # checkpoints are gone


@pytest.mark.parametrize(("other", "message"), [({}, "texts was '72, digest"), ({"held_out": 4}, "held_out was 8 and is 4")])
def test_a_run_is_not_resumed_with_other_texts(bert_folder, texts, tmp_path, interrupting, other, message):
    settings = {**SMALL, "checkpoint_every_s": 0.0}
    with interrupting(MirrorTrainer, 3):
        mirror(bert_folder, texts, tmp_path / "cut", **settings)
    with pytest.raises(UserError, match=message):
        mirror(bert_folder, texts if other else texts[::-1], tmp_path / "cut", resume=True, **settings | other)


@pytest.mark.parametrize("is_pairs", [False, True])
def test_texts_of_white_space_are_left_out_and_told(bert_folder, texts, capsys, is_pairs):
    given = [*texts[:20], "", " \u200b\n", *texts[20:40]]  # the second has a zero-width space
    if is_pairs:
        given = [(text or "one side", text) for text in given]
    result = mirror(bert_folder, given, progress=Progress.for_terminal(json=True), **SMALL | {"held_out": 0})
    assert (result.counts["given"], result.counts["blank"], result.texts) == (42, 2, 40)
    assert f"2 {'pairs' if is_pairs else 'texts'} with only whitespace were left out" in capsys.readouterr().err


def test_a_run_is_not_resumed_with_other_weights_of_the_same_name(own_model, train_on, texts, tmp_path, interrupting):
    settings = {**SMALL, "checkpoint_every_s": 0.0}
    with interrupting(MirrorTrainer, 3):
        mirror(own_model, texts, tmp_path / "cut", **settings)
    train_on(own_model)
    with pytest.raises(UserError, match="content of the model was '"):
        mirror(own_model, texts, tmp_path / "cut", resume=True, **settings)


def test_the_second_of_two_seeds_is_gone_on_with(bert_folder, texts, sentences, tmp_path, interrupting):
    settings = {**SMALL, "seeds": 2, "learning_rate": 1e-3}
    expected = mirror(bert_folder, texts, tmp_path / "whole", **settings)
    with interrupting(MirrorTrainer, 5, of_seed=14):
        mirror(bert_folder, texts, tmp_path / "cut", **settings, checkpoint_every_s=0.0)
    shutil.rmtree(tmp_path / ".cut.checkpoint-13")  # as where a seed is done before its first checkpoint
    assert (tmp_path / ".cut.checkpoint-14").exists()
    found = mirror(bert_folder, texts, tmp_path / "cut", resume=True, **settings)
    assert [run.losses for run in found.runs] == [run.losses for run in expected.runs]
    np.testing.assert_array_equal(found.embedder.encode(sentences), expected.embedder.encode(sentences))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]
    with pytest.raises(UserError, match="there is nothing to resume"):
        mirror(bert_folder, texts, tmp_path / "other", resume=True, **settings)
    with pytest.raises(UserError, match="no output is given"):
        mirror(bert_folder, texts, resume=True, **settings)


def test_another_seeds_checkpoint_is_named_and_left_alone(bert_folder, texts, tmp_path, interrupting):
    settings = {**SMALL, "checkpoint_every_s": 0.0}
    with interrupting(MirrorTrainer, 5, of_seed=14):
        mirror(bert_folder, texts, tmp_path / "out", seed=14, **settings)
    with pytest.raises(UserError, match="there is nothing to resume with seed 13, but a run with seed 14 can be resumed: give that --seed"):
        mirror(bert_folder, texts, tmp_path / "out", seed=13, resume=True, **settings)
    mirror(bert_folder, texts, tmp_path / "out", seed=13, **settings)
    assert (tmp_path / ".out.checkpoint-14").exists()
    assert not (tmp_path / ".out.checkpoint-13").exists()


def test_a_damaged_checkpoint_is_refused(bert_folder, texts, tmp_path):
    folder = tmp_path / ".cut.checkpoint-13"
    folder.mkdir()
    for state in ("no json", "[]", '{"step": 1, "identity": {}, "figures": {}}'):
        (folder / "state.json").write_text(state)
        with pytest.raises(UserError, match="is damaged"):
            mirror(bert_folder, texts, tmp_path / "cut", resume=True, **SMALL)


def test_a_folder_that_appears_while_training_runs_is_left_alone(bert_folder, texts, tmp_path, monkeypatch):
    real = MirrorTrainer.gradient_step

    def meanwhile(self, batch, *, step, seed):
        (tmp_path / "encoder").mkdir(exist_ok=True)
        return real(self, batch, step=step, seed=seed)

    monkeypatch.setattr(MirrorTrainer, "gradient_step", meanwhile)
    with pytest.raises(UserError, match="was created by something else during the run and is kept: the result is in"):
        mirror(bert_folder, texts, tmp_path / "encoder", **SMALL)
    assert not list((tmp_path / "encoder").iterdir())
    (kept,) = tmp_path.glob("encoder-*")
    assert Embedder.load(kept).dim == 32
    assert mirror(bert_folder, texts, tmp_path / "encoder", overwrite=True, **SMALL).folder


# ---- the budget


def test_processes_go_by_the_first_ones_clock(bert_folder, texts, tmp_path, in_two_processes):
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    in_two_processes(f"""
        import json, time
        from test_mirror import SMALL
        from tain.recipes.mirror.recipe import mirror
        from tain.training import distributed
        texts = json.loads(open({str(tmp_path / "texts.json")!r}).read())
        distributed.start_processes()
        late_s = 30 * distributed.rank()  # what the other process would think of the time
        made = mirror({str(bert_folder)!r}, texts, budget_s=40.0, began_s=time.monotonic() - late_s, **SMALL)
        print(distributed.rank(), made.steps, made.runs[0].batch_texts)
        open({str(tmp_path)!r} + f"/{{distributed.rank()}}.txt", "w").write(f"{{made.steps}} {{made.runs[0].batch_texts}}")
        """)
    assert (tmp_path / "0.txt").read_text() == (tmp_path / "1.txt").read_text()


def test_a_budget_counts_from_the_call(bert_folder, texts, monkeypatch):
    clock = itertools.count(1_000_000.0, 0.001)  # this process is old
    monkeypatch.setattr(recipe, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(recipe, "Budget", partial(Budget, clock=lambda: next(clock)))
    monkeypatch.setattr(MirrorTrainer, "measure_text_s", lambda self, seed: 0.4)
    assert mirror(bert_folder, texts, budget_s=30.0, **SMALL).steps > 1


def test_a_run_in_a_budget_keeps_no_checkpoint(bert_folder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(MirrorTrainer, "measure_text_s", lambda self, seed: 0.4)
    monkeypatch.setattr("tain.training.loop.save_checkpoint", lambda *_: pytest.fail("written"))
    assert mirror(bert_folder, texts, tmp_path / "out", budget_s=30.0, checkpoint_every_s=0.0, **SMALL).steps > 1


def test_a_budgets_own_batch_is_recorded(bert_folder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(MirrorTrainer, "measure_text_s", lambda self, seed: 0.4)
    result = mirror(bert_folder, texts, tmp_path / "encoder", budget_s=30.0, **SMALL)
    assert result.runs[0].batch_texts < 8
    assert json.loads((tmp_path / "encoder" / "tain.json").read_text())["config"]["batch_texts"] == result.runs[0].batch_texts


def with_times(made, monkeypatch, *, text_s: float, update_s: float = 0.0) -> None:
    monkeypatch.setattr(made, "measure_text_s", lambda seed: text_s)
    monkeypatch.setattr(made, "measure_update_s", lambda: update_s)


def planned(made, now: list[float], *, budget_s: float):
    """The plan for a budget that began at 0 and is read at the time that ``now`` holds."""
    made.start()
    return plan_for_budget(made, Budget(budget_s, 0.0, clock=lambda: now[0]), reserve_s=1.0, seed=1, progress=Progress.silent())


def test_a_budget_picks_texts_and_steps_that_fit(bert_folder, texts, monkeypatch):
    made, now = trainer(bert_folder, texts, budget_s=30.0, batch_texts=8), [10.0]
    with_times(made, monkeypatch, text_s=0.25)  # 19 s of room: some 75 texts
    plan = planned(made, now, budget_s=30.0)
    assert plan.batch_texts == 4  # small enough for 16 steps
    assert plan.steps == 80 // plan.batch_texts  # the clock, not the plan, ends the run
    assert plan.enough is not None
    assert not plan.enough(1)
    now[0] = 29.6
    assert plan.enough(3)


def test_a_budget_counts_the_optimizers_part_of_a_step(bert_folder, texts, monkeypatch):
    """Muon on a processor that emulates bfloat16 took longer than the gradient, so one step was done where sixteen were planned."""
    made, now = trainer(bert_folder, texts, budget_s=100.0, batch_texts=8), [0.0]
    with_times(made, monkeypatch, text_s=0.25, update_s=4.0)  # 16 updates take 64 of 99 s: 35 s for 140 texts
    assert planned(made, now, budget_s=100.0).batch_texts == 5  # 16 batches of all 80 texts; 140 / 16 without the limit of one epoch
    with_times(made, monkeypatch, text_s=0.5, update_s=4.0)
    assert planned(made, now, budget_s=100.0).batch_texts == 4
    with_times(made, monkeypatch, text_s=0.25, update_s=6.0)
    with pytest.raises(UserError, match=r"budget is 100 s, but this model needs 105 s on this machine"):
        planned(made, now, budget_s=100.0)


def test_a_budget_that_holds_nothing_is_refused_with_what_is_needed(bert_folder, texts, monkeypatch):
    made = trainer(bert_folder, texts, budget_s=12.0)
    with_times(made, monkeypatch, text_s=0.5)
    with pytest.raises(UserError, match=r"budget is 12 s, but this model needs \d+ s on this machine"):
        planned(made, [10.0], budget_s=12.0)


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"temperature": 0},
            r"temperature is 0, but similarities are divided by it: give a number above 0 \(sentences: 0.04, words: 0.2\)",
        ),
        ({"batch_texts": 1}, "batch_texts is 1, but a text needs others as negatives"),
        ({"dropout": 1.0}, "dropout is 1.0, but it is a probability"),
        ({"epochs": 0}, "epochs is 0: give 1 or more"),
        ({"erased_chars": -1}, "erased_chars is -1, but it is a count"),
        ({"max_tokens": 2}, "max_tokens is 2, but special tokens take 2 of them"),
        ({"learning_rate": 0}, "learning_rate is 0: give a number between 0 and 1"),
        ({"weight_decay": -1}, "weight_decay is -1: give 0 or more"),
        ({"weight_decay": math.nan}, "weight_decay is nan: give 0 or more"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"checkpoint_every_s": math.nan}, "checkpoint_every_s is nan: give 0 seconds or more"),
        ({"seed": 2**63}, "less than 2 to the power 63"),
        ({"dtype": "int8"}, "dtype is 'int8': give auto, float32, bfloat16"),
        ({"max_texts": 100}, "max_texts is 100, fewer than a batch of 200"),
        ({"budget_s": 0}, "budget is 0 s: give a time above 0"),
        ({"budget_s": 9, "seeds": 2}, "a budget only works with a single new run"),
        ({"level": "chapter"}, "level is 'chapter': give word, phrase or sentence"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, unchecked):
    with pytest.raises(UserError, match=message):
        MirrorConfig(**settings)


def test_all_wrong_settings_are_named_at_once(unchecked):
    with pytest.raises(UserError, match=r"temperature is -1.*batch_texts is 0.*seeds is 0"):
        MirrorConfig(temperature=-1, batch_texts=0, seeds=0)


def test_unknown_settings_are_refused(bert_folder, texts):
    with pytest.raises(UserError, match="mirror has no setting temprature"):
        mirror(bert_folder, texts, temprature=0.1)


def test_settings_of_another_kind_are_refused(bert_folder, texts, unchecked):
    with pytest.raises(UserError, match="config is dict: give a MirrorConfig, or single settings by name"):
        mirror(bert_folder, texts, config={"level": "word"})
    with pytest.raises(UserError, match=r"temperature is 'hot': give a number; seeds is 1\.5: give a whole number"):
        mirror(bert_folder, texts, temperature="hot", seeds=1.5)


def test_fewer_texts_than_a_batch_are_refused_with_the_repeats_counted(bert_folder, texts):
    with pytest.raises(UserError, match=r"there are 3 different texts \(3 were repeats\), fewer than a batch of 200"):
        mirror(bert_folder, texts[:3] * 2)


def test_only_repeats_are_refused(bert_folder):
    with pytest.raises(UserError, match=r"there (are|is) 1 different texts? \(49 were repeats\)"):
        mirror(bert_folder, ["the same"] * 50)


def test_texts_mixed_with_pairs_are_refused(bert_folder, texts, unchecked):
    with pytest.raises(UserError, match="texts and pairs are mixed"):
        mirror(bert_folder, [*texts, ("a", "b")])


def test_identical_views_are_refused_unless_asked_for(bert_folder, texts):
    same = {**SMALL, "dropout": 0.0, "erased_chars": 0}
    with pytest.raises(UserError, match="the two views of every text are identical"):
        mirror(bert_folder, texts, **same)
    assert mirror(bert_folder, texts, allow_identical_views=True, **same).steps == 9


@pytest.mark.parametrize("architecture", ["albert", "modernbert"])
def test_models_whose_config_has_no_dropout_get_views_that_differ(save_masked_lm, texts, architecture):
    folder = save_masked_lm(architecture)
    result = mirror(folder, texts, **{**SMALL, "erased_chars": 0})
    assert result.runs[0].losses[0] > 1e-4


def test_a_model_whose_dropout_cannot_be_set_is_refused_though_something_is_erased(save_masked_lm, texts, monkeypatch):
    folder = save_masked_lm("albert")  # whose config says 0
    monkeypatch.setattr(recipe, "set_dropout", lambda *_, **__: None)
    with pytest.raises(UserError, match="but two passes of AlbertModel over the same texts give the same vectors"):
        mirror(folder, texts, **SMALL)
    with pytest.raises(UserError, match="two passes of AlbertModel"):
        mirror(folder, [(text, f"{text} again") for text in texts], **SMALL)
    assert mirror(folder, texts, dropout=0.0, attention_dropout=0.0, **SMALL).steps == 9


def test_texts_whose_two_views_are_the_same_are_counted_and_told(bert_folder, texts):
    mixed = [*texts[:20], *(f"sea {letter}" for letter in "abcdefghijkl")]
    with pytest.warns(UserWarning, match=r"12 of 32 texts have fewer than 10 characters, so nothing is erased"):
        mirror(bert_folder, mixed, dropout=0.0, attention_dropout=0.0, **SMALL | {"held_out": 0})


def test_nothing_to_measure_on_is_told(bert_folder, texts, capsys):
    with pytest.warns(UserWarning, match="1 held-out texts are too few to measure on"):
        assert mirror(bert_folder, texts[:12], **SMALL).before is None
    mirror(bert_folder, texts[:12], progress=Progress.for_terminal(json=True), **SMALL | {"held_out": 0})
    assert "0 held-out texts are too few to measure on" in capsys.readouterr().err


def test_a_budget_that_is_over_when_the_model_is_loaded_is_refused_at_once(bert_folder, texts, monkeypatch):
    monkeypatch.setattr(recipe, "held_out_report", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(UserError, match=r"budget is 30 s, and 4\d s had passed when the model was loaded: give more"):
        mirror(bert_folder, texts, budget_s=30.0, began_s=time.monotonic() - 40, **SMALL)


def test_before_is_the_untouched_model_as_it_is_loaded(bert_folder, texts):
    result = mirror(bert_folder, texts, level="word", epochs=1, **SMALL)
    assert result.config.pooling == "cls"
    held = training_set(texts, result.config).held_left
    settings = {"level": "word", "max_texts": 500, "rng": np.random.default_rng([13, 2])}
    untouched = label_free_report(Embedder.load(bert_folder, dtype="float32"), held, **settings)
    assert result.before.uniformity == pytest.approx(untouched.uniformity, abs=1e-5)
    assert result.embedder.pooling == "cls"


def test_the_card_of_pairs_speaks_of_pairs(bert_folder, texts, tmp_path):
    mirror(bert_folder, [(text, f"{text} again") for text in texts], tmp_path / "encoder", seeds=2, **SMALL)
    card = (tmp_path / "encoder" / "README.md").read_text()
    assert "from pairs of texts that mean the same" in card
    assert "the two texts of a pair together" in card
    assert "two views: the two texts of a pair" in card
    assert "8 held-out pairs" in card
    assert "over 2 seeds: self-retrieval MRR 0." in card
    assert "The seed was chosen by these figures" in card
    assert "erased" not in card
    assert "without labels, by" not in card
    mirror(bert_folder, texts, tmp_path / "other", **SMALL)
    card = (tmp_path / "other" / "README.md").read_text()
    assert "without labels, by identity fine-tuning" in card
    assert "5 characters erased" in card
    assert "pooled by mean" in card
    assert "The seed was chosen" not in card


def test_an_existing_output_is_refused_before_anything_is_loaded(texts, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match=r"already exists: choose another name or give --overwrite"):
        mirror("no/such/model/anywhere", texts, tmp_path / "taken")


def test_a_text_longer_than_the_limit_is_counted_and_said(bert_folder, texts):
    long = [*texts, " ".join(texts[:8])]
    with pytest.warns(UserWarning, match=r"\d+ of \d+ texts are longer than 40 tokens and were cut"):
        result = mirror(bert_folder, long, **{**SMALL, "held_out": 0})
    assert result.counts["truncated"] >= 1


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_no_folder(bert_folder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(MirrorTrainer, "gradient_step", lambda self, batch, *, step, seed: float("nan"))
    with pytest.raises(UserError, match="the loss became nan at step 1"):
        mirror(bert_folder, texts, tmp_path / "encoder", **SMALL)
    assert not (tmp_path / "encoder").exists()


def test_an_encoder_that_got_worse_is_said_to_be_loudly(bert_folder, texts):
    with pytest.warns(UserWarning, match="THE NEW ENCODER LOOKS WORSE"):
        result = mirror(bert_folder, texts, epochs=8, learning_rate=0.3, **SMALL)
    assert result.worse


# ---- beside word overlap


def test_word_overlap_is_measured_on_the_same_texts(bert_folder, texts):
    from tain.evaluation.baselines import Lexical

    result = mirror(bert_folder, texts, **SMALL)
    assert result.lexical is not None and result.after is not None
    assert (result.lexical.texts, result.lexical.too_short, result.lexical.level) == (
        result.after.texts,
        result.after.too_short,
        result.after.level,
    )
    none = mirror(bert_folder, texts, **{**SMALL, "held_out": 0})
    assert none.lexical is None
    assert label_free_report(Lexical(), ["glass and glass and", "sand or sand or"], rng=np.random.default_rng(0)).self_retrieval_mrr == 1


@pytest.mark.parametrize(
    ("ours", "overlap", "is_below"), [(0.1, 0.2, True), (0.195, 0.2, False), (0.3, 0.2, False), (None, 0.2, False), (0.1, None, False)]
)
def test_an_encoder_below_word_overlap_is_told_so(ours, overlap, is_below):
    from tain.recipes.mirror.model_card import below_lexical

    said = below_lexical({"self_retrieval_mrr": overlap}, {"self_retrieval_mrr": ours})
    assert said.startswith("the new encoder is below word overlap") == is_below
    assert below_lexical(None, None) == ""


def test_only_self_retrieval_is_shown_of_word_overlap():
    from tain.evaluation.label_free import TITLES
    from tain.recipes.mirror.model_card import figure_rows

    figures = dict.fromkeys(TITLES, 0.5)
    rows = figure_rows(figures, figures, dict.fromkeys(TITLES, 0.25))
    assert [row[3] for row in rows] == ["0.250", "–", "–", "–"]
    assert [row[3] for row in figure_rows(figures, figures, all_figures=True)] == ["–"] * 7


# ---- texts that the model cannot tell apart


def test_texts_with_the_same_tokens_after_cutting_do_not_push_each_other_away(bert_folder, texts):
    beginning = "the sea is deep and the stars are far away "
    alike = [beginning + ending for ending in ("today", "tomorrow", "at noon")] + ["a caf\u00e9 by the sea", "a cafe by the sea"]
    made = trainer(bert_folder, [*texts[:8], *alike], max_tokens=10)
    indices = np.arange(len(made.views.data.left))
    is_same = made.views.pairs.is_same(indices)
    assert is_same is not None
    by_text = {text: index for index, text in enumerate(made.views.data.left)}
    for group in (alike[:3], alike[3:]):
        for one in group:
            assert {made.views.data.left[index] for index in np.flatnonzero(is_same[by_text[one]])} == {*group} - {one}
    assert int(is_same.sum()) == 6 + 2
    assert (made.views.pairs.alike, made.views.pairs.sharing()) == (5, 5)
    whole = trainer(bert_folder, [*texts[:8], *alike[:3]], max_tokens=40)  # they differ further on
    assert (whole.views.pairs.alike, whole.views.pairs.is_same(np.arange(11))) == (0, None)


def test_a_model_that_reads_fewer_tokens_than_the_preset_sets_the_limit(bert_folder, texts):
    result = mirror(bert_folder, texts, **SMALL | {"max_tokens": None})
    assert result.config.max_tokens == 40


def test_texts_that_read_the_same_are_counted_and_told(bert_folder, texts):
    alike = ["the sea is deep and the stars are far away " + ending for ending in ("today", "tomorrow")]
    with pytest.warns(UserWarning, match=r"2 of \d+ texts have the same first 10 tokens as others, .*raise --max-tokens"):
        result = mirror(bert_folder, [*texts[:22], *alike], **SMALL | {"held_out": 0, "max_tokens": 10})
    assert result.counts["sharing"] == 2


def test_texts_that_all_read_the_same_are_refused(bert_folder):
    alike = [f"the sea is deep and the stars are far away number {'a' * number}" for number in range(1, 20)]
    with pytest.raises(
        UserError,
        match=r"all 19 texts have the same 8 tokens when cut at 8, so there is nothing to learn: raise --max-tokens",
    ):
        mirror(bert_folder, alike, **SMALL | {"held_out": 0, "max_tokens": 8})


def test_sides_of_pairs_with_the_same_tokens_do_not_push_each_other_away(bert_folder):
    pairs = [("a b", "c d"), ("e f", "c \u0107 d"), ("g h", "c c d"), ("i j", "k l")]
    made = trainer(bert_folder, pairs, batch_texts=4)
    shared = made.views.pairs.is_same(np.arange(4))
    assert shared is not None
    index = {made.views.data.left[row]: row for row in range(4)}
    assert shared[index["e f"], index["g h"]]
    assert int(shared.sum()) == 2
    assert made.views.pairs.alike == 2
