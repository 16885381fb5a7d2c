"""What each objective masks, what a step costs, and that gradients of several masks are averaged token by token."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tain.batches.shards import Sources, tokenised
from tain.batches.tokenizing import continues_word
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.foundation.errors import UserError
from tain.objectives.masked_lm import masked_cross_entropy
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.objectives import OBJECTIVES, DisjointMasks, MaskingContext
from tain.recipes.pretrain.recipe import pretrain
from tain.training.optimizer import MasterWeights

SMALL: dict[str, Any] = {"block_tokens": 16, "batch_blocks": 4, "dtype": "float32", "device": "cpu"}


@pytest.fixture(scope="module")
def corpus(sentences, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    rng = np.random.default_rng(0)
    path.write_text("\n".join(sentences[index] for index in rng.integers(0, len(sentences), size=120)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def context(corpus, tmp_path_factory, tiny_masked_lm, tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    shards = tokenised(tmp_path_factory.mktemp("shards") / "shards", Sources((str(corpus),)), tokenizer)

    def build(dtype: torch.dtype = torch.float32, **settings: Any) -> MaskingContext:
        model = tiny_masked_lm("bert").eval()
        network = MaskedLanguageModel(model)
        weights = MasterWeights(model, dtype=dtype)
        return MaskingContext(network, weights, tokenizer, shards, PretrainConfig(**(SMALL | settings)), torch.device("cpu"))

    return build


def objective_of(context: MaskingContext) -> Any:
    return OBJECTIVES[context.config.objective](context)


@pytest.mark.parametrize("units", ["token", "word", "span"])
def test_all_masks_of_a_step_hide_the_same_blocks_at_places_that_never_overlap(context, units):
    objective = objective_of(context(objective="fully-explored", masking_rate=1 / 3, masked_units=units))
    for step in range(3):
        masks = objective.masks(step)
        together = torch.cat([mask.indices for mask in masks])
        assert len(masks) == 3
        assert len(together.unique()) == len(together) == int(objective.masker.is_maskable(objective.order.batch(step)).sum())
        for mask in masks:
            restored = mask.ids.flatten().clone()
            restored[mask.indices] = mask.targets
            assert torch.equal(restored.view(mask.ids.shape), objective.order.batch(step))


def _masked_in_each_row(objective: Any, step: int) -> torch.Tensor:
    """How many tokens of each block each mask hides (masks, blocks)."""
    masks = objective.masks(step)
    rows, tokens = masks[0].ids.shape
    return torch.stack([torch.bincount(mask.indices // tokens, minlength=rows) for mask in masks])


def test_masks_of_a_step_are_equal_blocks_of_each_text_or_of_the_whole_batch(context):
    explored = {"objective": "fully-explored", "masking_rate": 1 / 3, "batch_blocks": 8}
    of_texts, of_batch = (objective_of(context(**explored, **more)) for more in ({}, {"mask_unit": "batch"}))
    apart = []
    for step in range(4):
        found = _masked_in_each_row(of_texts, step)
        assert (found.amax(0) - found.amin(0)).max() <= 1  # a text's masks are of one size
        together = _masked_in_each_row(of_batch, step)
        assert together.sum(1).max() - together.sum(1).min() <= 1  # those of the batch, too, but not text by text
        apart.append(int((together.amax(0) - together.amin(0)).max()))
    assert max(apart) > 2


def test_random_masks_may_have_a_share_of_each_text(context):
    of_texts, of_batch = (objective_of(context(objective="random", mask_unit=unit)) for unit in ("text", "batch"))
    default = objective_of(context(objective="random"))
    spread = []
    for step in range(6):
        maskable = of_texts.masker.is_maskable(of_texts.order.batch(step)).sum(1)
        (found,) = _masked_in_each_row(of_texts, step)
        assert ((found - 0.3 * maskable).abs() < 1).all()
        spread.append(float((_masked_in_each_row(of_batch, step)[0] - 0.3 * maskable).abs().max()))
        assert torch.equal(of_batch.masks(step)[0].indices, default.masks(step)[0].indices)
    assert max(spread) > 1.5


def test_a_record_and_a_checkpoint_say_what_was_masked_by(bert_folder, corpus, tmp_path):
    settings = {**SMALL, "optimizer": "adamw", "learning_rate": 1e-3, "objective": "fully-explored", "tokens": 3 * 64.0 * 4}
    pretrain(bert_folder, [corpus], tmp_path / "model", **settings)
    assert json.loads((tmp_path / "model" / "tain.json").read_text())["config"]["mask_unit"] == "text"
    pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, minutes=1e-9, checkpoint_every_s=0.0)
    with pytest.raises(UserError, match="mask_unit was 'text' and is 'batch'"):
        pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, mask_unit="batch", resume=True)
    (state,) = (tmp_path / ".cut.pretrain" / "checkpoint").glob("*.json")  # as an older version wrote it, without the setting
    content = json.loads(state.read_text())
    del content["identity"]["mask_unit"]
    state.write_text(json.dumps(content))
    with pytest.raises(UserError, match="mask_unit was 'batch' and is 'text'"):
        pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, resume=True)


@pytest.mark.parametrize("units", ["token", "word", "span"])
def test_spread_over_epochs_every_token_of_every_text_is_masked_once_in_k_epochs(context, units):
    objective = objective_of(context(objective="fully-explored", masking_rate=1 / 3, masked_units=units, spread_over_epochs=True))
    per_epoch = objective.order.steps_per_epoch
    for cycle in range(2):
        hidden: Counter[tuple[int, int]] = Counter()
        maskable: set[tuple[int, int]] = set()
        for step in range(cycle * 3 * per_epoch, (cycle + 1) * 3 * per_epoch):
            (mask,) = objective.masks(step)
            starts, tokens = objective.order.starts(step), mask.ids.shape[1]
            hidden.update((int(starts[index // tokens]), index % tokens) for index in mask.indices.tolist())
            rows, columns = objective.masker.is_maskable(objective.order.batch(step)).nonzero(as_tuple=True)
            maskable |= {(int(starts[row]), int(column)) for row, column in zip(rows, columns, strict=True)}
        assert set(hidden) == maskable
        assert set(hidden.values()) == {1}


def test_exploring_again_draws_other_masks(context):
    objective = objective_of(context(objective="fully-explored", masking_rate=0.5, spread_over_epochs=True, seed=13))
    starts = np.array([0, 14])
    first, again, second = (objective._draws_of_texts(starts, cycle=cycle) for cycle in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(objective._draws_of_texts(starts[1:], cycle=0)[0], first[1])


def test_whole_words_are_hidden_piece_by_piece_together(context):
    objective = objective_of(context(objective="whole-word"))
    continuing = continues_word(context().tokenizer)
    for step in range(5):
        (mask,) = objective.masks(step)
        ids = objective.order.batch(step).flatten()
        hidden = set(mask.indices.tolist())
        for index in range(1, len(ids)):
            if continuing[ids[index]] and ids[index - 1] > 4 and ids[index] > 4:
                assert (index in hidden) == (index - 1 in hidden)


def test_spans_are_hidden_as_runs(context):
    (mask,) = objective_of(context(objective="span", span_tokens=4)).masks(0)
    (single,) = objective_of(context(objective="random")).masks(0)

    def neighbours(indices):
        return float((indices.diff() == 1).float().mean())

    assert neighbours(mask.indices) > 0.5 > neighbours(single.indices)


def test_a_steps_tokens_are_those_that_pass_the_encoder(context):
    assert objective_of(context(objective="random")).step_tokens == 64
    assert objective_of(context(objective="fully-explored", masking_rate=0.3)).step_tokens == 3 * 64
    assert objective_of(context(objective="fully-explored", masking_rate=0.15, explored_parts=2)).step_tokens == 2 * 64
    assert objective_of(context(objective="fully-explored", masking_rate=0.3, spread_over_epochs=True)).step_tokens == 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_token_counts_alike_in_loss_and_gradient(context, dtype):
    # 14 maskable tokens a row at a rate of 0.3: masks of different sizes
    built = context(dtype, objective="fully-explored", masking_rate=0.3)
    objective = DisjointMasks(built)
    loss = objective.gradient(2)
    built.weights.take_gradients()
    found = [master.grad.clone() for master in built.weights.masters if master.grad is not None]

    plain = context(objective="random")
    masks = objective.masks(2)
    losses = torch.stack([masked_cross_entropy(plain.network(mask.ids, mask.indices), mask.targets) for mask in masks])
    sizes = torch.tensor([len(mask.indices) for mask in masks])
    total = (losses * sizes).sum() / sizes.sum()
    total.backward()
    expected = [parameter.grad for parameter in plain.weights.parameters if parameter.grad is not None]
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    assert loss == pytest.approx(total.item(), rel=tolerance)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, theirs, atol=tolerance * largest, rtol=tolerance)


def test_explored_gradients_are_those_of_single_masks_on_average_and_vary_less(context):
    """On a real model: same mean, and less variance than as many independent masks; both follow from each other at one mask."""
    explored = DisjointMasks(context(objective="fully-explored", masking_rate=0.25))
    ids = explored.order.batch(0)

    def gradients(parts: int, draws: int) -> torch.Tensor:
        found = []
        for number in range(draws):
            generator = torch.Generator().manual_seed(1000 * parts + number)
            explored.parts = parts
            indices = explored._indices(ids, torch.rand(ids.shape, generator=generator), each_row=False)
            masks = [explored.masker.at(ids, part, generator=generator) for part in indices]
            explored._loss.gradient(masks, hidden=sum(len(mask.indices) for mask in masks), seed=1)
            explored._loss.weights.take_gradients()
            found.append(torch.cat([master.grad.flatten() for master in explored._loss.weights.masters if master.grad is not None]))
            for master in explored._loss.weights.masters:
                master.grad = None
        return torch.stack(found)

    disjoint, single = gradients(4, 60), gradients(1, 240)
    independent = single.view(60, 4, -1).mean(1)
    spread = {name: float(values.var(0).sum()) for name, values in (("disjoint", disjoint), ("independent", independent))}
    apart = float((disjoint.mean(0) - single.mean(0)).square().sum())
    by_chance = spread["disjoint"] / 60 + spread["independent"] / 60
    assert apart < 2 * by_chance
    assert spread["disjoint"] < spread["independent"]


@pytest.mark.parametrize("spread", [False, True])
def test_an_explored_run_resumes_in_the_middle_of_an_epoch_bit_for_bit(bert_folder, corpus, tmp_path, spread):
    settings = {**SMALL, "optimizer": "adamw", "learning_rate": 1e-3, "objective": "fully-explored", "spread_over_epochs": spread}
    settings |= {"masking_rate": 0.5, "decay_share": 0.0, "warmup_steps": 2}
    tokens = 64.0 * 60 * (1 if spread else 2)
    whole = pretrain(bert_folder, [corpus], tmp_path / "whole", **settings, tokens=tokens)
    assert whole.steps == 60

    def stop_after(seconds: float) -> dict[str, Any]:
        return {"minutes": seconds / 60, "checkpoint_every_s": 0.0}

    cut = pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, tokens=tokens, **stop_after(0.2))
    assert 0 < cut.steps < 60
    resumed = pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, tokens=tokens, resume=True)
    assert resumed.losses == whole.losses
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], parameter), name


def test_a_checkpoint_older_than_the_settings_goes_on(bert_folder, corpus, tmp_path):
    settings = {**SMALL, "optimizer": "adamw", "learning_rate": 1e-3, "decay_share": 0.0, "tokens": 64.0 * 20}
    whole = pretrain(bert_folder, [corpus], tmp_path / "whole", **settings)
    pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, minutes=1e-9, checkpoint_every_s=0.0)
    state = tmp_path / ".cut.pretrain" / "checkpoint" / "state.json"
    content = json.loads(state.read_text())
    for name in ("texts", "objective", "explored_parts", "masked_units", "spread_over_epochs", "span_tokens", "add_words", "words"):
        del content["identity"][name]
    state.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"objective was 'random' and is 'span'"):
        pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, resume=True, objective="span")
    assert pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, resume=True).losses == whole.losses


def test_other_texts_are_no_continuation(bert_folder, corpus, tmp_path, sentences):
    settings = {**SMALL, "optimizer": "adamw", "learning_rate": 1e-3, "tokens": 64.0 * 20}
    pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, minutes=1e-9, checkpoint_every_s=0.0)
    (tmp_path / "others.txt").write_text("\n".join(sentences * 20), encoding="utf-8")
    with pytest.raises(UserError, match="the checkpoint was made with other settings \\(texts was"):
        pretrain(bert_folder, [tmp_path / "others.txt"], tmp_path / "cut", **settings, resume=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"objective": "fully-explored", "masking_rate": 0.3, "explored_parts": 4},
            r"explored_parts is 4 at masking_rate 0\.3, which would mask 120% of the tokens: give at most 3, or a rate of at most 0\.25",
        ),
        ({"objective": "fully-explored", "explored_parts": 0}, "explored_parts is 0: give 1 or more"),
        ({"explored_parts": 2}, "explored_parts only applies to objective fully-explored, but objective is 'random'"),
        ({"objective": "span", "spread_over_epochs": True}, "spread_over_epochs only applies to objective fully-explored"),
        ({"objective": "whole-word", "masked_units": "word"}, "masked_units only applies to objective fully-explored"),
        ({"span_tokens": 0}, "span_tokens is 0: give 1 or more"),
        (
            {"objective": "fully-explored", "spread_over_epochs": True, "mask_unit": "batch"},
            "mask_unit is 'batch', but with spread_over_epochs each text has its own order",
        ),
        ({"add_words": -1}, "add_words is -1: give 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        PretrainConfig(**settings)


def test_as_many_parts_as_there_is_room_for():
    explored = {"objective": "fully-explored"}
    assert PretrainConfig(**explored, masking_rate=0.3).parts == 3
    assert PretrainConfig(**explored, masking_rate=0.15).parts == 6
    assert PretrainConfig(**explored, masking_rate=1 / 7).parts == 7
    assert PretrainConfig(**explored, masking_rate=0.1).parts == 10
    assert PretrainConfig(masking_rate=0.1).parts == 1
