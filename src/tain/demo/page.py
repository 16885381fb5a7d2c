"""Write the demo's report as one HTML file without scripts or external resources: before and after, and baselines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from tain.demo.docstrings import FunctionDocstring
from tain.demo.retrieval import Change, DescriptionRetrieval
from tain.evaluation.label_free import TITLES, LabelFreeReport
from tain.evaluation.metrics import Interval

_SHOWN_CHARS = 190  # characters shown of a neighbour's text
_SAME_WITHIN = 0.01  # smaller changes of a label-free figure are noise on a few hundred texts
_TICK_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)


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

    kind: Literal["lexical", "static", "hybrid", "supervised"]
    title: str
    about: str
    changes: Sequence[Change]

    @property
    def is_baseline(self) -> bool:
        return self.kind in ("lexical", "static")


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
        rivals: Other methods, at least one; the headline compares the new encoder with the first.
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
        "self_retrieval_recall_at_1": "Share of half texts whose nearest neighbour is their other half.",
        "self_retrieval_mrr": "Mean of 1 / rank of the other half.",
        "uniformity": "How evenly texts are spread over the sphere: 0 if all are at one point, −4 if well spread.",
        "alignment": "Squared distance of a text’s two halves. It is also small if all texts are at one point, so compare it with uniformity.",
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
    """Compare the new encoder with the first rival, by the first figure, and add a clear change of another figure."""
    rival = page.rivals[0]
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
    title = headline(page)
    sections = [
        _header(page, title),
        _labelled_section(page),
        _label_free_section(page),
        _neighbours_section(page),
        _use_section(page),
        _recipe_section(page),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # blocks all loading, whatever a docstring contains
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(page.model)} before and after · tain</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _header(page: BeforeAfter, title: str) -> str:
    name = escape(page.model)
    return f"""<header>
<p class="brand">{_MARK}<span>tain</span></p>
<h1>{escape(title).replace(name, f'<span class="whole">{name}</span>')}</h1>
<p class="lead">{escape(page.model)} was trained on {page.texts:,} sentences from the docstrings of the Python packages on this machine,
{escape(page.positives)}: no labels, no downloads. It was then tested on functions from modules it had not seen.</p>
</header>"""


def _labelled_section(page: BeforeAfter) -> str:
    names = "".join(f'<th scope="col">{escape(change.name)}</th>' for change in page.changes)
    rows = "".join(_method_row(page, index) for index in range(len(_bars(page, 0))))
    methods = "".join(f"<li><strong>{escape(rival.title)}</strong>: {escape(rival.about)}</li>" for rival in page.rivals)
    chance = f"Guessing would find it first for {100 / page.functions:.2g}%." if page.functions else ""
    return f"""<section aria-labelledby="found">
