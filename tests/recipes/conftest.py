"""What tests of recipes share."""

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

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
    def until(recipe: ModuleType, at_step: int, *, of_seed: int = 13) -> Iterator[None]:
        real = recipe._Session.gradient_step

        def interrupted(self, batch, *, step, seed):
            if (seed, step) == (of_seed, at_step):
                raise KeyboardInterrupt
            return real(self, batch, step=step, seed=seed)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(recipe._Session, "gradient_step", interrupted)
            yield

    return until


@pytest.fixture
def in_two_processes(tmp_path: Path) -> Callable[[str], None]:
    """Run Python code in two processes that train together, as torchrun starts them; this folder's modules can be imported."""

    def run(code: str) -> None:
        script = tmp_path / "two.py"
        begin = _BEGIN.format(folder=str(Path(__file__).parent))
        script.write_text(begin + textwrap.dedent(code) + "\ndistributed.end_processes()\n", encoding="utf-8")
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    return run
