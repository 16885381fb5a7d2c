"""Registry of suites: resolve names to suites, single sets or user tables, and load them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tain.evaluation.suites.entity_linking import entity_linking_sources
from tain.evaluation.suites.few_shot import few_shot_sources, label_column, own_few_shot
from tain.evaluation.suites.lexicon import lexicon_sources
from tain.evaluation.suites.pairs import ScoredSet, SetSource, Source, own_set
from tain.evaluation.suites.sts import Split, sts17_sources, sts_sources
from tain.evaluation.suites.tasks import Task, TaskSource
from tain.evaluation.suites.transfer import transfer_sources
from tain.evaluation.suites.words import crossed_sources, word_sources
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.old_names import SUITES as OLD_SUITES
from tain.text.readers import read_rows

LABEL_FREE = "label-free"
SUITES = ("sts", "sts17", "words", "words-crossed", "transfer", "bli", "entity-linking", "few-shot", LABEL_FREE)
_ALL = ", ".join((*SUITES, "mlm", "tagging"))  # the last two evaluate other kinds of models, in other modules

_TITLES = {"sts": "STS", "sts17": "STS 2017", "words": "Word similarity", "words-crossed": "Cross-lingual word similarity"}
_TITLES |= {
    "transfer": "Transfer",
    "bli": "Bilingual lexicon induction",
    "entity-linking": "Entity linking",
    "few-shot": "Few-shot classification",
}
_COUNTED = {
    "transfer": "texts",
    "bli": "words",
    "entity-linking": "mentions",
    "few-shot": "texts",
}  # items of a figure, unless they are pairs
_TABLE_ENDINGS = (".tsv", ".csv", ".jsonl", ".ndjson", ".parquet", ".gz", ".xz")
_FOLDERS = "sts/, stsb/, sick/, sts17/, wordsim/, multisimlex/, transfer/, bli/, biomed/ or clinc150/"
_WHAT_DATA_IS = f"a folder that holds {_FOLDERS} with one tsv file a set (docs/evaluation.md)"


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Sets that are reported together.

    Attributes:
        name: Name on the command line; ``own`` for user tables.
        title: Name in tables.
        sets: Available sets of scored pairs, in order.
        tasks: Available sets of other kinds, in order; a suite has either sets or tasks.
        absent: Group and title of each set without a file.
        counted: Name of a set's items.
    """

    name: str
    title: str
    sets: tuple[ScoredSet, ...] = ()
    tasks: tuple[Task, ...] = ()
    counted: str = "pairs"
    absent: tuple[tuple[str, str], ...] = ()

    def texts(self) -> list[tuple[str | None, Sequence[str]]]:
        """All texts to be encoded, by language."""
        of_sets = [pair for scored in self.sets for pair in scored.texts()]
        return [*of_sets, *(pair for task in self.tasks for pair in task.texts().items())]


def load_suites(
    names: Sequence[str],
    data: Path | None = None,
    *,
    split: Split = "test",
    own_languages: tuple[str | None, str | None] = (None, None),
) -> list[Suite]:
    """Load suites, sets and tables by name; ``label-free`` is skipped because it has no sets.

    Args:
        names: Suites (see ``SUITES``), single sets (``sts12``, ``stsb_dev``, ``simlex999``, ``mr``, ``bli_en-de``, ...), and
            user tables (a path, or ``hf:NAME``; see ``pairs.own_set``).
        data: Folder with the files of the suites; not needed for user tables.
        split: Split of the suites. ``dev`` has the sets for choosing settings.
        own_languages: Languages of the two columns of user tables, for encoders that need them.

    Returns:
        One entry per suite in the order of first mention, user tables last.

    Raises:
        UserError: A name is unknown, ``data`` is missing but needed, a suite has no set in it, a set named explicitly is absent, or a
            table cannot be read.
    """
    names = [OLD_SUITES.get(name, name) for name in names]
    known = {name: _sources(name, data, split) for name in _TITLES}
    by_key = _sources_by_key(data)
    refuse_all(_problems(names, data, split, known, by_key))
    wanted: dict[str, list[Source]] = {}
    own: list[str] = []
    for name in dict.fromkeys(names):
        if name in known:
            wanted.setdefault(name, []).extend(known[name])
        elif name in by_key:
            suite, source = by_key[name]
            wanted.setdefault(suite, []).append(source)
        elif name != LABEL_FREE:
            own.append(name)
    suites = [_load(name, sources, data) for name, sources in wanted.items() if data is not None]
    labelled = [source for source in own if label_column(read_rows(source)[0]) is not None]
    if labelled:
        tasks = tuple(own_few_shot(source, language=own_languages[0]) for source in labelled)
        suites.append(Suite(name="own few-shot", title="Own sets, few-shot classification", tasks=tasks, counted="texts"))
    if pairs := [source for source in own if source not in labelled]:
        suites.append(Suite(name="own", title="Own sets", sets=tuple(own_set(source, languages=own_languages) for source in pairs)))
    return suites


