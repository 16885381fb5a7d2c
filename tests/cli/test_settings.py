"""Build a config from a TOML file and flags; flags win."""

from pathlib import Path

import pytest

from tain.cli.settings import build_config, flags_of, seconds
from tain.foundation.errors import UserError
from tain.recipes.mirror.config import MirrorConfig
from tain.recipes.pretrain.config import PretrainConfig

Flags = flags_of(MirrorConfig)


def written(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_nothing_given_is_the_default():
    assert build_config(MirrorConfig, Flags(), file=None) == MirrorConfig()


def test_flags_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = written(tmp_path, "temperature = 0.1\nbatch-texts = 64\nlevel = 'word'\n")
    config = build_config(MirrorConfig, Flags(temperature=0.3), file=file)
    assert (config.temperature, config.batch_texts, config.level, config.seed) == (0.3, 64, "word", 13)


def test_a_flag_that_repeats_the_default_still_wins_over_the_file(tmp_path):
    assert build_config(MirrorConfig, Flags(dropout=0.1), file=written(tmp_path, "dropout = 0.4")).dropout == 0.1


def test_whole_numbers_pass_for_floats_and_lists_for_paths(tmp_path):
    file = written(tmp_path, "tokens = 1000\nvalidation = ['a.txt', 'b.txt']\n")
    config = build_config(PretrainConfig, flags_of(PretrainConfig)(), file=file)
    assert config.tokens == 1000.0
    assert config.validation == (Path("a.txt"), Path("b.txt"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("temprature = 0.1", "has unknown settings temprature: known are recipe, level"),
        ("temperature = 'warm'", "gives temperature = 'warm': this value has the wrong type, see the help of --temperature"),
        ("seeds = true", "gives seeds = True: this value has the wrong type"),
        ("level = 'chapter'", "gives level = 'chapter': this value has the wrong type"),
        ("temperature 0.1", "is not valid TOML"),
    ],
)
def test_a_settings_file_that_cannot_work_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        build_config(MirrorConfig, Flags(), file=written(tmp_path, text))


def test_a_list_of_the_wrong_things_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"gives validation = \[5\]: this value has the wrong type, see the help of --validation"):
        build_config(PretrainConfig, flags_of(PretrainConfig)(), file=written(tmp_path, "validation = [5]"))


def test_a_missing_settings_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist: give a TOML file"):
        build_config(MirrorConfig, Flags(), file=tmp_path / "none.toml")


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("2m", 120), ("1.5h", 5400), ("45", 45), ("500ms", 0.5), (" 2 min ", 120)])
def test_durations_are_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["soon", "", "-3s", "3 days"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(UserError, match="is not a duration: give one like 30s, 2m or 1h"):
        seconds(text)
