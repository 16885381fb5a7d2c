"""The table of suites: resolve names to suites, single sets or user tables, and load them."""

import os
from collections.abc import Sequence
from pathlib import Path

from tain.evaluation.suites.entity_linking import ENTITY_LINKING
from tain.evaluation.suites.few_shot import FEW_SHOT, is_labelled, own_few_shot_suite
from tain.evaluation.suites.label_free import LABEL_FREE
from tain.evaluation.suites.lexicon import LEXICON
from tain.evaluation.suites.mlm import MLM
from tain.evaluation.suites.pairs import own_suite
from tain.evaluation.suites.separate import SeparateSuite
from tain.evaluation.suites.sts import STS, STS17
from tain.evaluation.suites.suite import WHAT_DATA_IS, LoadedSuite, Source, Suite, SuiteOptions
from tain.evaluation.suites.tagging import TAGGING
from tain.evaluation.suites.transfer import TRANSFER
from tain.evaluation.suites.words import WORDS, WORDS_CROSSED
from tain.foundation.errors import refuse_all
from tain.foundation.old_names import SUITES as OLD_SUITES

# a new suite is a file and a row here; the last two measure other models than encoders
SUITES: tuple[Suite | SeparateSuite, ...] = (
    STS,
    STS17,
    WORDS,
    WORDS_CROSSED,
    TRANSFER,
    LEXICON,
    ENTITY_LINKING,
    FEW_SHOT,
    LABEL_FREE,
    MLM,
    TAGGING,
)
_TABLE_ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet", ".gz", ".xz")


def separate_suite(names: Sequence[str]) -> SeparateSuite | None:
    """The suite of other models than encoders that one of the names refers to; None if all are of encoders."""
    return next((row for row in SUITES if isinstance(row, SeparateSuite) and any(map(row.owns, names))), None)


def encoder_suites() -> dict[str, Suite]:
    """The suites of encoders by name."""
    return {row.name: row for row in SUITES if isinstance(row, Suite)}


def load_suites(names: Sequence[str], options: SuiteOptions) -> list[LoadedSuite]:
    """Load suites, sets and tables of encoders by name.

    Args:
        names: Suites, single sets (``sts12``, ``stsb_dev``, ``simlex999``, ``mr``, ``bli_en-de``, ...), and user tables (a path, or
            ``hf:NAME``; see ``pairs.own_set``).
        options: ``data`` is not needed for user tables; the split ``dev`` has the sets for choosing settings.

    Returns:
        One entry per suite in the order of first mention, user tables last but for ``label-free``.

    Raises:
        UserError: A name is unknown, ``data`` is missing but needed, a suite has no set in it, a set named explicitly is absent, or a
            table cannot be read.
    """
    names = [OLD_SUITES.get(name, name) for name in names]
    known = {name: row.sources(options.data, options.split) for name, row in encoder_suites().items()}
    by_key = _sources_by_key(options.data)
    refuse_all(_problems(names, options, known, by_key))
    wanted: dict[str, list[Source]] = {}
    own: list[str] = []
    for name in dict.fromkeys(names):
        if name in known:
            wanted.setdefault(name, []).extend(known[name])
        elif name in by_key:
            suite, source = by_key[name]
            wanted.setdefault(suite, []).append(source)
        else:
            own.append(name)
    rows = encoder_suites()
    loaded = [rows[name].load(rows[name], sources, options) for name, sources in wanted.items() if name != LABEL_FREE.name]
    labelled = [source for source in own if is_labelled(source)]
    if labelled:
        loaded.append(own_few_shot_suite(labelled, language=options.languages[0]))
    if pairs := [source for source in own if source not in labelled]:
        loaded.append(own_suite(pairs, languages=options.languages))
    if LABEL_FREE.name in wanted:  # last, because baselines are fitted on the texts of the other suites
        loaded.append(LABEL_FREE.load(LABEL_FREE, (), options))
    return loaded


def _sources_by_key(data: Path | None) -> dict[str, tuple[str, Source]]:
    sources = [(name, source) for name, row in encoder_suites().items() for split in ("dev", "test") for source in row.sources(data, split)]
    return {source.key: (suite, source) for suite, source in sources}  # test comes last, since SimLex-999 is in both


def _problems(
    names: Sequence[str], options: SuiteOptions, known: dict[str, Sequence[Source]], by_key: dict[str, tuple[str, Source]]
) -> list[str]:
    data, split = options.data, options.split
    problems = []
    all_names = ", ".join(row.name for row in SUITES)
    if not names:
        problems.append(f"no suite was given, so there is nothing to evaluate: give one of {all_names}, or your own table")
    unknown = [name for name in names if name not in known and name not in by_key and not is_table(name)]
    for name in unknown:
        problems.append(
            f"suite is {name!r}, which is not a suite, set or table: give one of {all_names}, a set such as stsb_dev or simlex999,"
            " or your own tsv with the columns sentence1, sentence2, score (or text, label)"
        )
    of_files = [name for name in names if name in known and name != LABEL_FREE.name]
    without_split = [name for name in of_files if not known[name]]
    if without_split:
        problems.append(
            f"suite {', '.join(without_split)} has no {split} split: remove --split, or name sts, words, entity-linking or few-shot"
        )
    if split == "dev":  # sets are named with their split, so the name would win without a word
        of_dev = {source.key for row in encoder_suites().values() for source in row.sources(data, split)}
        for name in (name for name in names if name in by_key and name not in known and name not in of_dev):
            instead = [key for key in (f"{name}_dev", f"{name}_trial") if key in of_dev]
            problems.append(f"set {name} is not in the dev split: remove --split" + "".join(f", or name {key}" for key in instead))
    needs_data = [name for name in names if name in of_files or name in by_key]
    if needs_data and data is None:
        problems.append(f"suite {', '.join(needs_data)} needs data, but none was given: give --data DIR, {WHAT_DATA_IS}")
    elif needs_data and data is not None and not data.is_dir():
        problems.append(f"data is {str(data)!r}, which is not a folder: give {WHAT_DATA_IS}")
    return problems


def is_table(name: str) -> bool:
    """Whether a name is a user's own table: a path, or a data set of the hub."""
    return name.startswith("hf:") or os.sep in name or name.lower().endswith(_TABLE_ENDINGS)
