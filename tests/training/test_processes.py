"""Several processes as torchrun starts them: equal gradients, checkpoints of another process count, and the end of a lost one."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

WORDS = ["river", "sand", "glass", "mirror", "fox", "dog", "bread", "star", "sea", "house", "train", "letter"]
SETTINGS = ["--device", "cpu", "--dtype", "float32", "--max-tokens", "20", "--batch-texts", "12", "--checkpoint-every-s", "0"]


def torchrun(processes: int, *arguments: object) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*start, *map(str, arguments)]


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(f"{a} {b}" for a in WORDS for b in WORDS if a < b) + "\n")
    return path


def test_four_processes_give_the_gradient_of_one(tmp_path, bert_folder):
    """Contrastive loss over ten items, shared as 2, 3, 2 and 3: parts differ, and each process has its own micro-batches."""
    script = tmp_path / "gradients.py"
    script.write_text(
        """
import sys, torch
from tain.objectives.contrastive import info_nce
from tain.training import distributed
from tain.training.gradcache import cached_gradients
distributed.start_processes("cpu")
torch.manual_seed(3)
model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4)).double()
items = torch.randn(10, 2, 6, dtype=torch.float64)
mine = items[distributed.share_of(10)].reshape(-1, 6)
loss = cached_gradients([mine[:3], mine[3:]], rows=[[0, 1, 2], list(range(3, len(mine)))], embed=model,
    loss=lambda v: info_nce(v[0::2], v[1::2], temperature=0.1), reseed=torch.manual_seed, total=10, rows_each=2)
distributed.sum_gradients(model.parameters())
torch.save([torch.tensor(loss), *(p.grad for p in model.parameters())], f"{sys.argv[1]}/{distributed.world_size()}-{distributed.rank()}.pt")
distributed.end_processes()
"""
    )
    import torch

    for processes in (1, 4):
        done = subprocess.run(torchrun(processes, script, tmp_path), capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    expected = torch.load(tmp_path / "1-0.pt", weights_only=True)
    for rank in range(4):
        for found, alone in zip(torch.load(tmp_path / f"4-{rank}.pt", weights_only=True), expected, strict=True):
            torch.testing.assert_close(found.double(), alone.double(), atol=1e-6, rtol=1e-5)


def test_a_killed_process_ends_the_others_and_two_continue_what_three_began(tmp_path, bert_folder, texts):
    """The signal comes while all train; a checkpoint of three processes is then read by two."""
    from safetensors.numpy import load_file

    out, pids = tmp_path / "out", tmp_path / "pids"
    pids.mkdir()
    script = tmp_path / "slow.py"
    script.write_text(
        f"""
import os, sys, time
from pathlib import Path
from tain.recipes.mirror.trainer import MirrorTrainer
from tain.training import distributed
real = MirrorTrainer.gradient_step
def slow(self, *args, **settings):
    Path({str(pids)!r}, f"{{distributed.rank()}}-{{os.getpid()}}").touch()
    time.sleep(0.3)
    return real(self, *args, **settings)
MirrorTrainer.gradient_step = slow
from tain.cli.main import main
main(sys.argv[1:])
"""
    )
    command = torchrun(3, script, "mirror", bert_folder, texts, "-o", out, "--epochs", "40", *SETTINGS)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline_s = time.monotonic() + 400
        while len(list(pids.iterdir())) < 3 or not list(tmp_path.glob(".out.checkpoint*/state.json")):
            assert time.monotonic() < deadline_s and process.poll() is None
            time.sleep(0.1)
        victim = next(int(path.name.partition("-")[2]) for path in pids.iterdir() if path.name.startswith("2-"))
        os.kill(victim, signal.SIGKILL)
        began_s = time.monotonic()
        _, error = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode != 0
    assert time.monotonic() - began_s < 60  # seconds on an idle machine
    for line in re.findall(r"^error: .*$", error, re.MULTILINE):
        assert (
            line
            == "error: another process of this run has ended, so this one cannot go on: look for its message, and continue with --resume"
        )
    assert "3 processes share each batch of 12 texts: each has the 11 others as negatives" in error
    assert not out.exists()
    assert not any(Path(f"/proc/{path.name.partition('-')[2]}/stat").exists() for path in pids.iterdir())

    again = torchrun(2, "-m", "tain", "mirror", bert_folder, texts, "-o", out, "--epochs", "40", "--resume", *SETTINGS)
    done = subprocess.run(again, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert all(np.isfinite(array).all() for array in load_file(out / "model.safetensors").values())
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".")} == set()


def test_an_error_of_a_lost_process_becomes_one_line(monkeypatch):
    from tain.foundation.errors import UserError
    from tain.training import distributed

    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    lost = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    with pytest.raises(UserError, match="another process of this run has ended"), distributed.ending_processes():
        raise lost
    with pytest.raises(RuntimeError, match="shape"), distributed.ending_processes():
        raise RuntimeError("shape mismatch")
    monkeypatch.setattr(distributed, "world_size", lambda: 1)
    with pytest.raises(RuntimeError, match="closed by peer"), distributed.ending_processes():
        raise lost