def _sources(suite: str, data: Path | None, split: Split) -> Sequence[Source]:
    if suite == "sts":
        return sts_sources(split)
    if suite == "words":
        return word_sources(data, split)
    if suite == "entity-linking":
        return entity_linking_sources(split)
    if suite == "few-shot":
        return few_shot_sources(split)
    only_tests = {
        "sts17": sts17_sources,
        "transfer": transfer_sources,
        "bli": lexicon_sources,
        "words-crossed": partial(crossed_sources, data),
    }
    return only_tests[suite]() if split == "test" else []


def _sources_by_key(data: Path | None) -> dict[str, tuple[str, Source]]:
    sources = [(suite, source) for suite in _TITLES for split in ("dev", "test") for source in _sources(suite, data, split)]
    return {source.key: (suite, source) for suite, source in sources}  # test comes last, since SimLex-999 is in both


def _problems(
    names: Sequence[str],
    data: Path | None,
    split: Split,
    known: dict[str, Sequence[Source]],
    by_key: dict[str, tuple[str, Source]],
) -> list[str]:
    problems = []
    if not names:
        problems.append(f"no suite was given, so there is nothing to evaluate: give one of {_ALL}, or your own table")
    unknown = [name for name in names if name not in SUITES and name not in by_key and not _is_table(name)]
    for name in unknown:
        problems.append(
            f"suite is {name!r}, which is not a suite, set or table: give one of {_ALL}, a set such as stsb_dev or simlex999,"
            " or your own tsv with the columns sentence1, sentence2, score (or text, label)"
        )
    without_split = [name for name in names if name in known and not known[name]]
    if without_split:
        problems.append(
            f"suite {', '.join(without_split)} has no {split} split: remove --split, or name sts, words, entity-linking or few-shot"
        )
    needs_data = [name for name in names if name in known or name in by_key]
    if needs_data and data is None:
        problems.append(f"suite {', '.join(needs_data)} needs data, but none was given: give --data DIR, {_WHAT_DATA_IS}")
    elif needs_data and data is not None and not data.is_dir():
        problems.append(f"data is {str(data)!r}, which is not a folder: give {_WHAT_DATA_IS}")
    return problems


def _is_table(name: str) -> bool:
    return name.startswith("hf:") or os.sep in name or name.lower().endswith(_TABLE_ENDINGS)


def _load(name: str, sources: list[Source], data: Path) -> Suite:
    sources = list({source.key: source for source in sources}.values())
    present = [source for source in sources if source.is_in(data)]
    if not present:
        files = ", ".join(dict.fromkeys(file for source in sources[:3] for file in source.files))
        raise UserError(f"none of the sets of {name!r} is in {str(data)!r} (looked for {files}, ...): give --data {_WHAT_DATA_IS}")
    return Suite(
        name=name,
        title=_TITLES[name],
        sets=tuple(source.load(data) for source in present if isinstance(source, SetSource)),
        tasks=tuple(source.load(data) for source in present if isinstance(source, TaskSource)),
        counted=_COUNTED.get(name, "pairs"),
        absent=tuple((source.group, source.title) for source in sources if not source.is_in(data)),
    )