<h2 id="found">Does a description find its own docstring?</h2>
<p>The first sentence of each of {page.functions:,} held-out functions is the query; the correct answer is the rest of the same docstring among all
{page.functions:,}. The function’s own name is removed from both. {escape(chance)}</p>
<p>{escape(gain(page))}.</p>
<figure>
{_chart(page, width=912)}
{_chart(page, width=340)}
<figcaption>Higher is better. Lines are 95% intervals ({page.functions:,} functions resampled). R@k: share of functions with the correct answer
among the first k. MRR: mean of 1 / rank of the correct answer, on the same scale (1 = 100%).</figcaption>
</figure>
<ul class="methods"><li><strong>before</strong>, <strong>after</strong>: {escape(page.model)}, original and mirrored.</li>{methods}</ul>
<details><summary>The numbers behind the chart</summary>
<div class="scroll"><table><thead><tr><th scope="col">Method</th>{names}<th scope="col">{escape(page.changes[0].name)}: after, minus this</th>
</tr></thead><tbody>{rows}</tbody></table></div></details>
</section>"""


def _method_row(page: BeforeAfter, index: int) -> str:
    bars = [_bars(page, row)[index] for row in range(len(page.changes))]
    cells = "".join(
        f'<td>{figure(change, bar.value)} <span class="quiet">{figure(change, bar.interval.low).rstrip("%")} to'
        f" {figure(change, bar.interval.high)}</span></td>"
        for change, bar in zip(page.changes, bars, strict=True)
    )
    against = "" if bars[0].change is None else _difference(bars[0].change)
    return f'<tr><th scope="row">{escape(bars[0].label)}</th>{cells}<td>{against}</td></tr>'


def _difference(change: Change) -> str:
    def signed(value: float) -> str:
        text = f"{100 * value:+.1f}" if change.is_share else f"{value:+.3f}"
        return text.replace("-", "−")

    unit = " points" if change.is_share else ""
    between = f"{signed(change.difference.low)} to {signed(change.difference.high)}"
    return f'{signed(change.after - change.before)}{unit} <span class="quiet">{between}</span>'


def _label_free_section(page: BeforeAfter) -> str:
    words = {"better": "▲ better", "worse": "▼ worse", "same": "= same", "unknown": "–"}
    rows = "".join(
        # explicit roles keep it a table for screen readers when a narrow screen shows the rows as a grid
        f'<tr role="row"><th scope="row" role="rowheader">{escape(row.name)}<span class="meaning">{escape(row.meaning)}</span></th>'
        f'<td role="cell" class="number" data-side="before">{_plain_number(row.before)}</td>'
        f'<td role="cell" class="number" data-side="after">{_plain_number(row.after)}</td>'
        f'<td role="cell" class="quiet wanted">{row.better}</td>'
        f'<td role="cell" class="verdict {row.verdict}">{words[row.verdict]}</td></tr>'
        for row in page.properties
    )
    warning = ""
    if page.worse:
        warning = f'<p class="warning"><strong>Worse than the untouched model:</strong> {escape("; ".join(page.worse))}.</p>'
    return f"""<section aria-labelledby="space">
<h2 id="space">What changed in the vector space</h2>
<p>Measured on the held-out docstrings without any labels. {escape(_property_summary(page))}</p>
{warning}
<div class="scroll"><table class="properties" role="table"><thead><tr><th scope="col">Figure</th><th scope="col" class="number">Before</th>
<th scope="col" class="number">After</th><th scope="col" class="wanted">Better is</th><th scope="col">Change</th></tr></thead>
<tbody>{rows}</tbody></table></div>
</section>"""


def _plain_number(value: float) -> str:
    return "–" if value != value else f"{value:.3f}".replace("-", "−")


def _neighbours_section(page: BeforeAfter) -> str:
    cases = "\n".join(_case(case) for case in page.cases)
    return f"""<section aria-labelledby="near">
<h2 id="near">Nearest neighbours, before and after</h2>
<p>{len(page.cases)} held-out functions chosen at random. The correct answer is marked ✓.</p>
{cases}
</section>"""


def _case(case: NeighbourCase) -> str:
    if case.after_rank == case.before_rank:
        moved = f"correct answer stays at rank {case.after_rank:,}"
    else:
        moved = f"correct answer: rank {case.before_rank:,} → {case.after_rank:,}"
    way = "up" if case.after_rank < case.before_rank else "down" if case.after_rank > case.before_rank else "level"
    return f"""<article class="case">
<h3>“{escape(case.question)}”</h3>
<p class="about"><code>{_breakable(case.source)}</code><span class="move {way}">{moved}</span></p>
<p class="wanted-answer"><span class="label">Correct answer</span> {escape(_shortened(case.answer))}</p>
<div class="sides">{_side("Before", case.before)}{_side("After", case.after)}</div>
</article>"""


def _side(name: str, neighbours: tuple[Neighbour, ...]) -> str:
    items = "".join(
        f'<li class="{"right" if neighbour.is_right else "other"}"><span class="cosine">{neighbour.cosine:.2f}</span>'
        f"<div><p>{_CHECK if neighbour.is_right else ''}"
        f"{escape(_shortened(neighbour.text))}</p><code>{_breakable(neighbour.source)}</code></div></li>"
        for neighbour in neighbours
    )
    return f'<div class="side {name.lower()}"><h4>{name} <span class="quiet">cosine, nearest first</span></h4><ol>{items}</ol></div>'


def _breakable(dotted: str) -> str:
    return escape(dotted).replace(".", ".<wbr>").replace("_", "_<wbr>")


def _shortened(text: str) -> str:
    if len(text) <= _SHOWN_CHARS:
        return text
    return text[:_SHOWN_CHARS].rpartition(" ")[0].rstrip(",;:.") + " …"


def _use_section(page: BeforeAfter) -> str:
    return f"""<section aria-labelledby="use">
