"""Evaluate several encoders on suites: figures with 95% bootstrap intervals and differences to the first model."""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from tain.evaluation.encoding import EncodedOnce, FitsAtHand, refuse_unfit_suites, refuse_unknown_languages
from tain.evaluation.label_free import RETRIEVAL, TITLES, LabelFreeReport, Level, label_free_bootstrap
from tain.evaluation.metrics import SPEARMAN_UNIT, Interval, bootstrap_means, bootstrap_spearman, percentile_interval, spearman
from tain.evaluation.suites.pairs import ScoredSet, read_scored_table
from tain.evaluation.suites.registry import LABEL_FREE, Suite, load_suites
from tain.evaluation.suites.sts import Split
from tain.evaluation.suites.tasks import ACCURACY_UNIT, Outcomes
from tain.foundation.errors import UserError
from tain.foundation.machine import versions
from tain.foundation.old_names import SUITES as OLD_SUITES
from tain.foundation.progress import Progress
from tain.models.text_encoder import TextEncoder
from tain.text.collections import list_texts

_LABEL_FREE_TEXTS = "stsb/stsb_dev.tsv"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One model's figure with its bootstrap interval.

    Attributes:
        value: Figure on all pairs; ``nan`` if undefined, such as when all cosines of a model are equal.
        interval: 95% percentile bootstrap interval.
        difference: ``value`` minus the first model's; ``None`` for the first model.
        difference_interval: Its 95% interval, from resamples shared by both models.
        deviation: Standard deviation over draws of training examples, for suites that draw them.
    """

    value: float
    interval: Interval
    difference: float | None = None
    difference_interval: Interval | None = None
    deviation: float | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One table row: a set, a mean over sets, or a measure.

    Attributes:
        key: Name in JSON.
        title: Name in tables.
        unit: Unit of the figures, such as ``Spearman x 100``; empty for a pure number.
        better: Whether higher or lower is better.
        items: Number of pairs or texts behind the figures.
        figures: One per model, in the order of ``EvaluationReport.models``.
    """

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    items: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that are averaged together.

    Attributes:
        title: Such as ``English, test``; may be empty.
        rows: The sets or measures.
        mean: Unweighted mean over ``rows``; ``None`` if there are fewer than two or they cannot be averaged.
            Its interval treats the resamples of different sets as independent.
        absent: Titles of missing sets, which are not in the mean.
    """

    title: str
    rows: tuple[Row, ...]
    mean: Row | None = None
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """Result of one suite; ``counted`` names the items of its rows, and is empty if they are not shown."""

    name: str
    title: str
    groups: tuple[Group, ...]
    note: str = ""
    counted: str = "pairs"


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """Summary of one model in a report: name, number of distinct texts encoded, and number of truncated ones."""

    name: str
    texts: int
    truncated: int


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Complete result of an evaluation, which renders as a table, JSON or a chart.

    Attributes:
        models: In the given order; differences are relative to the first.
        suites: In the requested order.
        geometry: Label-free report of each model if the suite ``label-free`` was requested, else empty.
        split: Split of the suites.
        resamples: Bootstrap resamples per interval.
        seed: Seed of the resamples.
        versions: Versions of the packages that affect the figures.
    """

    models: tuple[ModelSummary, ...]
    suites: tuple[SuiteResult, ...]
    geometry: tuple[LabelFreeReport, ...]
    split: Split
    resamples: int
    seed: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Convert the report for JSON, with ``None`` for undefined figures."""
        plain = _without_nan(asdict(self))
        assert isinstance(plain, dict)
        return plain

    def __str__(self) -> str:
        """The table that ``tain evaluate`` prints, as plain text."""
        from rich.console import Console

        from tain.evaluation.table import as_table

        console = Console(width=120, no_color=True)
        with console.capture() as captured:
            console.print(as_table(self))
        return captured.get()

    def _repr_html_(self) -> str:
        """The same table in a notebook."""
        from tain.evaluation.table import as_table
        from tain.foundation.ruled_table import as_html

        return as_html(as_table(self))

    def labels(self) -> list[str]:
        """Short model names for tables and charts: the shortest path suffixes that distinguish the models."""
        parts = [model.name.rstrip("/").split("/") for model in self.models]
        for kept in range(1, max(map(len, parts))):
            short = ["/".join(part[-kept:]) for part in parts]
            if len(set(short)) == len(short):
                return short
        return [model.name for model in self.models]

    def headline(self) -> tuple[str, Row]:
        """Summary figure where higher is better: the mean of the first group, else its first row, and its name."""
        suite = self.suites[0]
        group = suite.groups[0]
        index = f"{suite.title} ({group.title})" if group.title else suite.title
        if group.mean is not None:
            return f"{index}, {group.mean.title} sets", group.mean
        return f"{index}, {group.rows[0].title}", group.rows[0]


def evaluate(
    encoders: Iterable[TextEncoder],
    suites: Sequence[str] = ("sts",),
    data: Path | None = None,
    *,
    split: Split = "test",
    texts: Iterable[str] | None = None,
    level: Level = "sentence",
    languages: tuple[str | None, str | None] = (None, None),
    resamples: int = 1000,
    seed: int = 13,
    progress: Progress | bool | None = None,
) -> EvaluationReport:
    """Evaluate encoders on labelled suites, and without labels if ``label-free`` is among them.

    Args:
        encoders: One or more; each encodes every distinct text once. The others are compared with the first.
            Consumed after all sets are read, so a generator may load them lazily.
        suites: Suites, single sets and user tables; see ``suites.load_suites``.
        data: Folder with the files of the suites.
        split: Split of the suites.
        texts: Texts for ``label-free``; default: the sentences of STS-B dev in ``data``.
        level: Kind of these texts; see ``label_free.label_free_report``.
        languages: Languages of the two columns of user tables, for encoders with per-language treatment; the first is also that of
            ``texts``. Suites know their languages.
        resamples: Bootstrap resamples, 1 or more.
        seed: Seed of the resamples and of the sample drawn from many ``texts``.
        progress: Receives progress updates and notes.

    Raises:
        UserError: No encoder, fewer than one resample, no texts for ``label-free``, vectors with nan or infinity, a language that an
            encoder needs but is missing or unknown to it, or an error of ``load_suites``.
    """
    progress = Progress.resolve(progress)
    if resamples < 1:
        raise UserError(f"resamples is {resamples}, but an interval needs at least 1: give 1000")
    suites = [OLD_SUITES.get(name, name) for name in suites]
    loaded = load_suites(suites, data, split=split, own_languages=languages)
    label_free_texts = _label_free_texts(texts, data, level) if LABEL_FREE in suites else []
    label_free_language = languages[0] if texts is not None else "en"
    encoders = list(encoders)
    if not encoders:
        raise UserError("no model was given, so there is nothing to evaluate: give one or more")
    for suite in loaded:
        if suite.absent:
            progress.note(f"{suite.title}: absent and not in the mean: {', '.join(title for _, title in suite.absent)}")

    cosines: dict[str, list[np.ndarray]] = {scored.key: [] for suite in loaded for scored in suite.sets}
    outcomes: dict[str, list[list[Outcomes]]] = {task.key: [] for suite in loaded for task in suite.tasks}
    label_free: list[tuple[LabelFreeReport, dict[str, np.ndarray]]] = []
    models = []
    by_suite = [suite.texts() for suite in loaded]
    wanted = {language for texts_of_suite in by_suite for language, _ in texts_of_suite} | (
        {label_free_language} if label_free_texts else set()
    )
    for encoder in encoders:
        refuse_unknown_languages(encoder, wanted)
        refuse_unfit_suites(encoder, [suite.name for suite in loaded])
    for name, encoder in zip(_distinct_names(encoders), encoders, strict=True):
        once = EncodedOnce(encoder, progress)
        if not isinstance(encoder, FitsAtHand):
            once.prepare([pair for texts_of_suite in by_suite for pair in texts_of_suite])
        for suite, texts_of_suite in zip(loaded, by_suite, strict=True):
            if isinstance(encoder, FitsAtHand):
                once.prepare(texts_of_suite)  # on its own texts, so that a suite's figures do not depend on the other suites
            for scored in suite.sets:
                cosines[scored.key].append(scored.cosines(once))
            for task in suite.tasks:
                outcomes[task.key].append(task.outcomes(once))
        if label_free_texts:
            rng = np.random.default_rng([seed, _number_of("geometry")])
            label_free_encoder = once.for_language(label_free_language)
            label_free.append(label_free_bootstrap(label_free_encoder, label_free_texts, level=level, resamples=resamples, rng=rng))
        models.append(ModelSummary(name=name, texts=once.distinct, truncated=once.truncated))

    results = {suite.name: _suite_result(suite, cosines, resamples=resamples, seed=seed) for suite in loaded if suite.sets}
    results |= {suite.name: _task_result(suite, outcomes, resamples=resamples, seed=seed) for suite in loaded if suite.tasks}
    if label_free:
        results[LABEL_FREE] = _label_free_result(label_free)
    order = [name for name in dict.fromkeys(suites) if name in results]
    order += [name for name in results if name not in order]
    return EvaluationReport(
        models=tuple(models),
        suites=tuple(results[name] for name in order),
        geometry=tuple(report for report, _ in label_free),
        split=split,
        resamples=resamples,
        seed=seed,
        versions=versions(),
    )


# ---- labelled sets


def _suite_result(suite: Suite, cosines: dict[str, list[np.ndarray]], *, resamples: int, seed: int) -> SuiteResult:
    titles = dict.fromkeys([scored.group for scored in suite.sets] + [group for group, _ in suite.absent])
    groups = []
    for title in titles:
        sets = [scored for scored in suite.sets if scored.group == title]
        found = [_set_figures(scored, np.stack(cosines[scored.key]), resamples=resamples, seed=seed) for scored in sets]
        rows = tuple(
            Row(key=s.key, title=s.title, unit=SPEARMAN_UNIT, better="higher", items=len(s.gold), figures=figures_of(*values))
            for s, values in zip(sets, found, strict=True)
        )
        groups.append(_group(suite, title, rows, found))
    return SuiteResult(name=suite.name, title=suite.title, groups=tuple(groups))


def _group(suite: Suite, title: str, rows: tuple[Row, ...], found: list[tuple[np.ndarray, np.ndarray]]) -> Group:
    absent = tuple(absent_title for group, absent_title in suite.absent if group == title)
    return Group(title=title, rows=rows, mean=_mean_row(title, rows, found), absent=absent)


def _set_figures(scored: ScoredSet, cosines: np.ndarray, *, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Figures of the models (models,) and their bootstrap values (models, resamples), independent of other sets."""
    rng = np.random.default_rng([seed, _number_of(PurePath(scored.key).name)])  # a user table may move to another folder
    values = np.array([spearman(scored.gold, row) for row in cosines])
    return 100 * values, 100 * bootstrap_spearman(scored.gold, cosines, resamples=resamples, rng=rng)


