"""Comparison of recipes: the choice in closed form, held-out texts that no recipe sees, and whole runs on a tiny model."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tain.evaluation.figures import Figure
from tain.evaluation.metrics import Interval, percentile_interval
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.compare import recipe
from tain.recipes.compare.config import CompareConfig
from tain.recipes.compare.data import split_material, without
from tain.recipes.compare.recipe import compare
from tain.recipes.compare.verdict import decide, mean_figure
from tain.text.cleaning import same_text_key
from tain.text.records import Sentence

SMALL = {"device": "cpu", "dtype": "float32", "resamples": 50, "max_tokens": 40}


@pytest.fixture(scope="module")
def texts(sentences):
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, size=rng.integers(5, 12))) for _ in range(160)]


# ---- the choice


def test_a_clear_winner_is_called_clear():
    verdict = decide({"raw": 0.2, "mirror": 0.6}, {"raw": [0.1, 0.2, 0.3], "mirror": [0.5, 0.6, 0.7]}, figure="MRR")
    assert (verdict.winner, verdict.level) == ("mirror", [])
    assert verdict.standings["mirror"].first_share == 1.0
    behind = verdict.standings["raw"]
    assert behind.behind == pytest.approx(0.4)
    assert (behind.behind_interval.low, behind.behind_interval.high) == pytest.approx((0.4, 0.4))
    assert "choice is clear" in " ".join(verdict.sentences())


def test_differences_are_paired():
    # their own intervals overlap widely, but the difference is the same on every resample
    wide = np.linspace(0.2, 0.6, 40)
    verdict = decide({"raw": 0.4, "mirror": 0.41}, {"raw": wide, "mirror": wide + 0.01}, figure="MRR")
    assert verdict.level == []
    assert verdict.standings["raw"].interval.high > verdict.standings["mirror"].interval.low


def test_an_unclear_choice_names_the_level_candidates_and_the_cheapest():
    rng = np.random.default_rng(1)
    noise = {name: rng.normal(0.5, 0.1, size=200) for name in ("raw", "mirror")}
    verdict = decide({"raw": 0.50, "mirror": 0.51, "whitened": 0.1}, noise | {"whitened": np.full(200, 0.1)}, figure="MRR")
    assert (verdict.winner, verdict.level) == ("mirror", ["raw"])
    said = " ".join(verdict.sentences({"raw": 1.0, "mirror": 100.0, "whitened": 1.0}))
    assert "not clear" in said and "raw is about as good" in said
    assert "raw takes the least time to make (1 s instead of 100 s)" in said
    shares = [each.first_share for each in verdict.standings.values()]
    assert sum(shares) == pytest.approx(1.0)


def test_the_share_of_resamples_is_that_among_encoders():
    values = {"lexical": [0.9] * 4, "mirror": [0.5, 0.5, 0.5, 0.3], "raw": [0.4, 0.4, 0.6, 0.3]}
    verdict = decide({"lexical": 0.9, "mirror": 0.5, "raw": 0.45}, values, figure="MRR")
    assert verdict.standings["mirror"].first_share == 0.0  # the baseline is always higher
    assert verdict.winner_share == pytest.approx((1 + 1 + 0 + 0.5) / 4)
    assert "mirror is the best encoder in 62% of the resamples of the held-out texts." in verdict.sentences()


def test_the_mean_over_suites_has_the_interval_of_a_mean_of_independent_figures(rng):
    draws = rng.normal([[60.0], [80.0]], [[3.0], [1.0]], size=(2, 200_000))
    figures = [Figure(value=float(row.mean()), interval=percentile_interval(row)) for row in draws]
    found, wanted = mean_figure(figures), percentile_interval(draws.mean(axis=0))
    assert found.value == pytest.approx(70, abs=0.1) and found.difference is None
    assert (found.interval.low, found.interval.high) == pytest.approx((wanted.low, wanted.high), abs=0.05)
    apart = [replace(figure, difference=figure.value - 50, difference_interval=figure.interval) for figure in figures]
    assert mean_figure(apart).difference == pytest.approx(found.value - 50)
    assert mean_figure(figures[:1]) == figures[0]
    assert math.isnan(mean_figure([figures[0], Figure(value=math.nan, interval=Interval(math.nan, math.nan))]).value)


def test_a_leading_baseline_is_told_and_an_encoder_is_kept():
    verdict = decide({"lexical": 0.9, "raw": 0.2}, {"lexical": [0.9, 0.91], "raw": [0.2, 0.21]}, figure="MRR")
    assert (verdict.leader, verdict.winner) == ("lexical", "raw")
    assert "lexical, a baseline without training, is clearly ahead of every encoder, by 0.700" in " ".join(verdict.sentences())


def test_a_baseline_that_is_about_as_good_is_told():
    rng = np.random.default_rng(1)
    noise = {name: rng.normal(0.5, 0.1, size=200) for name in ("lexical", "raw")}
    verdict = decide({"lexical": 0.50, "raw": 0.51, "whitened": 0.1}, noise | {"whitened": np.full(200, 0.1)}, figure="MRR")
    assert (verdict.leader, verdict.winner, verdict.level) == ("raw", "raw", [])
    assert "But lexical, without training, is about as good on this text." in verdict.sentences()


# ---- texts


def test_held_out_texts_are_in_no_recipe(texts):
    config = CompareConfig(held_out=25)
    material = split_material([*texts, *texts[:5]], config)
    held, train = ({same_text_key(text) for text in side} for side in (material.held, material.train))
    assert len(held) == 25 and not held & train
    assert len(train) == material.counts["train"] == 135
    assert material.counts["repeated"] == 5
    assert material.documents is None


def test_texts_without_visible_characters_are_blank(texts):
    material = split_material([*texts, "\u200b", "\ufeff \u200f"], CompareConfig(held_out=25))
    assert material.counts["blank"] == 2 and "\u200b" not in material.train


def test_documents_lose_the_held_out_sentences_and_gain_no_neighbours():
    lines = [
        Sentence("First here. Second here. Third here.", True),
        Sentence("Alone.", False),
        Sentence("After it.", False),
        Sentence("Untouched line.", False),
    ]
    found = list(without(lines, {same_text_key("Second here."), same_text_key("Alone.")}))
    assert found == [
        Sentence("First here.", True),
        Sentence("Third here.", True),
        Sentence("After it.", True),
        Sentence("Untouched line.", False),
    ]


def test_lines_of_one_block_are_not_taken_for_a_document(texts):
    one = [Sentence(text, number == 0) for number, text in enumerate(texts)]
    several = [Sentence(text, number % 4 == 0) for number, text in enumerate(texts)]
    assert split_material(one, CompareConfig(held_out=20)).documents is None
    assert split_material(several, CompareConfig(held_out=20)).documents is not None


# ---- whole runs


def test_a_comparison_leaves_the_winners_encoder_a_page_and_the_figures(bert_folder, texts, tmp_path, monkeypatch):
    result = compare(
        bert_folder, texts, tmp_path / "out", candidates="lexical+characters+static+raw+whitened+fast+mirror", held_out=30, **SMALL
    )
    measured = [each.name for each in result.measured]
    assert measured == ["lexical", "characters", "static", "raw", "whitened", "fast", "mirror"] and not result.skipped
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["winner"] == result.winner
    assert [row["candidate"] for row in content["candidates"]] == list(result.verdict.standings)
    best = max(
        (each for each in result.measured if each.name not in ("lexical", "characters", "static")),
        key=lambda each: each.figures[recipe.MRR],
    )
    assert result.winner == best.name
    page = (tmp_path / "out" / "compare.html").read_text()
    assert result.advice()[0] in page and "<script" not in page and "http" not in page
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Compared" in card and "# out\n" in card and f'("{result.winner}")' not in card
    record = json.loads((tmp_path / "out" / "tain.json").read_text())
    assert record["kind"] == "encoder" and record["compared"]["winner"] == result.winner
    vectors = Embedder.load(tmp_path / "out", dtype="float32").encode(texts[:3])
    assert vectors.shape[0] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]  # no work folder, no lock
    shown = str(result)
    assert f"{result.winner} *" in shown and "texts/s" in shown


def test_an_interrupted_comparison_continues_with_the_finished_candidates(bert_folder, texts, tmp_path, monkeypatch):
    whole = compare(bert_folder, texts, tmp_path / "whole", candidates="raw+whitened+mirror", held_out=30, **SMALL)
    made = []
    make = recipe._Run._make

    def interrupted(self, name, *rest):
        made.append(name)
        if name == "mirror" and made.count("mirror") == 1:
            raise KeyboardInterrupt
        make(self, name, *rest)

    monkeypatch.setattr(recipe._Run, "_make", interrupted)
    again = {"candidates": "raw+whitened+mirror", "held_out": 30, **SMALL}
    with pytest.raises(KeyboardInterrupt):
        compare(bert_folder, texts, tmp_path / "out", **again)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="holds finished candidates of an earlier comparison"):
        compare(bert_folder, texts, tmp_path / "out", **again)
    with pytest.raises(UserError, match=r"begun with other settings or texts \(seed, texts\)"):
        compare(bert_folder, texts, tmp_path / "out", resume=True, seed=14, **again)
    result = compare(bert_folder, texts, tmp_path / "out", resume=True, **again)
    assert made == ["raw", "whitened", "mirror", "mirror"]
    assert [each.values for each in result.measured] == [each.values for each in whole.measured]
    assert result.winner == whole.winner


def test_nothing_to_resume_is_refused(bert_folder, texts, tmp_path):
    with pytest.raises(UserError, match="there is nothing to resume"):
        compare(bert_folder, texts, tmp_path / "out", resume=True, **SMALL)


def test_labels_decide_where_there_are_any(bert_folder, texts, tmp_path):
    rng = np.random.default_rng(2)
    rows = [f"{texts[number]}\t{texts[number + 40]}\t{rng.random():.3f}" for number in range(40)]
    table = tmp_path / "pairs.tsv"
    table.write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    result = compare(
        bert_folder, texts, tmp_path / "out", candidates="lexical+raw+whitened+fast", held_out=30, suite=(str(table),), **SMALL
    )
    assert result.labelled is not None
    scores = {model.name: figure.value for model, figure in zip(result.labelled.models, result.labelled.headline()[1].figures, strict=True)}
    assert result.verdict.leader == max(scores, key=scores.get) == result.labelled.models[0].name
    values = {name: standing.value for name, standing in result.verdict.standings.items()}
    assert values == pytest.approx(scores)
    assert result.verdict.standings[result.verdict.leader].behind == 0.0
    encoders = [name for name in result.verdict.standings if name != "lexical"]
    assert result.winner == encoders[0]
    assert all(row["labelled"] is not None for row in result.rows())


def test_all_suites_decide(bert_folder, texts, tmp_path):
    rng = np.random.default_rng(2)
    rows = [f"{texts[number]}\t{texts[number + 40]}\t{rng.random():.3f}" for number in range(40)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]))
    labelled = [f"{text}\t{'ab'[number % 2]}" for number, text in enumerate(texts)]
    (tmp_path / "classes.tsv").write_text("\n".join(["text\tlabel", *labelled]))
    suite = (str(tmp_path / "pairs.tsv"), str(tmp_path / "classes.tsv"))
    settings = {**SMALL, "max_tokens": None}
    result = compare(bert_folder, texts, tmp_path / "out", candidates="raw+whitened", held_out=30, suite=suite, **settings)
    assert result.labelled is not None and len(result.labelled.suites) == 2
    assert result.verdict.figure.startswith("mean of 2 suites (")
    heads = [[figure.value for figure in row.figures] for _, row in result.labelled.headlines()]
    means = dict(zip([model.name for model in result.labelled.models], np.mean(heads, axis=0), strict=True))
    assert {name: standing.value for name, standing in result.verdict.standings.items()} == pytest.approx(means)
    assert result.winner == result.verdict.leader == max(means, key=means.get)


def test_what_does_not_fit_the_budget_is_listed_and_the_rest_is_measured(bert_folder, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe._Run, "_left_s", lambda self: 0.5)
    result = compare(bert_folder, texts, tmp_path / "out", candidates="raw+whitened+best", held_out=30, budget_s=100.0, **SMALL)
    assert [each.name for each in result.measured] == ["raw"]
    assert set(result.skipped) == {"whitened", "best"}
    assert all("of the budget were left" in reason for reason in result.skipped.values())
    assert [row["candidate"] for row in result.rows()] == ["raw", "whitened", "best"]


def test_a_budget_is_shared_by_the_trained_recipes(bert_folder, texts, tmp_path, monkeypatch):
    shares = {}
    settings = recipe._Run._settings

    def remembered(self, name, coming):
        found = settings(self, name, coming)
        shares[name] = found.budget_s
        return found

    monkeypatch.setattr(recipe._Run, "_settings", remembered)
    result = compare(bert_folder, texts, tmp_path / "out", candidates="raw+mirror+best", held_out=30, budget_s=60.0, **SMALL)
    assert {each.name for each in result.measured} >= {"raw", "mirror"}
    assert 0 < shares["mirror"] < shares["best"] < 60


def test_continued_pretraining_comes_before_mirroring(bert_folder, texts, tmp_path, monkeypatch):
    started = []
    plain = recipe.mirror
    monkeypatch.setattr(recipe, "mirror", lambda model, *rest, **more: started.append(model) or plain(model, *rest, **more))
    result = compare(bert_folder, texts, tmp_path / "out", candidates="raw+continued", held_out=30, **SMALL)
    assert result.skipped == {}
    assert [each.name for each in result.measured] == ["raw", "continued"]
    assert started[0].endswith("continued-model")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(
        recipe, "decide", lambda figures, values, **more: decide({**figures, "raw": 0.0}, {**values, "raw": [0.0] * 50}, **more)
    )
    result = compare(bert_folder, texts, tmp_path / "out", candidates="raw+continued", held_out=30, budget_s=60.0, **SMALL)
    assert result.winner == "continued"
    record = json.loads((tmp_path / "out" / "tain.json").read_text())
    assert record["base_model"] == str(bert_folder) and record["continued_pretraining"]["tokens"] >= 128
    assert "continued-model" not in (tmp_path / "out" / "README.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_a_refusing_recipe_is_listed_with_its_reason(bert_folder, texts, tmp_path):
    result = compare(bert_folder, texts[:105], tmp_path / "out", candidates="raw+joined", held_out=20, **SMALL)
    assert [each.name for each in result.measured] == ["raw"]
    assert "cannot be joined" in result.skipped["joined"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"candidates": "raw+ruby"}, "'ruby' is none: give lexical, characters, static, raw"),
        ({"candidates": "raw"}, "a comparison needs at least 2"),
        ({"candidates": "lexical+characters+static"}, "baselines leave no encoder"),
        ({"candidates": "raw+neighbours"}, "there are no documents"),
        ({"held_out": 3}, "too few to compare on"),
        ({"data": "somewhere"}, "data only applies to labelled sets"),
        ({"suite": ("nothing",)}, "which is not a suite, set or table"),
        ({"suite": ("label-free",)}, "suite label-free has no labels, and is measured anyway"),
        ({"max_tokens": 2}, "special tokens take 2 of them: give 3 or more"),
        ({"max_tokens": 4000}, "max_tokens is 4000, but the model reads .* at most"),
        ({"max_tokens": 20, "candidates": "raw+whitened"}, "none of the candidates raw.whitened is trained: leave it out"),
        ({"max_texts": 1}, "max_texts is 1, fewer than a batch of 2"),
        ({"level": "word", "candidates": "raw+joined"}, "join"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_made(bert_folder, texts, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        compare(bert_folder, texts, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["sentence1\tsentence2\tscore", "a\tb\t3", "c\td\t3", "e\tf\t3.0"],
            "gives all 3 pairs the score 3, with which nothing correlates",
        ),
        (["sentence1\tsentence2\tscore", "a\tb\t3", "c\td\t4"], "has 2 scored pairs, too few for a rank correlation"),
        (["text\tlabel", "a\tx", "b\tx"], "has 1 classes, so there is nothing to classify"),
    ],
)
def test_labelled_sets_without_a_figure_are_refused_before_anything_is_made(bert_folder, texts, tmp_path, lines, message):
    (tmp_path / "set.tsv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=message):
        compare(bert_folder, texts, tmp_path / "out", suite=(str(tmp_path / "set.tsv"),))
    assert [path.name for path in tmp_path.iterdir()] == ["set.tsv"]


def test_too_few_texts_are_refused(bert_folder, texts, tmp_path):
    with pytest.raises(UserError, match="give at least 100 texts of 4 words or more"):
        compare(bert_folder, texts[:60], tmp_path / "out")


def test_the_bar_shows_the_whole_and_the_part(capsys):
    progress = Progress("lines")
    with progress.task("compare", 10) as task:
        part = progress.part("mirror", of=task)
        part.note("not shown")
        part.warn("look")
        with part.task("steps", 5) as inner:
            inner.advance(2)
            task._shown_s -= 100
            inner.advance(1)
        task.advance(10)
    said = capsys.readouterr().err
    assert "warning: mirror: look" in said and "not shown" not in said
    assert "compare: 0/10" in said and "(mirror: steps 3/5)" in said


def test_joining_is_tried_where_the_model_allows_it(bert_folder, modernbert_folder, texts, tmp_path):
    result = compare(modernbert_folder, texts, tmp_path / "out", candidates="raw+joined", held_out=20, **SMALL)
    assert [each.name for each in result.measured] == ["raw", "joined"] and not result.skipped
    other = compare(bert_folder, texts, tmp_path / "other", candidates="raw+joined", held_out=20, **SMALL)
    assert [each.name for each in other.measured] == ["raw"]
    assert "BertModel cannot be joined with token vectors" in other.skipped["joined"]
