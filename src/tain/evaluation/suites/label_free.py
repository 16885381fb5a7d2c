"""Label-free suite: figures of an encoder's vectors on texts without labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tain.evaluation.encoding import EncodedOnce
from tain.evaluation.figures import Group, Row, SuiteResult, figures_of, number_of
from tain.evaluation.label_free import RETRIEVAL, TITLES, LabelFreeReport, Level, label_free_bootstrap
from tain.evaluation.suites.pairs import read_scored_table
from tain.evaluation.suites.suite import LoadedSuite, Source, Suite, SuiteOptions
from tain.foundation.errors import UserError

_OWN_TEXTS = "stsb/stsb_dev.tsv"
Measured = tuple[LabelFreeReport, dict[str, np.ndarray]]


@dataclass(frozen=True)
class LabelFreeTexts:
    """Texts to measure on, with their level and language."""

    texts_to_encode: list[str]
    level: Level
    language: str | None

    def texts(self) -> list[tuple[str | None, list[str]]]:
        """None: the texts are encoded with their copies, when they are measured."""
        return [(self.language, [])]


def _load(row: Suite, sources: Sequence[Source], options: SuiteOptions) -> LoadedSuite:
    language = options.languages[0] if options.texts is not None else "en"
    return LoadedSuite(row=row, sets=(LabelFreeTexts(_texts(options), options.level, language),))


def _texts(options: SuiteOptions) -> list[str]:
    data, level = options.data, options.level
    if options.texts is not None:
        if not options.texts:
            raise UserError("suite label-free was given no texts: give at least two")
        return list(options.texts)
    if level != "sentence":
        raise UserError(f"suite label-free at level {level!r} has no built-in texts: give --texts FILE, one text per line")
    if data is None or not (data / _OWN_TEXTS).is_file():
        raise UserError(f"suite label-free needs texts: give --texts FILE, one text per line, or --data DIR with {_OWN_TEXTS}")
    left, right, _ = read_scored_table(data / _OWN_TEXTS)
    return [*left, *right]


def _measure(suite: LoadedSuite, encoder: EncodedOnce, options: SuiteOptions) -> Measured:
    (given,) = suite.sets
    rng = np.random.default_rng([options.seed, number_of("geometry")])
    of_language = encoder.for_language(given.language)
    return label_free_bootstrap(of_language, given.texts_to_encode, level=given.level, resamples=options.resamples, rng=rng)


def _summarise(suite: LoadedSuite, found: list[Measured], options: SuiteOptions) -> SuiteResult:
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
    note += f", {first.too_short} too short for copies" if first.too_short else ""
    return SuiteResult(
        name=suite.name,
        title=suite.title,
        groups=(Group(title=RETRIEVAL, rows=retrieval), Group(title="distribution", rows=distribution)),
        note=note,
        counted=suite.row.counted,
    )


LABEL_FREE = Suite(name="label-free", title="Label-free", load=_load, measure=_measure, summarise=_summarise, counted="")
