"""Report of the gradient variance: sentences, table and chart."""

import json
import xml.etree.ElementTree as ElementTree
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from tain.inspection.gradients.chart import as_svg
from tain.inspection.gradients.report import GradientReport, as_table
from tain.inspection.gradients.variance import GradientProducts, gradient_variance


def report(*, mask=10.0, data=3.0, covariances=(9.0, 6.0, 2.0, 0.0, -2.0), disjoint=4, texts=20):
    """A report with the given variances, all texts about alike."""
    rng = np.random.default_rng(0)
    wobble = 1 + 0.01 * rng.standard_normal(texts)
    means = (4.0 + data) * np.ones(texts)
    between = np.full((texts, texts), 4.0)
    products = GradientProducts(
        squares=means + mask * wobble,
        means=means,
        shared=means[:, None] + np.outer(wobble, covariances),
        between=between,
        disjoint=disjoint,
        masking_rate=0.25,
        masked=8.0,
        masks=2 * (disjoint + 4),
    )
    return GradientReport("a/model <1>", 34, 1000, 1000, 13, gradient_variance(products, rng=rng))


def shown(made, width=80):
    stream = StringIO()
    Console(file=stream, width=width).print(as_table(made))
    return stream.getvalue()


def test_the_claim_names_falling_level_and_rising_covariance():
    assert report().claim().startswith("The farther apart two masks are, the less their gradients covary: correlation -0.2")
    assert "do not" not in report().claim()
    assert report(covariances=(0.0, 1.0, 2.0, 3.0, 4.0)).claim().startswith("The farther apart two masks are, the more")
    level = report(covariances=(1.0, 1.0, 1.0, 1.0, 1.0))
    assert level.claim().startswith("Covariance does not change measurably with the masks' distance")


def test_the_verdict_weighs_masks_against_texts():
    # (K D + V + (K - 1) c) / (D + V) = (12 + 10 - 6) / 13
    assert "while there is new text, fully exploring a text within a step cannot help" in report().verdict()
    assert "4 disjoint masks of a text leave 0.40 (0.40 to 0.40) of the mask variance of 4 independent ones" in report().verdict()
    assert f"{13 / 16:.2f} times the variance" in report().verdict()
    assert "spread over epochs cost nothing and keep the saving" in report().verdict()
    assert "fully exploring a text can help" in report(data=0.5).verdict()
    useless = report(covariances=(9.0, 6.0, 2.0, 1.0, 1.0)).verdict()
    assert "leave more mask variance than 4 independent ones: 1.30" in useless
    assert "keep the saving" not in useless


def test_everything_is_plain_json_and_complete():
    made = report()
    data = json.loads(json.dumps(made.to_dict(), allow_nan=False))
    assert data["mask_variance"]["value"] == pytest.approx(10, rel=0.01)
    assert data["data_variance"]["value"] == pytest.approx(3)
    assert [row["distance_tokens"] for row in data["by_distance"]] == [0, 4, 8, 12, 16]
    assert [row["additive_correlation"] for row in data["by_distance"]] == pytest.approx([1, 2 / 3, 1 / 3, 0, -1 / 3])
    assert data["claim"] == made.claim()
    assert data["disjoint_masks"] == 4


def test_the_table_is_readable_at_eighty_columns():
    text = shown(report())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    for words in ("choice of text", "23%", "choice of mask", "77%", "-0.200", "-0.333", "exact", "100%"):
        assert words in text
    folded = GradientReport("m", 34, 5000, 1000, 13, report().variance)
    assert "folded to 1,000 elements" in " ".join(shown(folded).split())


def test_the_chart_is_well_formed_and_draws_every_share():
    made = report()
    root = ElementTree.fromstring(as_svg(made))
    space = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{space}title").text == made.claim()
    words = [element.text for element in root.iter(f"{space}text")]
    assert "correlation of their gradients" in words
    assert "measured: -0.200" in words
    assert len(list(root.iter(f"{space}circle"))) == 5
    heights = [float(circle.get("cy")) for circle in root.iter(f"{space}circle")]
    assert heights == sorted(heights)  # lower on the page as correlation falls
    assert any("a/model <1>" in (word or "") for word in words)  # escaped, and read back