def _mean_row(title: str, rows: tuple[Row, ...], found: list[tuple[np.ndarray, np.ndarray]]) -> Row | None:
    if len(rows) < 2:
        return None
    values, replicates = (np.mean([pair[part] for pair in found], axis=0) for part in (0, 1))
    return Row(
        key=f"mean of {title}" if title else "mean",
        title=f"mean of {len(rows)}",
        unit=rows[0].unit,
        better="higher",
        items=sum(row.items for row in rows),
        figures=figures_of(values, replicates),
    )


def figures_of(values: np.ndarray, replicates: np.ndarray) -> tuple[Figure, ...]:
    """Combine values (models,) with their paired bootstrap values (models, resamples)."""
    figures = [Figure(value=float(values[0]), interval=percentile_interval(replicates[0]))]
    for value, row in zip(values[1:], replicates[1:], strict=True):
        figures.append(
            Figure(
                value=float(value),
                interval=percentile_interval(row),
                difference=float(value - values[0]),
                difference_interval=percentile_interval(row - replicates[0]),
            )
        )
    return tuple(figures)


# ---- tasks


def _task_result(suite: Suite, outcomes: dict[str, list[list[Outcomes]]], *, resamples: int, seed: int) -> SuiteResult:
    """Accuracies with intervals: test items are resampled, training data is not."""
    by_group: dict[str, list[tuple[Row, tuple[np.ndarray, np.ndarray]]]] = {}
    for task in suite.tasks:
        for of_models in zip(*outcomes[task.key], strict=True):
            first = of_models[0]
            rng = np.random.default_rng([seed, _number_of(first.key)])
            shares = 100 * np.stack([outcome.shares for outcome in of_models])
            values = shares.mean(axis=1), bootstrap_means(shares, resamples=resamples, rng=rng)
            items, figures = shares.shape[1], figures_of(*values)
            if first.deviation is not None:
                figures = tuple(replace(figure, deviation=100 * (o.deviation or 0.0)) for figure, o in zip(figures, of_models, strict=True))
            row = Row(key=first.key, title=first.title, unit=ACCURACY_UNIT, better="higher", items=items, figures=figures)
            by_group.setdefault(first.group, []).append((row, values))
    groups = tuple(
        _group(suite, title, tuple(row for row, _ in found), [values for _, values in found]) for title, found in by_group.items()
    )
    note = "; ".join(dict.fromkeys(remark for task in suite.tasks for remark in task.remarks))
    return SuiteResult(name=suite.name, title=suite.title, groups=groups, note=note, counted=suite.counted)


