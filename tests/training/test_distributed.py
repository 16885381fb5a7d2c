"""Starting distributed processes: choice of the backend. Training with several processes is tested with each recipe."""

import json
import subprocess
import sys
from pathlib import Path

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


# ---- leaving the group


_THREADS = """
import glob
def gloo_threads():
    return [name for path in glob.glob("/proc/self/task/*/comm") if "gloo" in (name := open(path).read().strip())]
"""
_ALONE = """
import os, time
os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
import torch
from tain.training import distributed
distributed.start_processes("cpu")
began_s = time.monotonic()
while not gloo_threads() and time.monotonic() - began_s < 60:  # a thread takes its name when it first runs
    time.sleep(0.01)
assert gloo_threads()  # or this test shows nothing
"""
needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="thread names are read from /proc")


@needs_proc
@pytest.mark.parametrize("ends", ["distributed.end_processes()", "distributed.end_processes(waits=False)"])
def test_no_thread_of_the_group_is_left_whatever_was_imported_meanwhile(ends):
    """One that is left meets an interpreter that is shutting down, and the process dies of SIGABRT."""
    code = _THREADS + _ALONE + f"import torch.distributed.nn.functional, torch._dynamo\n{ends}\nassert not gloo_threads(), gloo_threads()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@needs_proc
@pytest.mark.parametrize(("flags", "code"), [([], 0), (["--temperature", "0.1", "--micro-tokens", "100", "--max-tokens", "5000"], 2)])
def test_the_command_line_leaves_no_thread_whether_it_is_done_or_refuses(bert_folder, tmp_path, flags, code):
    """``--max-tokens`` is refused once the model is loaded, when the processes have long joined."""
    words = ["river", "sand", "glass", "mirror", "fox", "dog", "bread", "star", "sea", "house", "train", "letter"]
    (tmp_path / "texts.txt").write_text("\n".join(f"{a} {b}" for a in words for b in words if a < b))
    arguments = ["mirror", str(bert_folder), str(tmp_path / "texts.txt"), "-o", str(tmp_path / "out"), "--batch-texts", "16"]
    arguments += ["--device", "cpu", "--dtype", "float32", *(flags or ["--max-tokens", "20"])]
    script = tmp_path / "two.py"
    script.write_text(
        _THREADS
        + f"""
import torch, torch.distributed as dist
from tain.cli.main import main
joined = []
real = dist.init_process_group
dist.init_process_group = lambda *a, **k: (real(*a, **k), joined.extend(gloo_threads()))
try:
    main({json.dumps(arguments)})
except SystemExit as stop:
    assert stop.code == {code}, stop.code
else:
    assert {code} == 0
assert joined
assert not gloo_threads(), gloo_threads()
"""
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
