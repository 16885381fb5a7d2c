"""What tests of recipes share."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

_BEGIN = """
import sys
sys.path.insert(0, {folder!r})
import torch
torch.set_num_threads(1)
from tain.training import distributed
distributed.start_processes()
assert distributed.world_size() == 2
"""


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A context in which a recipe's run is interrupted as one of its steps begins, and after which steps are whole again."""

    @contextmanager
    def until(trainer: type, at_step: int, *, of_seed: int = 13) -> Iterator[None]:
        real = trainer.gradient_step

        def interrupted(self, batch, *, step, **more):
            if step == at_step and more.get("seed", of_seed) == of_seed:
                raise KeyboardInterrupt
            return real(self, batch, step=step, **more)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(trainer, "gradient_step", interrupted)
            yield

    return until


@pytest.fixture
def own_model(bert_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny model that a test may change."""
    return shutil.copytree(bert_folder, tmp_path_factory.mktemp("own") / "model")


@pytest.fixture
def train_on() -> Callable[[Path], None]:
    """Change a saved model's weights and nothing else, as further training would."""

    def change(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        weights[next(name for name in weights if name.endswith("layer.0.output.dense.bias"))][0] += 1.0
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return change


@pytest.fixture
def in_two_processes(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], None]:
    """Run Python code in two processes that train together, as torchrun starts them; the modules beside the test can be imported."""

    def run(code: str) -> None:
        script = tmp_path / "two.py"
        begin = _BEGIN.format(folder=str(request.path.parent))
        script.write_text(begin + textwrap.dedent(code) + "\ndistributed.end_processes()\n", encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    return run
