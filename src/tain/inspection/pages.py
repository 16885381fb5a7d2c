"""Render an inspection as one self-contained HTML file under 2 MB, with its own script and style."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from tain.foundation.machine import versions
from tain.foundation.templates import as_markup, fill_template, read_part
from tain.inspection.mixing import GroupMixing, MixingStatistics
from tain.inspection.page_data import ROLL_OUT, as_json, page_data

if TYPE_CHECKING:
    from tain.inspection.results import Comparison, Inspection

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


@dataclass(frozen=True)
class _Table:
    """A table of the page: rows of a name and formatted values."""

    caption: str
    first: str  # heading of the names
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]


def inspection_page(found: "Inspection | Comparison") -> str:
    """Render the page as HTML. All external text is escaped, and only the page's own script can run."""
    models, titles = found.models, found.titles
    script, data = read_part("inspection/page.js"), page_data(models, titles=titles)
    shown, error = len(data["models"][0]["texts"]), max(each.error for each in models)
    return fill_template(
        "inspection/page.html",
        titles=titles,
        claim=found.claim(),
        texts=models[0].statistics.texts,
        tokens=models[0].statistics.tokens,
        exactness=f"within {error:.0e} of the largest number" if error else "to the last bit",
        shown=shown,
        left_out=len(models[0].texts) - shown,
        methods={name: words for name, words in _METHODS.items() if name in models[0].methods or name == ROLL_OUT},
        has_pre_norm=not all(each.is_post for each in models),
        geometry=_geometry(titles, found.geometry),
        tables=[(title, _tables(model)) for model, title in zip(models, titles, strict=True)],
        origins=[*map(_origin, models), versions()],
        data=as_markup(as_json(data)),  # as_json escapes what could end the script element
        script=as_markup(script),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def in_notebook(found: "Inspection | Comparison") -> str:
    """The page in a frame, for display in a notebook."""
    return f'<iframe srcdoc="{escape(inspection_page(found))}" width="100%" height="{_FRAME_HEIGHT}" title="tain inspect"></iframe>'


def _tables(model: "Inspection") -> list[_Table]:
    found = model.statistics
    layers = [*found.methods, "expansion rate"]
    return [
        _Table("Mean share from other tokens, by layer", "Layer", layers, _layer_rows(model)),
        _Table("By kind of token, mean over layers", "Tokens", found.methods, [_group_row(each) for each in found.kinds]),
        _Table("Words by frequency in these texts", "Words", found.methods, [_group_row(each) for each in found.by_frequency]),
        _Table("Rank correlation of a piece’s frequency rank with its ratio", "Tokens", found.methods, _correlation_rows(found)),
    ]


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


def _geometry(titles: Sequence[str], geometry: Sequence[Mapping[str, float]] | None) -> _Table | None:
    if geometry is None:
        return None
    rows = [(words, [f"{each[name]:.3g}".replace("-", "−") for each in geometry]) for name, words in _GEOMETRY.items()]
    return _Table("How the vectors of these texts lie", "Figure", titles, rows)


def _origin(model: "Inspection") -> dict[str, str]:
    return {
        "model": f"{model.model} ({model.architecture})",
        "layers and heads": f"{model.layers} layers of {model.heads}",
        "normalisation": "after attention" if model.is_post else "before attention",
        "texts truncated": f"{model.truncated:,} at {model.max_tokens:,} tokens, {model.cut_tokens:,} tokens lost",
        "texts skipped": f"{model.left_out:,} with only special tokens",
        "masked for the figures": f"{model.masking_rate:.0%} of the tokens" if model.masking_rate else "none",
    }
