"""Write the demo's report as one HTML file without scripts or external resources: before and after, and baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tain.demo.docstrings import FunctionDocstring
from tain.demo.retrieval import Change, DescriptionRetrieval
from tain.evaluation.label_free import TITLES, LabelFreeReport
from tain.evaluation.metrics import Interval
from tain.foundation.svg import Axis, Canvas, draw_axis
from tain.foundation.templates import as_markup, fill_template

_SHOWN_CHARS = 190  # characters shown of a neighbour's text
_SAME_WITHIN = 0.01  # smaller changes of a label-free figure are noise on a few hundred texts
_LEAST_SCALE = 0.05  # the chart's scale reaches at least this far, so that its ticks are whole per cents


@dataclass(frozen=True, kw_only=True)
class Property:
    """One label-free figure before and after."""

    name: str
    before: float
    after: float
    better: Literal["higher", "lower"]
    meaning: str  # what it measures, in one sentence

    @property
    def verdict(self) -> Literal["better", "worse", "same", "unknown"]:
        """Compare before and after; changes below 0.01 count as the same."""
        if self.before != self.before or self.after != self.after:  # nan: undefined
            return "unknown"
        if abs(self.after - self.before) < _SAME_WITHIN:
            return "same"
        return "better" if (self.after > self.before) == (self.better == "higher") else "worse"


@dataclass(frozen=True)
class Neighbour:
    """A retrieved text."""

    text: str
    source: str
    cosine: float
    is_right: bool


@dataclass(frozen=True, kw_only=True)
class NeighbourCase:
    """A query, its correct answer, and the texts retrieved before and after, best first."""

    question: str
    answer: str
    source: str
    before: tuple[Neighbour, ...]
    after: tuple[Neighbour, ...]
    before_rank: int  # rank of the correct answer, from 1
    after_rank: int


@dataclass(frozen=True, kw_only=True)
class Rival:
    """Another method on the same functions.

    Attributes:
        kind: Sets row and colour: baselines are shown above before and after, the others below.
        title: Name in tables and charts, at most 16 characters.
        about: Description, one sentence.
        changes: Its figures as ``before`` and the new encoder's as ``after``, so that a gain means that the new encoder is better.
    """

    kind: Literal["lexical", "characters", "static", "hybrid", "supervised"]
    title: str
    about: str
    changes: Sequence[Change]

    @property
    def is_baseline(self) -> bool:
        return self.kind in ("lexical", "characters", "static")


@dataclass(frozen=True, kw_only=True)
class BeforeAfter:
    """All data of the page.

    Attributes:
        model: Name of the model that was trained.
        training_s: Seconds of training.
        texts: Number of training texts.
        positives: Description of the positive pairs: ``each one paired with itself``.
        functions: Number of held-out functions searched.
        changes: The labelled figures before and after.
        rivals: Other methods, among them at least one baseline; the headline compares the new encoder with the best of these.
        properties: The label-free figures; see ``label_free_properties``.
        worse: Label-free figures that got worse, in words (``LabelFreeReport.is_worse_than``).
        cases: Nearest neighbours before and after.
        settings: Settings of the recipe, by name.
        usage: Python code for using the encoder.
        origin: How the page was made: versions, machine, seed.
    """

    model: str
    training_s: float
    texts: int
    positives: str
    functions: int
    changes: Sequence[Change]
    rivals: Sequence[Rival]
    properties: Sequence[Property]
    worse: Sequence[str]
    cases: Sequence[NeighbourCase]
    settings: Mapping[str, object]
    usage: str
    origin: Mapping[str, object]


def label_free_properties(before: LabelFreeReport, after: LabelFreeReport) -> list[Property]:
    """The rows of the label-free table."""
    meanings = {
        "self_retrieval_recall_at_1": "Share of copies, each without a block of words, whose nearest neighbour is the other copy of the same text.",
        "self_retrieval_mrr": "Mean of 1 / rank of the other copy.",
        "uniformity": "How evenly texts are spread over the sphere: 0 if all are at one point, −4 if well spread.",
        "alignment": "Squared distance of a text’s two copies. It is also small if all texts are at one point, so compare it with uniformity.",
        "mean_cosine": "Of two different texts: 1 if all vectors point the same way, 0 if no direction is preferred.",
    }
    found = []
    for field, meaning in meanings.items():
        title, better = TITLES[field]
        name = title[0].upper() + title[1:]
        found.append(Property(name=name, before=getattr(before, field), after=getattr(after, field), better=better, meaning=meaning))
    return found


def neighbour_cases(
    functions: Sequence[FunctionDocstring],
    before: DescriptionRetrieval,
    after: DescriptionRetrieval,
    *,
    chosen: Sequence[int],
    count: int = 3,
) -> list[NeighbourCase]:
    """Retrieve the nearest texts for the ``chosen`` functions, before and after."""

    def found(retrieval: DescriptionRetrieval, query: int) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(functions[other].rest, functions[other].name, float(retrieval.cosines[query, other]), other == query)
            for other in retrieval.nearest(query, count=count)
        )

    return [
        NeighbourCase(
            question=functions[query].description,
            answer=functions[query].rest,
            source=functions[query].name,
            before=found(before, query),
            after=found(after, query),
            before_rank=before.rank_of_right(query),
            after_rank=after.rank_of_right(query),
        )
        for query in chosen
    ]


# ---- findings in words


def headline(page: BeforeAfter) -> str:
    """Compare the new encoder with the best baseline, by the first figure, and add a clear change of another figure."""
    rival = max((rival for rival in page.rivals if rival.is_baseline), key=lambda rival: rival.changes[0].before)
    first, *others = rival.changes
    trained = f"after {_seconds(page.training_s)} of mirroring"
    ours, theirs = first.finding.format(figure(first, first.after)), figure(first, first.before)
    if first.direction > 0:
        text = f"{trained[:1].upper()}{trained[1:]}, {page.model} {ours}, {rival.title} for {theirs}: {_amount(first)}"
    elif first.direction < 0:
        finding = first.finding.format(theirs)
        text = f"{rival.title} {finding}, {page.model} {trained} for {figure(first, first.after)}: {_amount(first)}"
    else:
        text = f"No clear difference from {rival.title}: {trained}, {page.model} {ours}, {rival.title} for {theirs} ({_amount(first)})"
    for other in others:
        if other.direction not in (0, first.direction):
            way = "higher" if other.direction > 0 else "lower"
            text += f"; the {other.name} of {page.model} is {way} ({figure(other, other.after)} against {figure(other, other.before)})"
    return text


def _amount(change: Change) -> str:
    """The difference and its interval, with its direction."""
    difference, interval = change.after - change.before, change.difference
    if change.direction == 0:
        return f"difference {_points(change, difference)}, 95% interval {_bare(change, interval.low)} to {_bare(change, interval.high)}"
    low, high = sorted((abs(interval.low), abs(interval.high)))
    way = "more" if difference > 0 else "less"
    return f"{_points(change, abs(difference))} {way} (95% interval {_bare(change, low)} to {_bare(change, high)})"


def _points(change: Change, value: float) -> str:
    return f"{_bare(change, value)} points" if change.is_share else _bare(change, value)


def _bare(change: Change, value: float) -> str:
    return (f"{100 * value:.1f}" if change.is_share else f"{value:.3f}").replace("-", "−")


def gain(page: BeforeAfter) -> str:
    """State what mirroring changed: better, worse, mixed, or no clear difference."""
    better = [change for change in page.changes if change.direction > 0]
    worse = [change for change in page.changes if change.direction < 0]
    if better and worse:
        return f"Mirroring gave a mixed result: {page.model} {_moved(better[0], 'up')}, but {_moved(worse[0], 'down')}"
    if better:
        return f"By mirroring, {page.model} {_moved(better[0], 'up')}"
    if worse:
        return f"Mirroring made {page.model} worse here: it {_moved(worse[0], 'down')}"
    first = page.changes[0]
    return (
        f"Mirroring made no clear difference here: {page.model} {first.finding.format(figure(first, first.after))},"
        f" and {figure(first, first.before)} before"
    )


def figure(change: Change, value: float) -> str:
    """Format a labelled figure: shares in per cent, others with three digits."""
    return f"{100 * value:.1f}%" if change.is_share else f"{value:.3f}"


def _moved(change: Change, way: Literal["up", "down"]) -> str:
    return f"{change.finding.format(figure(change, change.after))}, {way} from {figure(change, change.before)}"


def _seconds(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} seconds"
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes"


def _property_summary(page: BeforeAfter) -> str:
    verdicts = [row.verdict for row in page.properties]
    counted = f"{verdicts.count('better')} of {len(verdicts)} figures got better"
    if verdicts.count("worse"):
        names = ", ".join(row.name[:1].lower() + row.name[1:] for row in page.properties if row.verdict == "worse")
        counted += f", {verdicts.count('worse')} got worse ({names})"
    return counted + "."


# ---- the page


def before_after_page(page: BeforeAfter) -> str:
    """Return the page as HTML; all external text is escaped."""
    return fill_template(
        "demo/page.html",
        page=page,
        headline=headline(page),
        gain=gain(page),
        chance=f"Guessing would find it first for {100 / page.functions:.2g}%." if page.functions else "",
        charts=[as_markup(_chart(page, width=width)) for width in (912.0, 340.0)],
        methods=[_method(page, index) for index in range(len(_bars(page, 0)))],
        property_summary=_property_summary(page),
        shortened=_shortened,
        decimal=lambda value: "–" if value != value else f"{value:.3f}".replace("-", "−"),
    )


@dataclass(frozen=True)
class _Method:
    """A row of the table behind the chart, formatted."""

    title: str
    figures: Sequence[tuple[str, str]]  # value and interval
    difference: tuple[str, str] | None  # of the new encoder from this method, and its interval


def _method(page: BeforeAfter, index: int) -> _Method:
    bars = [_bars(page, row)[index] for row in range(len(page.changes))]
    figures = [
        (figure(change, bar.value), f"{figure(change, bar.interval.low).rstrip('%')} to {figure(change, bar.interval.high)}")
        for change, bar in zip(page.changes, bars, strict=True)
    ]
    return _Method(bars[0].label, figures, None if bars[0].change is None else _difference(bars[0].change))


def _difference(change: Change) -> tuple[str, str]:
    def signed(value: float) -> str:
        text = f"{100 * value:+.1f}" if change.is_share else f"{value:+.3f}"
        return text.replace("-", "−")

    between = f"{signed(change.difference.low)} to {signed(change.difference.high)}"
    return signed(change.after - change.before) + (" points" if change.is_share else ""), between


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN_CHARS:
        return text
    return text[:_SHOWN_CHARS].rpartition(" ")[0].rstrip(",;:.") + " …"


# ---- the chart


@dataclass(frozen=True)
class _Bar:
    kind: str
    label: str
    value: float
    interval: Interval
    change: Change | None  # from this method to the new encoder; None for the new encoder


def _bars(page: BeforeAfter, row: int) -> list[_Bar]:
    """The bars of one figure for all methods, from top to bottom."""
    change = page.changes[row]

    def of(rival: Rival) -> _Bar:
        found = rival.changes[row]
        return _Bar(rival.kind, rival.title, found.before, found.before_interval, found)

    return [
        *(of(rival) for rival in page.rivals if rival.is_baseline),
        _Bar("before", "before", change.before, change.before_interval, change),
        _Bar("after", "after", change.after, change.after_interval, None),
        *(of(rival) for rival in page.rivals if not rival.is_baseline),
    ]


def _chart(page: BeforeAfter, *, width: float) -> str:
    """Draw a bar with interval for each method at a fixed width, because text in a scaled picture would not be readable."""
    is_wide = width > 500
    figures = [_bars(page, row) for row in range(len(page.changes))]
    left, right = (190.0, 76.0) if is_wide else (126.0, 58.0)
    bar_height, offset, gap = (17.0, 8.0, 22.0) if is_wide else (15.0, 28.0, 12.0)
    lane = bar_height + 5
    group = lane * len(figures[0]) + offset + gap
    height = group * len(figures) + 34 - gap
    bottom = height - 28

    ends = [end for bars in figures for bar in bars for end in (bar.interval.high, bar.value)]
    axis = Axis.around([0.0, *ends], start=left, end=width - right, ticks=6 if is_wide else 4, least_range=_LEAST_SCALE)
    canvas = Canvas(width)
    draw_axis(canvas, axis, upright=False, grid=(0.0, bottom), labels=[bottom + 18], shown="{:.0%}".format, css=("grid", "tick"))
    for row, (change, bars) in enumerate(zip(page.changes, figures, strict=True)):
        y = row * group + offset
        canvas.text(0.0, y + bar_height - 3 if is_wide else y - 8, change.name, css="name")
        for index, bar in enumerate(bars):
            _draw_bar(canvas, axis, bar, figure(change, bar.value), y + index * lane, height=bar_height)
    canvas.line(left, 0.0, left, bottom, css="axis")
    text = "; ".join(
        f"{change.name} " + ", ".join(f"{figure(change, bar.value)} {bar.label}" for bar in bars)
        for change, bars in zip(page.changes, figures, strict=True)
    )
    return canvas.inline(height=height, description=f"Bar chart. {text}.", css="chart wide" if is_wide else "chart narrow")


def _draw_bar(canvas: Canvas, axis: Axis, bar: _Bar, value: str, y: float, *, height: float) -> None:
    middle = y + height / 2
    low, high, end = (round(axis.at(each), 1) for each in (bar.interval.low, bar.interval.high, bar.value))
    canvas.text(axis.start - 8, middle + 4, bar.label, css=f"side {bar.kind}", anchor="end")
    canvas.add("rect", css=bar.kind, x=axis.start, y=y, width=max(end - axis.start, 1.0), height=height, rx=2.0)
    canvas.add("path", css="interval", d=f"M{low} {middle}H{high}M{low} {middle - 4}v8M{high} {middle - 4}v8")
    canvas.text(max(high, end) + 9, middle + 5, value, css=f"value {bar.kind}")
