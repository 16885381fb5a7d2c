"""Master weights and the optimizers over them."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tain.foundation.errors import UserError
from tain.training.optimizer import MasterWeights, Optimizer, StackedMuon, adamw, muon_and_adamw


def small_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))


def one_step(model, optimizer, seed):
    rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).to(next(model.parameters()).dtype)
    model(rows).float().square().mean().backward()
    optimizer.step()


def test_float32_masters_are_the_parameters_and_step_as_torch_does():
    model, reference = small_model(), small_model()
    optimizer = adamw(MasterWeights(model, dtype=torch.float32), learning_rate=1e-2, weight_decay=0.1)
    plain = torch.optim.AdamW(reference.parameters(), lr=1e-2, weight_decay=0.1)
    for seed in range(4):
        one_step(model, optimizer, seed)
        rows = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))
        reference(rows).square().mean().backward()
        plain.step()
        plain.zero_grad()
    for found, expected in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_updates_below_a_bfloat16_step_add_up_in_the_masters():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    weights = MasterWeights(model, dtype=torch.bfloat16)
    optimizer = adamw(weights, learning_rate=1e-4, weight_decay=0.0)
    for _ in range(40):
        model(torch.ones(1, 1, dtype=torch.bfloat16)).sum().backward()
        optimizer.step()
    assert weights.masters[0].item() == pytest.approx(1 - 40e-4, abs=2e-4)
    assert model.weight.item() < 1.0  # 1e-4 alone is lost in bfloat16, forty of them are not
    weights.restore(model)
    assert model.weight.dtype == torch.float32
    assert model.weight.item() == pytest.approx(1 - 40e-4, abs=2e-4)


def test_rate_factor_scales_every_learning_rate_of_that_step_only():
    model = small_model()
    optimizer = adamw(MasterWeights(model, dtype=torch.float32), learning_rate=1e-2, weight_decay=0.0)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step(rate_factor=0.0)
    for parameter, old in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), old)
    one_step(model, optimizer, 1)
    assert any(not torch.equal(parameter.detach(), old) for parameter, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_long_gradients_are_scaled_to_the_norm_and_short_ones_left(dtype):
    moved = []
    for scale, max_grad_norm in ((1.0, None), (1e4, 1.0), (1e-4, 1.0)):
        model = small_model()
        weights = MasterWeights(model, dtype=dtype)
        optimizer = Optimizer(weights, [torch.optim.SGD(weights.masters, lr=1e-2)], max_grad_norm=max_grad_norm)
        before = [master.detach().clone() for master in weights.masters]
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, scale)
        optimizer.step()
        with torch.no_grad():
            steps = [(master - old).flatten() for master, old in zip(weights.masters, before, strict=True)]
            moved.append(torch.cat(steps).norm().item())
    length = sum(parameter.numel() for parameter in small_model().parameters()) ** 0.5
    assert moved == pytest.approx([1e-2 * length, 1e-2, 1e-6 * length], rel=1e-2)


def test_muon_lets_matrices_decay_and_nothing_else():
    def after_a_step(weight_decay):
        model = small_model()
        weights = MasterWeights(model, dtype=torch.float32)
        rates = {"matrix_learning_rate": 0.02, "embedding_learning_rate": 1e-3, "other_learning_rate": 1e-2}
        one_step(model, muon_and_adamw(weights, **rates, embeddings=["2.weight"], weight_decay=weight_decay), 0)
        return {name: parameter.detach() for name, parameter in model.named_parameters()}

    start = dict(small_model().named_parameters())
    without, decayed = after_a_step(0.0), after_a_step(0.5)
    for name, parameter in decayed.items():
        expected = without[name] - 0.02 * 0.5 * start[name].detach() if name == "0.weight" else without[name]
        torch.testing.assert_close(parameter, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_brings_a_fresh_run_to_the_same_place(dtype):
    def build():
        model = small_model()
        weights = MasterWeights(model, dtype=dtype)
        return model, muon_and_adamw(
            weights,
            matrix_learning_rate=0.02,
            embedding_learning_rate=1e-3,
            other_learning_rate=1e-2,
            embeddings=["2.weight"],
            weight_decay=0.01,
        )

    model, optimizer = build()
    for seed in range(3):
        one_step(model, optimizer, seed)
    state = {name: tensor.clone() for name, tensor in optimizer.state().items()}
    again, resumed = build()
    resumed.load_state(state)
    for seed in range(3, 6):
        one_step(model, optimizer, seed)
        one_step(again, resumed, seed)
    for expected, found in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_state_of_another_model_is_refused():
    _, other = small_model(), nn.Linear(2, 2)
    foreign = adamw(MasterWeights(other, dtype=torch.float32), learning_rate=1e-2, weight_decay=0.0).state()
    optimizer = adamw(MasterWeights(small_model(), dtype=torch.float32), learning_rate=1e-2, weight_decay=0.0)
    with pytest.raises(UserError, match="another model"):
        optimizer.load_state(foreign)


def test_gradients_of_several_passes_add_up_in_float32():
    model = nn.Linear(1, 1, bias=False)
    weights = MasterWeights(model, dtype=torch.bfloat16)
    for size in (1.0, *[2.0**-9] * 8):  # each too small to change 1 in bfloat16
        model.weight.grad = torch.full((1, 1), size, dtype=torch.bfloat16)
        weights.take_gradients()
        assert model.weight.grad is None
    assert weights.masters[0].grad.item() == 1.0 + 8 * 2.0**-9
    weights.write_back()
    assert weights.masters[0].grad is None


def test_state_of_a_model_of_another_size_is_refused():
    state = adamw(MasterWeights(nn.Linear(4, 3), dtype=torch.float32), learning_rate=0.1, weight_decay=0.0).state()
    other = adamw(MasterWeights(nn.Linear(4, 5), dtype=torch.float32), learning_rate=0.1, weight_decay=0.0)
    with pytest.raises(UserError, match=r"weight has the shape \(3, 4\) there"):
        other.load_state(state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_matrices_stepped_by_shape_move_as_torch_moves_them_one_by_one(dtype):
    generator = torch.Generator().manual_seed(5)
    shapes = [(12, 12), (20, 8), (8, 20), (12, 12), (20, 8)]
    starts = [torch.randn(shape, generator=generator) for shape in shapes]
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    plain, stacked = ([start.clone().requires_grad_() for start in starts] for _ in range(2))
    by_torch, ours = torch.optim.Muon(plain, **settings), StackedMuon(stacked, dtype=dtype, **settings)
    for step in range(4):
        for one, other in zip(plain, stacked, strict=True):
            one.grad = torch.randn(one.shape, generator=generator)
            other.grad = one.grad.clone()
        if step == 2:  # a matrix that a step did not reach stays where it is
            plain[3].grad = stacked[3].grad = None
        by_torch.step()
        ours.step()
    for start, one, other in zip(starts, plain, stacked, strict=True):
        assert (one - start).abs().max() > 0.01
        torch.testing.assert_close(one, other, atol=2e-3, rtol=0)  # the iteration runs in bfloat16
    for one, other in zip(plain, stacked, strict=True):
        torch.testing.assert_close(by_torch.state[one]["momentum_buffer"], ours.state[other]["momentum_buffer"])
    again = StackedMuon([start.clone().requires_grad_() for start in starts], **settings)
    again.load_state_dict(by_torch.state_dict())  # a run may go on on another machine


@pytest.mark.parametrize("shape", [(6, 6), (4, 6), (6, 4), (4, 8), (4, 20), (20, 4), (1, 5), (5, 1)])
def test_updates_in_float32_are_the_iterations_polynomial_of_the_singular_values(shape):
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradient[0] *= 1e-3  # small singular values too
    left, singular, right = torch.linalg.svd(gradient / gradient.norm(), full_matrices=False)
    for _ in range(5):
        singular = 3.4445 * singular - 4.775 * singular**3 + 2.0315 * singular**5
    matrix = torch.zeros(shape, requires_grad=True)
    matrix.grad = gradient.float()
    StackedMuon([matrix], dtype=torch.float32, lr=1.0, momentum=0.0, weight_decay=0.0).step()
    rate = max(1.0, shape[0] / shape[1]) ** 0.5
    torch.testing.assert_close(-matrix.detach().double(), rate * left @ singular.diag() @ right, atol=2e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_muon_iterates_in_the_data_type_of_the_model(dtype, monkeypatch):
    """A processor without bfloat16 emulates its products, fifty times as slowly: a step of tain-mini took forty seconds."""
    model = nn.Linear(4, 6)
    made = muon_and_adamw(
        MasterWeights(model, dtype=dtype),
        matrix_learning_rate=0.02,
        embedding_learning_rate=1e-3,
        other_learning_rate=1e-3,
        embeddings=[],
        weight_decay=0.1,
    )
    seen = set()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            if "mm" in function.__name__:
                seen.add(arguments[0].dtype)
            return function(*arguments, **(named or {}))

    model(torch.ones(2, 4, dtype=dtype)).sum().backward()
    with Seen():
        made.step()
    assert seen == {dtype}


def test_an_older_torch_without_muon_is_named(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    weights = MasterWeights(nn.Linear(3, 2), dtype=torch.float32)
    with pytest.raises(
        UserError, match=r"optimizer muon needs torch 2\.9 or newer, and this is .*: upgrade torch, or give --optimizer adamw"
    ):
        muon_and_adamw(
            weights, matrix_learning_rate=0.02, embedding_learning_rate=1e-3, other_learning_rate=1e-3, embeddings=[], weight_decay=0.0
        )
