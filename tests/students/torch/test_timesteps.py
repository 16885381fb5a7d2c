"""Tokens without padding: layout, neighbours, and the recurrence against a loop."""

import pytest
import torch

from tain.students.torch.timesteps import Timesteps, forgetting, recur

LENGTHS = (3, 0, 7, 1, 7, 2)


def looped(keep, add):
    state, states = torch.zeros_like(add[:, 0]), []
    for index in range(keep.shape[1]):
        state = keep[:, index] * state + add[:, index]
        states.append(state)
    return torch.stack(states, dim=1)


def some(lengths=LENGTHS, longest=9, dim=4):
    """Steps and padded values of texts of these lengths, zeros behind their ends."""
    is_token = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return Timesteps(is_token), torch.randn(len(lengths), longest, dim, dtype=torch.float64) * is_token[..., None]


def test_packing_keeps_every_token_and_nothing_else():
    steps, values = some()
    packed = steps.packed(values)
    assert len(packed) == len(steps) == sum(LENGTHS)
    assert steps.counts == [5, 4, 3, 2, 2, 2, 2]
    torch.testing.assert_close(packed[:2], values[[2, 4], 0])  # the longest ones come first
    torch.testing.assert_close(steps.padded(packed), values)
    assert (steps.padded(packed, fill=-1.0)[1] == -1.0).all()


def test_turning_and_shifting_are_each_texts_own():
    steps, values = some()
    packed = steps.packed(values)
    turned, shifted, ahead = (
        steps.padded(moved) for moved in (steps.turned(packed), steps.shifted(packed), steps.shifted(packed, is_ahead=True))
    )
    for text, length in enumerate(LENGTHS):
        torch.testing.assert_close(turned[text, :length], values[text, :length].flip(0))
        torch.testing.assert_close(shifted[text, 1:length], values[text, : max(0, length - 1)])
        assert not shifted[text, :1].any()
        torch.testing.assert_close(ahead[text, : max(0, length - 1)], values[text, 1:length])
        assert not ahead[text, max(0, length - 1) :].any()


@pytest.mark.parametrize("what", ["turned", "shifted", "packed-and-padded"])
def test_gradients_of_moves_are_exact(what):
    steps, values = some()
    function = (lambda rows: steps.packed(steps.padded(rows))) if what == "packed-and-padded" else getattr(steps, what)
    assert torch.autograd.gradcheck(function, steps.packed(values).requires_grad_())


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (1, 1), (9,), (0, 2)])
def test_the_loop_over_steps_is_the_recurrence_and_so_is_its_gradient(lengths, directions):
    steps, new = some(lengths)
    forget = torch.rand_like(new)
    packed = [steps.packed(tensor).requires_grad_() for tensor in (forget, new)]
    ours = forgetting(*packed, steps, directions=directions)
    read = []
    for direction, (keep, add) in enumerate(zip(*(tensor.chunk(directions, dim=1) for tensor in packed), strict=True)):
        turned = steps.turned if direction else lambda values: values
        keep, add = turned(keep), turned(add)
        read.append(turned(steps.packed(looped(steps.padded(keep), steps.padded((1 - keep) * add)))))
    expected = torch.cat(read, dim=1)
    torch.testing.assert_close(ours, expected)
    weight = torch.randn_like(ours)
    torch.testing.assert_close(torch.autograd.grad((ours * weight).sum(), packed), torch.autograd.grad((expected * weight).sum(), packed))


def test_no_tokens_at_all_are_no_rows():
    steps = Timesteps(torch.zeros(2, 3, dtype=torch.bool))
    rows = torch.zeros(0, 4)
    assert forgetting(rows, rows, steps).shape == steps.shifted(rows).shape == (0, 4)
    assert steps.padded(rows).shape == (2, 3, 4)


@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 8, 9, 33])
def test_the_scan_equals_the_loop_and_so_does_its_gradient(tokens):
    keep = torch.rand(3, tokens, 5, dtype=torch.float64).requires_grad_()
    add = torch.randn(3, tokens, 5, dtype=torch.float64).requires_grad_()
    torch.testing.assert_close(recur(keep, add), looped(keep, add))
    weight = torch.randn(3, tokens, 5, dtype=torch.float64)
    ours = torch.autograd.grad((recur(keep, add) * weight).sum(), (keep, add))
    plain = torch.autograd.grad((looped(keep, add) * weight).sum(), (keep, add))
    torch.testing.assert_close(ours, plain)


def test_keeping_all_keeps_the_state_and_keeping_nothing_copies():
    add = torch.randn(2, 6, 3)
    first_only = torch.cat([add[:, :1], torch.zeros(2, 5, 3)], dim=1)
    torch.testing.assert_close(recur(torch.ones(2, 6, 3), first_only), add[:, :1].expand(-1, 6, -1))
    torch.testing.assert_close(recur(torch.zeros(2, 6, 3), add), add)


@pytest.mark.parametrize("directions", [1, 2])
def test_off_the_processor_the_scan_takes_over(monkeypatch, directions):
    steps, new = some()
    forget, new = steps.packed(torch.rand_like(new)), steps.packed(new)
    expected = forgetting(forget, new, steps, directions=directions)
    monkeypatch.setattr(torch.Tensor, "device", torch.device("cuda"))
    torch.testing.assert_close(forgetting(forget, new, steps, directions=directions), expected)
