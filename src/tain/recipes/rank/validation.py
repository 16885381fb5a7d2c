"""Measure a ranker on held-out contexts, before, during and after training."""

from dataclasses import dataclass

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.rankers import Ranker
from tain.ranking.evaluation import CandidateLists, given_lists, list_figures, list_scores, sampled_lists
from tain.recipes.rank.config import RankConfig
from tain.recipes.rank.data import RankingData
from tain.text.cleaning import lists_others
from tain.training import distributed


@dataclass(frozen=True)
class Validation:
    """Held-out contexts with the lists of candidates that are ranked for them."""

    lists: CandidateLists

    def __str__(self) -> str:
        return f"{len(self.lists):,} held-out lists, {self.lists.kind}"

    def measure(self, ranker: Ranker) -> dict[str, float]:
        """Figures x 100, equal in every process, because they decide learning rates and the kept weights."""
        return distributed.from_first(lambda: self.measured(ranker))

    def measured(self, ranker: Ranker) -> dict[str, float]:
        """Figures x 100 of this process."""
        found = list_figures(list_scores(ranker, self.lists), self.lists)
        return {name: float(100 * values.mean()) for name, values in found.items()}


def validation_of(data: RankingData, config: RankConfig, *, progress: Progress) -> Validation | None:
    """Use the held-out contexts' own lists if most have one, else sample their candidates; None without held-out contexts.

    Raises:
        UserError: All candidates are correct for a held-out context.
    """
    if not data.held:
        return None
    listing = sum(lists_others(example) for example in data.held)
    if 2 * listing >= len(data.held):
        lists = given_lists(data.held)
        if left_out := len(data.held) - len(lists):
            progress.note(f"{left_out:,} of {len(data.held):,} held-out contexts list no negatives and are not used for measuring")
        return Validation(lists)
    rng = np.random.default_rng([config.seed, 2])
    max_right = max(len(example.answers) for example in data.held)
    possible = len(data.texts) - max_right + 1
    if possible < 2:
        raise UserError(
            f"the pairs and held-out contexts have {len(data.texts):,} different candidates, and {max_right} are correct for one held-out "
            "context, which leaves no wrong candidate: give other held-out contexts, or --held-out 0"
        )
    size = max(2, min(config.validation_candidates, possible))
    return Validation(sampled_lists(data.held, size=size, rng=rng, pool=data.texts))


def in_words(figures: dict[str, float] | None) -> str:
    """Figures as text."""
    if figures is None:
        return "no held-out contexts to measure on"
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())
