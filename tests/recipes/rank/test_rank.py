"""Training rankers end to end on a tiny model: gradients, repeats, resume, processes, negatives, teachers, and every refusal."""

import errno
import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tain.batches.tokenizing import tokenise
from tain.encoders.dropout import set_dropout
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker, DualRanker, Ranker
from tain.objectives.ranking import candidate_cross_entropy
from tain.recipes.rank import dual as dual_training
from tain.recipes.rank import frozen as rank_frozen
from tain.recipes.rank import recipe
from tain.recipes.rank.best_weights import BestWeights
from tain.recipes.rank.config import RankConfig
from tain.recipes.rank.data import gather_data, mine_negatives
from tain.recipes.rank.dual import columns_of
from tain.recipes.rank.model_card import chosen_on_the_same
from tain.recipes.rank.negatives import prepare_negatives
from tain.recipes.rank.pairs import tokenise_pairs
from tain.recipes.rank.recipe import joined_examples, rank
from tain.recipes.rank.trainer import RankTrainer
from tain.recipes.rank.validation import Validation
from tain.text.records import RankingExample
from tain.training.optimizer import MasterWeights

SMALL: dict[str, Any] = {
    "batch_contexts": 8,
    "dtype": "float32",
    "device": "cpu",
    "held_out": 6,
    "context_tokens": 20,
    "candidate_tokens": 16,
    "learning_rate": 1e-3,
    "epochs": 2,
}
POLY = SMALL | {"codes": 4}


def of_type(type: str) -> dict[str, Any]:
    return POLY if type == "poly" else SMALL


@pytest.fixture(scope="module")
def pairs():
    """Contexts that name a letter among words; the answer names it too."""
    rng = np.random.default_rng(3)
    words = ["the", "sea", "sand", "glass", "mirror", "stars", "house", "sun"]
    letters = "abcdefghij"
    made = []
    for number in range(80):
        letter = letters[number % 10]
        context = " ".join([*rng.choice(words, size=3), letter, letter, *rng.choice(words, size=2)])
        made.append(RankingExample(context, (f"{letter} {letter} {rng.choice(words)} {rng.choice(words)}",)))
    return made


def dual(made: Any) -> DualRanker:
    assert isinstance(made.ranker, DualRanker)
    return made.ranker


def sides_of(made: Any) -> tuple[Embedder, Embedder]:
    return dual(made).context, dual(made).candidate


def mrr(measured: Any) -> float:
    return measured.after["MRR"]


def trainer(folder, pairs, **settings):
    """A trainer that has not begun, for looking at single steps."""
    config = RankConfig(**{**of_type(settings.get("type", "poly")), "held_out": 0, "dropout": 0.0, **settings})
    data = gather_data(joined_examples(pairs), config, validation=())
    embedder = Embedder.load(folder, dtype="float32", device="cpu")
    config = config.for_pairs(pairs=len(data.pairs), has_held_out=False).resolved(longest=40, pooling=embedder.pooling)
    kind = recipe.TRAINERS[config.type]
    ranker = kind.build(embedder, config)
    tokenised = tokenise_pairs(data, ranker, progress=Progress.silent())
    negatives = prepare_negatives(tokenised.data, config, device=ranker.device, progress=Progress.silent())
    made = kind(ranker, tokenised, negatives, config)
    made.freeze(folder=None, progress=Progress.silent())
    made.start_head(config.seed)
    for tower in ranker.towers:
        set_dropout(tower.encoder.model, hidden=config.dropout, attention=config.attention_dropout)
    ranker.module.train()
    return made


def gradients(made, indices):
    made.ranker.module.zero_grad()
    loss = made.gradient_step(np.asarray(indices), step=0, seed=1)
    return loss, {name: p.grad.clone() for name, p in made.ranker.module.named_parameters() if p.grad is not None}


# ---- the whole run


@pytest.mark.parametrize("type", ["bi", "poly", "cross"])
def test_a_run_learns_and_saves_a_ranker_with_its_figures(bert_folder, pairs, tmp_path, type):
    settings = {**of_type(type), "epochs": 4, "negatives": 3 if type == "cross" else 0}
    result = rank(bert_folder, pairs, tmp_path / "ranker", type=type, **settings)
    losses = result.runs[0].losses
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    assert result.after is not None
    again = Ranker.load(tmp_path / "ranker", device="cpu", dtype="float32")
    contexts, answers = [pair.context for pair in pairs[:4]], [pair.answers[0] for pair in pairs[:6]]
    np.testing.assert_array_equal(again.score(contexts, answers), result.ranker.score(contexts, answers))
    record = json.loads((tmp_path / "ranker" / "tain.json").read_text())
    assert record["ranker"]["type"] == type
    assert record["figures"]["after"] == pytest.approx(result.after)
    assert record["counts"]["held_out"] == 6
    assert record["fingerprint"] == again.fingerprint
    card = (tmp_path / "ranker" / "README.md").read_text()
    assert "Ranker.load" in card
    assert ("sentence-transformers" in card) == (type == "bi")
    assert not list(tmp_path.glob(".ranker*"))


