"""Evaluate several encoders on suites: figures with 95% bootstrap intervals and differences to the first model."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from tain.evaluation.encoding import EncodedOnce, FitsAtHand, refuse_unfit_suites, refuse_unknown_languages
from tain.evaluation.figures import Figure, Group, Row, SuiteResult
from tain.evaluation.label_free import LabelFreeReport, Level
from tain.evaluation.suites.label_free import LABEL_FREE
from tain.evaluation.suites.registry import load_suites
from tain.evaluation.suites.suite import Split, SuiteOptions
from tain.foundation.choices import wrong_resamples, wrong_seed
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.machine import versions
from tain.foundation.old_names import SUITES as OLD_SUITES
from tain.foundation.progress import Progress
from tain.models.text_encoder import TextEncoder
from tain.text.collections import list_texts

__all__ = ["EvaluationReport", "Figure", "Group", "ModelSummary", "Row", "SuiteResult", "evaluate"]


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
        """Summary figure of the first suite, where higher is better: the mean of its first group, else its first row, and its name."""
        return self.headlines()[0]

    def headlines(self) -> list[tuple[str, Row]]:
        """The summary figure of each suite, as ``headline``."""
        return [_headline(suite) for suite in self.suites]


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
        UserError: No encoder, fewer than one resample, a seed, split or level that cannot be used, no texts for ``label-free``, vectors
            with nan or infinity, a language that an encoder needs but is missing or unknown to it, or an error of ``load_suites``.
    """
    progress = Progress.resolve(progress)
    problems = wrong_resamples(resamples) + wrong_seed(seed)
    for name, given, known in (("split", split, get_args(Split)), ("level", level, get_args(Level))):
        problems += [] if given in known else [f"{name} is {given!r}: give {' or '.join(known)}"]
    refuse_all(problems)
    suites = [OLD_SUITES.get(name, name) for name in suites]
    given = None if texts is None else list_texts(texts)
    options = SuiteOptions(data=data, split=split, texts=given, level=level, languages=languages, resamples=resamples, seed=seed)
    loaded = load_suites(suites, options)
    encoders = list(encoders)
    if not encoders:
        raise UserError("no model was given, so there is nothing to evaluate: give one or more")
    for suite in loaded:
        if suite.absent:
            progress.note(f"{suite.title}: absent and not in the mean: {', '.join(title for _, title in suite.absent)}")

    measured: dict[str, list[Any]] = {suite.name: [] for suite in loaded}
    models = []
    by_suite = [suite.texts() for suite in loaded]
    for encoder in encoders:
        refuse_unknown_languages(encoder, {language for texts_of_suite in by_suite for language, _ in texts_of_suite})
        refuse_unfit_suites(encoder, [suite.name for suite in loaded])
    for name, encoder in zip(_distinct_names(encoders), encoders, strict=True):
        once = EncodedOnce(encoder, progress)
        if not isinstance(encoder, FitsAtHand):
            once.prepare([pair for texts_of_suite in by_suite for pair in texts_of_suite])
        for suite, texts_of_suite in zip(loaded, by_suite, strict=True):
            if isinstance(encoder, FitsAtHand) and any(texts for _, texts in texts_of_suite):
                once.prepare(texts_of_suite)  # on its own texts, so that a suite's figures do not depend on the other suites
            measured[suite.name].append(suite.row.measure(suite, once, options))
        models.append(ModelSummary(name=name, texts=once.distinct, truncated=once.truncated))

    results = {suite.name: suite.row.summarise(suite, measured[suite.name], options) for suite in loaded}
    order = [name for name in dict.fromkeys(suites) if name in results]
    order += [name for name in results if name not in order]
    return EvaluationReport(
        models=tuple(models),
        suites=tuple(results[name] for name in order),
        geometry=tuple(report for report, _ in measured.get(LABEL_FREE.name, [])),
        split=split,
        resamples=resamples,
        seed=seed,
        versions=versions(),
    )


def _headline(suite: SuiteResult) -> tuple[str, Row]:
    group = suite.groups[0]
    index = f"{suite.title} ({group.title})" if group.title else suite.title
    if group.mean is not None:
        return f"{index}, {group.mean.title} sets", group.mean
    return f"{index}, {group.rows[0].title}", group.rows[0]


def _distinct_names(encoders: Sequence[TextEncoder]) -> list[str]:
    names: list[str] = []
    for encoder in encoders:
        name, number = encoder.name, 2
        while name in names:
            name, number = f"{encoder.name} ({number})", number + 1
        names.append(name)
    return names


def _without_nan(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return value
