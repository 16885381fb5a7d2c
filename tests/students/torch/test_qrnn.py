"""The pQRNN: recurrence against a loop, visible tokens, padding, zoneout, and parameter counts."""

import pytest
import torch

from tain.students.torch.qrnn import PQRNN, QRNNLayer, StudentShape, windows, zoneout_chance
from tain.students.torch.timesteps import Timesteps, forgetting

SHAPE = StudentShape(features=40, bottleneck=12, state=6, layers=2, text_outputs=5, token_outputs=3)


def layer(into=4, state=3, **changes):
    settings = {"kernel_width": 2, "bidirectional": True, "zoneout": 0.0} | changes
    made = QRNNLayer(into, state, **settings)
    with torch.no_grad():
        made.bias.normal_()
        made.norm.mean.normal_()
        made.norm.variance.uniform_(0.5, 2)
    return made.eval()


def everywhere(values):
    return Timesteps(torch.ones(values.shape[:2], dtype=torch.bool))


def read(made, values):
    """A layer's output on texts that are all equally long, (texts, tokens, width)."""
    steps = everywhere(values)
    return steps.padded(made(steps.packed(values), steps))


def student(shape=SHAPE, **settings):
    """A student whose moving statistics are not those of a fresh one."""
    made = PQRNN(shape, **settings)
    made.train()
    for _ in range(3):
        made(*batch())
    return made


def batch(seed=0, lengths=(7, 4, 1), longest=None):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(-1, 2, (15, 40), generator=generator).float()
    rows[0] = 0
    ids = torch.zeros(len(lengths), longest or max(lengths), dtype=torch.long)
    for index, length in enumerate(lengths):
        ids[index, :length] = torch.randint(1, 15, (length,), generator=generator)
    return rows, ids


def test_a_layer_equals_its_equations_step_by_step():
    made, values = layer(bidirectional=False), torch.rand(2, 5, 4)
    steps = everywhere(values)
    wide = steps.padded(windows(steps.packed(values), steps, 2))
    scale, shift = made.scale_and_shift(0)
    sums = (wide @ made.weight.detach().flatten(0, 1).T + made.bias.flatten()) * scale + shift
    z, f, o = sums[..., :3].tanh(), sums[..., 3:6].sigmoid(), sums[..., 6:].sigmoid()
    state = torch.zeros(2, 3)
    for index in range(5):
        state = f[:, index] * state + (1 - f[:, index]) * z[:, index]
        torch.testing.assert_close(read(made, values)[:, index], o[:, index] * state, atol=0.02, rtol=0)  # eight bits


# ---- what a token may see


def test_reading_forwards_sees_nothing_that_comes_later():
    made, values = layer(bidirectional=False), torch.rand(1, 8, 4)
    changed = values.clone()
    changed[:, 5:] = torch.rand(1, 3, 4)
    before, after = read(made, values), read(made, changed)
    torch.testing.assert_close(before[:, :5], after[:, :5], atol=0, rtol=0)
    assert (before[:, 5:] != after[:, 5:]).any()


@pytest.mark.parametrize("kernel_width", [1, 2, 3])
def test_a_gate_sees_as_many_tokens_as_the_kernel_is_wide(kernel_width):
    values = torch.rand(1, 9, 4).requires_grad_()
    steps = everywhere(values)
    steps.padded(windows(steps.packed(values), steps, kernel_width))[0, 5].sum().backward()
    assert values.grad is not None
    assert values.grad[0].any(dim=1).nonzero().flatten().tolist() == list(range(6 - kernel_width, 6))


def test_reading_backwards_is_reading_the_turned_text_forwards():
    both, forwards, values = layer(), layer(bidirectional=False), torch.rand(2, 6, 4)
    with torch.no_grad():
        forwards.weight.copy_(both.weight[3:])
        forwards.bias.copy_(both.bias[3:])
    forwards.norm.load_state_dict({name: tensor.view(3, 2, -1)[:, 1].flatten() for name, tensor in both.norm.state_dict().items()})
    turned = read(forwards, values.flip(1)).flip(1)
    torch.testing.assert_close(read(both, values)[..., 3:], turned)


def test_a_forward_student_gives_the_same_while_the_text_grows():
    shape = StudentShape(features=40, bottleneck=12, state=6, layers=3, token_outputs=4, bidirectional=False)
    made = student(shape).eval()
    rows, ids = batch(lengths=(7,))
    whole = made(rows, ids)[1]
    torch.testing.assert_close(made(rows, ids[:, :4])[1], whole[:, :4])


