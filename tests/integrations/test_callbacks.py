"""Losses and figures reach trackers; notebooks get tqdm bars and tables."""

import io
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tain.callbacks import Callback, JsonLines, MlFlow, TensorBoard, WeightsAndBiases, tracking
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.recipes.compare.recipe import compare
from tain.recipes.mirror.recipe import mirror

SMALL = {"batch_texts": 8, "max_tokens": 40, "dtype": "float32", "device": "cpu", "held_out": 8, "erase_min_chars": 10, "curve_steps": 2}


class Kept:
    """A callback that remembers everything."""

    def __init__(self):
        self.said = []

    def begin(self, settings):
        self.said.append(("begin", dict(settings)))

    def log(self, figures, step):
        self.said.append((step, dict(figures)))

    def end(self):
        self.said.append(("end", {}))


@pytest.fixture(scope="module")
def texts(sentences):
    return [f"{first} while {second}" for first in sentences for second in sentences[:4]]


def test_every_step_and_the_result_are_logged(bert_folder, texts):
    kept = Kept()
    assert isinstance(kept, Callback)
    with tracking(kept, settings={"recipe": "default", "texts": np.int64(3)}, progress=False) as progress:
        result = mirror(bert_folder, texts, progress=progress, **SMALL)
        progress.report(result)
    assert kept.said[0] == ("begin", {"recipe": "default", "texts": "3"}) and kept.said[-1] == ("end", {})
    losses = [figures["mirror/loss"] for _, figures in kept.said if "mirror/loss" in figures]
    assert losses == pytest.approx(result.runs[0].losses)
    assert [step for step, figures in kept.said if "mirror/loss" in figures] == list(range(1, result.steps + 1))
    after = next(figures for _, figures in kept.said if "after/uniformity" in figures)
    assert after["after/self_retrieval_mrr"] == pytest.approx(result.after.self_retrieval_mrr)
    curve = [(step, figures["curve/self_retrieval_mrr"]) for step, figures in kept.said if "curve/self_retrieval_mrr" in figures]
    assert curve == [(step, pytest.approx(value)) for step, value in result.runs[0].curve.points]


@pytest.mark.parametrize("shown", [False, Progress("json", io.StringIO())], ids=["silent", "json"])
def test_a_comparison_logs_each_candidate_and_its_training(bert_folder, texts, tmp_path, shown):
    kept = Kept()
    rng = np.random.default_rng(0)
    given = [" ".join(rng.permutation(text.split())) for text in texts for _ in range(3)]
    settings = {"candidates": "lexical+raw+mirror", "held_out": 20, "resamples": 20, "device": "cpu", "dtype": "float32", "max_tokens": 40}
    with tracking(kept, progress=shown) as progress:
        result = compare(bert_folder, given, tmp_path / "out", progress=progress, **settings)
    for number, each in enumerate(result.measured, start=1):
        step, figures = next((step, figures) for step, figures in kept.said if f"{each.name}/self_retrieval_mrr" in figures)
        assert step == number and figures[f"{each.name}/self_retrieval_mrr"] == each.figures["self_retrieval_mrr"]
        assert figures[f"{each.name}/made_s"] == each.made_s
    steps = [step for step, figures in kept.said if "mirror/mirror/loss" in figures]
    assert steps and steps == list(range(1, len(steps) + 1))


def test_callbacks_end_after_an_error_and_skip_what_is_not_finite():
    kept = Kept()
    with pytest.raises(KeyError), tracking(kept, progress=False) as progress, progress.task("steps", 3) as task:
        task.advance(loss=float("nan"))
        task.advance(loss=1.5, rate=2)
        raise KeyError
    assert kept.said == [("begin", {}), (2, {"steps/loss": 1.5, "steps/rate": 2.0}), ("end", {})]


def test_json_lines_make_their_folder(tmp_path):
    with tracking(JsonLines(tmp_path / "runs" / "log.jsonl"), progress=False):
        pass
    assert (tmp_path / "runs" / "log.jsonl").read_text() == '{"settings": {}}\n'


def test_mlflow_gets_names_that_it_takes():
    said = []
    tracker = MlFlow("test")
    tracker._mlflow = SimpleNamespace(log_metrics=lambda figures, step: said.append((figures, step)))
    tracker.log({"rank, bi/loss": 0.5, "mirror, seed 13/loss": 1.0}, 3)
    assert said == [({"rank bi/loss": 0.5, "mirror seed 13/loss": 1.0}, 3)]


