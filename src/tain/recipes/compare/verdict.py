"""Choose among measured candidates, and say how sure the choice is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from tain.evaluation.figures import Figure
from tain.evaluation.metrics import Interval, percentile_interval
from tain.recipes.compare.config import BASELINES


@dataclass(frozen=True)
class Standing:
    """A candidate's figure and its distance from the leader.

    Attributes:
        value: The figure; higher is better.
        interval: 95% bootstrap interval.
        behind: Leader minus this candidate; 0 for the leader.
        behind_interval: 95% interval of this difference, on the same resamples.
        first_share: Share of resamples in which this candidate is the highest, ties split equally; None if it was not resampled here.
    """

    value: float
    interval: Interval
    behind: float
    behind_interval: Interval
    first_share: float | None = None

    @property
    def is_level(self) -> bool:
        """Whether the interval of the difference to the leader includes zero."""
        return not self.behind_interval.low > 0


@dataclass(frozen=True)
class Verdict:
    """The choice among candidates.

    Attributes:
        leader: Candidate with the highest figure; may be a baseline.
        winner: The best candidate that is an encoder.
        standings: By candidate, best first.
        figure: Name of the figure that decided.
        decimals: Decimals to show.
        winner_share: Share of resamples in which the winner is the best encoder, ties split equally; None if it was not resampled here.
    """

    leader: str
    winner: str
    standings: dict[str, Standing]
    figure: str
    decimals: int = 3
    winner_share: float | None = None

    @property
    def level(self) -> list[str]:
        """Encoders that are not clearly below the winner, best first, without the winner."""
        if self.leader != self.winner:  # distances are to the leader; those of the winner's rivals overlap by their own intervals
            low = self.standings[self.winner].interval.low
            return [name for name in self._others() if self.standings[name].interval.high >= low]
        return [name for name in self._others() if self.standings[name].is_level]

    def _others(self) -> list[str]:
        return [name for name in self.standings if name != self.winner and name not in BASELINES]

    def sentences(self, seconds: Mapping[str, float] | None = None) -> list[str]:
        """Say which to use and how sure that is.

        Args:
            seconds: Time to make each candidate; the cheapest of several level ones is named.
        """
        standing, digits = self.standings[self.winner], self.decimals
        low, high = standing.interval.low, standing.interval.high
        said = [f"Use {self.winner}: {self.figure} {standing.value:.{digits}f} (95% interval {low:.{digits}f} to {high:.{digits}f})."]
        if self.leader != self.winner:
            clear = "" if standing.is_level else "clearly "
            behind = standing.behind_interval
            said.append(
                f"But {self.leader}, a baseline without training, is {clear}ahead of every encoder, by {standing.behind:.{digits}f}"
                f" ({behind.low:+.{digits}f} to {behind.high:+.{digits}f}): check whether you need an encoder for this text."
            )
        elif level := [name for name in self.standings if name in BASELINES and self.standings[name].is_level]:
            said.append(f"But {' and '.join(level)}, without training, {'is' if len(level) == 1 else 'are'} about as good on this text.")
        if not self.level:
            nearest = next(iter(self._others()), None)
            if nearest is not None:
                said.append(f"The choice is clear: {nearest} comes next, and the intervals of the differences exclude zero.")
        else:
            tied = f"{', '.join(self.level)} {'is' if len(self.level) == 1 else 'are'} about as good"
            said.append(f"The choice is not clear: the intervals overlap, and {tied}.")
            if self.winner_share is not None:
                said.append(f"{self.winner} is the best encoder in {self.winner_share:.0%} of the resamples of the held-out texts.")
            cheapest = min((self.winner, *self.level), key=lambda name: (seconds or {}).get(name, 0.0)) if seconds else self.winner
            if seconds and cheapest != self.winner and seconds[cheapest] < 0.5 * seconds[self.winner]:
                said.append(f"{cheapest} takes the least time to make ({seconds[cheapest]:.0f} s instead of {seconds[self.winner]:.0f} s).")
        return said


def decide(values: Mapping[str, float], replicates: Mapping[str, Sequence[float] | np.ndarray], *, figure: str) -> Verdict:
    """Rank candidates by a figure, with paired bootstrap intervals.

    Args:
        values: The figure of each candidate, higher is better.
        replicates: Its values on the same resamples for all candidates.
        figure: Name of the figure.
    """
    names = sorted(values, key=lambda name: (-values[name], name))
    table = np.array([replicates[name] for name in names], dtype=np.float64)  # (candidates, resamples)
    shares, leader = _first_shares(table), names[0]
    standings = {}
    for row, name in enumerate(names):
        standings[name] = Standing(
            value=values[name],
            interval=percentile_interval(table[row]),
            behind=values[leader] - values[name],
            behind_interval=percentile_interval(table[0] - table[row]),
            first_share=float(shares[row]),
        )
    encoders = [row for row, name in enumerate(names) if name not in BASELINES]
    return Verdict(leader, names[encoders[0]], standings, figure, winner_share=float(_first_shares(table[encoders])[0]))


def _first_shares(table: np.ndarray) -> np.ndarray:
    """Share of resamples in which each row of (candidates, resamples) is the highest, ties split equally."""
    is_first = table == table.max(axis=0)
    return (is_first / is_first.sum(axis=0)).mean(axis=1)


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """Mean of one candidate's figures on several suites, whose resamples are taken as independent.

    Args:
        figures: One per suite.
    """
    mean = fmean(figure.value for figure in figures)
    interval = _mean_interval([(figure.value, figure.interval) for figure in figures])
    behind = [(each.difference, each.difference_interval) for each in figures]
    known = [(value, of) for value, of in behind if value is not None and of is not None]
    if len(known) < len(figures):
        return Figure(value=mean, interval=interval)
    difference = fmean(value for value, _ in known)
    return Figure(value=mean, interval=interval, difference=difference, difference_interval=_mean_interval(known))


def _mean_interval(parts: Sequence[tuple[float, Interval]]) -> Interval:
    """Interval of a mean of independent figures: the distances to each end add in quadrature."""
    mean = fmean(value for value, _ in parts)
    below = math.hypot(*(value - of.low for value, of in parts)) / len(parts)
    above = math.hypot(*(of.high - value for value, of in parts)) / len(parts)
    return Interval(mean - below, mean + above)