def test_the_two_towers_start_alike_and_are_trained_apart(bert_folder, pairs):
    made = trainer(bert_folder, pairs)
    assert isinstance(made.ranker, DualRanker)
    sides = [dict(side.encoder.named_parameters()) for side in sides_of(made)]
    for name, parameter in sides[0].items():
        torch.testing.assert_close(parameter, sides[1][name])
    result = rank(bert_folder, pairs, **POLY)
    sides = [dict(side.encoder.named_parameters()) for side in sides_of(result)]
    assert any(not torch.equal(parameter, sides[1][name]) for name, parameter in sides[0].items())
    shared = rank(bert_folder, pairs, shared_towers=True, **POLY)
    context, candidate = sides_of(shared)
    assert context.encoder is candidate.encoder


def test_the_best_validation_is_kept_and_the_rate_falls_without_gains(bert_folder, pairs):
    result = rank(bert_folder, pairs, **{**POLY, "epochs": 5})
    figures = [figure for _, figure in result.runs[0].validations]
    assert len(figures) >= 5
    assert mrr(result) == pytest.approx(max(figures))
    made = trainer(bert_folder, pairs)
    made.config = replace(made.config, schedule="plateau", warmup_steps=4)
    memory = {"misses": 0}
    factor = made.rate_factor(100, memory)
    assert [factor(step) for step in (0, 1, 3, 50)] == pytest.approx([0.25, 0.5, 1.0, 1.0])
    memory["misses"] = 2
    assert factor(50) == pytest.approx(0.16)


def test_the_papers_scaling_is_taken_as_it_is_and_comes_back_exactly(bert_folder, pairs):
    result = rank(bert_folder, pairs, paper_scaling=True, **{**POLY, "dtype": "bfloat16"})
    head = dual(result).head
    assert head.codes is not None
    assert head.scale.item() == pytest.approx(0.06, rel=1e-6)
    assert 0.3 < head.codes.mean().item() < 0.7


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_a_learned_scale_starts_where_a_text_scores_twenty_with_itself(bert_folder, pairs, similarity):
    made = trainer(bert_folder, pairs, type="bi", similarity=similarity)
    vectors = dual(made).encode_candidates(made.data.candidates[:64])
    assert float((vectors**2).sum(1).mean()) == pytest.approx(20.0, rel=1e-3)


def test_seeds_keep_the_best_run(bert_folder, pairs):
    result = rank(bert_folder, pairs, seeds=2, **POLY)
    assert [run.seed for run in result.runs] == [13, 14]
    assert result.runs[0].losses != result.runs[1].losses
    assert mrr(result) == max(mrr(run) for run in result.runs)


def test_the_codes_alone_are_trained_on_a_frozen_encoder(bert_folder, pairs):
    result = rank(bert_folder, pairs, freeze="encoder", head_learning_rate=0.02, schedule="linear", **{**POLY, "epochs": 8})
    untouched = Embedder.load(bert_folder, dtype="float32", device="cpu").encoder.state_dict()
    for side in sides_of(result):
        for name, tensor in side.encoder.state_dict().items():
            if "pooler." in name:
                continue  # random at each loading, and not used
            torch.testing.assert_close(tensor, untouched[name], atol=0, rtol=0)
    losses, epoch = result.runs[0].losses, result.runs[0].steps // 8
    assert np.mean(losses[-epoch:]) < np.mean(losses[:epoch])


def test_frozen_states_give_the_loss_of_the_encoder_itself(bert_folder, pairs):
    made, thawed = trainer(bert_folder, pairs, freeze="encoder"), trainer(bert_folder, pairs)
    loss, found = gradients(made, range(8))
    expected, whole = gradients(thawed, range(8))
    assert loss == pytest.approx(expected, rel=1e-2)  # kept in half precision
    torch.testing.assert_close(found["head.codes"], whole["head.codes"], atol=5e-3, rtol=5e-2)


def test_frozen_word_embeddings_stay_to_the_bit(bert_folder, pairs):
    result = rank(bert_folder, pairs, freeze="embeddings", **{**POLY, "dtype": "bfloat16", "epochs": 1})
    untouched = Embedder.load(bert_folder, dtype="float32", device="cpu").encoder.model.get_input_embeddings().weight
    torch.testing.assert_close(sides_of(result)[0].encoder.model.get_input_embeddings().weight, untouched, atol=0, rtol=0)


# ---- what a step does


@pytest.mark.parametrize("type", ["bi", "poly", "cross"])
def test_any_micro_batch_gives_the_same_gradient(bert_folder, pairs, type):
    options = {"type": type, "negatives": 2}
    loss, whole = gradients(trainer(bert_folder, pairs, **options), range(8))
    for micro_batch_tokens in (1, 150):
        part_loss, parts = gradients(trainer(bert_folder, pairs, micro_batch_tokens=micro_batch_tokens, **options), range(8))
        assert part_loss == pytest.approx(loss, rel=1e-5)
        assert parts.keys() == whole.keys()
        for name, gradient in whole.items():
            torch.testing.assert_close(parts[name], gradient, atol=1e-4, rtol=1e-3)


def test_gradients_reach_the_codes_the_scale_and_both_towers(bert_folder, pairs):
    _, found = gradients(trainer(bert_folder, pairs), range(8))
    assert found["head.codes"].abs().sum() > 0
    assert found["head.log_scale"].abs() > 0
    for tower in ("context", "candidate"):
        assert any(name.startswith(tower) and gradient.abs().sum() > 0 for name, gradient in found.items())


