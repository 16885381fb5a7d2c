from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tain.batches.packing import pack
from tain.encoders.dropout import FastDropout, dropped, quicken_dropout, set_dropout
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import UserError

Build = Callable[..., Any]

ALL = ["bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "modernbert", "mpnet", "deberta", "deberta-v2"]


@pytest.mark.parametrize("probability", [0.01, 0.1, 0.5, 0.9])
def test_elements_are_dropped_at_the_rate_asked_for_and_the_mean_stays(probability: float):
    ones = torch.ones(400_000)
    once = dropped(ones, probability)
    assert (once == 0).float().mean().item() == pytest.approx(probability, abs=4 * (probability * (1 - probability) / 400_000) ** 0.5)
    assert once[once != 0].unique().tolist() == pytest.approx([1 / (1 - probability)], rel=1e-4)
    assert once.mean().item() == pytest.approx(1.0, abs=0.02)


def test_neighbouring_elements_are_dropped_independently():
    """Four elements share one draw of 64 bits."""
    is_zero = (dropped(torch.ones(400_000), 0.3) == 0).view(-1, 4).double()
    correlations = torch.corrcoef(is_zero.T) - torch.eye(4)
    assert correlations.abs().max() < 0.02


def test_gradients_pass_where_elements_lived():
    states = torch.randn(50, 7, requires_grad=True)
    once = dropped(states, 0.4)
    once.sum().backward()
    assert states.grad is not None
    torch.testing.assert_close(states.grad, once.detach() / states.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4), (2, 3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_shape_and_number_type_comes_back_as_it_was(shape: tuple[int, ...], dtype: torch.dtype):
    once = dropped(torch.ones(shape, dtype=dtype), 0.5)
    assert once.shape == shape
    assert once.dtype == dtype
    assert set(once.flatten().tolist()) <= {0.0, 2.0}


def test_a_transposed_tensor_is_dropped_like_any_other():
    states = torch.randn(6, 4).T
    once = dropped(states, 0.5)
    assert bool(((once == 0) | torch.isclose(once, 2 * states)).all())


def test_rates_at_the_ends_do_no_harm():
    states = torch.randn(1000)
    assert torch.equal(dropped(states, 0.0), states)
    assert torch.isfinite(dropped(states, 0.999_999_9)).all()


def test_the_same_seed_drops_the_same_elements():
    torch.manual_seed(4)
    first = dropped(torch.ones(100), 0.5)
    torch.manual_seed(4)
    assert torch.equal(dropped(torch.ones(100), 0.5), first)


def test_the_module_drops_in_training_only():
    layer = FastDropout(0.5)
    states = torch.ones(1000)
    assert (layer.train()(states) == 0).any()
    assert torch.equal(layer.eval()(states), states)


@pytest.mark.parametrize("architecture", ALL)
def test_two_training_passes_differ_on_every_architecture_and_eval_passes_agree(architecture: str, tiny_encoder: Build, token_ids: Build):
    zero = {
        "distilbert": {"dropout": 0.0, "attention_dropout": 0.0},
        "modernbert": {"embedding_dropout": 0.0, "mlp_dropout": 0.0, "attention_dropout": 0.0},
    }
    bert_like = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = tiny_encoder(architecture, **zero.get(architecture, bert_like))
    encoder = TransformerEncoder(model, pad_id=model.config.pad_token_id)
    packed = pack(token_ids(4, 9, 9))
    plain = encoder(packed)
    encoder.train()
    torch.testing.assert_close(encoder(packed), plain, atol=1e-5, rtol=1e-5)  # its config says 0

    for rates in ({"hidden": 0.1, "attention": 0.1}, {"hidden": 0.1, "attention": 0.0}, {"hidden": 0.0, "attention": 0.5}):
        set_dropout(model, **rates)
        encoder.train()
        assert (encoder(packed) - encoder(packed)).abs().amax(1).min() > 1e-3, rates  # every text's views differ
        encoder.eval()
        torch.testing.assert_close(encoder(packed), plain, atol=1e-5, rtol=1e-5)

    set_dropout(model, hidden=0.0, attention=0.0)
    encoder.train()
    torch.testing.assert_close(encoder(packed), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["xlm", "esm", "longformer"])
def test_rates_that_modules_keep_as_numbers_are_set(architecture: str, tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder(architecture)
    encoder = TransformerEncoder(model, pad_id=model.config.pad_token_id)
    packed = pack(token_ids(9, 9))
    plain = encoder(packed)
    for rates in ({"hidden": 0.1, "attention": 0.0}, {"hidden": 0.0, "attention": 0.5}):
        set_dropout(model, **rates)
        encoder.train()
        assert (encoder(packed) - encoder(packed)).abs().amax(1).min() > 1e-3, rates
    set_dropout(model, hidden=0.0, attention=0.0)
    encoder.train()
    torch.testing.assert_close(encoder(packed), plain, atol=1e-5, rtol=1e-5)


# where each architecture drops: on its attention weights, and at how many other places (two layers; ModernBERT three; ALBERT shares one)
PLACES = {
    "bert": (2, 1 + 2 * 2),
    "roberta": (2, 1 + 2 * 2),
    "xlm-roberta": (2, 1 + 2 * 2),
    "electra": (2, 1 + 2 * 2),
    "albert": (1, 1 + 2),
    "distilbert": (2, 1 + 2),
    "modernbert": (3, 1 + 3 * 2),
    "mpnet": (2, 1 + 2 * 2),
    "deberta": (2, 1 + 2 * 3),
    "deberta-v2": (2, 1 + 2 * 3),
}


@pytest.mark.parametrize("architecture", ALL)
def test_each_place_gets_its_own_rate(architecture: str, tiny_encoder: Build):
    model = tiny_encoder(architecture)
    set_dropout(model, hidden=0.25, attention=0.125)
    weights, others = 0, 0
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            assert isinstance(module, FastDropout), name
            assert module.p in (0.25, 0.125), name
            weights += module.p == 0.125
            others += module.p == 0.25
    if architecture == "modernbert":  # keeps the rate on its weights as a number
        assert weights == 0
        weights = sum(layer.attn.attention_dropout == 0.125 for layer in model.layers)
    assert (weights, others) == PLACES[architecture]


@pytest.mark.parametrize("architecture", ["bert", "albert", "modernbert", "distilbert"])
def test_attention_is_handed_the_attention_rate(architecture: str, tiny_encoder: Build, token_ids: Build, monkeypatch: pytest.MonkeyPatch):
    from tain.encoders import attention

    rates: list[tuple[int, float]] = []
    monkeypatch.setattr(attention, "dropped", lambda states, probability: rates.append((states.dim(), probability)) or states)
    model = tiny_encoder(architecture)
    encoder = TransformerEncoder(model)
    set_dropout(model, hidden=0.25, attention=0.125)
    rates.clear()  # what the choice of the layout asked for
    encoder.train()(pack(token_ids(3, 5)))
    assert rates == [(4, 0.125)] * 2 * model.config.num_hidden_layers


@pytest.mark.parametrize("rates", [{"hidden": 1.0, "attention": 0.1}, {"hidden": 0.1, "attention": -0.1}])
def test_a_rate_that_is_no_probability_is_refused(rates: dict[str, float], tiny_encoder: Build):
    with pytest.raises(UserError, match="a probability below 1 is needed"):
        set_dropout(tiny_encoder("bert"), **rates)


def test_a_rate_that_a_config_gives_as_a_whole_number_is_set_too(tiny_encoder: Build):
    model = tiny_encoder("modernbert")
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0
    set_dropout(model, hidden=0.0, attention=0.25)
    assert {module.attention_dropout for module in model.modules() if hasattr(module, "attention_dropout")} == {0.25}


def test_quickened_modules_keep_their_rates(tiny_encoder: Build):
    model = tiny_encoder("bert", hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2)
    before = {name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    quicken_dropout(model)
    after = {name: module for name, module in model.named_modules() if isinstance(module, nn.Dropout)}
    assert {name: module.p for name, module in after.items()} == before
    assert all(isinstance(module, FastDropout) for module in after.values())
