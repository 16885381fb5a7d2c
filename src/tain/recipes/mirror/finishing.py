"""Finish a trained encoder: fit its whitening, or join it with the token vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import tokenise
from tain.encoders.joining import join_static
from tain.encoders.transformer import TransformerEncoder
from tain.encoders.zero_blocks import skip_zero_blocks
from tain.evaluation.label_free import dropped_copies, self_retrieval
from tain.models.correction import LinearCorrection
from tain.models.correction_fitting import Moments, fit_joined, fit_whitening
from tain.models.embedder import Embedder
from tain.recipes.mirror.config import ResolvedMirrorConfig
from tain.recipes.mirror.data import TrainingSet
from tain.recipes.mirror.measuring import computing
from tain.recipes.mirror.static import TokenVectors

_JOINING_TEXTS, _FEWEST_JOINING_TEXTS = 4000, 500  # the second in a budget, as below
_JOINED_COST = 1.2  # of encoding, over that of the encoder itself
_CURVE_COST = 0.5  # of the last point of the curve, in reports
_STATIC_SHARE_OF_WORDS = 0.7  # of token vectors in the similarity of words, chosen on SimLex-999
_STATIC_SHARES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # that are tried for sentences; the first without a choice
_FEWEST_HELD_PAIRS, _MOST_HELD_PAIRS = 100, 1000  # to choose by
_STATIC_WHITENING = 0.3  # of token vectors, which are nearly white already
_WHITENING_TEXTS, _FEWEST_WHITENING_TEXTS = 10_000, 1600  # more change the covariance little and take longer
_WHITENING_TEXTS_AT_ONCE = 4096


@dataclass(frozen=True)
class StaticShare:
    """The share of the token vectors in the similarity of a joined encoder, and why.

    Attributes:
        share: The share, 0 to 1.
        chosen_by: Held-out pairs that it was chosen by: ``neighbours`` (sentences), ``pairs`` (of the user) or ``copies`` (of texts, see ``dropped_copies``); None
            if it was not chosen.
        mrr: For each share that was tried, the mean reciprocal rank of these pairs among each other.
    """

    share: float
    chosen_by: str | None = None
    mrr: dict[float, float] = field(default_factory=dict)


def finish(
    embedder: Embedder, data: TrainingSet, config: ResolvedMirrorConfig, *, vectors: TokenVectors | None, dtype: torch.dtype
) -> StaticShare | None:
    """Fit what the settings ask for to the user's training texts, and attach it to the embedder.

    Args:
        embedder: Holds the trained encoder; a joined encoder replaces it there.
        data: Has the user's training texts, and held-out neighbours.
        config: The settings.
        vectors: Token vectors to join it with.
        dtype: Data type of the training.

    Returns:
        The share of the token vectors; None if the encoder is not joined.
    """
    texts = data.own_texts
    if config.join and vectors is not None:
        return _join(embedder, data, config, vectors, dtype=dtype)
    if config.whiten:
        moments = _moments(embedder, texts, most=_whitening_texts(config, embedder.encoder.dim), dtype=dtype)
        embedder.correction = fit_whitening(moments, power=config.whiten).correction
    return None


def cost_in_reports(config: ResolvedMirrorConfig, dim: int) -> float:
    """Cost of the work after training in a budget, in units of one label-free report (about a thousand encoded texts)."""
    if not (config.whiten or config.join):
        return 1.0 + _CURVE_COST
    fitted = _fewest_whitening_texts(dim) / 1000
    if not config.join:
        return 1.0 + _CURVE_COST + fitted
    return _CURVE_COST + _JOINED_COST * (1.0 + fitted + _FEWEST_JOINING_TEXTS / 1000)


def _join(embedder: Embedder, data: TrainingSet, config: ResolvedMirrorConfig, vectors: TokenVectors, *, dtype: torch.dtype) -> StaticShare:
    """Join the trained encoder with the token vectors and fit their relative weight."""
    trained, texts = embedder.encoder, data.own_texts
    weights = torch.ones(len(vectors.table)) if trained.token_weights is None else trained.token_weights.cpu()
    table = (vectors.table / weights[:, None]).to(trained.device)
    some = texts[: _JOINING_TEXTS if config.budget_s is None else _FEWEST_JOINING_TEXTS]

    def joined(table: Tensor) -> TransformerEncoder:
        model = join_static(trained.model, table)
        skip_zero_blocks(model)
        settings = {"pad_id": trained.pad_id, "token_weights": trained.token_weights, "segment_template": trained.segment_template}
        return TransformerEncoder(model, pooling=trained.pooling, **settings).eval()

    embedder.encoder = joined(table)
    embedder.encoder = joined(table / _shown_lengths(embedder, some, table, max_tokens=config.max_tokens, dtype=dtype)[:, None])
    moments = _moments(embedder, texts, most=_whitening_texts(config, trained.dim), dtype=dtype)
    without_leak = leak_free(trained.dim)
    powers = (config.whiten, _STATIC_WHITENING if config.whiten else 0.0)
    moments = moments.transformed(without_leak)

    @cache
    def fitted(share: float) -> LinearCorrection:
        # the mean of word vectors tells words apart (docs/LOG.md), that of sentence vectors does not
        found = fit_joined(moments, powers=powers, second_share=share, centred=not config.is_best_for_words)
        return LinearCorrection((found.weight @ without_leak).astype(np.float32), found.bias)

    by, pairs = _held_pairs(data, config)
    if config.static_share is not None:
        chosen = StaticShare(config.static_share)
    elif config.is_best_for_words:
        chosen = StaticShare(_STATIC_SHARE_OF_WORDS)
    elif not config.chooses_static_share or len(pairs) < _FEWEST_HELD_PAIRS:
        chosen = StaticShare(_STATIC_SHARES[0])
    else:
        with computing(embedder.encoder.device, dtype):
            left, right = (embedder.encode([pair[side] for pair in pairs], normalize=False) for side in (0, 1))
        chosen = choose_static_share(left, right, {share: fitted(share) for share in _STATIC_SHARES}, by=by)
    embedder.correction = fitted(chosen.share)
    return chosen


def _held_pairs(data: TrainingSet, config: ResolvedMirrorConfig) -> tuple[str, Sequence[tuple[str, str]]]:
    """Held-out pairs to choose the share by, and what they are."""
    if len(data.held_neighbours) >= _FEWEST_HELD_PAIRS:
        return "neighbours", data.held_neighbours
    if data.is_paired:
        return "pairs", list(zip(data.held_left, data.held_right, strict=True))[:_MOST_HELD_PAIRS]
    found = (dropped_copies(text, level=config.level) for text in data.held_left[:_MOST_HELD_PAIRS])
    return "copies", [pair for pair in found if pair is not None]


def choose_static_share(
    left: Float[np.ndarray, "pairs width"],
    right: Float[np.ndarray, "pairs width"],
    corrections: Mapping[float, LinearCorrection],
    *,
    by: str = "neighbours",
) -> StaticShare:
    """Choose the share of the token vectors by how well the two texts of a pair find each other.

    A share other than the first is taken only if its mean reciprocal rank is higher by more than one standard error of the difference.
    What the layers add to it is partly the document's topic, which similarity of sentences does not reward, so shares below one half are not
    among those that ``finish`` tries (docs/LOG.md, 2026-11-30).

    Args:
        left: Vectors of the joined encoder without a correction.
        right: Those of their partners.
        corrections: The correction for each share.
        by: What the pairs are.
    """
    found = {}
    for share, correction in corrections.items():
        found[share] = self_retrieval(correction.apply(left), correction.apply(right)).reciprocal_rank()
    first, *_ = found
    best = max(found, key=lambda share: found[share].mean())
    # both directions of a pair are one observation
    gain = (found[best] - found[first]).reshape(2, -1).mean(axis=0)
    is_clear = gain.mean() > gain.std(ddof=1) / np.sqrt(len(gain))
    return StaticShare(best if is_clear else first, by, {share: round(float(ranks.mean()), 4) for share, ranks in found.items()})


def leak_free(width: int) -> Float[np.ndarray, "twice_width twice_width"]:
    """Projection of joined vectors that takes the mean of the second half's numbers out of each of them.

    Token vectors have a mean of zero there. What a joined encoder shows is what its last normalization leaks from the first half, enlarged:
    9% of the second half's squared length for tain-mini.
    """
    projection = np.eye(2 * width)
    projection[width:, width:] -= 1.0 / width
    return projection


@torch.no_grad()
def _shown_lengths(embedder: Embedder, texts: Sequence[str], table: Tensor, *, max_tokens: int, dtype: torch.dtype) -> Tensor:
    """Output length over input length of each token's vector in the joined encoder; 1 on average."""
    encoder = embedder.encoder
    width = table.shape[1]
    rows = table - table.mean(dim=1, keepdim=True)
    sums, counts = torch.zeros(2, len(table), device=table.device)
    ids = tokenise(embedder.tokenizer, texts, max_tokens=max_tokens).ids
    with computing(encoder.device, dtype):
        for batch in batches_by_tokens([len(text) for text in ids], batch_tokens=8192):
            packed = pack([ids[text] for text in batch]).to(table.device)
            carried = encoder.tokens(packed)[:, width:].float()
            own = rows[packed.ids]
            shares = (carried * own).sum(dim=1) / own.square().sum(dim=1).clamp(min=1e-12)
            sums.index_add_(0, packed.ids, shares)
            counts.index_add_(0, packed.ids, torch.ones_like(shares))
    is_known = (counts > 0) & (rows.norm(dim=1) > 0)
    lengths = torch.where(is_known, sums / counts.clamp(min=1), torch.zeros_like(sums))
    mean = lengths[is_known].mean()
    return torch.where(is_known, lengths / mean, torch.ones_like(lengths)).clamp(min=0.1)


def _fewest_whitening_texts(dim: int) -> int:
    """Texts to fit the whitening to in a budget; the time that a run reserves counts them."""
    return max(_FEWEST_WHITENING_TEXTS, 4 * dim)


def _whitening_texts(config: ResolvedMirrorConfig, dim: int) -> int:
    return _WHITENING_TEXTS if config.budget_s is None else _fewest_whitening_texts(dim)


def _moments(embedder: Embedder, texts: Sequence[str], *, most: int, dtype: torch.dtype) -> Moments:
    """Mean and covariance of the encoder's vectors of the first texts."""
    moments = Moments(embedder.encoder.dim)
    with computing(embedder.encoder.device, dtype):
        for start in range(0, min(len(texts), most), _WHITENING_TEXTS_AT_ONCE):
            end = min(start + _WHITENING_TEXTS_AT_ONCE, most)
            moments.add(embedder.encode(texts[start:end], normalize=False))
    return moments