def test_a_repeated_answer_gives_the_loss_of_the_batch_without_repeats(generator):
    columns = np.array([4, 7, 4, 9, 7])  # four contexts' answers and one negative
    right = [frozenset({4}), frozenset({7}), frozenset({4, 9}), frozenset({9})]
    targets, is_excluded = columns_of(columns, right)
    assert targets.tolist() == [0, 1, 0, 3]
    assert is_excluded.tolist() == [
        [True, False, True, False, True],
        [False, True, True, False, True],
        [True, False, True, True, True],  # its other right answer counts for nobody
        [False, False, True, True, True],
    ]
    by_candidate = torch.randn(4, 10, generator=generator)
    scores = by_candidate[:, torch.from_numpy(columns)]
    found = candidate_cross_entropy(scores, targets, is_excluded=is_excluded)
    wanted = [([4, 7, 9], 0), ([4, 7, 9], 1), ([4, 7], 0), ([4, 7, 9], 2)]
    expected = [-by_candidate[row, candidates].log_softmax(0)[index] for row, (candidates, index) in enumerate(wanted)]
    torch.testing.assert_close(found, torch.stack(expected).mean())


def test_texts_that_differ_in_case_and_space_alone_are_one_candidate():
    data = gather_data(
        [RankingExample("a", ("Yes it is",)), RankingExample("b", ("yes  it is",)), RankingExample("c", ("no",))],
        RankConfig(held_out=0),
        validation=(),
    )
    assert data.candidates == ["Yes it is", "no"]
    assert data.pairs.tolist() == [[0, 0], [1, 0], [2, 1]]


def test_a_step_is_a_pure_function_of_seed_and_step(bert_folder, pairs):
    made = trainer(bert_folder, pairs, dropout=0.1, negatives=2)
    first, _ = gradients(made, range(8))
    torch.manual_seed(99)
    again, _ = gradients(made, range(8))
    assert first == again


@pytest.mark.parametrize(
    "options",
    [{}, {"type": "cross"}, {"freeze": "encoder"}, {"seeds": 2, "epochs": 1}],
    ids=["poly", "cross", "frozen", "second seed"],
)
def test_an_interrupted_run_resumes_bit_for_bit(bert_folder, pairs, tmp_path, interrupting, options):
    settings = {**of_type(options.get("type", "poly")), "checkpoint_every_s": 0.0, "negatives": 1, **options}
    cut_seed, cut_step = (14, 5) if "seeds" in options else (13, 11)
    contexts, answers = [pair.context for pair in pairs[:3]], [pair.answers[0] for pair in pairs]
    whole = rank(bert_folder, pairs, tmp_path / "whole", **settings)
    expected = whole.ranker.score(contexts, answers)
    with interrupting(RankTrainer, cut_step, of_seed=cut_seed):
        rank(bert_folder, pairs, tmp_path / "cut", **settings)
    assert not (tmp_path / "cut").exists()
    if "seeds" in options:  # as where the first seed was done before its first checkpoint
        shutil.rmtree(tmp_path / ".cut.checkpoint-13")
    with pytest.raises(UserError, match="there is nothing to resume"):
        rank(bert_folder, pairs, tmp_path / "other", resume=True, **settings)
    again = rank(bert_folder, pairs, tmp_path / "cut", resume=True, **settings)
    np.testing.assert_array_equal(again.ranker.score(contexts, answers), expected)
    assert [run.validations for run in again.runs] == [run.validations for run in whole.runs]
    assert again.best == whole.best
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cut", "whole"]  # checkpoints are gone


def test_a_run_is_not_resumed_with_other_pairs(bert_folder, pairs, tmp_path, interrupting):
    settings = {**POLY, "checkpoint_every_s": 0.0, "epochs": 1}
    with interrupting(RankTrainer, 3):
        rank(bert_folder, pairs, tmp_path / "cut", **settings)
    changed = [RankingExample(pair.context, (f"{pair.answers[0]} a",)) for pair in pairs]
    with pytest.raises(UserError, match=r"the checkpoint was made with other settings \(content of the pairs was"):
        rank(bert_folder, changed, tmp_path / "cut", resume=True, **settings)


def test_a_run_is_not_resumed_with_other_weights_of_the_same_name(own_model, train_on, pairs, tmp_path, interrupting):
    settings = {**POLY, "checkpoint_every_s": 0.0, "epochs": 1}
    with interrupting(RankTrainer, 3):
        rank(own_model, pairs, tmp_path / "cut", **settings)
    train_on(own_model)
    with pytest.raises(UserError, match="content of the model was '"):
        rank(own_model, pairs, tmp_path / "cut", resume=True, **settings)


def test_weights_of_another_run_are_never_taken_for_the_best(bert_folder, pairs, tmp_path, monkeypatch, interrupting):
    settings = {**POLY, "checkpoint_every_s": 0.0, "epochs": 1, "validations_per_epoch": 4}
    hidden = {name: tmp_path / f".cut.{name}-13" for name in ("best", "checkpoint")}

    def cut_off(**options):
        with interrupting(RankTrainer, 5):
            rank(bert_folder, pairs, tmp_path / "cut", **settings | options)

    cut_off()
    shutil.copytree(hidden["checkpoint"], tmp_path / "first")
    with pytest.raises(UserError, match="would be lost"):
        rank(bert_folder, pairs, tmp_path / "cut", **settings)
    cut_off(learning_rate=2e-3, overwrite=True)  # begins anew: what the first run left is gone
    shutil.rmtree(hidden["checkpoint"])
    shutil.copytree(tmp_path / "first", hidden["checkpoint"])
    monkeypatch.setattr(Validation, "measured", lambda self, ranker: {"MRR": 0.0})  # so that nothing better comes along
    with pytest.raises(UserError, match=r"learning_rate was 0\.002 and is 0\.001"):
        rank(bert_folder, pairs, tmp_path / "cut", resume=True, **settings)


