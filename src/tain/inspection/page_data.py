"""Pack inspections into the data of a page: the largest parts that fit its size limit.

A text of 512 tokens in 12 layers of 12 heads has 38 million weights. The page gets, per token, the few largest contributions; their
number depends on the available space. Numbers are half floats (three digits) in base64, ratios are 16-bit fractions.
"""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    from tain.inspection.results import Inspection, TextInspection

ROLL_OUT = "Roll-out"

_ROOM_BYTES = 1_050_000  # before base64, which adds a third
_MOST_BYTES = 1_900_000  # of the complete JSON, so that the page stays under 2 MB
_LAYER_SHARE = 3  # a layer's table keeps this many times as many entries per row as the table of a head
_LARGEST_HALF = 65_504.0


@dataclass(frozen=True)
class Plan:
    """Number of entries kept.

    Attributes:
        texts: Shown texts per model.
        kept: Entries per row in the tables of a layer.
        kept_head: Entries per row in the tables of a head; 0 omits the heads.
    """

    texts: int
    kept: int
    kept_head: int


def page_data(models: "Sequence[Inspection]", *, titles: Sequence[str]) -> dict[str, Any]:
    """All data for the page's script, as plain data for JSON."""
    room = _ROOM_BYTES
    while True:
        plan = choose_plan(models, room=room)
        data = {"models": [_model(each, title, plan) for each, title in zip(models, titles, strict=True)]}
        if not plan.texts or len(as_json(data).encode()) <= _MOST_BYTES:
            return data
        room = int(0.8 * room)  # token names and sums take additional space that varies


def as_json(data: dict[str, Any]) -> str:
    """JSON as embedded in the page, escaped so that no text can end the script element."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def choose_plan(models: "Sequence[Inspection]", *, room: int = _ROOM_BYTES) -> Plan:
    """Keep as much as fits: first reduce the entries per row, then drop the heads, then texts."""
    most = max((len(text.tokens) for each in models for text in each.texts), default=1)
    steps = list(range(most, 0, -1))
    for texts in range(max(len(each.texts) for each in models), 0, -1):
        plans = [Plan(texts, min(_LAYER_SHARE * kept, most), kept) for kept in steps] + [Plan(texts, kept, 0) for kept in steps]
        for plan in plans:
            if _bytes_of(models, plan) <= room:
                return plan
    return Plan(0, 0, 0)


def matrices_of(model: "Inspection") -> list[str]:
    """Distinct tables of a layer: in a pre-LN block, those before and after normalisation are equal."""
    skipped = {"AttnRes-W"} if model.is_post else {"AttnRes-W", "AttnResLn-N"}
    return [*(method for method in model.methods if method not in skipped), ROLL_OUT]


def _bytes_of(models: "Sequence[Inspection]", plan: Plan) -> int:
    total = 0
    for model in models:
        tables = len(matrices_of(model))
        for text in model.texts[: plan.texts]:
            tokens = len(text.tokens)
            total += model.layers * (len(model.methods) + 1) * tokens * 2  # ratios
            total += model.layers * tokens * _row_bytes(plan.kept, tokens, tables=tables)
            total += model.layers * model.heads * tokens * _row_bytes(plan.kept_head, tokens, tables=1)
            total += model.layers * model.heads * tokens * 2 if plan.kept_head else 0  # lengths
        for each in model.similarities:
            if each.right < plan.texts:
                rows, columns = each.contributions.shape
                total += rows * _row_bytes(plan.kept, columns, tables=1)
    return total


def _row_bytes(kept: int, columns: int, *, tables: int) -> int:
    return 2 * tables * columns if kept >= columns else 2 * kept * (1 + tables)


def _model(model: "Inspection", title: str, plan: Plan) -> dict[str, Any]:
    return {
        "name": title,
        "layers": model.layers,
        "heads": model.heads,
        "methods": [*model.methods, ROLL_OUT],
        "matrices": matrices_of(model),
        "texts": [_text(text, matrices_of(model), plan) for text in model.texts[: plan.texts]],
        "similarities": [
            {
                "left": each.left,
                "right": each.right,
                "cosine": each.cosine,
                "leftSums": [round(float(value), 7) for value in each.contributions.sum(1)],
                "rightSums": [round(float(value), 7) for value in each.contributions.sum(0)],
                **_packed(each.contributions[None], kept=plan.kept, keep_diagonal=False),
            }
            for each in model.similarities
            if each.right < plan.texts
        ],
        "whyNoSimilarity": model.why_no_similarity,
    }


def _text(text: "TextInspection", matrices: Sequence[str], plan: Plan) -> dict[str, Any]:
    layers, heads = text.weights.shape[:2]
    rolled = text.rolled("AttnResLn-N")
    tables = [
        np.stack([rolled[layer] if name == ROLL_OUT else text.matrix(name, layer=layer) for name in matrices]) for layer in range(layers)
    ]
    rolled_ratios = 1.0 - rolled.diagonal(axis1=1, axis2=2)
    ratios = np.concatenate([text.ratios, rolled_ratios[:, None]], axis=1)  # (layers, methods, tokens)
    packed: dict[str, Any] = {
        "text": text.text,
        "tokens": list(text.tokens),
        "kinds": list(text.kinds),
        "cut": text.cut,
        "ratios": _base64(np.rint(np.clip(ratios, 0.0, 1.0) * 65_535).astype("<u2")),
        "layers": [_packed(table, kept=plan.kept) for table in tables],
    }
    if plan.kept_head:
        packed["heads"] = [
            [
                _packed(text.weights[layer, head][None], kept=plan.kept_head, also=text.matrix("Attn-N", layer=layer, head=head)[None])
                for head in range(heads)
            ]
            for layer in range(layers)
        ]
        packed["lengths"] = _base64(_halves(text.head_lengths))
    return packed


def _packed(
    tables: Float[np.ndarray, "tables rows columns"],
    *,
    kept: int,
    also: Float[np.ndarray, "more rows columns"] | None = None,
    keep_diagonal: bool = True,
) -> dict[str, Any]:
    """Keep the entries of each row where any table has its largest numbers.

    Args:
        tables: Tables that share the kept entries.
        kept: Entries per row; if there are no more, all are kept, without their indices.
        also: Tables that influence the choice of entries, but are not packed.
        keep_diagonal: Always keep a token's own part.
    """
    columns = tables.shape[2]
    if kept >= columns:
        return {"kept": columns, "columns": columns, "places": "", "values": _base64(_halves(tables))}
    judged = np.abs(tables if also is None else np.concatenate([tables, also]))
    largest = judged.max(-1, keepdims=True)
    score = np.divide(judged, largest, out=np.zeros_like(judged), where=largest > 0).max(0)  # (rows, columns)
    if keep_diagonal:
        np.fill_diagonal(score, math.inf)
    indices = np.sort(np.argpartition(-score, kept - 1, axis=-1)[:, :kept], axis=-1)
    values = np.take_along_axis(tables, indices[None], axis=-1)
    return {"kept": kept, "columns": columns, "places": _base64(indices.astype("<u2")), "values": _base64(_halves(values))}


def _halves(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -_LARGEST_HALF, _LARGEST_HALF).astype("<f2")


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
