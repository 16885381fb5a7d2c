"""The training loop: an interrupted run equals an uninterrupted one; a bad loss stops it and keeps the last good state."""

import math

import pytest
import torch
from torch import nn

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.training import loop
from tain.training.loop import Saving, train, warmup_then_linear
from tain.training.optimizer import MasterWeights, adamw


def build():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    return model, adamw(MasterWeights(model, dtype=torch.float32), learning_rate=0.05, weight_decay=0.0)


def step_of(model, bad_step=None):
    def step(number):
        rows = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
        loss = (model(rows) - 1).square().mean()
        loss.backward()
        return math.nan if number == bad_step else loss.item()

    return step


def saving(folder, *, resume=False, **identity):
    return Saving(folder / "checkpoint", every_s=0.0, resume=resume, identity=identity)


def run(model, optimizer, steps=6, **settings):
    return train(step_of(model), optimizer, steps=steps, progress=Progress.silent(), **settings)


def test_losses_come_in_order_and_fall():
    model, optimizer = build()
    trained = run(model, optimizer, steps=30)
    assert trained.steps == len(trained.losses) == 30
    assert trained.losses[-1] < trained.losses[0]


def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path):
    whole, optimizer = build()
    expected = run(whole, optimizer, steps=8)
    first, optimizer = build()
    run(first, optimizer, steps=8, saving=saving(tmp_path), enough=lambda done: done == 5)
    second, optimizer = build()
    found = run(second, optimizer, steps=8, saving=saving(tmp_path, resume=True))
    assert torch.equal(second.weight, whole.weight)
    assert found.losses == expected.losses


def test_a_loss_that_is_no_number_stops_before_the_step_and_keeps_the_good_state(tmp_path):
    model, optimizer = build()
    with pytest.raises(UserError, match=r"the loss became nan at step 4.*kept in"):
        train(step_of(model, bad_step=3), optimizer, steps=6, progress=Progress.silent(), saving=saving(tmp_path))
    good, optimizer = build()
    run(good, optimizer, steps=3)
    kept, optimizer = build()
    run(kept, optimizer, steps=3, saving=saving(tmp_path, resume=True))
    assert torch.equal(kept.weight, good.weight)


@pytest.mark.parametrize("bad_step", [3, 5])
def test_a_gradient_that_is_no_number_does_not_spoil_the_good_state(tmp_path, bad_step):
    model, optimizer = build()
    step = step_of(model)

    def spoilt(number):
        loss = step(number)
        if number == bad_step:
            assert model.weight.grad is not None
            model.weight.grad[0, 0] = math.inf
        return loss

    with pytest.raises(
        UserError,
        match=r"(the loss became|the weights are not finite).*; the last good state is kept in .*: start over with --overwrite and a lower",
    ):
        train(spoilt, optimizer, steps=6, progress=Progress.silent(), saving=saving(tmp_path))
    kept, optimizer = build()
    assert run(kept, optimizer, steps=bad_step, saving=saving(tmp_path, resume=True)).steps == bad_step
    assert kept.weight.isfinite().all()


def test_resume_without_a_checkpoint_is_refused(tmp_path):
    model, optimizer = build()
    with pytest.raises(UserError, match="nothing to resume"):
        run(model, optimizer, saving=saving(tmp_path, resume=True))


def test_resume_with_other_settings_names_them(tmp_path):
    model, optimizer = build()
    run(model, optimizer, saving=saving(tmp_path, temperature=0.04), enough=lambda done: done == 2)
    with pytest.raises(UserError, match=r"temperature was 0\.04 and is 0\.2"):
        run(model, optimizer, saving=saving(tmp_path, resume=True, temperature=0.2))


def test_a_setting_that_the_checkpoint_does_not_know_counts_as_its_default(tmp_path):
    model, optimizer = build()
    run(model, optimizer, steps=3, saving=saving(tmp_path, rate=1), enough=lambda done: done == 2)

    def resumed(**identity):
        model, optimizer = build()
        going_on = Saving(tmp_path / "checkpoint", every_s=0.0, resume=True, identity=identity, defaults={"kind": "plain", "rate": 7})
        return run(model, optimizer, steps=3, saving=going_on)

    assert resumed(rate=1, kind="plain").steps == 3
    with pytest.raises(UserError, match="kind was 'plain' and is 'fancy'"):
        resumed(rate=1, kind="fancy")
    with pytest.raises(UserError, match="rate was 1 and is 7"):
        resumed(rate=7, kind="plain")


def test_rates_rise_stay_and_fall():
    factor = warmup_then_linear(100, warmup_steps=10, decay_share=0.5)
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == factor(49) == 1.0
    assert factor(75) == pytest.approx(0.5)
    assert factor(99) == pytest.approx(0.02)
    level = warmup_then_linear(100, warmup_steps=1, decay_share=0.0)
    assert level(0) == level(98) == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_number_in_any_tensor_is_found(bad: float):
    state = {
        "step": torch.tensor(3.0),
        "none": torch.zeros(0),
        "matrix": torch.randn(7, 5),
        "whole": torch.tensor([1, 2]),
        "half": torch.ones(3).bfloat16(),
    }
    assert loop._is_finite(state)
    for name in ("step", "matrix", "half"):
        spoilt = {key: tensor.clone() for key, tensor in state.items()}
        spoilt[name].view(-1)[-1] = bad
        assert not loop._is_finite(spoilt)