def test_a_ranker_worse_than_untrained_is_told_loudly_and_recorded(bert_folder, pairs, tmp_path, monkeypatch):
    figures = iter([50.0, 20.0, 30.0, 30.0, 30.0])  # before, three on the way, after
    monkeypatch.setattr(Validation, "measured", lambda self, ranker: {"MRR": next(figures)})
    settings = {**POLY, "epochs": 1, "validations_per_epoch": 2}
    with pytest.warns(UserWarning, match=r"THE RANKER LOOKS WORSE THAN THE UNTRAINED ONE: MRR 30.0, untrained 50.0 on 6 held-out lists"):
        result = rank(bert_folder, pairs, tmp_path / "worse", **settings)
    assert result.worse == ["MRR 30.0, untrained 50.0"]
    assert json.loads((tmp_path / "worse" / "tain.json").read_text())["worse"] == result.worse
    card = (tmp_path / "worse" / "README.md").read_text()
    assert "Looks worse than the untrained ranker" in card
    assert chosen_on_the_same(schedule=result.config.schedule, seeds=1) in card
    assert json.loads((tmp_path / "worse" / "tain.json").read_text())["chosen_on_the_same"] is True


@pytest.mark.parametrize(
    ("schedule", "seeds", "decided"),
    [
        ("linear", 1, "decided which step's weights are kept, so"),
        ("plateau", 1, "decided when the learning rate falls and which step's weights are kept, so"),
        ("plateau", 3, "decided when the learning rate falls, which step's weights are kept and which seed is kept, so"),
    ],
)
def test_what_the_held_out_contexts_decided_is_said(schedule, seeds, decided):
    assert decided in chosen_on_the_same(schedule=schedule, seeds=seeds)


@pytest.mark.parametrize("options", [{"negatives": 2}, {"code_kind": "last", "negatives": 1}])
def test_scores_in_parts_give_the_same_gradient_with_less_in_memory(bert_folder, pairs, monkeypatch, options):
    loss, whole = gradients(trainer(bert_folder, pairs, **options), range(8))
    sizes = []
    real = dual_training.poly_scores
    monkeypatch.setattr(dual_training, "_SIMILARITIES", 3 * 4 * 8 * (1 + options["negatives"]))
    monkeypatch.setattr(
        dual_training, "poly_scores", lambda contexts, *rest, **more: sizes.append(len(contexts)) or real(contexts, *rest, **more)
    )
    part_loss, parts = gradients(trainer(bert_folder, pairs, **options), range(8))
    assert sorted(sizes) == [2, 2, 3, 3, 3, 3]  # once forwards, once backwards, in either order
    assert part_loss == pytest.approx(loss, rel=1e-6)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("type", ["bi", "cross"])
def test_gradients_of_parts_are_added_up_in_float32(bert_folder, pairs, type):
    made = trainer(bert_folder, pairs, type=type, negatives=1, micro_batch_tokens=1)
    made.weights = MasterWeights(made.ranker.module, dtype=torch.bfloat16)
    made.gradient_step(np.arange(8), step=0, seed=1)
    assert all(parameter.grad is None for parameter in made.ranker.module.parameters())
    found = [master.grad for master in made.weights.masters if master.grad is not None]
    assert found
    assert any((gradient != gradient.bfloat16()).any() for gradient in found)  # sums that bfloat16 cannot hold


@pytest.mark.parametrize("type", ["poly", "cross"])
def test_two_processes_give_the_one_process_gradient(bert_folder, pairs, tmp_path, type, in_two_processes):
    options = {"type": type, "negatives": 2}
    expected_loss, expected = gradients(trainer(bert_folder, pairs, **options), range(7))  # an odd batch: shares differ
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    in_two_processes(f"""
        import json
        from test_rank import gradients, trainer
        from tain.text.records import RankingExample
        from tain.training import distributed
        pairs = [RankingExample(c, tuple(a), tuple(n)) for c, a, n in json.loads(open({str(tmp_path / "pairs.json")!r}).read())]
        loss, found = gradients(trainer({str(bert_folder)!r}, pairs, micro_batch_tokens=100, **{options!r}), range(7))
        torch.save((loss, found), {str(tmp_path)!r} + f"/gradients-{{distributed.rank()}}.pt")
        """)
    for process in (0, 1):
        loss, found = torch.load(tmp_path / f"gradients-{process}.pt", weights_only=True)
        assert loss == pytest.approx(expected_loss, rel=1e-5)
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-4, rtol=1e-3)


