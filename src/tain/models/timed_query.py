"""Queries that the latency of a ranker is measured with."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class TimedQuery:
    """A query to time.

    Attributes:
        candidates: Number of candidates that the time is for.
        ask: Scores candidates for a context.
        scored: Number of candidates that ``ask`` scores. The time is proportional to it, and extrapolated if it differs.
    """

    candidates: int
    ask: Callable[[str], object]
    scored: int
