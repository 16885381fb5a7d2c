"""Checkpoints on disk beside what killed processes left."""

import torch

from tain.training.checkpoint import Checkpoint, load_checkpoint, number_type_of, save_checkpoint


def test_what_a_process_left_that_was_killed_while_it_wrote_goes_with_the_next_checkpoint(tmp_path):
    for name in (".state.partial-0a1b2c3d", ".state-2.partial-0a1b2c3d"):
        (tmp_path / name).mkdir()
    save_checkpoint(tmp_path / "state", Checkpoint(3, {"number_type": "torch.bfloat16"}, {}), {"one": torch.ones(2)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".state-2.partial-0a1b2c3d", "state"]
    assert load_checkpoint(tmp_path / "state", identity={"number_type": "torch.bfloat16"}, defaults={})[0].step == 3


def test_the_number_type_is_told_where_there_is_one(tmp_path):
    assert number_type_of(tmp_path / "none") is None
    for said, expected in (("torch.bfloat16", "bfloat16"), ("float32", "float32"), ("int8", None)):
        save_checkpoint(tmp_path / "state", Checkpoint(1, {"number_type": said}, {}), {"one": torch.ones(2)})
        assert number_type_of(tmp_path / "state") == expected
    (tmp_path / "state" / "state.json").write_text("[]")
    assert number_type_of(tmp_path / "state") is None
