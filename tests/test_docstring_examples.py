"""Every public function and class has an example in its docstring, and the examples run: offline, on tain-mini, in a temporary folder."""

import doctest
import inspect
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tain

SETTINGS = {name for name in tain.__all__ if name.endswith("Config")}  # their fields are documented one by one
WITHOUT = SETTINGS | {"UserError", "ShapeError", "__version__"}
EARLIER_NAMES = {"inspect", "rank"}


def docstrings(name: str) -> Iterator[tuple[str, str]]:
    """The docstring of a public name and, of a class, those of its public methods, inherited ones too."""
    thing = getattr(tain, name)
    yield name, inspect.getdoc(thing) or ""
    if inspect.isclass(thing):
        for method, member in inspect.getmembers(thing):
            if not method.startswith("_") and callable(member):
                yield f"{name}.{method}", inspect.getdoc(member) or ""


def examples() -> list[Any]:
    """Each docstring with an example once, under the first name that has it."""
    found: dict[str, str] = {}
    for name in sorted(set(tain.__all__) - WITHOUT - EARLIER_NAMES):
        for title, text in docstrings(name):
            if ">>>" in text:
                found.setdefault(text, title)
    return [pytest.param(text, title, id=title) for text, title in found.items()]


@pytest.mark.parametrize("name", sorted(set(tain.__all__) - WITHOUT))
def test_every_public_name_has_an_example(name: str):
    assert any(">>>" in text for _, text in docstrings(name))


@pytest.mark.parametrize(("text", "title"), examples())
def test_examples_do_what_they_show(
    text: str, title: str, save_labeller: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(save_labeller("SequenceClassification", ["negative", "positive"]), tmp_path / "classifier")
    monkeypatch.chdir(tmp_path)
    parsed = doctest.DocTestParser().get_doctest(text, {}, title, None, 0)
    shown: list[str] = []
    # examples that are skipped take longer than a few seconds: export traces the model
    results = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(parsed, out=shown.append)
    assert results.attempted and not results.failed, "".join(shown)
