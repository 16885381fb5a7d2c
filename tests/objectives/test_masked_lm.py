import math

import pytest
import torch

from tain.objectives.masked_lm import masked_cross_entropy


def test_equal_logits_give_chance_level():
    assert masked_cross_entropy(torch.zeros(3, 50), torch.tensor([0, 7, 49])).item() == pytest.approx(math.log(50))


def test_it_is_the_mean_negative_log_probability():
    logits = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([1, 0, 8, 3])
    expected = -logits.log_softmax(-1)[torch.arange(4), targets].mean()
    torch.testing.assert_close(masked_cross_entropy(logits, targets), expected)
