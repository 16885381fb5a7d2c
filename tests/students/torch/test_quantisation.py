"""Eight-bit training: the grid, straight-through gradients, moving ranges, and batch norm over real tokens."""

import pytest
import torch

from tain.students.torch.quantisation import (
    UNIT_SCALE,
    UNIT_ZERO,
    MovingRange,
    TokenBatchNorm,
    fake_quantise,
    fake_quantise_table,
    fake_quantise_weight,
    grid_of,
    quantised_product,
    stored_table,
    stored_weight,
    whole_numbers,
)

RANGES = [(-1.0, 1.0), (0.3, 2.0), (-3.0, -0.2), (-0.001, 7.0), (0.0, 0.0)]


@pytest.mark.parametrize(("low", "high"), RANGES)
def test_values_move_by_half_a_step_at_most_and_only_once(low, high):
    values = torch.linspace(low, high, 999)
    scale, zero = grid_of(torch.tensor(low), torch.tensor(high))
    rounded = fake_quantise(values, scale=scale, zero=zero)
    assert (rounded - values).abs().max() <= scale / 2 * 1.001
    torch.testing.assert_close(fake_quantise(rounded, scale=scale, zero=zero), rounded, atol=0, rtol=0)
    assert fake_quantise(torch.zeros(1), scale=scale, zero=zero).item() == 0.0


def test_features_and_the_unit_range_lie_on_the_fixed_grid():
    values = torch.arange(-127, 128) / 127
    torch.testing.assert_close(fake_quantise(values, scale=UNIT_SCALE, zero=UNIT_ZERO), values)


def test_the_gradient_passes_inside_the_range_and_nowhere_else():
    values = torch.tensor([-5.0, -0.5, 0.0, 0.7, 5.0], requires_grad=True)
    fake_quantise(values, scale=UNIT_SCALE, zero=UNIT_ZERO).sum().backward()
    assert values.grad.tolist() == [0, 1, 1, 1, 0]


def test_stored_weights_mean_what_training_saw():
    weight = torch.randn(7, 5)
    weight[3] = 0.0
    stored, steps = stored_weight(weight)
    assert stored.dtype == torch.int8
    torch.testing.assert_close(stored.float() * steps[:, None], fake_quantise_weight(weight))


def test_stored_tables_mean_what_training_saw():
    table = torch.randn(7, 5) + 1
    stored, step, zero = stored_table(table)
    assert stored.dtype == torch.uint8
    torch.testing.assert_close((stored.float() - zero) * step, fake_quantise_table(table))


def test_each_output_has_a_step_of_its_own():
    weight = torch.tensor([[1.0, -0.5, 0.3], [100.0, 1.0, -50.0]])
    rounded = fake_quantise_weight(weight)
    assert ((rounded - weight).abs() <= weight.abs().amax(1, keepdim=True) / 63 / 2 * 1.001).all()
    torch.testing.assert_close(fake_quantise_weight(rounded), rounded)
    stacked = torch.stack([torch.randn(4, 6), 100 * torch.randn(4, 6)])
    torch.testing.assert_close(fake_quantise_weight(stacked), torch.stack([fake_quantise_weight(matrix) for matrix in stacked]))


def test_two_products_fit_sixteen_bits():
    """What processors add up without instructions of their own for bytes; see ``fake_quantise_weight``."""
    stored, _ = stored_weight(torch.randn(50, 40) * 10)
    assert 2 * 255 * int(stored.abs().max()) < 2**15


def test_the_gradient_passes_through_weights_that_are_rounded():
    weight = torch.randn(3, 4, requires_grad=True)
    fake_quantise_weight(weight).sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones(3, 4))


@pytest.mark.parametrize("scale", [UNIT_SCALE, 0.037])
def test_whole_numbers_in_bfloat16_multiply_exactly(scale):
    weight = torch.randn(6, 3)
    values = torch.randint(-128, 128, (5, 3)) * scale
    steps = weight.abs().amax(dim=1) / 63
    exact = (values.double() / scale).round() @ (weight.double() / steps[:, None].double()).round().T
    expected = exact.bfloat16().double() * (steps * scale).double()  # the sum is rounded once, and nothing else
    bias = torch.zeros(6)
    found = quantised_product(values, weight, bias, scale=scale, dtype=torch.bfloat16)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(
        found, quantised_product(whole_numbers(values, scale=scale), weight, bias, scale=scale, dtype=torch.bfloat16)
    )
    plain = quantised_product(values, weight, bias, scale=scale, dtype=torch.float32)
    torch.testing.assert_close(plain.double(), exact * (steps * scale).double(), rtol=1e-5, atol=1e-6)


def test_gradients_of_whole_products_are_those_of_float32_rounded():
    values, weight, bias, above = torch.randint(-127, 128, (40, 16)) / 127, torch.randn(8, 16), torch.randn(8), torch.randn(40, 8)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs = (values.clone().requires_grad_(), weight.clone().requires_grad_(), bias.clone().requires_grad_())
        product = quantised_product(*inputs, scale=UNIT_SCALE, dtype=dtype)
        found.append(torch.autograd.grad((product * above).sum(), inputs))
    for plain, whole in zip(*found, strict=True):
        torch.testing.assert_close(whole, plain, atol=0.01 * plain.abs().max().item(), rtol=0)


def test_the_moving_range_is_mostly_the_old_one():
    moving = MovingRange(decay=0.9).train()
    moving(torch.tensor([[0.0], [4.0]]))
    assert moving.high.item() == 4.0  # begun with the first batch
    moving(torch.tensor([[-1.0], [14.0]]))
    assert (moving.low.item(), moving.high.item()) == pytest.approx((-0.1, 5.0))
    moving.eval()(torch.tensor([[0.0], [99.0]]))
    assert moving.high.item() == pytest.approx(5.0)


def test_norm_of_tokens_is_batch_norm_and_moves_as_it_does():
    norm, plain = TokenBatchNorm(3), torch.nn.BatchNorm1d(3, eps=1e-3)
    values = torch.randn(5, 3) * 3 + 1
    torch.testing.assert_close(norm(values), plain(values))
    torch.testing.assert_close((norm.mean, norm.variance), (plain.running_mean, plain.running_var))
    norm.eval()
    scale, shift = norm.scale_and_shift()
    torch.testing.assert_close(norm(values), values * scale + shift)


@pytest.mark.parametrize("tokens", [1, 0])
def test_a_lone_token_and_none_at_all_are_finite_and_move_nothing(tokens):
    norm = TokenBatchNorm(3)
    assert norm(torch.randn(tokens, 3)).isfinite().all()
    assert norm.variance.tolist() == [1.0] * 3
