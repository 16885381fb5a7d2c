"""Export what scores pairs of texts: the graph of a cross-encoder, and the check of every ranker's scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tain.batches.tokenizing import separator_id
from tain.exported.folder import FLOAT_FILE, INT8_FILES, Export, file_digest
from tain.exported.rankers import ExportedCross, ExportedDual, load_exported_ranker
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.cross_encoders import SavedCrossEncoder
from tain.models.rankers import CrossRanker, DualRanker, Ranker
from tain.recipes.export.config import ExportConfig
from tain.recipes.export.graph import PairGraph, traced
from tain.recipes.export.quantise import product_nodes, quantised, worst_products

TOLERANCE = 1e-4  # of float32 scores, relative to the largest of them
_CONTEXTS, _CANDIDATES = 6, 20  # of the check


def check_dual(ranker: DualRanker, exported: ExportedDual | ExportedCross, texts: list[str]) -> dict[str, Any]:
    """Compare the scores of a bi- or poly-encoder with those of its exported towers.

    Raises:
        UserError: They differ by more than ``TOLERANCE``.
    """
    return {"float32": _compared(ranker, exported, texts)}


def refuse_without_fast_tokenizer(folder: Path, name: str) -> None:
    """Refuse a saved model whose tokenizer cannot run without torch.

    Raises:
        UserError: The folder has no ``tokenizer.json``.
    """
    if not (folder / "tokenizer.json").is_file():
        raise UserError(
            f"model {name!r} has a tokenizer without a tokenizer.json, which cannot run without torch: give a model with a fast one"
        )


def refuse_sparse_attention(full_attention_tokens: int | None, *, max_tokens: int, name: str, advice: str) -> None:
    """Refuse a model that reads texts of more than ``full_attention_tokens`` tokens in sparse attention, which a graph does not have.

    Raises:
        UserError: It does.
    """
    if full_attention_tokens is not None and max_tokens > full_attention_tokens:
        raise UserError(
            f"model {name!r} has sparse attention for texts of more than {full_attention_tokens} tokens, which tain export"
            f" does not support: {advice}"
        )


def write_pairs(ranker: Ranker, folder: Path, texts: list[str], *, config: ExportConfig, progress: Progress) -> dict[str, Any]:
    """Write and check the graphs of a cross-encoder that was saved in ``folder``.

    Raises:
        UserError: A graph cannot be made, or its scores do not agree.
    """
    is_own = isinstance(ranker, CrossRanker)  # else one of sentence-transformers, whose tokenizer joins the two texts
    place = folder / "encoder" if is_own else folder
    if isinstance(ranker, CrossRanker):
        encoder = ranker.tower.encoder
        network, has_segments, pads, in_full = encoder.model, encoder.has_segments, encoder.pads, encoder.full_attention_tokens
        graph = PairGraph(network, weight=ranker.head.weight, bias=ranker.head.bias)
        pair: dict[str, Any] = {
            "context_tokens": ranker.context.max_tokens,
            "candidate_tokens": ranker.candidate.max_tokens,
            "separator": separator_id(ranker.tokenizer),
            "is_doubled": ranker.tokenizer.num_special_tokens_to_add(pair=True) > 3,
        }
    else:
        assert isinstance(ranker, SavedCrossEncoder)
        network, pads, in_full = ranker.network.model, ranker.network.pads, ranker.network.full_attention_tokens
        has_segments = "token_type_ids" in ranker.tokenizer("a", "b")
        graph = PairGraph(network)
        pair = {"activation": type(ranker.activation).__name__}
    name, vocabulary = ranker.name, int(network.config.vocab_size)
    refuse_without_fast_tokenizer(place, name)
    refuse_sparse_attention(in_full, max_tokens=ranker.max_tokens, name=name, advice="keep it in torch")
    progress.note("tracing the model")
    exact = traced(graph, network.config, outputs=["logits"], has_segments=has_segments, vocabulary=vocabulary, name=name)
    (place / "onnx").mkdir()
    (place / FLOAT_FILE).write_bytes(exact.SerializeToString())
    digests = {
        file: file_digest(place / file) or "" for file in (FLOAT_FILE, "tokenizer.json", "model.safetensors") if (place / file).is_file()
    }
    made = Export(
        kind="pairs",
        graphs={"float32": FLOAT_FILE},
        digests=digests,
        max_tokens=ranker.max_tokens,
        dim=1,
        normalize=False,
        pads=pads,
        pad_id=int(ranker.tokenizer.pad_token_id or 0),
        unknown_id=ranker.tokenizer.unk_token_id,
        pooling="cls",
        pair=pair,
    )
    made.write(place)
    exported = load_exported_ranker(folder)
    check: dict[str, Any] = {"float32": _compared(ranker, exported, texts)}
    if config.int8:
        digests, check["int8"] = _with_int8(exact, made, place, folder, texts, exported, config=config, progress=progress)
        made = replace(made, graphs={**made.graphs, "int8": INT8_FILES[0]}, digests=digests, check=check)
    else:
        made = replace(made, check=check)
    made.write(place)
    return check


def _with_int8(
    exact: Any,
    made: Export,
    place: Path,
    folder: Path,
    texts: list[str],
    exported: ExportedDual | ExportedCross,
    *,
    config: ExportConfig,
    progress: Progress,
) -> tuple[dict[str, str], dict[str, Any]]:
    """Quantise, leaving more and more of the worst products in float32 until the order of scores is kept.

    Raises:
        UserError: It is not kept even so.
    """
    contexts, candidates = _pairs_of(texts)
    expected = exported.score(contexts, candidates).ravel()
    excluded: list[str] = []
    worst: list[str] = []
    total = len(product_nodes(exact))
    while True:
        (place / INT8_FILES[0]).write_bytes(quantised(exact, excluded=excluded).SerializeToString())
        digests = {**made.digests, INT8_FILES[0]: file_digest(place / INT8_FILES[0]) or ""}
        replace(made, graphs={**made.graphs, "int8": INT8_FILES[0]}, digests=digests).write(place)
        found = load_exported_ranker(folder, dtype="int8").score(contexts, candidates).ravel()
        correlation = _correlation(found, expected)
        left = f", {len(excluded)} of {total} products left in float32" if excluded else ""
        progress.note(f"int8 against float32: correlation of scores {correlation:.4f}{left}")
        if correlation >= config.min_cosine:
            break
        if 2 * len(excluded) >= total:
            raise UserError(
                f"model {exported.name!r} loses too much in int8: its scores correlate by {correlation:.4f} with float32, below min_cosine"
                f" {config.min_cosine:g}: export with --no-int8, or give a lower --min-cosine"
            )
        worst = worst or worst_products(exact, exported.tokenizer, texts, max_tokens=made.max_tokens, pad_id=made.pad_id)
        excluded = worst[: max(2 * len(excluded), 1)]
    (place / INT8_FILES[1]).write_bytes((place / INT8_FILES[0]).read_bytes())
    digests[INT8_FILES[1]] = digests[INT8_FILES[0]]
    return digests, {"correlation_of_scores": correlation, "products": total, "left_in_float32": excluded}


def _pairs_of(texts: list[str]) -> tuple[list[str], list[str]]:
    return texts[:_CONTEXTS], texts[: 2 * _CANDIDATES : 2] + texts[-1:]


def _compared(ranker: Ranker, exported: ExportedDual | ExportedCross, texts: list[str]) -> dict[str, Any]:
    contexts, candidates = _pairs_of(texts)
    with torch.inference_mode():
        expected = ranker.score(contexts, candidates)
    found = exported.score(contexts, candidates)
    one_by_one = np.array([[exported.score([context], [text])[0, 0] for text in candidates[:3]] for context in contexts[:2]])
    largest = float(max(np.abs(found - expected).max(), np.abs(one_by_one - expected[:2, :3]).max()) / max(np.abs(expected).max(), 1e-12))
    if not largest <= TOLERANCE:
        raise UserError(
            f"model {ranker.name!r} cannot be exported: its scores differ by {largest:.1e} of the largest between graph and torch (allowed:"
            f" {TOLERANCE:.0e}); keep it in torch"
        )
    return {"largest_difference": largest, "texts": len(contexts) + len(candidates)}


def _correlation(found: np.ndarray, expected: np.ndarray) -> float:
    left, right = found - found.mean(), expected - expected.mean()
    return float((left * right).sum() / max(float(np.linalg.norm(left) * np.linalg.norm(right)), 1e-12))