def test_two_processes_agree_on_what_the_first_one_measures_and_mines(bert_folder, pairs, tmp_path, in_two_processes):
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    in_two_processes(f"""
        import json
        from test_rank import POLY
        from tain.foundation.errors import UserError
        from tain.recipes.rank import negatives, recipe, validation
        from tain.text.records import RankingExample
        from tain.training import distributed
        real_lists, real_mine = validation.list_figures, negatives.mine_negatives

        def measured(*given):
            figures = real_lists(*given)
            return {{**figures, "MRR": figures["MRR"] + distributed.rank()}}

        def mined(ranker, data, *, count):
            return [near[distributed.rank():] for near in real_mine(ranker, data, count=count)]

        validation.list_figures, negatives.mine_negatives = measured, mined
        pairs = [RankingExample(c, tuple(a), tuple(n)) for c, a, n in json.loads(open({str(tmp_path / "pairs.json")!r}).read())]
        options = dict(POLY, epochs=1, negatives=2, mine_with={str(bert_folder)!r}, mining_pool=4)
        result = recipe.rank({str(bert_folder)!r}, pairs, **options)
        codes = result.ranker.head.codes.tolist()
        try:
            recipe.rank({str(bert_folder)!r}, pairs, **dict(options, type="cross", codes=None, batch_contexts=1))
        except UserError as error:
            said = str(error)
        with open({str(tmp_path)!r} + f"/run-{{distributed.rank()}}.json", "w") as file:
            json.dump([result.before, result.after, result.runs[0].validations, result.runs[0].losses, codes, said], file)
        """)
    first, second = (json.loads((tmp_path / f"run-{process}.json").read_text()) for process in (0, 1))
    assert first == second
    assert first[-1].startswith("batch_contexts is 1, fewer than the 2 processes that share a batch: give 2 or more")


# ---- negatives and teachers


def data_of(pairs):
    return gather_data(joined_examples(pairs), RankConfig(held_out=0), validation=())


def test_negatives_are_the_contexts_own_then_any_others_and_never_right(rng):
    listed = [RankingExample(f"q{number}", (f"a{number}",), (f"n{number}", f"m{number}")) for number in range(5)]
    data = data_of(listed)
    for context in range(5):
        drawn = data.draw_negatives(context, 4, rng=rng)
        assert set(data.listed[context]) <= set(drawn)
        assert len(set(drawn)) == 4
        assert not set(drawn) & data.right[context]
        assert set(data.draw_negatives(context, 1, rng=rng)) <= set(data.listed[context])


def test_a_context_for_which_all_is_right_is_refused(rng):
    data = data_of([RankingExample("q", ("a", "b")), RankingExample("p", ("a",))])
    with pytest.raises(UserError, match="the context 'q' has no wrong candidates to learn from: all 2 are correct for it"):
        data.draw_negatives(0, 1, rng=rng)
    with pytest.raises(UserError, match="all 2 candidates are correct for every context, so there is nothing to learn"):
        data_of([RankingExample("q", ("a", "b"))])


def test_the_one_wrong_candidate_among_many_right_ones_is_found(rng):
    many = tuple(f"a{number}" for number in range(3000))
    data = data_of([RankingExample("q", many), RankingExample("p", ("x",))])
    assert data.draw_negatives(0, 2, rng=rng) == [3000, 3000]  # repeated: there is no other


def test_mined_negatives_are_the_best_wrong_ones(bert_folder, pairs):
    data = data_of(pairs[:20])
    miner = Ranker.load(bert_folder, device="cpu", dtype="float32")
    assert isinstance(miner, DualRanker)
    scores = miner.score(data.contexts, data.candidates)
    for context, found in enumerate(mine_negatives(miner, data, count=5)):
        wrong = [row for row in np.argsort(-scores[context]) if row not in data.right[context]]
        assert set(found) == set(wrong[:5])


def test_mined_negatives_are_trained_on(bert_folder, pairs, monkeypatch):
    made = trainer(bert_folder, pairs, mine_with=str(bert_folder), mining_pool=3, negatives=3)
    assert all(len(near) == 3 for near in made.data.hard)
    seen = []
    monkeypatch.setattr(made, "step_loss", lambda given, negatives, teacher, **more: seen.append((given, negatives)) or 0.0)
    for step in range(3):
        made.gradient_step(np.arange(8), step=step, seed=1)
    for given, negatives in seen:
        for (context, _), drawn in zip(given, negatives, strict=True):
            assert set(drawn) == set(made.data.hard[context])


def test_a_student_comes_nearer_to_its_teachers_order(bert_folder, pairs, tmp_path):
    rank(bert_folder, pairs, tmp_path / "teacher", type="cross", **{**SMALL, "negatives": 3})
    teacher = str(tmp_path / "teacher")
    settings = {"epochs": 6, "held_out": 0, "teacher": teacher, "teacher_weight": 1.0, "negatives": 3, "teacher_temperature": 0.2}
    for type in ("bi", "poly"):
        result = rank(bert_folder, pairs, type=type, **{**of_type(type), **settings})
        losses = result.runs[0].losses
        assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_a_teachers_loss_is_the_divergence_on_each_contexts_own_list(bert_folder, pairs, tmp_path):
    rank(bert_folder, pairs, tmp_path / "teacher", type="cross", **{**SMALL, "epochs": 1, "negatives": 3})
    made = trainer(bert_folder, pairs, teacher=str(tmp_path / "teacher"), teacher_weight=1.0, negatives=2)
    assert isinstance(made.ranker, DualRanker)
    taught = made.negatives.taught
    assert taught is not None
    loss, _ = gradients(made, range(8))
    texts = made.data.candidates
    made.ranker.module.eval()
    terms = []
    for index in range(8):
        context, answer = made.data.pairs[index]
        listed = [texts[answer], *(texts[wrong] for wrong in taught.negatives[index])]
        student = torch.from_numpy(made.ranker.score([made.data.contexts[context]], listed)[0])
        teacher = taught.scores[index].softmax(0)
        terms.append((teacher * (teacher.log() - student.log_softmax(0))).sum())
    assert loss == pytest.approx(torch.stack(terms).mean().item(), abs=1e-3)


