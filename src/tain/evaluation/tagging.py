"""Evaluate intent classification and slot tagging: accuracy, slot F1, exact match, and robustness to typos."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np

from tain.evaluation.metrics import Interval, percentile_interval, resample_counts
from tain.evaluation.tagging_sets import SUITE, TaggingSet
from tain.foundation.choices import wrong_resamples, wrong_seed
from tain.foundation.errors import ShapeError, UserError, refuse_all
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
    """Protocol of evaluated models: a student, a classifier or a tagger."""

    @property
    def name(self) -> str: ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Intents it predicts; empty if it predicts none."""
        ...

    @property
    def tags(self) -> tuple[str, ...]: ...

    @property
    def truncated(self) -> int:
        """Number of texts truncated in the last call."""
        ...

    def predict(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Prediction]: ...


class SideBySide:
    """Combines a classifier for intents and a tagger for slots into one model."""

    def __init__(self, classifier: LabelPredictor, tagger: LabelPredictor, *, name: str) -> None:
        self.name, self.labels, self.tags = name, classifier.labels, tagger.tags
        self._classifier, self._tagger = classifier, tagger

    @property
    def truncated(self) -> int:
        return max(self._classifier.truncated, self._tagger.truncated)

    def fingerprint(self) -> str:
        """Identify both models by content."""
        each: list[Any] = [self._classifier, self._tagger]
        return hashlib.sha256(" ".join(model.fingerprint() for model in each).encode()).hexdigest()

    def predict(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[Prediction]:
        whole, spelt = self._classifier.predict(texts, progress=progress), self._tagger.predict(texts, progress=progress)
        return [Prediction(one.label, one.chance, other.tags) for one, other in zip(whole, spelt, strict=True)]


@dataclass(frozen=True)
class TaggingFigure:
    """A share, 0 to 1, with its 95% bootstrap interval over texts."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class TaggingRow:
    """Result of one model on one set.

    Attributes:
        set: Key of the set; ``mean`` for the unweighted mean over sets.
        model: The model's name.
        typos: Share of misspelled characters.
        texts: Number of texts.
        unseen: Number of texts with an intent or slot unknown to the model.
        figures: ``accuracy`` of intents, ``slot_f1``, and ``exact`` (texts with correct intent and tags). Figures that the set or the model
            does not support are missing.
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
    """Results of all models on all sets.

    Attributes:
        rows: Grouped by set, models in the given order, ascending typo rates; means last.
        left_out: Sets that were skipped, with the reason.
        resamples: Bootstrap resamples per interval.
        seed: Seed of the resamples and the misspellings.
    """

    rows: tuple[TaggingRow, ...]
    left_out: tuple[str, ...]
    resamples: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        settings = {"left_out": list(self.left_out), "resamples": self.resamples, "seed": self.seed}
        return {"suite": SUITE, **settings, "rows": [row.to_dict() for row in self.rows]}

    def as_table(self) -> "Lines":
        """Rich renderable of the report."""
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
            remarks.append("Typos: share of characters deleted, swapped, replaced or inserted.")
        if unseen:
            remarks.append(
                f"Labels unknown to a model count as wrong (texts with such labels: {unseen:,}{' at most, by model' if len(set(of_model.values())) > 1 else ''})."
            )
        if self.left_out:
            remarks.append(f"Skipped: {'; '.join(self.left_out)}.")
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
    """Evaluate models on intent and slot sets, all on the same texts and misspellings.

    Args:
        models: Students, classifiers, taggers; all are loaded before the evaluation starts.
        sets: Sets to evaluate on.
        named: Keys of sets that are evaluated in any case; other sets are skipped if a model does not know the labels of most texts.
        typos: Shares of characters to misspell; 0 leaves the texts unchanged.
        unknown_labels: How to treat labels unknown to a model: ``refuse`` the evaluation, or ``count-as-wrong``.
        resamples: Bootstrap resamples.
        seed: Seed of resamples and misspellings.
        left_out: Sets skipped earlier, to be listed in the report.
        progress: Receives progress updates.

    Raises:
        UserError: A setting cannot work, a model predicts no labels, a text has labels unknown to a model, or no set is left.
    """
    progress = progress or Progress.silent()
    refuse_all(wrong_resamples(resamples) + wrong_seed(seed))
    if not typos or any(not 0 <= share <= 1 for share in typos):
        raise UserError(f"typos are {', '.join(map(str, typos)) or 'none'}, but they are shares of characters: give numbers from 0 to 1")
    loaded = list(models)
    for model in loaded:
        if not model.labels and not model.tags:
            raise UserError(f"model {model.name!r} predicts neither intents nor slots: give a model trained to classify or to tag")
    kept: list[TaggingSet] = []
    strange: dict[str, list[str]] = {}  # sets with mostly unknown labels, by model
    for one in sets:
        stranger = next((model.name for model in loaded if len(_unseen(model, one)) > len(one.examples) / 2), None)
        if stranger is None or one.key in named:
            kept.append(one)
        else:
            strange.setdefault(stranger, []).append(one.key.partition("_")[0])  # xsid once, not per language
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
                progress.note(f"measuring {model.name} on {one.key}" + (f", {share:.0%} of characters misspelled" if share else ""))
                found = _measured(model, one, share=share, resamples=resamples, seed=seed, progress=progress)
                measured.setdefault((share, model.name), []).append(found)
                rows.append(_row(one.key, model.name, share, [found]))
    if len(kept) > 1:
        rows += [_row("mean", model.name, share, measured[share, model.name]) for model in loaded for share in sorted(set(typos))]
    return TaggingReport(tuple(rows), tuple(dropped), resamples, seed)


def slot_f1(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> float:
    """F1 over all slots of all texts, 0 to 1: a slot is correct if its kind and both ends are. 1 if neither side has slots.

    Raises:
        ShapeError: The two sides of a text have different numbers of tags.
    """
    return float(_f1(_slot_counts(gold, found).sum(axis=0)))


def _slot_counts(gold: Sequence[Sequence[str]], found: Sequence[Sequence[str]]) -> np.ndarray:
    """Number of correct slots, and of slots on both sides together, int (texts, 2)."""
    counts = np.zeros((len(gold), 2), dtype=np.int64)
    for index, (one, other) in enumerate(zip(gold, found, strict=True)):
        if len(one) != len(other):
            raise ShapeError(f"text {index} has {len(one)} gold tags and {len(other)} predicted tags: the numbers must be equal")
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
    # one generator per text, so that all models read the same misspellings, independent of other sets
    texts = [
        misspelt(example.text, share=share, rng=np.random.default_rng([seed, round(1e6 * share), index]))
        for index, example in enumerate(one.examples)
    ]
    predictions = model.predict(texts, progress=progress)
    if model.truncated and not share:
        progress.warn(f"{model.name} truncated {model.truncated:,} of {len(texts):,} texts of {one.key} at its length limit")
    tells_labels, tells_tags = one.has_labels and bool(model.labels), one.has_tags and bool(model.tags)
    is_right = np.array([each.label == example.label for each, example in zip(predictions, one.examples, strict=True)], dtype=float)
    tagged = [list(each.tags or ()) for each in predictions]
    wanted = [list(example.tags or ()) for example in one.examples]
    of_counts: dict[
        str, Callable[[np.ndarray], np.ndarray]
    ] = {}  # figures as functions of the multiplicity of each text (resamples, texts)
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
    """Row of one set, or the mean of several sets over their common figures."""
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


# ---- labels unknown to a model


def _unseen(model: LabelPredictor, one: TaggingSet) -> dict[int, str]:
    """Texts with a label or tag unknown to the model, and the first such label of each."""
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
            f"{len(found):,} of {len(one.examples):,} texts of {one.key} have labels unknown to model {model.name!r} ({listed}): give"
            " --unknown-labels count-as-wrong to count them as errors, or another set"
        )
