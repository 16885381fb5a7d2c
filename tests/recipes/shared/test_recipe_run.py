"""What all recipes do around their training: outputs, checkpoints, seeds and the choice of the best run."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.recipes.shared.run import RunOutput, seeds_record, spread, train_seeds


@dataclass(frozen=True)
class Settings:
    seed: int = 13
    seeds: int = 1
    resume: bool = False


@dataclass(frozen=True)
class Trained:
    seed: int
    score: float
    steps: int = 1
    seconds: float = 0.5
    losses: list[float] = field(default_factory=lambda: [2.0, 1.0])


def trained_seeds(scores: list[float], **more):
    """Train a weight that each seed moves by its own number, and return runs, the best one, and the weight afterwards."""
    module, found = torch.nn.Linear(1, 1), []
    torch.nn.init.constant_(module.weight, 100.0)

    def train_one(seed: int) -> Trained:
        found.append(module.weight.item())
        torch.nn.init.constant_(module.weight, module.weight.item() + seed)
        return Trained(seed, scores[seed - 13])

    settings = Settings(seeds=len(scores))
    runs, best = train_seeds(
        train_one, module, settings, score=lambda run: run.score, describe=lambda run: "", progress=Progress.mute(), **more
    )
    return runs, best, module.weight.item(), found


def test_every_seed_starts_from_the_same_weights_and_the_best_ones_are_kept():
    runs, best, weight, begun_with = trained_seeds([1.0, 3.0, 2.0])
    assert begun_with == [100.0, 100.0, 100.0]
    assert [run.seed for run in runs] == [13, 14, 15]
    assert (best, weight) == (1, 114.0)


def test_the_first_of_equal_runs_is_kept_and_one_seed_keeps_its_weights():
    assert trained_seeds([2.0, 2.0])[1:3] == (0, 113.0)
    assert trained_seeds([2.0])[1:3] == (0, 113.0)


def test_what_else_belongs_to_the_best_run_is_kept_by_the_caller():
    kept = []
    trained_seeds([1.0, 3.0, 2.0, 4.0], on_best=lambda: kept.append(len(kept)))
    assert len(kept) == 3  # the first, the second and the fourth


def test_an_output_that_exists_is_refused_and_nothing_can_be_resumed_without_one(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="already exists"):
        RunOutput.of_seeds(tmp_path / "out", Settings(), overwrite=False)
    with pytest.raises(UserError, match="no output is given: give output"):
        RunOutput.of_seeds(None, Settings(resume=True), overwrite=False)
    with pytest.raises(UserError, match="there is nothing to resume"):
        RunOutput.single(tmp_path / "new", overwrite=False, resume=True)


def test_a_checkpoint_is_not_lost_and_another_seeds_is_named(tmp_path: Path):
    checkpoint = tmp_path / ".out.checkpoint-14"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text("{}")
    with pytest.raises(UserError, match="would be lost: continue it with --resume"):
        RunOutput.of_seeds(tmp_path / "out", Settings(seeds=2), overwrite=False)
    with pytest.raises(UserError, match="nothing to resume with seed 13, but a run with seed 14 can be resumed"):
        RunOutput.of_seeds(tmp_path / "out", Settings(resume=True), overwrite=False)
    found = RunOutput.of_seeds(tmp_path / "out", Settings(seeds=2, resume=True), overwrite=False)
    saving = [found.saving(index, identity={}, every_s=1.0) for index in (0, 1)]
    assert [each is not None and each.resume for each in saving] == [False, True]  # the first seed is trained again


def test_the_folder_appears_when_it_is_whole_and_its_checkpoints_go(tmp_path: Path):
    output = RunOutput.of_seeds(tmp_path / "out", Settings(), overwrite=False)
    output.checkpoints[0].mkdir()
    with pytest.raises(ZeroDivisionError), output.writing() as folder:
        (folder / "file").write_text("half")
        raise ZeroDivisionError
    assert not (tmp_path / "out").exists()
    with output.writing() as folder:
        (folder / "file").write_text("whole")
    output.remove_checkpoints()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with RunOutput.single(None, overwrite=False, resume=False).writing() as folder:
        assert folder.is_dir() and tmp_path not in folder.parents
    assert not folder.exists()


def test_the_record_names_the_best_seed_and_goes_through_json():
    runs = [Trained(13, 1.0), Trained(14, 2.0, steps=7)]
    record = seeds_record(Settings(seeds=2), runs, 1, model="m", dtype=torch.bfloat16, layout="packed", counts={"texts": 3})
    assert json.loads(json.dumps(record)) == record
    assert (record["best_seed"], record["steps"], record["number_type"], record["config"]["seeds"]) == (14, 7, "bfloat16", 2)


def test_the_spread_is_that_of_a_sample():
    assert spread([1.0, 3.0]) == {"mean": 2.0, "standard_deviation": pytest.approx(2**0.5)}
    assert spread([1.0])["standard_deviation"] == 0.0
    assert spread([]) == {}
