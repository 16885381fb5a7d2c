"""``lexical`` and ``static:MODEL`` are models of ``tain evaluate`` and ``tain rank evaluate`` alone."""

from pathlib import Path

import pytest
from command_line import run

TEXTS = "texts.txt"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / TEXTS).write_text("".join(f"a text with number {n}\n" for n in range(30)))
    return tmp_path


@pytest.mark.parametrize("name", ["lexical", "characters", "static:tain-mini"])
@pytest.mark.parametrize(
    "command",
    [
        ("mirror", "MODEL", TEXTS, "-o", "out"),
        ("encode", "MODEL", TEXTS, "-o", "out.npy"),
        ("correct", "MODEL", TEXTS, "-o", "out", "--whiten"),
        ("distil", "MODEL", TEXTS, "-o", "out"),
        ("pretrain", "MODEL", TEXTS, "-o", "out"),
        ("label", "MODEL", TEXTS),
        ("inspect", "MODEL", "a text", "-o", "out"),
        ("gradients", "MODEL", TEXTS),
        ("serve", "MODEL"),
        ("evaluate", "MODEL", "--suite", "mlm", "--texts", TEXTS),
    ],
    ids=lambda command: command[0],
)
def test_a_baseline_is_refused_where_a_model_is_needed(
    name: str, command: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
):
    assert run(*(name if part == "MODEL" else part for part in command)) == 2
    error = capsys.readouterr().err
    assert f"model is {name!r}, a baseline that only tain evaluate and tain rank evaluate take" in error and error.count("\n") == 1
    assert (f"./{name} for a folder of that name" in error) == (not name.startswith("static:"))
    assert [path.name for path in folder.iterdir()] == [TEXTS]