<h2 id="use">Use it</h2>
<pre tabindex="0"><code>{escape(page.usage.strip())}</code></pre>
<p class="after-code">The folder is also a sentence-transformers model: <code>SentenceTransformer(folder)</code> gives the same vectors.</p>
</section>"""


def _recipe_section(page: BeforeAfter) -> str:
    def listed(pairs: Mapping[str, object]) -> str:
        return "".join(f"<div><dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd></div>" for name, value in pairs.items())

    return f"""<section class="columns">
<div><h2>The recipe</h2><dl>{listed(page.settings)}</dl></div>
<div><h2>How this was made</h2><dl>{listed(page.origin)}</dl></div>
</section>"""


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


def _chart(page: BeforeAfter, *, width: int) -> str:
    """Draw a bar with interval for each method at a fixed width, because text in a scaled picture would not be readable."""
    is_wide = width > 500
    figures = [_bars(page, row) for row in range(len(page.changes))]
    top = max(max(bar.interval.high, bar.value) for bars in figures for bar in bars)
    step = next((step for step in _TICK_STEPS if top / step <= (6 if is_wide else 4)), 0.25)
    end = min(1.0, step * max(1, -int(-top // step)))
    left, right = (190, 76) if is_wide else (126, 58)
    bar_height, offset, gap = (17, 8, 22) if is_wide else (15, 28, 12)
    lane = bar_height + 5
    group = lane * len(figures[0]) + offset + gap
    height = group * len(figures) + 34 - gap

    def across(value: float) -> float:
        return round(left + (width - left - right) * value / end, 1)

    parts = []
    bottom = height - 28
    for tick in range(round(end / step) + 1):
        x = across(tick * step)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{bottom + 18}" text-anchor="middle">{100 * tick * step:.0f}%</text>')
    for row, (change, bars) in enumerate(zip(page.changes, figures, strict=True)):
        y = row * group + offset
        parts.append(f'<text class="name" x="0" y="{y + bar_height - 3 if is_wide else y - 8}">{escape(change.name)}</text>')
        for index, bar in enumerate(bars):
            parts += _bar_parts(bar, change, y + index * lane, left=left, height=bar_height, across=across)
    parts.append(f'<line class="axis" x1="{left}" x2="{left}" y1="0" y2="{bottom}"/>')
    text = "; ".join(
        f"{change.name} " + ", ".join(f"{figure(change, bar.value)} {bar.label}" for bar in bars)
        for change, bars in zip(page.changes, figures, strict=True)
    )
    kind = "wide" if is_wide else "narrow"
    return (
        f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(f"Bar chart. {text}.")}">'
        + "".join(parts)
        + "</svg>"
    )


def _bar_parts(bar: _Bar, change: Change, y: int, *, left: int, height: int, across: Callable[[float], float]) -> list[str]:
    middle = y + height / 2
    low, high, end = across(bar.interval.low), across(bar.interval.high), across(bar.value)
    return [
        f'<text class="side {bar.kind}" x="{left - 8}" y="{middle + 4}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="{bar.kind}" x="{left}" y="{y}" width="{max(end - left, 1):.1f}" height="{height}" rx="2"/>',
        f'<path class="interval" d="M{low} {middle}H{high}M{low} {middle - 4}v8M{high} {middle - 4}v8"/>',
        f'<text class="value {bar.kind}" x="{max(high, end) + 9}" y="{middle + 5}">{figure(change, bar.value)}</text>',
    ]


_MARK = (
    '<svg class="mark" viewBox="0 0 32 32" aria-hidden="true"><path class="glass" d="M15 4v24L4 23V9z"/>'
    '<path class="tain" d="M17 4v24l11-5V9z"/></svg>'
)

_CHECK = '<span class="check">✓ <span class="hidden">correct answer: </span></span>'

_STYLE = """\
:root {
  --paper: #fbfaf8; --card: #ffffff; --ink: #1a1d21; --quiet: #5c646e; --line: #e3e0da; --grid: #ebe8e2;
  --before: #a9afb8; --lexical: #b45f06; --static: #d9a05b; --hybrid: #6aaaa3; --after: #0f766e; --after-ink: #0b5f58; --right: #e4f2f0; --worse: #a33a1d; --warning: #fdf0ea; --code: #f3f1ec;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #121517; --card: #191d20; --ink: #e9ebec; --quiet: #9aa4ad; --line: #2c3236; --grid: #262b2f;
    --before: #67707a; --lexical: #e08a3c; --static: #a8763c; --hybrid: #1f7f76; --after: #2fb3a5; --after-ink: #5fd3c6; --right: #16302e; --worse: #f0906f; --warning: #33211a; --code: #1d2225;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.5rem 5rem; }
h1, h2, h3 { font-family: ui-serif, "Iowan Old Style", Charter, Georgia, "Times New Roman", serif; text-wrap: balance; }
h1 {
  font-size: clamp(1.75rem, 1.1rem + 2.8vw, 2.75rem); line-height: 1.18; font-weight: 600;
  letter-spacing: -0.015em; margin: 1.5rem 0 1.1rem;
}
h2 { font-size: 1.5rem; line-height: 1.25; font-weight: 600; margin: 0 0 .6rem; }
h3 { font-size: 1.14rem; line-height: 1.4; font-weight: 600; margin: 0 0 .35rem; }
p { margin: 0 0 1rem; max-width: 44rem; text-wrap: pretty; }
section { margin-top: 4rem; }
.brand { display: flex; align-items: center; gap: .55rem; margin: 0; font-weight: 600; letter-spacing: .02em; }
.mark { width: 1.7rem; height: 1.7rem; }
.mark .glass { fill: var(--before); } .mark .tain { fill: var(--after); }
.whole { white-space: nowrap; }
.lead { font-size: 1.14rem; color: var(--quiet); }
.quiet, figcaption { color: var(--quiet); }
figure { margin: 1.5rem 0 1rem; }
figcaption { font-size: .875rem; margin-top: .75rem; max-width: 44rem; }
.chart { display: block; width: 100%; height: auto; font-family: inherit; font-variant-numeric: tabular-nums; }
.chart.narrow { display: none; }
.chart .grid { stroke: var(--grid); } .chart .axis { stroke: var(--quiet); }
.chart .tick { fill: var(--quiet); font-size: 12px; }
.chart .side { fill: var(--quiet); font-size: 13px; }
.chart .name { fill: var(--ink); font-size: 16px; font-weight: 600; }
.chart .value { fill: var(--quiet); font-size: 15px; } .chart .value.after { fill: var(--after-ink); font-weight: 700; }
.chart .side.after { fill: var(--after-ink); font-weight: 700; }
.chart rect.before { fill: var(--before); } .chart rect.after { fill: var(--after); }
.chart rect.lexical { fill: var(--lexical); } .chart rect.static { fill: var(--static); } .chart rect.hybrid { fill: var(--hybrid); }
.chart rect.supervised { fill: none; stroke: var(--quiet); stroke-dasharray: 3 2; }
.methods { margin: 0 0 1rem; padding: 0; font-size: .875rem; color: var(--quiet); max-width: 44rem; }
.methods li { display: list-item; list-style: none; margin: 0; padding: .12rem 0; } .methods strong { color: var(--ink); }
.chart .interval { stroke: var(--ink); stroke-width: 1.5; fill: none; }
details { margin-top: 1rem; } summary { cursor: pointer; color: var(--quiet); font-size: .95rem; }
summary:focus-visible, pre:focus-visible { outline: 2px solid var(--after); outline-offset: 3px; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; margin-top: .75rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: baseline; padding: .7rem 1rem .7rem 0; border-bottom: 1px solid var(--line); }
thead th { font-size: .82rem; font-weight: 500; color: var(--quiet); padding-top: 0; white-space: nowrap; }
tbody th { font-weight: 600; }
td .quiet { font-size: .86rem; white-space: nowrap; }
.number { text-align: right; padding-right: 1.5rem; }
.meaning { display: block; font-weight: 400; font-size: .875rem; line-height: 1.45; color: var(--quiet); max-width: 34rem; }
.verdict { white-space: nowrap; } .verdict.better { color: var(--after-ink); font-weight: 600; }
.verdict.worse { color: var(--worse); font-weight: 600; } .verdict.same, .verdict.unknown { color: var(--quiet); }
.warning { background: var(--warning); border-left: 4px solid var(--worse); padding: .8rem 1rem; border-radius: 0 .4rem .4rem 0; }
.case {
  background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1.3rem 1.4rem 1.1rem;
  margin-top: 1.25rem;
}
.about {
  display: flex; flex-wrap: wrap; gap: .25rem 1rem; justify-content: space-between; align-items: baseline;
  max-width: none; margin: 0 0 .7rem;
}
code {
  font: .82rem/1.5 ui-monospace, "SF Mono", "Cascadia Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  color: var(--quiet); overflow-wrap: anywhere;
}
.move { font-size: .9rem; font-weight: 600; font-variant-numeric: tabular-nums; color: var(--quiet); }
.move.up { color: var(--after-ink); } .move.down { color: var(--worse); }
.wanted-answer {
  max-width: none; font-size: .95rem; margin-bottom: 1rem;
}
.label { color: var(--quiet); font-size: .82rem; margin-right: .35rem; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1.75rem; border-top: 1px solid var(--line); padding-top: .9rem; }
h4 { margin: 0 0 .3rem; font-size: .92rem; } .side.after h4 { color: var(--after-ink); }
h4 .quiet { font-weight: 400; font-size: .8rem; margin-left: .3rem; }
ol { list-style: none; margin: 0; padding: 0; }
li { display: grid; grid-template-columns: 2.5rem 1fr; gap: .6rem; padding: .55rem .6rem; margin: 0 -.6rem; border-radius: .5rem; }
li p { margin: 0; font-size: .9rem; line-height: 1.45; } li code { display: block; font-size: .74rem; line-height: 1.4; margin-top: .2rem; }
li.right { background: var(--right); }
.cosine { font-size: .82rem; color: var(--quiet); font-variant-numeric: tabular-nums; padding-top: .1rem; }
.check { color: var(--after-ink); font-weight: 700; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
pre {
  background: var(--code); border: 1px solid var(--line); border-radius: .6rem; padding: 1.1rem 1.25rem;
  overflow-x: auto; margin: .75rem 0 0;
}
pre code { font-size: .9rem; line-height: 1.7; color: var(--ink); overflow-wrap: normal; }
.after-code { font-size: .875rem; color: var(--quiet); margin-top: .75rem; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 2.5rem; }
dl { margin: .5rem 0 0; font-size: .92rem; font-variant-numeric: tabular-nums; }
dl div { display: flex; justify-content: space-between; gap: 1.5rem; padding: .42rem 0; border-bottom: 1px solid var(--line); }
dt { color: var(--quiet); } dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
@media (max-width: 42rem) {
  main { padding: 1.5rem 1.1rem 3.5rem; } section { margin-top: 3rem; }
  .chart.wide { display: none; } .chart.narrow { display: block; }
  .sides, .columns { grid-template-columns: 1fr; } .sides { gap: 1.1rem; }
  .case { padding: 1.1rem 1.1rem .9rem; }
  th, td { padding-right: .6rem; }
  .properties thead { display: none; }
  .properties tr { display: grid; grid-template-columns: 1fr 1fr 1fr; padding: .8rem 0; border-bottom: 1px solid var(--line); }
  .properties th { grid-column: 1 / -1; } .properties th, .properties td { border: 0; padding: 0; }
  .properties .number { text-align: left; padding-top: .35rem; } .properties .verdict { text-align: right; padding-top: .35rem; }
  .properties .wanted { display: none; }
  .properties .number::before { content: attr(data-side) " "; color: var(--quiet); font-size: .82rem; }
}
@media print { .case { break-inside: avoid; } }
"""
