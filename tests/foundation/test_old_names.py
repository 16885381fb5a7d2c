"""Settings of earlier versions are read under their current names."""

import pytest

from tain.foundation.errors import UserError
from tain.foundation.old_names import SETTINGS, renamed
from tain.recipes.correct.config import CorrectConfig
from tain.recipes.distil.config import DistilConfig
from tain.recipes.export.config import ExportConfig
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.rank.config import RankConfig
from tain.recipes.shared.settings import resolve_config
from tain.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

CONFIGS = {
    "correct": CorrectConfig,
    "distil": DistilConfig,
    "export": ExportConfig,
    "mirror": MirrorConfig,
    "pretrain": PretrainConfig,
    "rank": RankConfig,
}
OLD = [(command, old, new) for command, names in SETTINGS.items() for old, new in names.items()]


@pytest.mark.parametrize(("command", "old", "new"), OLD)
def test_each_old_name_maps_to_a_setting_of_its_command(command: str, old: str, new: str):
    fields = CONFIGS[command].__dataclass_fields__
    assert new in fields
    assert old not in fields


def test_no_old_name_is_a_setting_of_another_command():
    known = {name for config in CONFIGS.values() for name in config.__dataclass_fields__}
    assert not {old for _, old, _ in OLD} & known  # checkpoints do not say which command wrote them


def test_a_recipe_takes_the_old_name_of_a_setting():
    config = resolve_config(DistilConfig, "distil", None, {"task": "classify", "hard_share": 0.7, "start_words": 5})
    assert (config.label_weight, config.init_words) == (0.7, 5)


def test_a_setting_under_both_names_is_refused():
    with pytest.raises(UserError, match="hard_share and label_weight are the old and the new name of one setting"):
        renamed({"hard_share": 0.1, "label_weight": 0.2}, of="distil")


def test_a_checkpoint_with_old_names_can_be_resumed(tmp_path):
    save_checkpoint(tmp_path / "state", Checkpoint(3, {"head_rate": 0.1}, {}), {})
    assert load_checkpoint(tmp_path / "state", identity={"head_learning_rate": 0.1}, defaults={})[0].step == 3
    with pytest.raises(UserError, match=r"head_learning_rate was 0\.1 and is 0\.2"):
        load_checkpoint(tmp_path / "state", identity={"head_learning_rate": 0.2}, defaults={})
