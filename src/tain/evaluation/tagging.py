"""How well intents and slots are told: accuracy, F1 of whole slots, texts with nothing wrong, and what typing errors cost."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from tain.evaluation.metrics import Interval, percentile_interval, resample_counts
from tain.evaluation.tagging_sets import SUITE, TaggingSet
from tain.foundation.errors import ShapeError, UserError
from tain.foundation.progress import Progress
from tain.text.records import Prediction
from tain.text.tags import slots_of
from tain.text.typos import misspelt

if TYPE_CHECKING:
    from rich.console import Group as Lines

UnknownLabels = Literal["refuse", "count-as-wrong"]
FIGURES = ("accuracy", "slot_f1", "exact")


@runtime_checkable
class LabelPredictor(Protocol):
    """What is measured: a student, a classifier, a tagger."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Intents it can tell; empty where it tells none."""
        ...

    @property
    def tags(self) -> tuple[str, ...]: ...

    @property
    def truncated(self) -> int:
        """Texts that the last call cut."""
        ...

    def predict(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Prediction]: ...


class SideBySide:
    """A classifier for intents and a tagger for slots, as one."""

    def __init__(self, classifier: LabelPredictor, tagger: LabelPredictor, *, name: str) -> None:
        self.name, self.labels, self.tags = name, classifier.labels, tagger.tags
        self._classifier, self._tagger = classifier, tagger

    @property
    def truncated(self) -> int:
        return max(self._classifier.truncated, self._tagger.truncated)

    def predict(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Prediction]:
        whole, spelt = self._classifier.predict(texts, progress=progress), self._tagger.predict(texts, progress=progress)
        return [Prediction(one.label, one.chance, other.tags) for one, other in zip(whole, spelt, strict=True)]