def test_held_out_lists_are_the_tables_own_where_most_contexts_have_some(bert_folder, pairs):
    def lists_of(listing):
        held = [
            RankingExample(pair.context, pair.answers, ("a wrong one", "another") if number < listing else ())
            for number, pair in enumerate(pairs[:6])
        ]
        return rank(bert_folder, pairs[6:], validation=held, **{**POLY, "epochs": 1}).measured_on

    assert lists_of(6) == "6 held-out lists, listed"
    assert lists_of(3) == "3 held-out lists, listed"
    assert lists_of(2) == "6 held-out lists, 20 sampled"


def test_a_full_disk_is_told_before_the_encoder_runs(bert_folder, pairs, tmp_path, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(rank_frozen.os, "posix_fallocate", full)
    with pytest.raises(
        UserError,
        match=r"keeps 0\.0 GB of token vectors in .*new' while it runs, but there is not enough space \(No space left on device\)",
    ):
        rank(bert_folder, pairs, tmp_path / "new" / "out", freeze="encoder", **POLY)


def test_helpers_may_bring_code_where_the_model_may(bert_folder, pairs, monkeypatch):
    made = trainer(bert_folder, pairs)
    asked = []
    monkeypatch.setattr(Ranker, "load", lambda name, **options: asked.append(options["trust_remote_code"]) or made.ranker)
    trainer(bert_folder, pairs, trust_remote_code=True, mine_with="x", negatives=1)
    assert asked == [True]


# ---- refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"codes": 0}, r"codes is 0, but a context needs a vector: give 1 or more \(the paper: 16, 64, 360\)"),
        ({"type": "tri"}, "type is 'tri': give bi, poly or cross"),
        ({"pooling": "mean-with-padding"}, "pooling is 'mean-with-padding': give cls or mean"),
        ({"code_kind": "pooled"}, "code_kind is 'pooled': give learned, first, last or last-and-first"),
        ({"freeze": "all"}, "freeze is 'all': give nothing, embeddings or encoder"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd': give adamax or adamw"),
        ({"schedule": "cosine"}, "schedule is 'cosine': give plateau or linear"),
        ({"dtype": "float16"}, "dtype is 'float16': give auto, float32 or bfloat16"),
        ({"context_tokens": 2}, "context_tokens is 2, but special tokens take 2 of them"),
        ({"batch_contexts": 1}, "batch_contexts is 1, but an answer needs others as negatives"),
        ({"type": "cross", "negatives": 0}, "negatives is 0: give 1 or more"),
        ({"epochs": 0}, "epochs is 0: give 1 or more"),
        ({"held_out": -1}, "held_out is -1, but it is a count of contexts"),
        ({"head_learning_rate": 0.0}, "head_learning_rate is 0.0: give a number between 0 and 1"),
        ({"dropout": 1.0}, "dropout is 1.0, but it is a probability"),
        ({"teacher_weight": 2.0}, "teacher_weight is 2.0, but it is a share"),
        ({"teacher_temperature": 0.0}, "teacher_temperature is 0.0, but scores are divided by it"),
        ({"type": "cross", "teacher": "x"}, "a cross-encoder can be the teacher, but cannot be taught"),
        ({"type": "cross", "shared_towers": True}, "a cross-encoder always has one encoder"),
        ({"type": "bi", "freeze": "encoder"}, "--freeze encoder trains only learned codes, and this ranker has none"),
        ({"teacher": "x", "negatives": 0}, "a teacher scores lists of candidates, but without negatives there are none"),
        ({"mine_with": "x", "negatives": 0}, "hard negatives are mined, but none are used"),
        ({"teacher_weight": 0.1}, "--teacher-weight and --teacher-temperature only apply with a teacher, and there is none"),
        ({"mining_pool": 9}, "--mining-pool only applies to mined negatives, and none are mined"),
        ({"validation_candidates": 1}, "validation_candidates is 1"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1"),
        ({"similarity": "euclidean"}, "similarity is 'euclidean': give cosine or dot"),
        ({"similarity": "cosine", "paper_scaling": True}, "--paper-scaling scales dot products"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, unchecked):
    with pytest.raises(UserError, match=message):
        RankConfig(**settings)


def test_all_wrong_settings_are_named_at_once(unchecked):
    with pytest.raises(UserError, match=r"codes is 0.*epochs is 0.*leave out --teacher"):
        RankConfig(type="cross", codes=0, epochs=0, teacher="x")


def test_defaults_are_the_papers_where_the_pairs_allow():
    assert RankConfig(type="bi").for_pairs(pairs=10**6, has_held_out=True).batch_contexts == 512
    poly = RankConfig(type="poly").for_pairs(pairs=10**6, has_held_out=True)
    assert (poly.batch_contexts, poly.negatives, poly.warmup_steps, poly.schedule) == (256, 0, 100, "plateau")
    cross = RankConfig(type="cross").for_pairs(pairs=10**6, has_held_out=False)
    assert (cross.batch_contexts, cross.negatives, cross.warmup_steps, cross.schedule) == (16, 15, 1000, "linear")
    assert RankConfig(type="bi").for_pairs(pairs=80, has_held_out=True).batch_contexts == 10


def test_rate_and_dropout_are_the_given_ones_else_the_folders_else_the_papers(bert_folder, pairs, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(bert_folder, folder)
    (folder / "tain.json").write_text(json.dumps({"format": 1, "mirror": {"learning_rate": 3e-4, "dropout": 0.02}}))
    free = {name: value for name, value in POLY.items() if name not in ("learning_rate", "dropout")} | {"epochs": 1}

    def chosen(model, **settings):
        config = rank(model, pairs, **free, **settings).config
        return config.learning_rate, config.dropout, config.attention_dropout

    assert chosen(bert_folder) == (5e-5, 0.1, 0.1)
    assert chosen(folder) == (3e-4, 0.02, 0.02)
    assert chosen(folder, learning_rate=1e-3, dropout=0.0) == (1e-3, 0.0, 0.0)


def test_a_plateau_without_held_out_contexts_is_refused_and_with_a_validation_file_is_fine(bert_folder, pairs):
    settings = {**POLY, "schedule": "plateau", "epochs": 1, "held_out": 0}
    with pytest.raises(UserError, match="the schedule plateau needs held-out contexts, and there are none: give --validation FILE"):
        rank(bert_folder, pairs, **settings)
    with pytest.raises(UserError, match="the schedule plateau needs held-out contexts"):
        rank(bert_folder, pairs[:9], **{**settings, "held_out": 5})  # a tenth of nine is none
    plain = [(pair.context, pair.answers[0]) for pair in pairs[:8]]
    result = rank(bert_folder, pairs[8:], validation=plain, **settings)
    assert (result.counts["held_out"], result.config.schedule) == (8, "plateau")


def test_several_seeds_without_held_out_contexts_are_refused(bert_folder, pairs):
    with pytest.raises(UserError, match="the best of 2 seeds is chosen by held-out contexts, and there are none"):
        rank(bert_folder, pairs, **{**POLY, "seeds": 2, "held_out": 0})


def test_a_held_out_context_to_which_all_answers_are_right_is_refused(bert_folder, pairs):
    everything = RankingExample("a context", tuple(dict.fromkeys(answer for pair in pairs for answer in pair.answers)))
    with pytest.raises(UserError, match="are correct for one held-out context"):
        rank(bert_folder, pairs, validation=[everything], **POLY)


def test_better_weights_from_after_the_last_checkpoint_are_used(bert_folder, pairs, tmp_path, monkeypatch, interrupting):
    """As where the first life found the best, was killed before its next checkpoint, and the second, on another machine, finds none as good."""
    settings = {**POLY, "checkpoint_every_s": 0.0, "epochs": 1, "validations_per_epoch": 4}
    hidden = {name: tmp_path / f".cut.{name}-13" for name in ("best", "checkpoint")}
    figures = iter([10.0, 30.0, 10.0, 31.0])  # untrained and validated, twice
    monkeypatch.setattr(Validation, "measured", lambda self, ranker: {"MRR": next(figures)})
    with interrupting(RankTrainer, 3):
        rank(bert_folder, pairs, tmp_path / "cut", **settings)
    shutil.copytree(hidden["checkpoint"], tmp_path / "checkpoint")  # it knows 30 alone
    with interrupting(RankTrainer, 5):
        rank(bert_folder, pairs, tmp_path / "cut", resume=True, **settings)
    kept = load_file(hidden["best"] / "state.safetensors")
    shutil.rmtree(hidden["checkpoint"])
    shutil.copytree(tmp_path / "checkpoint", hidden["checkpoint"])
    monkeypatch.setattr(Validation, "measured", lambda self, ranker: {"MRR": 29.0})
    monkeypatch.setattr(BestWeights, "keep", lambda *_: pytest.fail("29 is not the best"))
    loaded = []
    monkeypatch.setattr(
        MasterWeights, "load_state", lambda self, state, real=MasterWeights.load_state: (loaded.append(state), real(self, state))
    )
    rank(bert_folder, pairs, tmp_path / "cut", resume=True, **settings)
    assert all(torch.equal(loaded[-1][name], tensor) for name, tensor in kept.items())


def test_pairs_that_cannot_be_trained_on_are_refused(bert_folder, pairs):
    with pytest.raises(UserError, match="the pair of context 'a' has an empty side"):
        rank(bert_folder, [("a", " ")], **POLY)
    with pytest.raises(UserError, match="the pair of context 'a' has an empty side"):
        rank(bert_folder, [("a", "\u200b")], **POLY)
    with pytest.raises(UserError, match="there are no pairs to train on"):
        rank(bert_folder, [], **POLY)
    with pytest.raises(UserError, match="there are 2 pairs with 1 different candidates to train on"):
        rank(bert_folder, [("a", "x"), ("b", "X ")], **POLY)
    with pytest.raises(
        UserError, match=r"there are 72 pairs to train on, fewer than a batch of 500: give more pairs, or --batch-contexts 36"
    ):
        rank(bert_folder, pairs, **{**POLY, "batch_contexts": 500, "held_out": 20})
    with pytest.raises(UserError, match="rank has no setting code"):
        rank(bert_folder, pairs, code=3)


def test_a_folders_own_length_limit_is_not_the_models(save_masked_lm, pairs, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(save_masked_lm("bert"), folder)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    assert Embedder.load(folder, dtype="float32", device="cpu").max_tokens == 12
    result = rank(folder, pairs, tmp_path / "cross", type="cross", **{**SMALL, "epochs": 1, "negatives": 1})
    assert result.config.context_tokens == 20
    again = Ranker.load(tmp_path / "cross", device="cpu", dtype="float32")
    assert isinstance(again, CrossRanker)
    assert (again.tower.max_tokens, again.context.max_tokens) == (40, 20)


def test_length_limits_beyond_the_model_are_refused(bert_folder, pairs):
    with pytest.raises(UserError, match="context_tokens is 41 and candidate_tokens 16, but the model reads 40 at most: give fewer"):
        rank(bert_folder, pairs, **{**POLY, "context_tokens": 41})
    with pytest.raises(UserError, match="but the model reads 40 at most together, as a cross-encoder reads them"):
        rank(bert_folder, pairs, type="cross", **{**SMALL, "context_tokens": 30})
    with pytest.raises(UserError, match="candidate_tokens is 100, but the model reads 40 at most with room for a context: give fewer"):
        rank(bert_folder, pairs, type="cross", **{**SMALL, "candidate_tokens": 100})


def test_a_cross_encoder_does_not_mine(bert_folder, pairs, tmp_path):
    rank(bert_folder, pairs, tmp_path / "cross", type="cross", **{**SMALL, "epochs": 1, "negatives": 1})
    with pytest.raises(UserError, match="a cross-encoder, which would take hours: give a bi- or poly-encoder"):
        rank(bert_folder, pairs, mine_with=str(tmp_path / "cross"), **POLY)


def test_plain_pairs_of_the_same_context_are_joined():
    assert joined_examples([("a", "x"), ("b", "y"), ("a", "z")]) == [RankingExample("a", ("x", "z")), RankingExample("b", ("y",))]


@pytest.mark.parametrize(
    ("given", "message"), [("ab", "pairs are one string"), (["a", "b"], "pair number 1 is 'a'"), ([("a",)], "pair number 1")]
)
def test_what_is_no_pair_is_refused(bert_folder, given, message, unchecked):
    with pytest.raises(UserError, match=message):
        rank(bert_folder, given, **POLY)


# ---- texts that the model cannot tell apart


@pytest.mark.parametrize("type", ["bi", "cross"])
def test_texts_with_the_same_tokens_after_cutting_are_no_negatives_of_each_other(bert_folder, pairs, type):
    long = "the sea is deep and the stars are far away "
    alike = [
        RankingExample("caf\u00e9 a", (f"{long}one",), ("a thin layer",)),
        RankingExample("cafe a", ("a child draws",), (f"{long}two", "glass")),  # the same question with another answer
        RankingExample("the old books", (f"{long}three",)),
    ]
    settings = {"type": type, "candidate_tokens": 8, "epochs": 1, "negatives": 2}
    made = trainer(bert_folder, [*pairs[:13], *alike], **settings)
    data = made.data
    candidate = {text: number for number, text in enumerate(data.candidates)}
    assert len(made.pairs.candidates) == len(data.candidates)
    assert sum(text.startswith(long) for text in data.candidates) == 1
    merged, drawn = candidate[f"{long}one"], candidate["a child draws"]
    first, second, third = (data.contexts.index(example.context) for example in alike)
    assert data.right[first] == data.right[second] == {merged, drawn}
    assert data.right[third] == {merged}
    assert set(data.listed[second]) == {candidate["glass"]}  # the other listed one is right for the same question
    assert [data.pairs[data.pairs[:, 0] == context, 1].tolist() for context in (first, second, third)] == [
        [merged],
        [drawn],
        [merged],
    ]
    for number, ids in enumerate(made.pairs.candidates):
        again = tokenise(made.ranker.candidate.tokenizer, [data.candidates[number]], max_tokens=8).ids[0]
        assert list(ids) == again
    loss, _ = gradients(made, range(8, 16))
    assert np.isfinite(loss)


def test_merged_texts_are_counted_and_told(bert_folder, pairs):
    twins = [("caf\u00e9 a", "the stars"), ("cafe a", "the sun")]
    with pytest.warns(UserWarning, match="2 contexts and candidates have the same tokens as others"):
        rank(bert_folder, [*((pair.context, pair.answers[0]) for pair in pairs[:20]), *twins], **POLY | {"epochs": 1, "held_out": 0})


def test_pairs_that_all_read_the_same_are_refused(bert_folder):
    alike = [(f"context {'a' * number}", f"the sea is deep and the stars are far away {'b' * number}") for number in range(1, 12)]
    with pytest.raises(
        UserError, match="all 1 different candidates are correct for every context: raise --context-tokens or --candidate-tokens"
    ):
        rank(bert_folder, alike, **POLY | {"held_out": 0, "candidate_tokens": 8})


def test_a_stored_limit_above_the_tokenizers_holds_for_rankers_too(modernbert_folder, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    SentenceTransformer(modules=[Transformer(str(modernbert_folder)), Pooling(32)], device="cpu").save(str(tmp_path / "model"))
    stored = tmp_path / "model" / "sentence_bert_config.json"
    stored.write_text(json.dumps(json.loads(stored.read_text()) | {"max_seq_length": 64}))

    class Reached(Exception):  # noqa: N818
        pass

    def reach(model: Any, embedder: Any, config: Any, *rest: Any) -> Any:
        raise Reached(config.context_tokens)

    monkeypatch.setattr(recipe, "_train_seeds", reach)
    pairs = [(f"question {number}", f"answer {number}") for number in range(12)]
    settings = {"type": "bi", "batch_contexts": 4, "held_out": 0, "context_tokens": 60, "device": "cpu", "progress": False}
    with pytest.raises(Reached, match="60"):
        rank(tmp_path / "model", pairs, tmp_path / "out", **settings)
    with pytest.raises(UserError, match="64"):
        rank(tmp_path / "model", pairs, tmp_path / "out", **settings | {"context_tokens": 65})
