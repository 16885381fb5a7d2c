"""Suite of students, classifiers and taggers: intents and slots, with and without typing errors."""

from collections.abc import Iterable
from typing import Any

from tain.evaluation.suites.separate import Report, SeparateOptions, SeparateSuite
from tain.evaluation.tagging import measure_tagging
from tain.evaluation.tagging_sets import SET_NAMES, SUITE, TaggingSet, load_tagging
from tain.foundation.progress import Progress

Loaded = tuple[list[TaggingSet], list[str]]


def _load(options: SeparateOptions) -> Loaded:
    return load_tagging(options.names, options.data, part=options.split)


def _measure(models: Iterable[Any], loaded: Loaded, options: SeparateOptions, progress: Progress) -> Report:
    sets, absent = loaded
    keys = [one.key for one in sets]
    is_own_table = options.data is not None and options.data.is_file()
    # a set of languages counts as named with each of its languages
    named = [key for key in keys if is_own_table or key in options.names or key.partition("_")[0] in options.names]
    return measure_tagging(
        models,
        sets,
        named=named,
        typos=options.typos or (0.0,),
        unknown_labels=options.unknown_labels,
        resamples=options.resamples,
        seed=options.seed,
        left_out=[f"{key} (no file)" for key in absent],
        progress=progress,
    )


TAGGING = SeparateSuite(
    name=SUITE,
    title="Intents and slots",
    load=_load,
    measure=_measure,
    counted="texts",
    models="labellers",
    flags=frozenset({"data", "split", "typos", "unknown_labels"}),
    sets=SET_NAMES,
)
