"""Evaluate rankers: R@k of C, MRR and MAP with bootstrap intervals, and latency per query.

Covers tables 3 and 5 of Humeau et al. 2020. Ties count by expectation: a ranker with equal scores for all candidates gets
R@1 = 1/C, while counting ties as hits would make it look perfect.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tain.evaluation.figures import Figure, figures_of
from tain.evaluation.metrics import bootstrap_means
from tain.foundation.choices import wrong_resamples, wrong_seed
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.machine import versions
from tain.foundation.progress import Progress
from tain.models.timed_query import TimedQuery
from tain.models.unknown_tokens import check_known
from tain.text.cleaning import drop_repeats, lists_others, same_text_key
from tain.text.records import RankingExample

LATENCY_CANDIDATES = (1_000, 100_000)
_RECALLS = (1, 2, 5, 10)


@runtime_checkable
class EvaluatedRanker(Protocol):
    """Protocol of evaluated rankers: every ``models.rankers.Ranker``, and baselines."""

    name: str

    @property
    def type(self) -> str:
        """Kind of ranker, as tables show it."""
        ...

    @property
    def vectors(self) -> int:
        """Vectors per context; 0 if it has none."""
        ...

    @property
    def truncated(self) -> int:
        """Number of texts truncated at a length limit."""
        ...

    def score_pool(self, contexts: Sequence[str], pool: Sequence[str], *, progress: Progress | None = None) -> Iterable[np.ndarray]: ...

    def score_lists(
        self, contexts: Sequence[str], lists: Sequence[Sequence[str]], *, progress: Progress | None = None
    ) -> Iterable[np.ndarray]: ...

    def timed_queries(self, candidates: Sequence[str], sizes: Sequence[int]) -> list[TimedQuery]: ...


# ---- lists of candidates


@dataclass(frozen=True)
class CandidateLists:
    """Queries with their candidates.

    Attributes:
        contexts: One per query.
        lists: Candidates of each query, all different by ``same_text_key``; the whole pool is one tuple shared by all queries.
        right: Indices of the correct candidates in each query's list; at least one.
        kind: Description: ``20 sampled``, ``listed``, ``whole pool of 812``.
    """

    contexts: tuple[str, ...]
    lists: tuple[tuple[str, ...], ...]
    right: tuple[np.ndarray, ...]
    kind: str

    def __len__(self) -> int:
        return len(self.contexts)


def sampled_lists(
    examples: Sequence[RankingExample], *, size: int, rng: np.random.Generator, pool: Sequence[str] | None = None
) -> CandidateLists:
    """Combine each correct answer with ``size - 1`` candidates sampled from a pool, none of them correct for its context.

    Args:
        examples: Contexts with correct answers; every answer becomes a query.
        size: Candidates per query, C of R@k/C.
        rng: Random generator of the sample.
        pool: Pool of candidates; default: all answers of the examples.

    Raises:
        UserError: The pool is too small.
    """
    texts = drop_repeats(pool if pool is not None else (answer for example in examples for answer in example.answers)).texts
    keys = [same_text_key(text) for text in texts]
    max_right = max(len(drop_repeats(example.answers).texts) for example in examples)
    if size < 2:
        raise UserError(f"candidates per query is {size}, but ranking needs at least 2: give 2 or more (the paper: 20)")
    possible = len(texts) - max_right + 1
    if possible < size:
        raise UserError(
            f"the pool holds {len(texts):,} different candidates (up to {max_right} of them right for one context), fewer than the {size} "
            f"of a list: give {f'--candidates {possible} or fewer, ' if possible > 1 else ''}a larger file, or --pool"
        )
    contexts, lists = [], []
    for example in examples:
        right = {same_text_key(answer) for answer in example.answers}
        for answer in drop_repeats(example.answers).texts:
            drawn: dict[str, None] = {}
            while len(drawn) < size - 1:
                for position in rng.integers(len(texts), size=size):
                    if keys[position] not in right and len(drawn) < size - 1:
                        drawn[texts[position]] = None
            contexts.append(example.context)
            lists.append((answer, *drawn))
    return CandidateLists(tuple(contexts), tuple(lists), (np.zeros(1, dtype=np.int64),) * len(lists), f"{size} sampled")


def given_lists(examples: Sequence[RankingExample]) -> CandidateLists:
    """Use each context's answers and negatives as its list; contexts without negatives are skipped.

    Raises:
        UserError: No context has negatives.
    """
    contexts, lists, right = [], [], []
    for example in filter(lists_others, examples):
        answers = drop_repeats(example.answers).texts
        contexts.append(example.context)
        lists.append(tuple(drop_repeats([*answers, *example.negatives]).texts))  # correct ones come first, also when duplicates are dropped
        right.append(np.arange(len(answers)))
    if not lists:
        raise UserError(
            "no context has negatives, so there is no list to rank: name their column with --negatives-column or --label, or sample"
        )
    return CandidateLists(tuple(contexts), tuple(lists), tuple(right), "listed")


def whole_pool(examples: Sequence[RankingExample]) -> CandidateLists:
    """Rank every available answer and negative for every context, unless all are correct for it.

    Raises:
        UserError: There is only one candidate, or all candidates are correct for every context.
    """
    pool = tuple(drop_repeats(text for example in examples for text in (*example.answers, *example.negatives)).texts)
    if len(pool) < 2:
        raise UserError("the whole pool has one candidate, which always ranks first: give pairs with different answers")
    row_of = {same_text_key(text): row for row, text in enumerate(pool)}
    right = tuple(np.unique([row_of[same_text_key(answer)] for answer in example.answers]) for example in examples)
    asked = [position for position, positions in enumerate(right) if len(positions) < len(pool)]
    if not asked:
        raise UserError(
            f"all {len(pool):,} candidates are correct for every context, so all rankers are perfect: give pairs with different answers"
        )
    contexts = tuple(examples[position].context for position in asked)
    return CandidateLists(contexts, (pool,) * len(contexts), tuple(right[position] for position in asked), f"whole pool of {len(pool):,}")


# ---- figures of one list


def first_place_chances(scores: np.ndarray, is_right: np.ndarray) -> tuple[int, np.ndarray]:
    """Distribution of the rank of the best correct candidate, with ties in random order.

    Args:
        scores: Scores of one list (candidates,).
        is_right: True for correct candidates, at least one.

    Returns:
        Number of wrong candidates that certainly rank above it, and its probabilities (tied,) for the following ranks.
    """
    best = scores[is_right].max()
    better = int((scores > best).sum())
    is_tied = scores == best
    tied, right = int(is_tied.sum()), int((is_tied & is_right).sum())
    positions = np.arange(tied)
    still_wrong = np.concatenate([[1.0], np.cumprod(np.clip((tied - right - positions) / (tied - positions), 0.0, 1.0))])
    return better, still_wrong[:-1] - still_wrong[1:]


def average_precision(scores: np.ndarray, is_right: np.ndarray) -> float:
    """Average precision of one list, in expectation over the order of ties.

    McSherry and Najork 2008, "Computing information retrieval performance measures efficiently in the presence of tied scores".
    """
    _, level = np.unique(-scores, return_inverse=True)
    sizes, rights = np.bincount(level), np.bincount(level, weights=is_right)
    total, above, right_above = 0.0, 0, 0.0
    for size, right in zip(sizes, rights, strict=True):
        if right:
            steps = np.arange(size)
            others = steps * (right - 1) / (size - 1) if size > 1 else np.zeros(1)  # correct ones among the tied before it
            total += right / size * float(((right_above + others + 1) / (above + steps + 1)).sum())
        above, right_above = above + int(size), right_above + float(right)
    return total / float(rights.sum())


def list_figures(scores: Iterable[np.ndarray], lists: CandidateLists) -> dict[str, np.ndarray]:
    """Figures per list (queries,): ``R@1``, ``R@2``, ``R@5``, ``R@10`` as far as lists are longer, ``MRR``, and ``MAP`` if some have several correct.

    R@k is 1 for a list not longer than k.

    Args:
        scores: Scores of each query's candidates; may be a stream.
        lists: The queries.

    Raises:
        UserError: A score is not finite.
    """
    longest = max(map(len, lists.lists))
    found: dict[str, list[float]] = {f"R@{k}": [] for k in _RECALLS if k < longest} | {"MRR": []}
    has_several = any(len(positions) > 1 for positions in lists.right)
    if has_several:
        found["MAP"] = []
    for row, positions in zip(scores, lists.right, strict=True):
        marks = np.zeros(len(row), dtype=bool)
        marks[positions] = True
        if not np.isfinite(row).all():
            raise UserError("a ranker gave a score of nan or infinity, which cannot be ranked: check its weights, or use float32")
        better, chances = first_place_chances(row, marks)
        for name, values in found.items():
            if name.startswith("R@"):
                values.append(float(chances[: max(0, int(name[2:]) - better)].sum()))
        found["MRR"].append(float((chances / (better + 1 + np.arange(len(chances)))).sum()))
        if has_several:
            found["MAP"].append(average_precision(row, marks))
    return {name: np.array(values) for name, values in found.items()}


def list_scores(ranker: EvaluatedRanker, lists: CandidateLists, *, progress: Progress | None = None) -> Iterator[np.ndarray]:
    """Score every query's candidates, query by query; shared candidates are encoded once."""
    if _is_shared(lists):
        yield from ranker.score_pool(lists.contexts, lists.lists[0], progress=progress)
    else:
        yield from ranker.score_lists(lists.contexts, lists.lists, progress=progress)


