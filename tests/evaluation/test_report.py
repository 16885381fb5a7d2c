import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from tain.evaluation.charts import as_svg, headline_sentence
from tain.evaluation.metrics import cosine_rows
from tain.evaluation.report import EvaluationReport, evaluate
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import SuiteOptions
from tain.evaluation.table import as_table
from tain.foundation.errors import UserError


def shown(report: EvaluationReport, width: int = 80) -> str:
    console = Console(width=width, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as capture:
        console.print(as_table(report))
    return capture.get()


def texts_of(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_figure_is_spearman_over_all_pairs_of_the_set(bag: Any, small_data: Path):
    report = evaluate([bag()], ["sts12"], small_data, resamples=50)
    ((scored,),) = (suite.sets for suite in load_suites(["sts12"], SuiteOptions(data=small_data)))
    cosines = cosine_rows(bag().encode(list(scored.left)), bag().encode(list(scored.right)))
    (figure,) = report.suites[0].groups[0].rows[0].figures
    assert figure.value == pytest.approx(100 * np.asarray(stats.spearmanr(scored.gold, cosines))[0])
    assert figure.interval.low < figure.value < figure.interval.high
    assert figure.difference is None


def test_the_mean_leaves_out_absent_sets_and_names_them(bag: Any, small_data: Path):
    (group,) = evaluate([bag()], ["sts"], small_data, resamples=50).suites[0].groups
    assert group.absent == ("STS13", "STS16")
    assert group.mean is not None and group.mean.title == "mean of 5"
    assert group.mean.figures[0].value == pytest.approx(np.mean([row.figures[0].value for row in group.rows]))


def test_each_text_is_encoded_once_whatever_sets_it_is_in(bag: Any, small_data: Path):
    encoder = bag()
    report = evaluate([encoder], ["sts", "stsb_dev", "label-free"], small_data, resamples=10)
    assert len(encoder.asked) == len(set(encoder.asked)) == report.models[0].texts


def test_other_sets_beside_it_never_change_a_set(bag: Any, small_data: Path):
    alone = evaluate([bag()], ["sts14"], small_data, resamples=50).suites[0].groups[0].rows[0]
    beside = evaluate([bag()], ["sts"], small_data, resamples=50).suites[0].groups[0].rows[1]
    assert alone == beside


def test_a_model_never_differs_from_itself(bag: Any, small_data: Path):
    report = evaluate([bag("one"), bag("two")], ["sts", "label-free"], small_data, resamples=50)
    for suite in report.suites:
        for group in suite.groups:
            for row in group.rows:
                second = row.figures[1]
                assert second.difference == 0 and second.difference_interval is not None
                assert (second.difference_interval.low, second.difference_interval.high) == (0, 0)


def test_paired_intervals_are_narrower_than_the_two_models_own(bag: Any, small_data: Path):
    report = evaluate([bag("a", dim=512), bag("b", dim=48)], ["sts"], small_data, resamples=200)
    mean = report.suites[0].groups[0].mean
    assert mean is not None
    own = [figure.interval.high - figure.interval.low for figure in mean.figures]
    difference = mean.figures[1].difference_interval
    assert difference is not None and difference.high - difference.low < math.hypot(*own)


def test_the_same_seed_gives_the_same_report(bag: Any, small_data: Path):
    reports = [evaluate([bag()], ["words", "label-free"], small_data, resamples=30, seed=seed).to_dict() for seed in (1, 1, 2)]
    assert reports[0] == reports[1] != reports[2]


def test_a_collapsed_model_is_undefined_rather_than_zero(constant: Any, bag: Any, small_data: Path):
    report = evaluate([bag(), constant], ["sts"], small_data, resamples=20)
    assert math.isnan(report.suites[0].groups[0].rows[0].figures[1].value)
    assert "undefined" in shown(report)
    assert "constant has no figure" in headline_sentence(report)
    assert "undefined" in " ".join(texts_of(as_svg(report)))
    json.dumps(report.to_dict(), allow_nan=False)


def test_languages_have_means_of_their_own(bag: Any, small_data: Path):
    groups = evaluate([bag()], ["words"], small_data, resamples=10).suites[0].groups
    assert [(group.title, group.mean.title if group.mean else None) for group in groups] == [
        ("English", "mean of 4"),
        ("other languages", "mean of 2"),
        ("sets unknown to tain", None),
    ]


def test_geometry_of_no_texts_is_refused(bag: Any):
    with pytest.raises(UserError, match="suite label-free was given no texts: give at least two"):
        evaluate([bag()], ["label-free"], texts=[], resamples=20)


def test_geometry_reports_every_label_free_figure(bag: Any, small_data: Path):
    report = evaluate([bag()], ["label-free"], texts=[f"a text of number {n} and more" for n in range(20)], resamples=20)
    (suite,) = report.suites
    assert [row.title for group in suite.groups for row in group.rows] == [
        "MRR",
        "R@1",
        "alignment",
        "uniformity",
        "isotropy",
        "mean-vector norm",
        "mean cosine",
    ]
    assert report.geometry[0].texts == 20 and "20 texts" in suite.note


def test_suites_come_in_the_order_asked_for(bag: Any, small_data: Path):
    own = small_data / "mine.tsv"
    own.write_text("a\tb\tscore\n" + "".join(f"x {n}\tx {n // 2}\t{n}\n" for n in range(6)))
    report = evaluate([bag()], ["label-free", "words", str(own), "sts"], small_data, resamples=10)
    assert [suite.name for suite in report.suites] == ["label-free", "words", "sts", "own"]


def test_two_models_of_one_name_can_be_told_apart(bag: Any, small_data: Path):
    report = evaluate([bag(), bag(), bag()], ["sts12"], small_data, resamples=10)
    assert [model.name for model in report.models] == ["bag", "bag (2)", "bag (3)"]


def test_cut_texts_are_counted_and_told(bag: Any, small_data: Path):
    encoder = bag()
    encoder.truncated = 3
    report = evaluate([encoder], ["sts12"], small_data, resamples=10)
    assert report.models[0].truncated == 3
    assert "bag: 3 of" in shown(report)


@pytest.mark.parametrize(
    ("made", "words"),
    [(np.full((1, 3), np.nan), "nan or infinity for .* check its weights"), (np.zeros(3), "one vector per text")],
)
def test_a_model_that_gives_no_usable_vectors_is_refused(made: np.ndarray, words: str, small_data: Path):
    class Broken:
        name = "broken"

        def encode(self, texts: list[str], /) -> np.ndarray:
            return np.repeat(made, len(texts), axis=0) if made.ndim == 2 else made

    with pytest.raises(UserError, match=words):
        evaluate([Broken()], ["sts12"], small_data, resamples=10)


def test_models_are_taken_up_only_when_the_data_is_right(tmp_path: Path):
    def load() -> Any:
        raise AssertionError("loaded")
        yield

    with pytest.raises(UserError, match="none of the sets"):
        evaluate(load(), ["sts"], tmp_path)


def test_geometry_without_texts_says_what_to_give(bag: Any, tmp_path: Path):
    with pytest.raises(UserError, match=r"--texts FILE.*stsb/stsb_dev.tsv"):
        evaluate([bag()], ["label-free"])
    with pytest.raises(UserError, match=r"level 'word'.*--texts"):
        evaluate([bag()], ["label-free"], tmp_path, level="word")


def test_no_model_and_no_resamples_are_refused(bag: Any, small_data: Path):
    with pytest.raises(UserError, match="no model"):
        evaluate([], ["sts"], small_data)
    with pytest.raises(UserError, match="resamples is 0"):
        evaluate([bag()], ["sts"], small_data, resamples=0)


# ---- how it is shown


def test_two_models_fit_into_80_columns_with_all_their_numbers(bag: Any, small_data: Path):
    report = evaluate([bag("raw"), bag("runs/a-mirrored-model-with-a-long-name")], ["sts", "label-free"], small_data, resamples=50)
    lines = shown(report).splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    sick = next(line for line in lines if line.startswith("SICK-R"))
    assert sick.count("[") == sick.count("]") == 3
    assert any("STS13, STS16 are absent" in line for line in lines)


def test_where_four_models_do_not_fit_no_interval_is_broken(bag: Any, small_data: Path):
    report = evaluate(
        [bag(name) for name in ("raw", "static:tain-mini", "a-mirrored-model", "best")], ["sts", "label-free"], small_data, resamples=50
    )
    narrow, wide = shown(report).splitlines(), shown(report, width=200).splitlines()
    assert max(map(len, narrow)) <= 80 < max(map(len, wide))
    assert all(line.count("[") == line.count("]") for line in (*narrow, *wide))
    row = next(number for number, line in enumerate(narrow) if line.startswith("SICK-R"))
    assert [line.count("[") for line in narrow[row : row + 4]] == [0, 4, 0, 3]  # values, intervals, differences, their intervals
    assert next(line for line in wide if line.startswith("SICK-R")).count("[") == 4
    assert len(wide) < len(narrow)


def test_models_go_by_the_ends_of_their_paths_as_far_as_these_differ(bag: Any, small_data: Path):
    def labels(*names: str) -> list[str]:
        return evaluate([bag(name) for name in names], ["sts12"], small_data, resamples=5).labels()

    assert labels("runs/out/mirrored/", "hub/raw") == ["mirrored", "raw"]
    assert labels("runs/a/model", "runs/b/model") == ["a/model", "b/model"]
    assert labels("model", "other/model") == ["model", "other/model"]


def test_square_brackets_in_a_model_name_are_not_markup(bag: Any, small_data: Path):
    assert "[bold]x" in shown(evaluate([bag("[bold]x")], ["sts12"], small_data, resamples=10))


def test_json_holds_every_figure(bag: Any, small_data: Path):
    report = evaluate([bag("a"), bag("b", chars=3)], ["sts", "label-free"], small_data, resamples=50)
    read = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    row = read["suites"][0]["groups"][0]["rows"][0]
    assert row["key"] == "sts12" and row["unit"] == "Spearman x 100" and row["items"] == 12
    assert row["figures"][1]["difference"] == pytest.approx(row["figures"][1]["value"] - row["figures"][0]["value"])
    assert read["geometry"][0]["uniformity"] < 0


def test_the_chart_names_models_and_sets_and_what_it_found(bag: Any, small_data: Path):
    report = evaluate([bag("raw <1>"), bag("mirrored", chars=3, dim=512)], ["sts"], small_data, resamples=50)
    svg = as_svg(report)
    texts = texts_of(svg)
    assert {"STS12", "SICK-R", "mean of 5", "Spearman's correlation x 100"} <= set(texts)
    assert sum("raw <1>" in text for text in texts) >= 2  # the title, and beside its first mark
    assert any("STS13, STS16" in text for text in texts)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")  # nothing from elsewhere


def test_models_differ_in_shape_and_not_in_colour_alone(bag: Any, small_data: Path):
    svg = as_svg(evaluate([bag(str(n)) for n in range(3)], ["sts12"], small_data, resamples=10))
    assert "<circle" in svg and 'fill="#e69f00"' in svg and svg.count("<rect") == 2  # background and the third model's square


def test_a_difference_that_may_be_chance_is_not_called_one(bag: Any, small_data: Path):
    same = evaluate([bag("one"), bag("two")], ["sts"], small_data, resamples=50)
    assert headline_sentence(same).startswith("No clear difference between two and one on STS")


def test_the_finding_names_the_size_and_the_side(bag: Any, small_data: Path):
    (row,) = evaluate([bag()], ["sts12"], small_data, resamples=20).suites[0].groups[0].rows
    assert headline_sentence(evaluate([bag()], ["sts12"], small_data, resamples=20)).startswith(
        f"bag reaches {row.figures[0].value:.1f} on"
    )
    poor = evaluate([bag("good", dim=2048), bag("poor", dim=2)], ["sts"], small_data, resamples=100)
    assert "points (95% interval" in headline_sentence(poor) and "below good on STS" in headline_sentence(poor)


@pytest.mark.real_data
def test_hashed_words_reach_on_the_shared_sets_what_they_always_reached(bag: Any, shared_data: Path):
    report = evaluate([bag(dim=4096)], ["sts"], shared_data, resamples=20)
    (group,) = report.suites[0].groups
    assert group.mean is not None and 40 < group.mean.figures[0].value < 60