# ---- label-free figures


def _label_free_texts(texts: Iterable[str] | None, data: Path | None, level: Level) -> list[str]:
    if texts is not None:
        if not (listed := list_texts(texts)):
            raise UserError("suite label-free was given no texts: give at least two")
        return listed
    if level != "sentence":
        raise UserError(f"suite label-free at level {level!r} has no built-in texts: give --texts FILE, one text per line")
    if data is None or not (data / _LABEL_FREE_TEXTS).is_file():
        raise UserError(f"suite label-free needs texts: give --texts FILE, one text per line, or --data DIR with {_LABEL_FREE_TEXTS}")
    left, right, _ = read_scored_table(data / _LABEL_FREE_TEXTS)
    return [*left, *right]


def _label_free_result(found: list[tuple[LabelFreeReport, dict[str, np.ndarray]]]) -> SuiteResult:
    rows: dict[str, Row] = {}
    first = found[0][0]
    for field, (title, better) in TITLES.items():
        unit, factor = ("x 100", 100.0) if title.startswith(RETRIEVAL) else ("", 1.0)
        title = title.removeprefix(RETRIEVAL).strip()  # the group is called so
        values = factor * np.array([getattr(report, field) for report, _ in found])
        replicates = factor * np.stack([bootstrap[field] for _, bootstrap in found])
        items = first.texts - first.too_short if field.startswith("self_retrieval") else first.texts
        rows[field] = Row(key=field, title=title, unit=unit, better=better, items=items, figures=figures_of(values, replicates))
    retrieval = tuple(row for field, row in rows.items() if field.startswith("self_retrieval"))
    distribution = tuple(row for field, row in rows.items() if not field.startswith("self_retrieval"))
    note = f"{first.texts} texts"
    note += f", {first.repeated} repeats left out" if first.repeated else ""
    note += f", {first.too_short} too short to be halved" if first.too_short else ""
    return SuiteResult(
        name=LABEL_FREE,
        title="Label-free",
        groups=(Group(title=RETRIEVAL, rows=retrieval), Group(title="distribution", rows=distribution)),
        note=note,
        counted="",
    )


# ---- helpers


def _distinct_names(encoders: Sequence[TextEncoder]) -> list[str]:
    names: list[str] = []
    for encoder in encoders:
        name, number = encoder.name, 2
        while name in names:
            name, number = f"{encoder.name} ({number})", number + 1
        names.append(name)
    return names


def _number_of(name: str) -> int:
    """A hash that is the same in every process, unlike ``hash``."""
    return zlib.crc32(name.encode())


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
