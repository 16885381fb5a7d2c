"""Train token vectors as a bag of words on positive pairs: a fast static encoder, and an anchor for the encoder.

A text's vector is the weighted mean of its token vectors. They start from the model's input embeddings, whitened and weighted by
frequency, and are trained on the same positives as the encoder. A pair costs about a hundredth of its cost in the encoder, so all pairs
can be used. Token vectors ignore word order; as an anchor they keep the encoder from losing word meanings (figures: ``docs/LOG.md``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tain.batches.same_texts import id_keys, same_numbers
from tain.batches.types import KeptTexts
from tain.encoders.pooling import sif_weights
from tain.foundation.progress import Progress
from tain.objectives.contrastive import paired_info_nce

_SMOOTHING = 1e-3
_BATCH_PAIRS = 1024
_LEARNING_RATE = 1e-2  # for rows of mean length 1
_TEMPERATURE = 0.05
_WARMUP_STEPS = 30
_FLOOR = 1e-6  # relative to the largest variance; smaller ones are noise
FITTED_TEXTS = 20_000  # for whitening


@dataclass(frozen=True)
class TokenVectors:
    """Trained token vectors and their losses.

    Attributes:
        table: One row per token id; special tokens have rows of zeros.
        losses: Loss of each step.
    """

    table: Float[Tensor, "vocabulary dim"]
    losses: list[float]

    def encode(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, "texts dim"]:
        """Sum each text's rows: the mean up to its length, which does not change cosines."""
        return _sums(self.table, *_flat(ids))


def train_token_vectors(
    embeddings: Float[Tensor, "vocabulary dim"],
    left: KeptTexts,
    right: KeptTexts,
    *,
    special: Sequence[int],
    max_pairs: int,
    seed: int,
    progress: Progress,
    own: KeptTexts | None = None,
) -> TokenVectors:
    """Whiten and weight a model's input embeddings, and train them on positive pairs.

    Whitening and weights need thousands of texts. With few pairs, give further texts for both by ``own``.

    Args:
        embeddings: The model's table.
        left: Token ids of each pair's first text.
        right: Token ids of each pair's second text, in the same order.
        special: Ids of special tokens, which get weight 0.
        max_pairs: Pairs to train on, with repeats if needed; 0 skips training.
        seed: Seed of the order.
        progress: Receives one update per step.
        own: Token ids of further texts.
    """
    sides = [left, right] if own is None else [left, right, own]
    counts = np.bincount(np.concatenate([side.ids for side in sides]), minlength=len(embeddings))
    counts[list(special)] = 0
    weights = sif_weights(torch.from_numpy(counts), smoothing=_SMOOTHING)
    weights[list(special)] = 0
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(left), generator=generator)[:FITTED_TEXTS].tolist()
    fitted = [left[text] for text in chosen]
    if own is not None:
        fitted += [own[text] for text in range(min(len(own), FITTED_TEXTS - len(chosen)))]
    table = _whitened(embeddings.float(), fitted, special=special) * weights[:, None]
    table /= table.norm(dim=1)[weights > 0].mean().clamp(min=1e-12)
    parameter = nn.Parameter(table)
    steps = min(max_pairs, 4 * len(left)) // _BATCH_PAIRS
    warmup_steps = min(_WARMUP_STEPS, steps // 10 + 1)
    optimizer = torch.optim.Adam([parameter], lr=_LEARNING_RATE)
    losses: list[float] = []
    order = torch.empty(0, dtype=torch.long)
    with progress.task("token vectors", steps) as task:
        for step in range(steps):
            while len(order) < _BATCH_PAIRS:  # more than once where there are fewer pairs than a batch takes
                order = torch.cat([order, torch.randperm(len(left), generator=generator)])
            batch, order = order[:_BATCH_PAIRS].numpy(), order[_BATCH_PAIRS:]
            for group in optimizer.param_groups:
                group["lr"] = _LEARNING_RATE * min(1.0, (step + 1) / warmup_steps) * (1 - step / steps)
            sides = [taken(side, batch) for side in (left, right)]
            texts = same_numbers(id_keys(ids for side in sides for ids in side.arrays()))
            is_same = torch.from_numpy(texts[:_BATCH_PAIRS, None] == texts[_BATCH_PAIRS:])
            loss = paired_info_nce(*(_sums_of(parameter, side) for side in sides), temperature=_TEMPERATURE, is_same=is_same)
            optimizer.zero_grad()
            loss.backward()
            assert parameter.grad is not None
            parameter.grad[list(special)] = 0
            optimizer.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"the loss of token vectors is {losses[-1]} at step {step}")
            task.advance(1)
    return TokenVectors(parameter.detach(), losses)


