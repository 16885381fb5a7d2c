"""Report of the gradient variance meter: summary sentences, table and plain data."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from tain.foundation.ruled_table import ruled_table
from tain.inspection.gradients.variance import SHARES, Estimate, GradientVariance, additive_correlation

if TYPE_CHECKING:
    from rich.console import Group


@dataclass(frozen=True)
class GradientReport:
    """Gradient variance figures of one model on one corpus.

    Attributes:
        model: The model's name.
        block_tokens: Length of a text block, including special tokens.
        parameters: Size of the gradient.
        kept: Size of the vectors used for inner products; less than ``parameters`` if the gradient was folded.
        seed: Seed of blocks, masks and signs.
        variance: The figures.
    """

    model: str
    block_tokens: int
    parameters: int
    kept: int
    seed: int
    variance: GradientVariance

    @property
    def masking_rate(self) -> float:
        return self.variance.products.masking_rate

    @property
    def disjoint(self) -> int:
        return self.variance.products.disjoint

    def distances(self) -> list[float]:
        """Hamming distance of two masks at each of ``SHARES``, in tokens."""
        return [2 * self.variance.products.masked * (1 - share) for share in SHARES]

    def claim(self) -> str:
        """One-sentence summary: whether covariance falls with distance, as Zheng et al. 2020 argue."""
        slope, last = self.variance.slope, self.variance.correlations[-1]
        far = f"{last.value:+.3f} (95% interval {_range(last)}) for disjoint masks"
        if slope.high < 0:
            return f"The farther apart two masks are, the less their gradients covary: correlation {far}"
        if slope.low > 0:
            return f"The farther apart two masks are, the more their gradients covary: correlation {far}"
        return f"Covariance does not change measurably with the masks' distance: correlation {far}"

    def verdict(self) -> str:
        """Conclusion: whether fully-explored masking can help this model on this corpus."""
        found, count = self.variance, self.disjoint
        kept, step = found.disjoint_ratio, found.step_ratio
        if kept.high < 1:
            saved = f"{count} disjoint masks of a text leave {kept.value:.2f} ({_hundredths(kept)}) of the mask variance of {count} independent ones"
        elif kept.low > 1:
            saved = f"{count} disjoint masks of a text leave more mask variance than {count} independent ones: {kept.value:.2f} ({_hundredths(kept)}) times as much"
        else:
            saved = f"{count} disjoint masks of a text save nothing measurable over {count} independent ones ({kept.value:.2f}, {_hundredths(kept)})"
        cost = f"{count} times as many texts with one mask each cost the same per step and have"
        if step.low > 1:
            compared = (
                f"But {cost} {1 / step.value:.2f} times the variance ({_hundredths(step.inverse())}): "
                "while there is new text, fully exploring a text within a step cannot help."
            )
            if kept.high < 1:
                compared += " With few texts and many epochs, disjoint masks spread over epochs cost nothing and keep the saving."
        elif step.high < 1:
            compared = (
                f"Even {cost} {1 / step.value:.2f} times the variance ({_hundredths(step.inverse())}): fully exploring a text can help."
            )
        else:
            compared = (
                f"But {cost} about the same variance ({1 / step.value:.2f} times, {_hundredths(step.inverse())}): "
                "fully exploring a text within a step makes no clear difference."
            )
        return f"{saved}. {compared}"

    def to_dict(self) -> dict[str, Any]:
        """Convert the report to plain data for JSON."""
        found = self.variance
        figures = {
            name: asdict(value)
            for name in ("squared_mean", "mask_variance", "data_variance", "data_share", "slope", "disjoint_ratio", "step_ratio")
            for value in (getattr(found, name),)
        }
        return {
            "model": self.model,
            "texts": found.texts,
            "block_tokens": self.block_tokens,
            "masking_rate": self.masking_rate,
            "masked_tokens": found.products.masked,
            "disjoint_masks": self.disjoint,
            "masks_a_text": found.products.masks,
            "parameters": self.parameters,
            "elements_kept": self.kept,
            "seed": self.seed,
            **figures,
            "by_distance": [
                {
                    "share_in_common": share,
                    "distance_tokens": distance,
                    "covariance": asdict(covariance),
                    "correlation": asdict(correlation),
                    "additive_correlation": additive_correlation(share, self.masking_rate),
                }
                for share, distance, covariance, correlation in zip(
                    SHARES, self.distances(), found.covariances, found.correlations, strict=True
                )
            ],
            "claim": self.claim(),
            "verdict": self.verdict(),
        }


def as_table(report: GradientReport) -> "Group":
    """Rich renderable of the report."""
    from rich.console import Group
    from rich.text import Text

    found = report.variance
    heading = (
        f"{report.model}: {found.texts} blocks of {report.block_tokens} tokens, {report.masking_rate:.0%} masked "
        f"({found.products.masked:.0f} tokens), {found.products.masks} masks per block"
    )
    total = found.mask_variance.value + found.data_variance.value
    parts = ruled_table("variance of one text's gradient", "", "share", "95% interval", gap=2)
    for name, figure in (("choice of text", found.data_variance), ("choice of mask", found.mask_variance)):
        parts.add_row(name, f"{figure.value:.3g}", f"{figure.value / total:.0%}", _range(figure))
    signal = found.squared_mean
    parts.add_row("mean gradient, squared length", f"{signal.value:.3g}", "", _range(signal))

    by_distance = ruled_table("distance", "in common", "correlation", "95% interval", "additive", gap=2)
    for share, distance, figure in zip(SHARES, report.distances(), found.correlations, strict=True):
        expected = additive_correlation(share, report.masking_rate)
        by_distance.add_row(f"{distance:.0f}", f"{share:.0%}", f"{figure.value:+.3f}", _range(figure), f"{expected:+.3f}")

    folded = "exact" if report.kept == report.parameters else f"folded to {report.kept:,} elements"
    note = (
        f"Gradients of all {report.parameters:,} parameters, {folded}; dropout off. Distance: number of tokens in exactly one of the two masks. "
        "Additive: the correlation if no masked token changed another's gradient. Intervals: bootstrap over blocks."
    )
    return Group(Text(heading, style="bold"), parts, Text(""), by_distance, Text(""), Text(note))


def _range(figure: Estimate) -> str:
    return f"{figure.low:.3g} to {figure.high:.3g}"


def _hundredths(figure: Estimate) -> str:
    return f"{figure.low:.2f} to {figure.high:.2f}"