@dataclass(frozen=True)
class TaggingFigure:
    """A share, 0 to 1, and its 95% bootstrap interval over texts."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class TaggingRow:
    """One model on one set.

    Attributes:
        set: The set's key; ``mean`` for the mean over sets, each counting alike.
        model: The model's name.
        typos: Share of characters that were misspelt.
        texts: Texts measured.
        unseen: Texts with an intent or slot that the model was not taught.
        figures: ``accuracy`` of intents, ``slot_f1``, and ``exact``: texts whose intent and tags are all as given. What the set does not have or the
            model does not tell is not there.
    """

    set: str
    model: str
    typos: float
    texts: int
    unseen: int
    figures: dict[str, TaggingFigure]

    def to_dict(self) -> dict[str, Any]:
        figures = {
            name: {"value": round(figure.value, 5), "interval": [round(figure.interval.low, 5), round(figure.interval.high, 5)]}
            for name, figure in self.figures.items()
        }
        return {**asdict(self), "figures": figures}


@dataclass(frozen=True)
class TaggingReport:
    """All models on all sets.

    Attributes:
        rows: Set by set, models in the order given, more and more misspelt; means last.
        left_out: Sets that were not measured, and why.
        resamples: Bootstrap resamples behind the intervals.
        seed: Fixed the resamples and the misspellings.
    """

    rows: tuple[TaggingRow, ...]
    left_out: tuple[str, ...]
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        settings = {"left_out": list(self.left_out), "resamples": self.resamples, "seed": self.seed}
        return {"suite": SUITE, **settings, "rows": [row.to_dict() for row in self.rows]}

    def as_table(self) -> "Lines":
        """What rich prints."""
        from rich.console import Group as Lines
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        has_typos = any(row.typos for row in self.rows)
        for title in ("set", "model"):
            table.add_column(title, overflow="fold")
        for title in (*(["typos"] if has_typos else []), "intents", "slot F1", "all right", "texts"):
            table.add_column(title, justify="right")
        for row in self.rows:
            cells = [_cell(row.figures.get(name)) for name in FIGURES]
            typos = [f"{row.typos:.0%}"] if has_typos else []
            table.add_row(Text(row.set), Text(row.model), *typos, *cells, f"{row.texts:,}", style="bold" if row.set == "mean" else None)
        of_model: dict[str, int] = {}
        for row in self.rows:
            if row.set != "mean" and row.typos == self.rows[0].typos:
                of_model[row.model] = of_model.get(row.model, 0) + row.unseen
        unseen = max(of_model.values(), default=0)
        remarks = [f"\nShares x 100. In brackets: 95% bootstrap interval over texts, {self.resamples} resamples."]
        if has_typos:
            remarks.append("Typos: share of characters lost, moved, replaced or added.")
        if unseen:
            remarks.append(
                f"Labels that a model was not taught count as wrong (texts that have some: {unseen:,}{' at most, by model' if len(set(of_model.values())) > 1 else ''})."
            )
        if self.left_out:
            remarks.append(f"Left out: {'; '.join(self.left_out)}.")
        return Lines(table, Text(" ".join(remarks)))


def measure_tagging(
    models: Iterable[LabelPredictor],
    sets: Sequence[TaggingSet],
    *,
    named: Sequence[str] = (),
    typos: Sequence[float] = (0.0,),
    unknown_labels: UnknownLabels = "refuse",
    resamples: int = 1000,
    seed: int = 13,
    left_out: Sequence[str] = (),
    progress: Progress | None = None,
) -> TaggingReport:
    """Measure models on sets, all on the same texts and the same misspellings.

    Args:
        models: Students, classifiers, taggers; all are loaded before anything is measured.
        sets: What they are measured on.
        named: Keys of sets that are measured whatever the models know; others are left out where most texts have labels that a model was not
            taught.
        typos: Shares of characters to misspell, 0 for the texts as they are.
        unknown_labels: Labels that a model was not trained on: ``refuse`` the whole measurement, or ``count-as-wrong``.
        resamples: Bootstrap resamples.
        seed: Fixes resamples and misspellings.
        left_out: Sets that were left out before, for the report.
        progress: Told what is measured.

    Raises:
        UserError: A setting cannot work, a model tells no labels at all, a text has labels that a model was not taught, or no set is left.
    """
    progress = progress or Progress.silent()
    if resamples < 1:
        raise UserError(f"resamples is {resamples}, but an interval needs some: give 1 or more (1000)")
    if not typos or any(not 0 <= share <= 1 for share in typos):
        raise UserError(f"typos are {', '.join(map(str, typos)) or 'none'}, but they are shares of characters: give numbers from 0 to 1")
    loaded = list(models)
    for model in loaded:
        if not model.labels and not model.tags:
            raise UserError(f"model {model.name!r} tells neither intents nor slots: give one that was made to classify or to tag")
    kept: list[TaggingSet] = []
    strange: dict[str, list[str]] = {}  # sets that a model was not made for, by that model
    for one in sets:
        stranger = next((model.name for model in loaded if len(_unseen(model, one)) > len(one.examples) / 2), None)
        if stranger is None or one.key in named:
            kept.append(one)
        else:
            strange.setdefault(stranger, []).append(one.key.partition("_")[0])  # xsid once, not language by language
    dropped = list(left_out)
    dropped += [f"{', '.join(dict.fromkeys(keys))} (most of the labels unknown to {name})" for name, keys in strange.items()]
    if not kept:
        raise UserError(f"no set is left to measure: {'; '.join(dropped)}")
    if unknown_labels == "refuse":
        for one in kept:
            for model in loaded:
                _refuse_unseen(model, one)
    measured: dict[tuple[float, str], list[_Measured]] = {}
    rows: list[TaggingRow] = []
    for one in kept:
        for model in loaded:
            for share in sorted(set(typos)):
                progress.note(f"measuring {model.name} on {one.key}" + (f", {share:.0%} of characters misspelt" if share else ""))
                found = _measured(model, one, share=share, resamples=resamples, seed=seed, progress=progress)
                measured.setdefault((share, model.name), []).append(found)
                rows.append(_row(one.key, model.name, share, [found]))
    if len(kept) > 1:
        rows += [_row("mean", model.name, share, measured[share, model.name]) for model in loaded for share in sorted(set(typos))]
    return TaggingReport(tuple(rows), tuple(dropped), resamples, seed)


def slot_f1(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """F1 over all slots of all texts, 0 to 1: a slot counts where kind and both ends are right. 1 where neither side has any.

    Raises:
        ShapeError: A text has not as many tags on both sides.
    """
    return float(_f1(_slot_counts(gold, found).sum(axis=0)))


def _slot_counts(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> np.ndarray:
    """Slots that are right, and slots of both sides together, int (texts, 2)."""
    counts = np.zeros((len(gold), 2), dtype=np.int64)
    for index, (one, other) in enumerate(zip(gold, found, strict=True)):
        if len(one) != len(other):
            raise ShapeError(f"text {index} has {len(one)} tags and {len(other)} found ones: each token needs one of both")
        wanted, seen = set(slots_of(one)), set(slots_of(other))
        counts[index] = len(wanted & seen), len(wanted) + len(seen)
    return counts


def _f1(sums: np.ndarray) -> np.ndarray:
    """F1 of summed counts (..., 2)."""
    right, both = sums[..., 0], sums[..., 1]
    return np.where(both > 0, 2 * right / np.maximum(both, 1), 1.0)


# ---- one model on one set


@dataclass(frozen=True)
class _Measured:
    texts: int
    unseen: int
    values: dict[str, float]
    replicates: dict[str, np.ndarray]  # (resamples,)


def _measured(model: LabelPredictor, one: TaggingSet, *, share: float, resamples: int, seed: int, progress: Progress) -> _Measured:
    # each text has its own generator, so that all models read the same errors, and one set's do not depend on another's
    texts = [
        misspelt(example.text, share=share, rng=np.random.default_rng([seed, round(1e6 * share), index]))
        for index, example in enumerate(one.examples)
    ]
    predictions = model.predict(texts, progress=progress)
    if model.truncated and not share:
        progress.warn(f"{model.name} cut {model.truncated:,} of {len(texts):,} texts of {one.key} at its length limit")
    tells_labels, tells_tags = one.has_labels and bool(model.labels), one.has_tags and bool(model.tags)
    is_right = np.array([each.label == example.label for each, example in zip(predictions, one.examples, strict=True)], dtype=float)
    tagged = [list(each.tags or ()) for each in predictions]
    wanted = [list(example.tags or ()) for example in one.examples]
    of_counts: dict[str, Callable[[np.ndarray], np.ndarray]] = {}  # figures of how often each text counts (resamples, texts)
    if tells_labels:
        of_counts["accuracy"] = lambda counts: counts @ is_right / counts.sum(axis=1)
    if tells_tags:
        slots = _slot_counts(wanted, tagged)
        of_counts["slot_f1"] = lambda counts: _f1(counts @ slots)
    if tells_labels and tells_tags:
        is_whole = is_right * np.array([mine == theirs for mine, theirs in zip(tagged, wanted, strict=True)])
        of_counts["exact"] = lambda counts: counts @ is_whole / counts.sum(axis=1)
    once = np.ones((1, len(texts)))
    values = {name: float(figure(once)[0]) for name, figure in of_counts.items()}
    blocks = list(resample_counts(len(texts), resamples=resamples, rng=np.random.default_rng(seed)))
    replicates = {name: np.concatenate([figure(counts) for counts in blocks]) for name, figure in of_counts.items()}
    return _Measured(len(texts), len(_unseen(model, one)), values, replicates)


def _row(key: str, model: str, typos: float, parts: Sequence[_Measured]) -> TaggingRow:
    """One set's row, or the mean of several over the figures that all of them have."""
    figures = {}
    for name in FIGURES:
        if all(name in part.values for part in parts):
            drawn = np.mean([part.replicates[name] for part in parts], axis=0)
            figures[name] = TaggingFigure(float(np.mean([part.values[name] for part in parts])), percentile_interval(drawn))
    return TaggingRow(key, model, typos, sum(part.texts for part in parts), sum(part.unseen for part in parts), figures)


def _cell(figure: TaggingFigure | None) -> str:
    if figure is None:
        return "–"
    return f"{100 * figure.value:.1f} \\[{100 * figure.interval.low:.1f} {100 * figure.interval.high:.1f}]"


# ---- labels that a model was not taught


def _unseen(model: LabelPredictor, one: TaggingSet) -> dict[int, str]:
    """Texts with a label or tag that the model cannot tell, and the first such of each."""
    found: dict[int, str] = {}
    for index, example in enumerate(one.examples):
        given = [example.label] if model.labels and example.label is not None and example.label not in model.labels else []
        given += [tag for tag in example.tags or () if model.tags and tag not in model.tags]
        if given:
            found[index] = given[0]
    return found


def _refuse_unseen(model: LabelPredictor, one: TaggingSet) -> None:
    if found := _unseen(model, one):
        names = sorted(set(found.values()))
        listed = f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
        raise UserError(
            f"{len(found):,} of {len(one.examples):,} texts of {one.key} have labels that model {model.name!r} was not taught ({listed}): give"
            " --unknown-labels count-as-wrong to count them so, or another set"
        )