# ---- padding


@pytest.mark.parametrize("is_training", [False, True])
def test_padding_changes_nothing(is_training):
    made = student().train(is_training)
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    text, tokens = made(*batch())
    kept = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    made.load_state_dict(state)
    padded_text, padded_tokens = made(*batch(longest=19))
    torch.testing.assert_close(padded_text, text)
    torch.testing.assert_close(padded_tokens[:, :7], tokens)
    torch.testing.assert_close(dict(made.state_dict()), kept)  # moving statistics too


def test_a_text_without_tokens_is_finite():
    text, _ = student().eval()(*batch(lengths=(3, 0)))
    assert text.isfinite().all()


# ---- zoneout


def test_no_zoneout_changes_nothing_and_certain_zoneout_gives_zero():
    values = torch.rand(2, 6, 4)
    plain, never, always = layer(), layer(), layer(zoneout=1.0)
    for made in (never, always):
        made.load_state_dict(plain.state_dict())
    torch.testing.assert_close(read(plain.train(), values), read(never.train(), values))
    assert not read(always.train(), values).any()
    always.load_state_dict(plain.state_dict())
    torch.testing.assert_close(read(always.eval(), values), read(plain.eval(), values))  # in training only


def test_the_share_of_kept_states_falls_with_the_layer(monkeypatch):
    shape = StudentShape(features=40, bottleneck=4, state=64, layers=3, token_outputs=2)
    made = PQRNN(shape, zoneout=0.5).train()
    shares = []

    def watched(forget, new, steps, **more):
        shares.append((forget == 1.0).float().mean().item())
        return forgetting(forget, new, steps, **more)

    monkeypatch.setattr("tain.students.torch.qrnn.forgetting", watched)
    rows, ids = batch(lengths=(40, 30, 30))
    made(rows, ids)
    assert shares == pytest.approx([0.5, 0.25, 0.125], abs=0.02)
    assert [zoneout_chance(0.5, layer) for layer in (1, 2, 3)] == [0.5, 0.25, 0.125]


# ---- sizes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 1},
        {"kernel_width": 3},
        {"bidirectional": False},
        {"text_outputs": 0},
        {"token_outputs": 0},
        {"layers": 4, "state": 9},
        {"skip": True},
        {"skip": True, "text_outputs": 0},
    ],
)
def test_the_count_of_parameters_is_the_formulas(changes):
    shape = StudentShape(**{**vars(SHAPE), **changes})
    assert sum(parameter.numel() for parameter in PQRNN(shape).parameters()) == parameter_count(shape)


def parameter_count(shape: StudentShape) -> int:
    """Weights, biases and norms of a pQRNN, by formula."""
    count = shape.features * shape.bottleneck + shape.bottleneck + 2 * shape.bottleneck
    into = shape.bottleneck
    for _ in range(shape.layers):
        count += 3 * shape.directions * (shape.kernel_width * into * shape.state + shape.state + 2 * shape.state)
        into = shape.width
    heads = [outputs for outputs in (shape.text_outputs, shape.token_outputs) if outputs]
    attention = shape.width + 1 if shape.text_outputs else 0
    if shape.skip:
        count += (shape.bottleneck + 1) * shape.text_outputs
    return count + attention + sum(shape.width * outputs + outputs for outputs in heads)


def test_the_papers_size_comes_to_two_million():
    body = parameter_count(StudentShape(features=1024, bottleneck=256, state=128, layers=4))
    assert body == 1024 * 256 + 3 * 256 + 4 * 6 * (2 * 256 * 128 + 3 * 128)
    assert body == pytest.approx(1.85e6, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gradient_reaches_every_parameter(dtype):
    made = student(dtype=dtype)
    text, tokens = made(*batch())
    (text.square().sum() + tokens.square().sum()).backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_products_of_whole_numbers_learn_as_float32_does():
    plain, whole = student(), student(dtype=torch.bfloat16)
    whole.load_state_dict(plain.state_dict())
    for made in (plain, whole):
        made.zero_grad()
        text, tokens = made.train()(*batch(seed=1))
        (text.square().sum() + tokens.square().sum()).backward()
    one, other = (torch.cat([parameter.grad.flatten() for parameter in made.parameters()]) for made in (plain, whole))
    assert torch.cosine_similarity(one, other, dim=0) > 0.99
    whole.load_state_dict(plain.state_dict())
    torch.testing.assert_close(whole.eval()(*batch()), plain.eval()(*batch()), atol=0, rtol=0)  # in training only
