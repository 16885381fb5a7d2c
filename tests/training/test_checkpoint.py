"""Checkpoints on disk, next to files that killed processes left."""

import pytest
import torch

from tain.foundation.errors import UserError
from tain.training.checkpoint import Checkpoint, checkpoint_folder, dtype_of, load_checkpoint, refuse_to_lose, save_checkpoint


def test_what_a_process_left_that_was_killed_while_it_wrote_goes_with_the_next_checkpoint(tmp_path):
    for name in (".state.partial-0a1b2c3d", ".state-2.partial-0a1b2c3d"):
        (tmp_path / name).mkdir()
    save_checkpoint(tmp_path / "state", Checkpoint(3, {"number_type": "torch.bfloat16"}, {}), {"one": torch.ones(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".state-2.partial-0a1b2c3d", "state"]
    assert load_checkpoint(tmp_path / "state", identity={"number_type": "torch.bfloat16"}, defaults={})[0].step == 3


def test_the_checkpoint_records_the_dtype(tmp_path):
    assert dtype_of([tmp_path / "none"]) is None
    for said, expected in (("torch.bfloat16", "bfloat16"), ("float32", "float32"), ("int8", None)):
        save_checkpoint(tmp_path / "state", Checkpoint(1, {"number_type": said}, {}), {"one": torch.ones(2)})
        assert dtype_of([tmp_path / "none", tmp_path / "state"]) == expected
    (tmp_path / "state" / "state.json").write_text("[]")
    assert dtype_of([tmp_path / "none", tmp_path / "state"]) is None


def test_a_checkpoint_is_lost_to_those_alone_who_ask_for_it(tmp_path):
    folders = [checkpoint_folder(tmp_path / "out", seed) for seed in (None, 13, 14)]
    assert [folder.name for folder in folders] == [".out.checkpoint", ".out.checkpoint-13", ".out.checkpoint-14"]
    folders[1].mkdir()  # cut off before its first
    refuse_to_lose(folders, overwrite=False)
    save_checkpoint(folders[2], Checkpoint(3, {}, {}), {"one": torch.ones(2)})
    refuse_to_lose(folders, overwrite=True)
    with pytest.raises(UserError, match=r"\.out\.checkpoint-14', would be lost: continue it with --resume, or give --overwrite"):
        refuse_to_lose(folders, overwrite=False)
