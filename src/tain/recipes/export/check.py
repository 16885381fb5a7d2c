"""Compare an exported graph with the torch model that it was made from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32

from tain.evaluation.metrics import spearman
from tain.exported.encoder import ExportedEncoder
from tain.exported.graph import padded
from tain.foundation.errors import UserError
from tain.foundation.vectors import unit_length
from tain.models.embedder import Embedder

TOLERANCE = 1e-4  # of float32 vectors, relative to their length
LONGEST = 512  # tokens of a checked row: attention over thousands takes gigabytes
_LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, LONGEST)
_BATCHES = {1: 4, 300: 4, 4096: 1}  # tokens of a batch (one text at a time, a few, many), and which share of the texts: one in 4, or all
_MOST_PAIRS_TEXTS = 500  # of whose similarities the order is compared


@dataclass(frozen=True)
class Int8Agreement:
    """How far an int8 graph's vectors are from those in float32.

    Attributes:
        mean_cosine: Over the texts.
        worst_cosine: The lowest of them.
        rank_correlation: Spearman's, of the similarities of all pairs of texts.
    """

    mean_cosine: float
    worst_cosine: float
    rank_correlation: float


def check_float32(
    embedder: Embedder, exported: ExportedEncoder, texts: Sequence[str], *, reference: Float32[np.ndarray, "texts dim"], seed: int
) -> dict[str, Any]:
    """Compare vectors of texts in batches of several sizes, and token vectors of rows of several lengths.

    Args:
        embedder: In torch, float32.
        exported: The float32 graph.
        texts: Of many lengths.
        reference: The embedder's vectors of them.
        seed: Draws token ids.

    Returns:
        The largest differences, relative to the length of the vector.

    Raises:
        UserError: They are above ``TOLERANCE``, or the graph does not run at some length.
    """
    worst = 0.0
    for batch_tokens, step in _BATCHES.items():
        found = exported.encode(texts[::step], batch_tokens=batch_tokens, prompt="")
        worst = max(
            worst, _apart(found, reference[::step], what=f"the vectors of texts in batches of {batch_tokens:,} tokens", name=embedder.name)
        )
    longest = min(LONGEST, embedder.max_tokens)
    lengths = sorted({min(length, longest) for length in _LENGTHS}, reverse=True)
    rng = np.random.default_rng(seed)
    vocabulary = int(embedder.encoder.model.config.vocab_size)
    rows = [rng.integers(0, vocabulary, size=length).tolist() for length in lengths]
    groups = [rows, *([row] for row in rows)] if exported.export.pads else [[row] for row in rows]
    of_tokens = max(_token_vectors_apart(embedder, exported, group) for group in groups)
    return {"largest_difference": worst, "largest_difference_of_tokens": of_tokens, "texts": len(texts), "longest_tokens": longest}


@torch.inference_mode()
def _token_vectors_apart(embedder: Embedder, exported: ExportedEncoder, rows: list[list[int]]) -> float:
    encoder = embedder.encoder
    ids, is_token = padded(rows, exported.export.pad_id)
    (found,) = exported.graph.run(rows, ["last_hidden_state"])
    more = {"token_type_ids": torch.zeros(ids.shape, dtype=torch.long)} if "token_type_ids" in exported.graph.inputs else {}
    expected = encoder.model(
        input_ids=torch.from_numpy(ids).to(encoder.device), attention_mask=torch.from_numpy(is_token).to(encoder.device), **more
    ).last_hidden_state
    real = is_token.astype(bool)
    what = f"token vectors of {len(rows)} rows of up to {ids.shape[1]:,} tokens"
    return _apart(found[real], expected.cpu().numpy()[real], what=what, name=embedder.name)


def _apart(found: np.ndarray, expected: np.ndarray, *, what: str, name: str) -> float:
    """The largest difference between a number of two vectors, relative to the length of the second."""
    if found.shape != expected.shape:
        raise UserError(f"model {name!r} cannot be exported: {what} have the shape {found.shape} in the graph, {expected.shape} in torch")
    apart = np.abs(found - expected) / np.maximum(np.linalg.norm(expected, axis=-1, keepdims=True), 1e-12)
    largest = float(apart.max(initial=0.0)) if np.isfinite(apart).all() else float("inf")
    if not largest <= TOLERANCE:
        raise UserError(
            f"model {name!r} cannot be exported: {what} differ by {largest:.1e} of their length between graph and torch (allowed:"
            f" {TOLERANCE:.0e}), since its code depends on the length of the example that it was traced with; keep it in torch"
        )
    return largest


def int8_agreement(found: Float32[np.ndarray, "texts dim"], reference: Float32[np.ndarray, "texts dim"]) -> Int8Agreement:
    """Compare vectors of an int8 graph with those in float32."""
    left, right = unit_length(found.astype(np.float64)), unit_length(reference.astype(np.float64))
    cosines = (left * right).sum(axis=1)
    left, right = left[:_MOST_PAIRS_TEXTS], right[:_MOST_PAIRS_TEXTS]
    pairs = np.triu_indices(len(left), k=1)
    order = spearman((left @ left.T)[pairs], (right @ right.T)[pairs]) if len(left) > 2 else 1.0
    return Int8Agreement(float(cosines.mean()), float(cosines.min()), float(order))
