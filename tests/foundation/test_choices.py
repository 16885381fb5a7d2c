"""Settings accept only the choices of their fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pytest

from tain.foundation.choices import refuse_wrong_kinds, wrong_choices
from tain.foundation.errors import UserError


@dataclass
class Settings:
    count: Annotated[int, "how many"] = 1
    share: Annotated[float | None, "how much"] = None
    kind: Literal["one", "two"] | None = None
    name: str = "none"
    file: Path | None = None
    is_on: bool = False
    files: tuple[Path, ...] = ()


@pytest.mark.parametrize(
    "settings",
    [{}, {"count": np.int64(3), "share": 1}, {"share": np.float32(0.5), "file": "here"}, {"is_on": True, "files": ["a"]}],
)
def test_what_fields_say_is_taken(settings, unchecked):
    refuse_wrong_kinds(Settings(**settings))
    assert wrong_choices(Settings(**settings)) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": "3"}, "count is '3': give a whole number"),
        ({"count": 1.5}, "count is 1.5: give a whole number"),
        ({"count": True}, "count is True: give a whole number"),
        ({"count": None}, "count is None: give a whole number"),
        ({"share": "half", "name": 3}, "share is 'half': give a number; name is 3: give text"),
        ({"is_on": "yes"}, "is_on is 'yes': give true or false"),
        ({"file": 3}, "file is 3: give a path"),
    ],
)
def test_other_kinds_are_refused_all_at_once(settings, message, unchecked):
    with pytest.raises(UserError) as refused:
        refuse_wrong_kinds(Settings(**settings))
    assert str(refused.value) == message


def test_choices_that_do_not_exist_are_named(unchecked):
    assert wrong_choices(Settings(kind="three")) == ["kind is 'three': give one, two"]
