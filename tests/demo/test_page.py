import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from tain.demo.docstrings import FunctionDocstring
from tain.demo.page import (
    BeforeAfter,
    Property,
    Rival,
    before_after_page,
    gain,
    headline,
    label_free_properties,
    neighbour_cases,
)
from tain.demo.retrieval import Change, retrieve_by_description
from tain.evaluation.label_free import label_free_report
from tain.evaluation.metrics import Interval

EVIL = "<script>alert('x')</script> & \"more\""
FUNCTIONS = [
    FunctionDocstring(f"package.module.f{number}", f"Do {word} to it {EVIL}", f"More on {word} here {EVIL}")
    for number, word in enumerate(["apples", "birches", "cedars", "dates", "elms", "figs"])
]


class Letters:
    """Counts of letters: enough to tell texts apart."""

    name = "letters"

    def encode(self, texts):
        return np.array([[text.count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], dtype=np.float32)


def change(name="R@1", before=0.1, after=0.3, low=0.1, high=0.3, is_share=True) -> Change:
    return Change(
        name=name,
        finding="finds the right docstring first for {} of functions" if is_share else "reaches a mean reciprocal rank of {}",
        is_share=is_share,
        before=before,
        after=after,
        before_interval=Interval(before - 0.05, before + 0.05),
        after_interval=Interval(after - 0.05, after + 0.05),
        difference=Interval(low, high),
    )


@pytest.fixture
def page():
    retrieval = retrieve_by_description(Letters(), FUNCTIONS)
    report = label_free_report(Letters(), [f"{function.rest} {function.name}" for function in FUNCTIONS], rng=np.random.default_rng(0))
    return BeforeAfter(
        model="tain-mini",
        training_s=21.4,
        texts=9500,
        positives="each one paired with itself",
        functions=len(FUNCTIONS),
        changes=[change(), change("MRR", is_share=False)],
        rivals=[
            Rival(kind=kind, title=title, about=EVIL, changes=[change(before=0.05), change("MRR", before=0.05, is_share=False)])
            for kind, title in (
                ("lexical", "TF-IDF"),
                ("characters", "characters"),
                ("static", "embeddings"),
                ("hybrid", "both"),
                ("supervised", "all-MiniLM"),
            )
        ],
        properties=label_free_properties(report, report),
        worse=[],
        cases=neighbour_cases(FUNCTIONS, retrieval, retrieval, chosen=[0, 3]),
        settings={"steps": 47, EVIL: EVIL},
        usage=f"print({EVIL!r})",
        origin={"seed": 13, "from": EVIL},
    )


VOID = {"meta", "wbr", "line", "rect", "path"}


class Outline(HTMLParser):
    """Checks that tags close in order, and collects what a page is made of."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    parsed = Outline()
    parsed.feed(html)
    assert not parsed.open
    return parsed


# ---- the headline compares with TF-IDF


def against_tf_idf(page, *changes):
    return replace(page, rivals=[replace(page.rivals[0], changes=list(changes)), *page.rivals[1:]])


def test_an_encoder_above_tf_idf_is_the_headline(page):
    better = against_tf_idf(page, change(before=0.2, after=0.3, low=0.05, high=0.15), change("MRR", low=0.1, is_share=False))
    assert headline(better) == (
        "After 21 seconds of mirroring, tain-mini finds the right docstring first for 30.0% of functions, TF-IDF for 20.0%:"
        " 10.0 points more (95% interval 5.0 to 15.0)"
    )


def test_an_encoder_below_tf_idf_is_the_headline_too(page):
    worse = against_tf_idf(page, change(before=0.3, after=0.12, low=-0.21, high=-0.15), change("MRR", 0.4, 0.2, -0.3, -0.1, is_share=False))
    assert headline(worse) == (
        "TF-IDF finds the right docstring first for 30.0% of functions, tain-mini after 21 seconds of mirroring for 12.0%:"
        " 18.0 points less (95% interval 15.0 to 21.0)"
    )


def test_the_headline_compares_with_the_best_baseline_and_with_no_other_method(page):
    stronger = [change(before=0.25, after=0.3, low=0.01, high=0.09), change("MRR", low=0.1, is_share=False)]
    rivals = [
        replace(rival, changes=stronger) if rival.kind == "characters" else rival
        for rival in against_tf_idf(page, change(before=0.2, after=0.3), change("MRR", is_share=False)).rivals
    ]
    rivals[-1] = replace(rivals[-1], changes=[change(before=0.9, after=0.3, low=-0.7, high=-0.5), change("MRR", is_share=False)])
    assert "for 30.0% of functions, characters for 25.0%: 5.0 points more" in headline(replace(page, rivals=rivals))


def test_a_difference_from_tf_idf_that_chance_explains_is_none(page):
    unclear = against_tf_idf(page, change(before=0.3, after=0.31, low=-0.02, high=0.04))
    assert headline(unclear) == (
        "No clear difference from TF-IDF: after 21 seconds of mirroring, tain-mini finds the right docstring first for 31.0% of functions,"
        " TF-IDF for 30.0% (difference 1.0 points, 95% interval −2.0 to 4.0)"
    )


def test_a_figure_that_points_the_other_way_is_not_left_out(page):
    mixed = against_tf_idf(page, change(), change("MRR", 0.5, 0.4, -0.2, -0.05, is_share=False))
    assert headline(mixed).endswith("; the MRR of tain-mini is lower (0.400 against 0.500)")


# ---- what mirroring changed


def test_a_clear_gain_is_stated(page):
    assert gain(page) == "By mirroring, tain-mini finds the right docstring first for 30.0% of functions, up from 10.0%"


def test_a_clear_loss_is_stated(page):
    worse = replace(page, changes=[change(before=0.3, after=0.1, low=-0.3, high=-0.1)])
    assert gain(worse) == "Mirroring made tain-mini worse here: it finds the right docstring first for 10.0% of functions, down from 30.0%"


def test_a_difference_that_chance_explains_is_no_gain(page):
    assert gain(replace(page, changes=[change(low=-0.1, high=0.5)])).startswith("Mirroring made no clear difference here")


def test_gain_and_loss_together_are_called_mixed(page):
    mixed = replace(page, changes=[change(), change("MRR", 0.5, 0.4, -0.2, -0.05, is_share=False)])
    assert gain(mixed) == (
        "Mirroring gave a mixed result: tain-mini finds the right docstring first for 30.0% of functions, up from 10.0%,"
        " but reaches a mean reciprocal rank of 0.400, down from 0.500"
    )


def test_a_gain_elsewhere_is_not_claimed_for_the_first_figure(page):
    second = replace(page, changes=[change(low=-0.1, high=0.5), change("MRR", 0.1, 0.2, 0.05, 0.15, is_share=False)])
    assert "reaches a mean reciprocal rank of 0.200, up from 0.100" in gain(second)


@pytest.mark.parametrize(("seconds", "words"), [(3.21, "3.2 seconds"), (59.6, "60 seconds"), (150.0, "2.5 minutes")])
def test_times_have_a_fitting_unit(page, seconds, words):
    assert f"After {words} of mirroring" in headline(replace(page, training_s=seconds))


# ---- the page


def test_tags_close_in_order_and_nothing_is_loaded(page):
    html = before_after_page(page)
    found = outline(html)
    assert not {"script", "link", "img", "iframe", "object"} & set(found.tags)
    assert not [value for name, value in found.attributes if name in ("src", "href", "action") or name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", html)
    assert "default-src 'none'" in html


def test_whatever_comes_from_outside_is_escaped(page):
    html = before_after_page(replace(page, model="tain-mini" + EVIL, worse=[EVIL]))
    outline(html)
    assert "<script" not in html and "alert('x')" not in html
    assert "&lt;script&gt;" in html


def test_the_page_is_readable_in_the_dark_and_to_a_screen_reader(page):
    html = before_after_page(page)
    assert "prefers-color-scheme: dark" in html and '<html lang="en">' in html and "width=device-width" in html
    found = outline(html)
    assert found.tags.count("h1") == 1
    pictures = [value for name, value in found.attributes if name == "aria-label"]
    assert len(pictures) == 2 and all(
        "R@1 5.0% TF-IDF, 5.0% characters, 5.0% embeddings, 10.0% before, 30.0% after, 5.0% both" in label for label in pictures
    )


def test_right_answers_are_marked_in_words_not_by_colour_alone(page):
    html = before_after_page(page)
    right = sum(neighbour.is_right for case in page.cases for side in (case.before, case.after) for neighbour in side)
    assert right and html.count("✓ <span") == right == html.count('<li class="right">')


def test_the_page_describes_the_positive_pairs(page):
    html = before_after_page(replace(page, positives="neighbours of one docstring paired"))
    assert "neighbours of one docstring paired: no labels" in html and "paired with itself" not in html


def test_every_method_has_a_bar_a_row_and_a_sentence(page):
    html = before_after_page(page)
    wide = html[html.index('class="chart wide"') : html.index('class="chart narrow"')]
    kinds = re.findall(r'<rect class="(\w+)"', wide)
    assert kinds == ["lexical", "characters", "static", "before", "after", "hybrid", "supervised"] * 2
    table = html[html.index("The numbers behind the chart") :]
    assert re.findall(r'<tr><th scope="row">([^<]+)</th>', table)[:7] == [
        "TF-IDF",
        "characters",
        "embeddings",
        "before",
        "after",
        "both",
        "all-MiniLM",
    ]
    assert html.count("<li><strong>") == 6


def test_the_label_free_table_keeps_to_what_a_reader_can_act_on(page):
    names = [row.name for row in page.properties]
    assert names == ["Self-retrieval R@1", "Self-retrieval MRR", "Uniformity", "Alignment", "Mean cosine"]


def test_worse_label_free_figures_are_a_warning(page):
    assert 'class="warning"' not in before_after_page(page)
    assert "Worse than the untouched model:" in before_after_page(replace(page, worse=["vectors crowd more"]))


def test_bars_are_as_long_as_their_figures(page):
    html = before_after_page(page)
    wide = html[html.index('class="chart wide"') : html.index('class="chart narrow"')]
    before, after = (float(re.search(rf'<rect class="{side}"[^>]* width="([\d.]+)"', wide)[1]) for side in ("before", "after"))  # type: ignore[index]
    assert after / before == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("figures", [(0.0, 0.0), (0.0, 0.001), (0.2, 0.9), (1.0, 1.0)])
@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_charts_stay_inside_their_frame(page, figures, width):
    edge = Change(
        name="R@1",
        finding="{}",
        is_share=True,
        before=figures[0],
        after=figures[1],
        before_interval=Interval(figures[0], figures[0]),
        after_interval=Interval(figures[1], figures[1]),
        difference=Interval(0.0, 0.0),
    )
    html = before_after_page(replace(page, changes=[edge], rivals=[replace(rival, changes=[edge]) for rival in page.rivals]))
    chart = html[html.index(f'class="chart {width}"') :]
    chart = chart[: chart.index("</svg>")]
    frame = float(re.search(r'viewBox="0 0 (\d+)', chart)[1])  # type: ignore[index]
    xs = [float(x) for x in re.findall(r'\bx[12]?="([-\d.]+)"', chart)]
    assert min(xs) >= 0 and max(xs) <= frame - 40  # room for a label at the last


@pytest.mark.parametrize(
    ("before", "after", "better", "verdict"),
    [
        (0.1, 0.2, "higher", "better"),
        (0.1, 0.2, "lower", "worse"),
        (0.2, 0.1, "lower", "better"),
        (0.200, 0.205, "higher", "same"),
        (float("nan"), 0.1, "higher", "unknown"),
    ],
)
def test_verdicts_follow_what_better_means(before, after, better, verdict):
    assert Property(name="x", before=before, after=after, better=better, meaning="").verdict == verdict


def test_a_figure_without_an_answer_is_a_dash(page):
    html = before_after_page(replace(page, properties=[Property(name="x", before=float("nan"), after=0.5, better="higher", meaning="")]))
    assert "nan" not in html.lower().replace("monospace", "")


def test_cases_have_the_rank_of_the_correct_answer():
    retrieval = retrieve_by_description(Letters(), FUNCTIONS)
    for case in neighbour_cases(FUNCTIONS, retrieval, retrieval, chosen=range(len(FUNCTIONS)), count=len(FUNCTIONS)):
        indices = [index for index, neighbour in enumerate(case.before, 1) if neighbour.is_right]
        assert indices == [case.before_rank] == [case.after_rank]
        assert case.before[case.before_rank - 1].source == case.source
