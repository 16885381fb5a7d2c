"""Evaluates several encoders side by side: every figure with its 95% bootstrap interval and its difference to the first model."""

import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np

from tain.evaluation.encoding import EncodedOnce, FitsAtHand, refuse_unfit_suites, refuse_unknown_languages
from tain.evaluation.label_free import RETRIEVAL, TITLES, LabelFreeReport, Level, label_free_bootstrap
from tain.evaluation.metrics import Interval, bootstrap_means, bootstrap_spearman, percentile_interval, spearman
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

SPEARMAN_UNIT = "Spearman x 100"
_LABEL_FREE_TEXTS = "stsb/stsb_dev.tsv"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One model's figure, with the interval in which it may lie had other pairs been drawn.

    Attributes:
        value: The figure on all pairs; ``nan`` where it is undefined, such as when all of a model's cosines are equal.
        interval: 95% percentile bootstrap interval.
        difference: ``value`` less the first model's; ``None`` for the first model itself.
        difference_interval: Its 95% interval, from resamples that both models share.
    """

    value: float
    interval: Interval
    difference: float | None = None
    difference_interval: Interval | None = None


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: a set, a mean over sets, or a measure.

    Attributes:
        key: What JSON calls it.
        title: What tables call it.
        unit: The figures' unit, such as ``Spearman x 100``; empty for a pure number.
        better: Which way is better.
        items: How many pairs or texts the figures rest on.
        figures: One for each model, in the order of ``EvaluationReport.models``.
    """

    key: str
    title: str
    unit: str
    better: Literal["higher", "lower"]
    items: int
    figures: tuple[Figure, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that belong together.

    Attributes:
        title: Such as ``English, test``; may be empty.
        rows: The sets or measures.
        mean: The unweighted mean over ``rows``; ``None`` where there are fewer than two or they cannot be averaged.
            Its interval takes the sets' resamples as independent of each other.
        absent: Titles of the sets that are not there, and so not in the mean.
    """

    title: str
    rows: tuple[Row, ...]
    mean: Row | None = None
    absent: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuiteResult:
    """What one suite gave; ``counted`` is what the items of its rows are called, empty where they are not shown."""

    name: str
    title: str
    groups: tuple[Group, ...]
    note: str = ""
    counted: str = "pairs"


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """One model of a report: its name, how many distinct texts it encoded, and how many of them it had to cut."""

    name: str
    texts: int
    truncated: int


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """Everything an evaluation found, ready for a table, JSON or a chart.

    Attributes:
        models: In the order given; differences are to the first.
        suites: In the order asked for.
        geometry: Each model's label-free report where the suite ``label-free`` was asked for, else empty.
        split: Which sets the suites stood for.
        resamples: Bootstrap resamples behind each interval.
        seed: Fixes the resamples.
        versions: Of the packages that the figures depend on.
    """

    models: tuple[ModelSummary, ...]
    suites: tuple[SuiteResult, ...]
    geometry: tuple[LabelFreeReport, ...]
    split: Split
    resamples: int
    seed: int
    versions: dict[str, str]

    def to_dict(self) -> dict[str, object]:
        """Give everything for JSON, ``None`` where a figure is undefined."""
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

    def labels(self) -> list[str]:
        """Short names for tables and charts: as many last parts of each model's path as tell it from the others."""
        parts = [model.name.rstrip("/").split("/") for model in self.models]
        for kept in range(1, max(map(len, parts))):
            short = ["/".join(part[-kept:]) for part in parts]
            if len(set(short)) == len(short):
                return short
        return [model.name for model in self.models]

    def headline(self) -> tuple[str, Row]:
        """What sums the report up, where higher is better: the first group's mean, else its first row, and what it is on."""
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
    """Evaluate encoders on labelled sets, and without labels where ``label-free`` is among the suites.

    Args:
        encoders: One or more; each encodes every distinct text once. The first is what the others are compared with.
            Taken up only when all sets are read, so that a generator may load them.
        suites: Suites, single sets and own tables; see ``suites.load_suites``.
        data: The folder with the suites' files.
        split: Which sets a suite's name stands for.
        texts: What ``label-free`` measures; without it the sentences of STS-B dev in ``data``.
        level: What these texts are; see ``label_free.label_free_report``.
        languages: Of the two columns of own tables, for encoders that treat each language in its own way; the first is also that of
            ``texts``. The suites know their languages.
        resamples: Bootstrap resamples, 1 or more.
        seed: Fixes the resamples and, of many ``texts``, which are taken.
        progress: Where to say what is going on.

    Raises:
        UserError: No encoder, fewer than one resample, no texts for ``label-free``, vectors with nan or infinity, a language that an
            encoder has to be told and is not, or that it does not know, or what ``load_suites`` refuses.
    """
    progress = Progress.resolve(progress)
    if resamples < 1:
        raise UserError(f"resamples is {resamples}, but an interval needs some: give 1000, or at least 1")
    suites = [OLD_SUITES.get(name, name) for name in suites]
    loaded = load_suites(suites, data, split=split, own_languages=languages)
    label_free_texts = _label_free_texts(texts, data, level) if LABEL_FREE in suites else []
    label_free_language = languages[0] if texts is not None else "en"
    encoders = list(encoders)
    if not encoders:
        raise UserError("no model is given, so there is nothing to evaluate: give one or more")
    for suite in loaded:
        if suite.absent:
            progress.note(f"{suite.title}: absent and left out of the mean: {', '.join(title for _, title in suite.absent)}")

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
                once.prepare(texts_of_suite)  # on its own texts, so that a suite's figures do not depend on what else is evaluated
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
    """The models' figures (models,) and their bootstrap values (models, resamples), which depend on no other set."""
    rng = np.random.default_rng([seed, _number_of(PurePath(scored.key).name)])  # a table of one's own may move to another folder
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
    """Put values (models,) and their paired bootstrap values (models, resamples) together."""
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
    """Accuracies with their intervals: items are drawn anew, what was trained on stays."""
    by_group: dict[str, list[tuple[Row, tuple[np.ndarray, np.ndarray]]]] = {}
    for task in suite.tasks:
        for of_models in zip(*outcomes[task.key], strict=True):
            first = of_models[0]
            rng = np.random.default_rng([seed, _number_of(first.key)])
            shares = 100 * np.stack([outcome.shares for outcome in of_models])
            values = shares.mean(axis=1), bootstrap_means(shares, resamples=resamples, rng=rng)
            items, figures = shares.shape[1], figures_of(*values)
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
            raise UserError("suite label-free was given no texts: give some, two at least")
        return listed
    if level != "sentence":
        raise UserError(f"suite label-free at level {level!r} has no texts of its own: give --texts FILE, one text a line")
    if data is None or not (data / _LABEL_FREE_TEXTS).is_file():
        raise UserError(f"suite label-free needs texts: give --texts FILE, one text a line, or --data DIR with {_LABEL_FREE_TEXTS}")
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


# ---- small things


def _distinct_names(encoders: Sequence[TextEncoder]) -> list[str]:
    names: list[str] = []
    for encoder in encoders:
        name, number = encoder.name, 2
        while name in names:
            name, number = f"{encoder.name} ({number})", number + 1
        names.append(name)
    return names


def _number_of(name: str) -> int:
    """A number that is the same in every run; ``hash`` is not."""
    return zlib.crc32(name.encode())


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
