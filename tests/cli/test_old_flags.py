"""Flags, values and TOML settings of earlier versions still work."""

import pytest

from tain.cli.old_flags import with_new_names
from tain.cli.settings import build_config
from tain.recipes.distil.config import DistilConfig


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            ["distil", "T", "x.txt", "-o", "s", "--hard-share", "0.5", "--start=S"],
            ["distil", "T", "x.txt", "-o", "s", "--label-weight", "0.5", "--init-from=S"],
        ),
        (["distil", "T", "--no-skip"], ["distil", "T", "--no-mean-skip"]),
        (["pretrain", "--least-tokens=4", "--skip-connection"], ["pretrain", "--min-tokens=4", "--skip-connection"]),
        (["correct", "M", "--most-texts", "9"], ["correct", "M", "--max-texts", "9"]),
        (["rank", "train", "M", "--head-rate", "0.1"], ["rank", "train", "M", "--head-learning-rate", "0.1"]),
        (
            ["evaluate", "names", "--suite", "names", "--suite=geometry", "--unseen", "wrong"],
            ["evaluate", "names", "--suite", "entity-linking", "--suite=label-free", "--unknown-labels", "count-as-wrong"],
        ),
        (["evaluate", "M", "--unseen=wrong"], ["evaluate", "M", "--unknown-labels=count-as-wrong"]),
        (["label", "M", "--skip"], ["label", "M", "--skip"]),
        (["inspect", "M", "--", "--skip"], ["inspect", "M", "--", "--skip"]),
        ([], []),
    ],
)
def test_old_flags_and_values_become_new_ones(old: list[str], new: list[str]):
    assert with_new_names(old) == new
    assert with_new_names(new) == new


def test_a_settings_file_may_have_old_names(tmp_path):
    (tmp_path / "old.toml").write_text('task = "classify"\nhard-share = 0.7\nskip = false\n')
    config = build_config(DistilConfig, None, file=tmp_path / "old.toml")
    assert config.label_weight == 0.7
    assert not config.mean_skip
