"""Choice of the device, garbage collection, and reuse of freed memory."""

import gc
import subprocess
import sys

import pytest
import torch

from tain.foundation import machine
from tain.foundation.errors import UserError
from tain.foundation.machine import choose_device


def test_a_gpu_beyond_those_that_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="device is 'cuda:2', but there are 2 GPUs here: give cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_collection_put_off_starts_again_and_passes_over_what_is_there():
    usual, frozen = gc.get_threshold(), gc.get_freeze_count()
    machine.collect_as_usual()  # was not put off
    assert (gc.get_threshold(), gc.get_freeze_count()) == (usual, frozen)
    try:
        machine.put_off_collection()
        assert gc.get_threshold()[0] > 100 * usual[0]
        machine.collect_as_usual()
        assert gc.get_threshold() == usual
        assert gc.get_freeze_count() > frozen
    finally:
        gc.unfreeze()
        gc.set_threshold(*usual)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is told what to do with freed memory")
def test_freed_memory_is_reused_without_mapping_it_again():
    program = """
import resource, sys, torch
from tain.foundation.machine import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):  # the heap grows a few times before it has room
    torch.ones(10_000_000)
before = faults()
for _ in range(10):
    torch.ones(10_000_000)
print(faults() - before)
"""
    found = {how: int(subprocess.check_output([sys.executable, "-c", program, how], timeout=60)) for how in ("keep", "leave")}
    assert found["keep"] < found["leave"] / 10
