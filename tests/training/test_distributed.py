"""Joining other processes: which backend, and who has nothing to do. What they compute together is tested with each recipe."""

import pytest
import torch
import torch.distributed as dist

from tain.foundation.errors import UserError
from tain.training import distributed


@pytest.mark.parametrize(
    ("has_gpu", "device", "backend"),
    [(True, None, "nccl"), (True, "cuda:1", "nccl"), (True, "cpu", "gloo"), (False, None, "gloo"), (False, "cpu", "gloo")],
)
def test_the_backend_is_that_of_the_device_asked_for(monkeypatch, has_gpu, device, backend):
    joined, chosen = [], []
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(dist, "init_process_group", lambda name, **_: joined.append(name))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    distributed.start_processes(device)
    assert joined == [backend]
    assert chosen == ([1] if backend == "nccl" else [])


def test_more_processes_than_things_to_share_are_refused(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 8)
    distributed.refuse_idle_processes(8, what="views")
    with pytest.raises(UserError, match="8 processes share a batch of 4 views, and some would have none: start fewer, or give larger"):
        distributed.refuse_idle_processes(4, what="views")