def combined_with_embeddings(
    vectors: TokenVectors, embeddings: Float[Tensor, "vocabulary dim"], *, special: Sequence[int]
) -> Float[Tensor, "vocabulary dim"]:
    """Add each token's trained vector and its centred input embedding, both at length 1: for single words.

    Neighbouring sentences tell which words occur together, input embeddings which words fill the same place. Similarity of words needs both.

    Args:
        vectors: Trained token vectors.
        embeddings: The model's table.
        special: Ids of special tokens, whose rows are zeros.
    """
    rows = nn.functional.layer_norm(embeddings.float(), embeddings.shape[1:])
    is_word = torch.ones(len(rows), dtype=torch.bool)
    is_word[list(special)] = False
    rows = nn.functional.normalize(rows - rows[is_word].mean(dim=0), dim=1)
    return (nn.functional.normalize(vectors.table, dim=1) + rows) * is_word[:, None]


def _whitened(
    embeddings: Float[Tensor, "vocabulary dim"], texts: list[list[int]], *, special: Sequence[int]
) -> Float[Tensor, "vocabulary dim"]:
    """Normalise each row, and whiten the mean vectors of texts."""
    rows = nn.functional.layer_norm(embeddings, embeddings.shape[1:])
    ids, starts = _flat([[token for token in text if token not in set(special)] or [0] for text in texts])
    lengths = torch.diff(starts, append=torch.tensor([len(ids)]))
    means = (_sums(rows, ids, starts) / lengths[:, None]).double()
    centre = means.mean(dim=0)
    variances, directions = torch.linalg.eigh(torch.cov((means - centre).T))
    scales = variances.clamp(min=_FLOOR * float(variances[-1])).rsqrt()
    return ((rows.double() - centre) @ (directions * scales) @ directions.T).float()


def _flat(ids: Sequence[Sequence[int]]) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " texts"]]:
    lengths = np.fromiter((len(text) for text in ids), dtype=np.int64, count=len(ids))
    flat = np.fromiter((token for text in ids for token in text), dtype=np.int64, count=int(lengths.sum()))
    return torch.from_numpy(flat), torch.from_numpy(np.cumsum(lengths) - lengths)


def taken(texts: KeptTexts, chosen: Int[np.ndarray, " texts"]) -> KeptTexts:
    """Some texts, in the order chosen; a text may be chosen more than once."""
    begins = texts.starts[chosen]
    lengths = texts.starts[chosen + 1] - begins
    starts = np.concatenate([[0], np.cumsum(lengths)])
    where = np.arange(starts[-1]) + np.repeat(begins - starts[:-1], lengths)
    return KeptTexts(texts.ids[where], starts, 0)


def _sums_of(table: Tensor, texts: KeptTexts) -> Float[Tensor, "texts dim"]:
    return _sums(table, torch.from_numpy(texts.ids.astype(np.int64)), torch.from_numpy(texts.starts[:-1]))


def _sums(table: Tensor, ids: Int[Tensor, " tokens"], starts: Int[Tensor, " texts"]) -> Float[Tensor, "texts dim"]:
    return nn.functional.embedding_bag(ids, table, starts, mode="sum")
