"""Inspections packed for a page: all that fits a size, the largest parts first.

A text of 512 tokens in 12 layers of 12 heads has 38 million weights. The page gets, for each token, the few tokens that give it most; how
many depends on the room. Numbers are half floats (three digits) in base64, ratios are 16-bit fractions.
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

_ROOM_BYTES = 1_050_000  # before base64, which takes a third more
_MOST_BYTES = 1_900_000  # of the whole as JSON: the page stays under 2 MB
_LAYER_SHARE = 3  # a layer's own table keeps so many times as many places a row as each of its heads
_LARGEST_HALF = 65_504.0


@dataclass(frozen=True)
class Plan:
    """How much of each row is kept.

    Attributes:
        texts: Shown texts of each model.
        kept: Places of a row in the tables of a layer.
        kept_head: Places of a row in the tables of a head; 0 leaves heads out.
    """

    texts: int
    kept: int
    kept_head: int


def page_data(models: "Sequence[Inspection]", *, titles: Sequence[str]) -> dict[str, Any]:
    """Everything that the page's script reads, as plain data for JSON."""
    room = _ROOM_BYTES
    while True:
        plan = choose_plan(models, room=room)
        data = {"models": [_model(each, title, plan) for each, title in zip(models, titles, strict=True)]}
        if not plan.texts or len(as_json(data).encode()) <= _MOST_BYTES:
            return data
        room = int(0.8 * room)  # names of tokens and sums take room that no table of numbers foretells


def as_json(data: dict[str, Any]) -> str:
    """As it stands in the page, where no text may end the script."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def choose_plan(models: "Sequence[Inspection]", *, room: int = _ROOM_BYTES) -> Plan:
    """Keep as much as there is room for: first fewer places a row, then no heads, then fewer texts."""
    most = max((len(text.tokens) for each in models for text in each.texts), default=1)
    steps = list(range(most, 0, -1))
    for texts in range(max(len(each.texts) for each in models), 0, -1):
        plans = [Plan(texts, min(_LAYER_SHARE * kept, most), kept) for kept in steps] + [Plan(texts, kept, 0) for kept in steps]
        for plan in plans:
            if _bytes_of(models, plan) <= room:
                return plan
    return Plan(0, 0, 0)


def matrices_of(model: "Inspection") -> list[str]:
    """The tables of a layer that are different: before normalisation and behind it are the same in a pre-LN block."""
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
    """Keep of each row the places where any table has its largest numbers.

    Args:
        tables: Tables that share the places kept.
        kept: Places of a row; all of them, and then without their numbers, where there are no more.
        also: Tables that have a say in which places are kept, but are not packed.
        keep_diagonal: A token's own part is always kept.
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