def test_json_lines(tmp_path):
    with tracking(JsonLines(tmp_path / "log.jsonl"), settings={"a": 1}, progress=False) as progress:
        progress.report({"score": 0.5, "name": "left out"})
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"settings": {"a": 1}},
        {"step": 0, "score": 0.5},
    ]
    with pytest.raises(UserError, match="already exists"), tracking(JsonLines(tmp_path / "log.jsonl"), progress=False):
        pass


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    with tracking(TensorBoard(tmp_path / "run"), settings={"a": 1}, progress=False) as progress, progress.task("steps", 2) as task:
        task.advance(loss=0.25)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("steps/loss")] == [(1, 0.25)]


def test_weights_and_biases_offline(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed")
    tracker = WeightsAndBiases(project="test", mode="offline", dir=str(tmp_path))
    with tracking(tracker, settings={"a": 1}, progress=False) as progress, progress.task("steps", 2) as task:
        task.advance(loss=0.25)
        assert tracker._run.config["a"] == 1
    assert list(tmp_path.rglob("*.wandb"))


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with tracking(MlFlow("test", run_name="one"), settings={"a": 1}, progress=False) as progress, progress.task("steps", 2) as task:
        task.advance(loss=0.25)
        run = mlflow.active_run().info.run_id
    found = mlflow.get_run(run)
    assert found.data.metrics == {"steps/loss": 0.25} and found.data.params == {"a": "1"}


@pytest.mark.parametrize(("tracker", "package"), [(WeightsAndBiases(), "wandb"), (MlFlow(), "mlflow"), (TensorBoard("x"), "tensorboard")])
def test_a_missing_package_is_named(tracker, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError, match=f"needs {package}"), tracking(tracker, progress=False):
        pass


# ---- notebooks


def test_a_notebook_gets_a_tqdm_bar(monkeypatch, capsys):
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell, version_info=(8, 0)))
    progress = Progress.resolve(None)
    assert progress.style == "notebook"
    with progress.task("mirror", 4) as task:
        task.advance(2, loss=0.5)
        assert (task._bar.n, task._bar.total, task._bar.desc.rstrip(": ")) == (2, 4, "mirror")
        task.advance(2, loss=0.25)
    assert task._bar.n == 4
    progress.note("done")
    assert "done" in capsys.readouterr().err


def plain(html):
    assert html.startswith("<pre")
    return re.sub(r"<[^>]+>", "", html)


def test_results_of_other_recipes_show_as_tables():
    from tain.recipes.distil.model_card import html_summary as distilled
    from tain.recipes.pretrain.recipe import Pretrained
    from tain.recipes.rank.model_card import html_summary as ranked

    counts = {"before": {"MRR": 40.0}, "after": {"MRR": 52.5}, "worse": ["R@1 fell"], "measured_on": "4 contexts", "counts": {"pairs": 9}}
    shown = plain(ranked(SimpleNamespace(**counts, runs=[SimpleNamespace(steps=3)], best=0, folder="ranker")))
    assert "40.0" in shown and "52.5" in shown and "worse than the untrained ranker: R@1 fell" in shown
    shown = plain(distilled(SimpleNamespace(figures={"cosine": 0.71}, sizes={"student_bytes": 262_071}, folder=None)))
    assert "0.710" in shown and "262,071 bytes" in shown
    made = Pretrained(None, None, 128, 20, 3.0, [4.0] * 10 + [2.0] * 10, [(128, 2.5)], [], finished=True, folder=Path("model"))
    shown = plain(made._repr_html_())
    assert "4.000" in shown and "2.000" in shown and "2.500" in shown and "saved in model" in shown


def test_results_show_as_tables(bert_folder, texts, tmp_path):
    import tain

    result = mirror(bert_folder, texts, tmp_path / "out", progress=False, **SMALL)
    shown = result._repr_html_()
    assert "<pre" in shown and "self-retrieval MRR" in shown and "saved in" in shown
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\na cat\ta dog\t1\nglass\tmirror\t4\nthe sea\tthe sea is deep\t5\n")
    report = tain.evaluate(str(tmp_path / "out"), str(tmp_path / "pairs.tsv"), resamples=20, dtype="float32")
    assert "Spearman" in report._repr_html_()
