"""The gradient equals that of the whole batch for any micro-batches."""

import pytest
import torch
from torch import nn

from tain.objectives.contrastive import info_nce
from tain.training.gradcache import cached_gradients


def gradients_of(model, rows_of_parts, texts, seed=0):
    model.zero_grad()
    value = cached_gradients(
        [texts[rows] for rows in rows_of_parts],
        rows=rows_of_parts,
        embed=model,
        loss=lambda vectors: info_nce(vectors[0::2], vectors[1::2], temperature=0.1),
        reseed=lambda part: torch.manual_seed(1000 * seed + part),
        total=len(texts),
    )
    return value, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.fixture
def texts():
    return torch.randn(12, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def model():
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 4)).double()


@pytest.mark.parametrize(
    "rows", [[[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]], [[11, 3, 0], [5, 4, 9, 8], [10], [1, 2, 6, 7]], [[row] for row in range(12)]]
)
def test_micro_batches_give_the_whole_batchs_gradient(model, texts, rows):
    whole_value, whole = gradients_of(model, [list(range(12))], texts)
    value, cached = gradients_of(model, rows, texts)
    assert value == pytest.approx(whole_value, rel=1e-6)
    for expected, found in zip(whole, cached, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_it_equals_plain_backward(model, texts):
    value, found = gradients_of(model, [[0, 1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11]], texts)
    model.zero_grad()
    vectors = model(texts)
    loss = info_nce(vectors[0::2], vectors[1::2], temperature=0.1)
    loss.backward()
    assert value == pytest.approx(loss.item(), rel=1e-6)
    for parameter, gradient in zip(model.parameters(), found, strict=True):
        torch.testing.assert_close(gradient, parameter.grad, atol=1e-6, rtol=1e-5)


def test_both_passes_drop_the_same_elements(texts):
    """With dropout the gradient must be that of the vectors the loss saw: check against an explicit mask."""
    torch.manual_seed(3)
    linear = nn.Linear(6, 4).double()
    seen = []

    class Noisy(nn.Module):
        def forward(self, rows):
            mask = (torch.rand(rows.shape) > 0.3).double()
            seen.append(mask)
            return linear(rows * mask)

    rows = [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    linear.zero_grad()
    cached_gradients(
        [texts[part] for part in rows],
        rows=rows,
        embed=Noisy(),
        loss=lambda vectors: info_nce(vectors[0::2], vectors[1::2], temperature=0.1),
        reseed=torch.manual_seed,
        total=12,
    )
    torch.testing.assert_close(seen[0], seen[2])
    torch.testing.assert_close(seen[1], seen[3])
    found = linear.weight.grad.clone()
    linear.zero_grad()
    vectors = linear(texts * torch.cat(seen[:2]))
    info_nce(vectors[0::2], vectors[1::2], temperature=0.1).backward()
    torch.testing.assert_close(found, linear.weight.grad, atol=1e-6, rtol=1e-5)