def _is_shared(lists: CandidateLists) -> bool:
    return all(listed is lists.lists[0] for listed in lists.lists)


def _different_candidates(lists: CandidateLists) -> list[str]:
    different = {id(listed): listed for listed in lists.lists}.values()  # a shared pool once
    return list(dict.fromkeys(text for listed in different for text in listed))


# ---- latency


@dataclass(frozen=True)
class Latency:
    """Time from a context's text to the scores of all candidates.

    Attributes:
        candidates: Number of candidates.
        ms: Median over queries, in milliseconds.
        is_extrapolated: Extrapolated from few candidates, since a cross-encoder's time is proportional to their number.
    """

    candidates: int
    ms: float
    is_extrapolated: bool


def latencies(
    ranker: EvaluatedRanker,
    contexts: Sequence[str],
    candidates: Sequence[str],
    *,
    sizes: Sequence[int] = LATENCY_CANDIDATES,
    queries: int = 5,
) -> list[Latency]:
    """Measure the latency per query on this machine, one context at a time, with cached candidates if the ranker supports it.

    Args:
        ranker: Ranker to measure.
        contexts: Query texts; the first ``queries`` are used, after one warm-up query.
        candidates: Texts; their vectors are repeated if there are too few. All are scored, without pruning.
        sizes: Numbers of candidates.
        queries: Number of timed queries.
    """
    asked = [contexts[position % len(contexts)] for position in range(queries + 1)]
    taken_s: dict[Callable[[str], object], float] = {}  # a query that is the same for all sizes is timed once
    found = []
    for query in ranker.timed_queries(candidates, sizes):
        if query.ask not in taken_s:
            taken_s[query.ask] = _median_s(query.ask, asked)
        scale = query.candidates / query.scored
        found.append(Latency(query.candidates, 1000 * taken_s[query.ask] * scale, query.candidates != query.scored))
    return found


