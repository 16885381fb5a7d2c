"""Render an inspection as one self-contained HTML file under 2 MB, with its own script and style."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from tain.foundation.machine import versions
from tain.inspection.mixing import GroupMixing, MixingStatistics
from tain.inspection.page_data import ROLL_OUT, as_json, page_data

if TYPE_CHECKING:
    from tain.inspection.results import Comparison, Inspection

Geometry = Sequence[Mapping[str, float]] | None

_FRAME_HEIGHT = 900  # pixels, in a notebook
_METHODS = {
    "Attn-W": "attention weights only",
    "Attn-N": "norms of the weighted vectors",
    "AttnRes-W": "attention weights and residual connection, one half each",
    "AttnRes-N": "norms with the residual connection",
    "AttnResLn-N": "the whole attention block, including layer normalisation: the paper’s method",
    "Layer-N": "the whole layer, including its feed-forward part",
    ROLL_OUT: "AttnResLn-N multiplied over all layers so far: shares of the input tokens",
}
_GEOMETRY = {
    "isotropy": "Isotropy: 1 when no direction is preferred, 0 when all vectors lie in a narrow cone",
    "mean_vector_share": "Mean vector’s share of the vectors’ length: the part shared by all texts",
    "mean_vector_norm": "Length of the mean vector",
    "mean_length": "Mean length of the vectors",
    "mean_cosine": "Mean cosine of two different texts",
    "uniformity": "Uniformity: 0 if all vectors coincide, about −4 if well spread",
}
_MARK = (
    '<svg viewBox="0 0 32 32" aria-hidden="true"><path class="glass" d="M15 4v24L4 23V9z"/><path class="tain" d="M17 4v24l11-5V9z"/></svg>'
)


def inspection_page(found: "Inspection | Comparison") -> str:
    """Render the page as HTML. All external text is escaped, and only the page's own script can run."""
    models, titles, geometry = found.models, found.titles, found.geometry
    script, style = _resource("page.js"), _resource("page.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = page_data(models, titles=titles)
    content = as_json(data)
    sections = [
        _header(found, models),
        _looking(models, titles, shown=len(data["models"][0]["texts"])),
        _tables(models, titles, geometry),
        _origin(models),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">\n"
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(' and '.join(titles))} from inside · tain</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + f'\n</main>\n<script type="application/json" id="data">{content}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def in_notebook(found: "Inspection | Comparison") -> str:
    """The page in a frame, for display in a notebook."""
    return f'<iframe srcdoc="{escape(inspection_page(found))}" width="100%" height="{_FRAME_HEIGHT}" title="tain inspect"></iframe>'


def _resource(name: str) -> str:
    return (resources.files("tain.inspection") / name).read_text(encoding="utf-8")


def _header(found: "Inspection | Comparison", models: "Sequence[Inspection]") -> str:
    read = models[0].statistics
    return f"""<header>
<p class="brand">{_MARK}<span>tain</span></p>
<h1>{escape(found.claim())}</h1>
<p class="lead">Attention, residual connection and layer normalisation, decomposed exactly into one vector per input token
(Kobayashi et al. 2021), over {read.texts:,} {"text" if read.texts == 1 else "texts"} and {read.tokens:,} tokens. The parts sum to the actual
output of {"the model" if len(models) == 1 else "each model"}, {_how_exactly(models)}.</p>
</header>"""


def _how_exactly(models: "Sequence[Inspection]") -> str:
    error = max(each.error for each in models)
    return f"within {error:.0e} of the largest number" if error else "to the last bit"


def _looking(models: "Sequence[Inspection]", titles: Sequence[str], *, shown: int) -> str:
    left_out = len(models[0].texts) - shown
    if not shown:
        why = f": the {left_out} requested do not fit on a page" if left_out else ""
        return f'<section><p class="quiet">No text is shown token by token{why}. The figures below are over all texts.</p></section>'
    names = {"model": "Model", "text": "Text", "layer": "Layer", "head": "Head", "method": "Method"}
    controls = "".join(f'<label>{words}<select id="{name}"></select></label>' for name, words in names.items())
    methods = "".join(
        f"<div><dt>{name}</dt><dd>{words}</dd></div>" for name, words in _METHODS.items() if name in models[0].methods or name == ROLL_OUT
    )
    maps = "".join(
        f'<h3>{escape(title)}</h3><div class="scroll"><canvas id="map-{index}" tabindex="0" role="application"'
        f' aria-roledescription="heat map" aria-label="Heat map"></canvas></div>'
        for index, title in enumerate(titles)
    )
    pair_maps = "".join(
        f'<div><h3>{escape(title)} <span id="cosine-{index}" class="quiet"></span></h3><div class="scroll"><canvas id="pair-map-{index}"'
        f' role="img" aria-label="Table of all pairs; the lists of pairs have the same content"></canvas></div></div>'
        for index, title in enumerate(titles)
    )
    note = f'<p class="quiet">{left_out} of the shown texts did not fit on this page.</p>' if left_out else ""
    same = "" if all(each.is_post for each in models) else (
        '<p class="quiet">With normalisation before attention (ModernBERT), it is already part of the vectors:'
        " AttnRes-N and AttnResLn-N are equal.</p>"
    )  # fmt: skip
    return f"""<noscript><p>The pictures need JavaScript; the tables below do not.</p></noscript>
<form class="controls" aria-label="What is shown" onsubmit="return false">{controls}</form>
<section aria-labelledby="every">
<h2 id="every">Every layer at once</h2>
<p>How much of each token’s vector comes from <em>other</em> tokens, by layer (top to bottom) and token (left to right). A darker
cell (lighter in dark mode) takes more from other tokens. Click a cell, or use the arrow keys.</p>
<p class="legend"><span>0% from others</span><span class="scale"></span><span>100%</span></p>
{maps}{note}
</section>
<section aria-labelledby="where">
<h2 id="where">Where a token’s vector comes from</h2>
<p>Point at a token, or use the arrow keys: the thicker the line under another token, the more it contributes.</p>
<p id="said" class="said" role="status" aria-live="polite"></p>
<div id="tokens" class="tokens" role="listbox" aria-label="Tokens of the text"></div>
<div class="columns">
<div><table><caption>Its largest sources</caption><thead><tr><th scope="col">Token</th><th scope="col" class="number">Place</th>
<th scope="col" class="number">Part</th><th scope="col"><span class="quiet">as a bar</span></th></tr></thead><tbody id="sources"></tbody></table>
<p class="quiet" id="kept"></p></div>
<div><h3>All tokens: from (across) and into (down), dark is a token’s largest</h3><div class="scroll"><canvas id="matrix" role="img"
aria-label="Table of all parts; the list of sources has the same content for the chosen token"></canvas></div></div>
</div>
<dl>{methods}</dl>{same}
</section>
<section id="similarity" aria-labelledby="similar" hidden>
<h2 id="similar">Why two texts are similar</h2>
<p id="why-not"></p>
<div id="pairs">
<p>With mean pooling, the cosine of two texts is exactly a sum over pairs of their tokens. Choose a token to see its partners.</p>
<label class="quiet">Pair <select id="pair"></select></label>
<p id="similarity-said" class="said" role="status" aria-live="polite"></p>
<h3>One text</h3><div id="left-words" class="tokens" role="listbox" aria-label="Tokens of the one text"></div>
<h3>The other</h3><div id="right-words" class="tokens" role="listbox" aria-label="Tokens of the other text"></div>
<div class="columns">{pair_maps}</div>
<table><caption>The pairs that add or take most</caption><thead><tr><th scope="col">One</th><th scope="col">Other</th>
<th scope="col" class="number">Adds</th><th scope="col"><span class="quiet">as a bar; striped means negative</span></th></tr></thead>
<tbody id="strongest"></tbody></table>
</div>
</section>"""


def _tables(models: "Sequence[Inspection]", titles: Sequence[str], geometry: Geometry) -> str:
    parts = []
    for model, title in zip(models, titles, strict=True):
        found = model.statistics
        parts.append(
            f"<h3>{escape(title)}</h3>"
            + _table("Mean share from other tokens, by layer", "Layer", found.methods, _layer_rows(model))
            + _table("By kind of token, mean over layers", "Tokens", found.methods, [_group_row(each) for each in found.kinds])
            + _table("Words by frequency in these texts", "Words", found.methods, [_group_row(each) for each in found.by_frequency])
            + _table("Rank correlation of a piece’s frequency rank with its ratio", "Tokens", found.methods, _correlation_rows(found))
        )
    return f"""<section aria-labelledby="figures">
<h2 id="figures">Over all texts</h2>
{_geometry(titles, geometry)}<div class="scroll">{"".join(parts)}</div>
<p class="quiet">A negative correlation: frequent pieces take more from others. The expansion rate is the average factor by which a layer’s attention map lengthens
vectors; it does not depend on the texts.</p>
</section>"""


def _table(caption: str, first: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    names = list(columns) if not rows or len(rows[0][1]) == len(columns) else [*columns, "expansion rate"]
    heads = "".join(f'<th scope="col" class="number">{escape(name)}</th>' for name in names)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td class=number>{value}</td>" for value in values)}</tr>'
        for name, values in rows
    )
    return f'<table><caption>{caption}</caption><thead><tr><th scope="col">{first}</th>{heads}</tr></thead><tbody>{lines}</tbody></table>'


def _layer_rows(model: "Inspection") -> list[tuple[str, list[str]]]:
    found = model.statistics
    rows = [
        (str(layer), [*(f"{value:.1%}" for value in means), f"{rate:.3f}"])
        for layer, (means, rate) in enumerate(zip(found.means, model.expansion_rates, strict=True), start=1)
    ]
    mean_rate = sum(model.expansion_rates) / len(model.expansion_rates)
    return [*rows, ("all", [*(f"{value:.1%}" for value in found.overall), f"{mean_rate:.3f}"])]


def _group_row(group: GroupMixing) -> tuple[str, list[str]]:
    return f"{group.name} ({group.tokens:,})", [f"{value:.1%}" for value in group.overall]


def _correlation_rows(found: MixingStatistics) -> list[tuple[str, list[str]]]:
    def shown(values: Sequence[float]) -> list[str]:
        return ["–" if value != value else f"{value:+.2f}".replace("-", "−") for value in values]

    return [
        ("all", shown(found.frequency_correlation.tolist())),
        ("without special tokens", shown(found.frequency_correlation_words.tolist())),
    ]


def _geometry(titles: Sequence[str], geometry: Geometry) -> str:
    if geometry is None:
        return ""
    rows = [(words, [f"{each[name]:.3g}".replace("-", "−") for each in geometry]) for name, words in _GEOMETRY.items()]
    return _table("How the vectors of these texts lie", "Figure", titles, rows)


def _origin(models: "Sequence[Inspection]") -> str:
    def facts(model: "Inspection") -> dict[str, str]:
        return {
            "model": f"{model.model} ({model.architecture})",
            "layers and heads": f"{model.layers} layers of {model.heads}",
            "normalisation": "after attention" if model.is_post else "before attention",
            "texts truncated": f"{model.truncated:,} at {model.max_tokens:,} tokens, {model.cut_tokens:,} tokens lost",
            "texts skipped": f"{model.left_out:,} with only special tokens",
            "masked for the figures": f"{model.masking_rate:.0%} of the tokens" if model.masking_rate else "none",
        }

    lists = "".join(f"<dl>{_facts(facts(model))}</dl>" for model in models)
    return f"<section><h2>How this was made</h2>{lists}<dl>{_facts(versions())}</dl></section>"


def _facts(pairs: Mapping[str, str]) -> str:
    return "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs.items())
