"""Which device a name stands for."""

import pytest
import torch

from tain.foundation.errors import UserError
from tain.foundation.runtime import choose_device


def test_a_gpu_beyond_those_that_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="device is 'cuda:2', but there are 2 GPUs here: give cuda:0 to cuda:1"):
        choose_device("cuda:2")