def _median_s(ask: Callable[[str], object], contexts: Sequence[str]) -> float:
    taken_s = []
    for context in contexts:
        began_s = time.perf_counter()
        ask(context)
        taken_s.append(time.perf_counter() - began_s)
    return float(np.median(taken_s[1:]))


# ---- report


@dataclass(frozen=True, kw_only=True)
class RankerResult:
    """Result of one ranker.

    Attributes:
        name: Its folder or name.
        type: ``bi``, ``poly`` or ``cross``; for a baseline ``tf-idf`` or ``static``.
        vectors: Vectors per context; 0 for a cross-encoder and for ``tf-idf``.
        figures: By name, x 100.
        latencies: One per number of candidates.
        truncated: Number of texts truncated at a length limit.
    """

    name: str
    type: str
    vectors: int
    figures: dict[str, Figure]
    latencies: tuple[Latency, ...]
    truncated: int


@dataclass(frozen=True, kw_only=True)
class RankingReport:
    """Results of several rankers on the same lists; differences are relative to the first.

    Attributes:
        rankers: In the given order.
        queries: Number of lists.
        kind: Kind of lists; see ``CandidateLists``.
        resamples: Bootstrap resamples of the queries, per interval.
        seed: Seed of lists and resamples.
        versions: Versions of the packages that affect the figures.
    """

    rankers: tuple[RankerResult, ...]
    queries: int
    kind: str
    resamples: int
    seed: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Convert the report for JSON."""
        return asdict(self)


def evaluate_rankers(
    rankers: Iterable[EvaluatedRanker],
    lists: CandidateLists,
    *,
    sizes: Sequence[int] = LATENCY_CANDIDATES,
    resamples: int = 1000,
    seed: int = 13,
    progress: Progress | None = None,
) -> RankingReport:
    """Evaluate several rankers on the same lists.

    Args:
        rankers: One or more, including baselines, which are fitted on all candidates; a generator may load them one at a time.
        lists: Lists to rank.
        sizes: Numbers of candidates for latency measurements; empty for none.
        resamples: Bootstrap resamples, 1 or more.
        seed: Seed of the resamples.
        progress: Receives progress updates.

    Raises:
        UserError: There is no ranker, the resamples or the seed cannot be used, or a score is not finite.
    """
    refuse_all(wrong_resamples(resamples) + wrong_seed(seed))
    candidates = _different_candidates(lists)
    results: list[tuple[dict[str, Any], dict[str, np.ndarray]]] = []
    for ranker in rankers:
        check_known(ranker, [*lists.contexts, *candidates], progress=progress or Progress.silent())
        found = list_figures(list_scores(ranker, lists, progress=progress), lists)
        about = {
            "name": ranker.name,
            "type": ranker.type,
            "vectors": ranker.vectors,
            "truncated": ranker.truncated,
            "latencies": tuple(latencies(ranker, lists.contexts, candidates, sizes=sizes)) if sizes else (),
        }
        results.append((about, found))
    if not results:
        raise UserError("no ranker was given, so there is nothing to evaluate: give one or more")
    figures: list[dict[str, Figure]] = [{} for _ in results]
    for name in results[0][1]:
        values = 100 * np.stack([found[name] for _, found in results])  # (rankers, queries)
        replicates = bootstrap_means(values, resamples=resamples, rng=np.random.default_rng([seed, 5]))
        for mine, figure in zip(figures, figures_of(values.mean(axis=1), replicates), strict=True):
            mine[name] = figure
    return RankingReport(
        rankers=tuple(RankerResult(**about, figures=mine) for (about, _), mine in zip(results, figures, strict=True)),
        queries=len(lists),
        kind=lists.kind,
        resamples=resamples,
        seed=seed,
        versions=versions(),
    )
