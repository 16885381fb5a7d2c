"""Write a comparison as one self-contained HTML page: advice, a chart of figures and intervals, and the table."""

from html import escape
from typing import Any

_WIDTH, _LEFT, _RIGHT, _LANE = 760, 110, 90, 30  # SVG user units
_TICKS = (0.01, 0.02, 0.05, 0.1, 0.2)


def comparison_page(content: dict[str, Any], *, title: str) -> str:
    """Write the page.

    Args:
        content: As ``Compared.to_dict`` gives it.
        title: Name of the saved encoder.
    """
    counts = content["counts"]
    measured = [row for row in content["candidates"] if "skipped" not in row]
    skipped = [row for row in content["candidates"] if "skipped" in row]
    has_labels = content["labelled"] is not None
    first, *rest = content["advice"]
    not_tried = "".join(f"<li><b>{escape(row['candidate'])}</b>: {escape(row['skipped'])}</li>" for row in skipped)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}: recipes compared</title><style>{_STYLE}</style></head><body><main>
<h1>{escape(first)}</h1>
<p>{escape(" ".join(rest))}</p>
<p class="quiet">Made from {escape(content["model"])}. Every recipe was trained on the same {counts["train"]:,} texts and measured on
{counts["held_out"]:,} others, in {content["seconds"]:.0f} s. {_decided(content)}</p>
<figure>{_chart(measured, winner=content["winner"])}<figcaption>Self-retrieval MRR: two copies of a held-out text, each without a block of its words, must find each
other among all copies. Higher is better. Bars: 95% bootstrap interval over texts.</figcaption></figure>
<div class="scroll"><table><thead><tr><th>candidate</th><th>what</th><th>MRR</th><th>difference to the best</th>{"<th>labels</th>" if has_labels else ""}
<th>highest in</th><th>made in</th><th>texts a second</th></tr></thead><tbody>
{"".join(_row(row, has_labels=has_labels, is_winner=row["candidate"] == content["winner"]) for row in measured)}
</tbody></table></div>
{f"<h2>Not tried</h2><ul>{not_tried}</ul>" if skipped else ""}
<p class="quiet">The choice holds for texts like these. It does not replace an evaluation on your own task. All figures are in compare.json.</p>
</main></body></html>
"""


def _decided(content: dict[str, Any]) -> str:
    if content["labelled"] is None:
        return "No labels were used."
    return escape(f"The labels decided: {content['decided_by']}.")


def _row(row: dict[str, Any], *, has_labels: bool, is_winner: bool) -> str:
    of = row["self_retrieval"]
    behind = (
        "–" if of["behind"] == 0 else f"{-of['behind']:+.3f} {_span(-of['behind_interval'][1], -of['behind_interval'][0], signed=True)}"
    )
    cells = [f"<th>{escape(row['candidate'])}</th>", f"<td>{escape(row['what'])}</td>"]
    cells += [f"<td>{of['value']:.3f} {_span(*of['interval'])}</td>", f"<td>{behind}</td>"]
    if has_labels:
        labelled = row["labelled"]
        cells.append("<td>–</td>" if labelled is None else f"<td>{labelled['value']:.1f} {_span(*labelled['interval'], digits=1)}</td>")
    cells += [f"<td>{of['first_share']:.0%} of resamples</td>", f"<td>{row['made_s']:.0f} s</td>", f"<td>{row['texts_a_second']:,.0f}</td>"]
    return f"<tr{' class=winner' if is_winner else ''}>{''.join(cells)}</tr>\n"


def _span(low: float, high: float, *, digits: int = 3, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f'<span class="quiet">{low:{sign}.{digits}f} to {high:{sign}.{digits}f}</span>'


def _chart(measured: list[dict[str, Any]], *, winner: str) -> str:
    """Draw a dot with its interval for each candidate."""
    figures = [row["self_retrieval"] for row in measured]
    top = max(each["interval"][1] for each in figures) or 1.0
    step = next((step for step in _TICKS if top / step <= 6), 0.25)
    end = step * max(1, -int(-top // step))
    height = _LANE * len(measured) + 30

    def across(value: float) -> float:
        return round(_LEFT + (_WIDTH - _LEFT - _RIGHT) * value / end, 1)

    parts = []
    for number in range(round(end / step) + 1):
        x = across(number * step)
        parts.append(f'<line class="grid" x1="{x}" x2="{x}" y1="0" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{x}" y="{height - 8}" text-anchor="middle">{number * step:.2f}</text>')
    for place, (row, figure) in enumerate(zip(measured, figures, strict=True)):
        y = place * _LANE + _LANE / 2
        low, high, value = across(figure["interval"][0]), across(figure["interval"][1]), across(figure["value"])
        kind = "winner" if row["candidate"] == winner else "other"
        parts.append(f'<text class="{kind}" x="{_LEFT - 10}" y="{y + 5}" text-anchor="end">{escape(row["candidate"])}</text>')
        parts.append(f'<path class="{kind}" d="M{low} {y}H{high}M{low} {y - 5}v10M{high} {y - 5}v10"/>')
        parts.append(f'<circle class="{kind}" cx="{value}" cy="{y}" r="5"/>')
        parts.append(f'<text class="{kind}" x="{high + 8}" y="{y + 5}">{figure["value"]:.3f}</text>')
    label = "; ".join(f"{row['candidate']} {row['self_retrieval']['value']:.3f}" for row in measured)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


_STYLE = """
:root { --paper: #fbfaf8; --ink: #1a1d21; --quiet: #5c646e; --line: #e3e0da; --winner: #0b5f58; --other: #6b7280; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #121517; --ink: #e9ebec; --quiet: #9aa4ad; --line: #2c3236; --winner: #5fd3c6; --other: #9aa4ad; }
}
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.6 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.3; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.quiet, figcaption { color: var(--quiet); } figure { margin: 2rem 0; } svg { width: 100%; height: auto; }
svg text { font-size: 14px; fill: var(--quiet); } svg text.winner { fill: var(--winner); font-weight: 700; }
svg .grid { stroke: var(--line); } svg .tick { font-size: 12px; }
svg path { stroke-width: 1.6; fill: none; stroke: var(--other); } svg path.winner { stroke: var(--winner); }
svg circle { fill: var(--other); } svg circle.winner { fill: var(--winner); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .5rem .9rem .5rem 0; border-bottom: 1px solid var(--line); vertical-align: baseline; }
thead th { font-weight: 500; color: var(--quiet); font-size: .85rem; } tr.winner th { color: var(--winner); }
td .quiet { font-size: .85rem; white-space: nowrap; }
"""
