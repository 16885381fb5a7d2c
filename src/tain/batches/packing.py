"""Pack texts end to end without padding, and split work into batches by token budget."""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tain.batches.types import PackedTexts


def pack(ids: Sequence[Sequence[int]], *, share_rows: bool = False) -> PackedTexts:
    """Concatenate texts, with texts of equal length next to each other.

    Args:
        ids: Token ids per text, at least one token each.
        share_rows: Let short texts share rows if that is cheaper than one group per length. Useful when attention weights are computed
            explicitly: in training, a group costs about twenty small operations per layer.

    Returns:
        The packed batch; its ``order`` maps back to the given order.
    """
    lengths = [len(text) for text in ids]
    rows = shared_rows(lengths) if share_rows else []
    row_tokens = ROW_TOKENS if rows else 0
    alone = sorted((text for text in range(len(ids)) if lengths[text] > row_tokens), key=lengths.__getitem__)
    order = [*chain.from_iterable(rows), *alone]
    sizes = np.array([lengths[text] for text in order], dtype=np.int64)
    gaps = np.zeros(len(order), dtype=np.int64)  # fillers between a text and the previous one, at the end of its row
    last = -1
    for row in rows:
        last += len(row)
        if last + 1 < len(order):
            gaps[last + 1] += row_tokens - sum(lengths[text] for text in row)
    starts = np.cumsum(gaps + sizes) - sizes
    total = len(rows) * row_tokens + sum(lengths[text] for text in alone)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    indices = np.repeat(starts, sizes) + within
    flat, positions = np.zeros((2, total), dtype=np.int64)
    owners = np.full(total, len(ids))
    flat[indices] = np.fromiter(chain.from_iterable(ids[text] for text in order), dtype=np.int64, count=len(indices))
    positions[indices] = within
    owners[indices] = np.repeat(np.arange(len(order)), sizes)
    return PackedTexts(
        torch.from_numpy(flat),
        tuple(sizes.tolist()),
        torch.tensor(order),
        (len(rows), row_tokens),
        len(order) - len(alone),
        torch.from_numpy(starts),
        torch.from_numpy(positions),
        torch.from_numpy(owners),
    )


ROW_TOKENS = 48  # wider rows share better but waste more of the attention weights
_WEIGHT_COST = 0.0015  # cost of a position of a row in attention, relative to a token elsewhere: measured in training at 6 x 384
_GROUP_COST = 36.0  # cost of a group's small operations, in tokens; likewise


def shared_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Assign texts to shared rows of ``ROW_TOKENS``, if that makes a training step faster than one group per length.

    Returns:
        The indices in ``lengths`` of each row's texts; no rows if sharing does not pay. The number of rows is rounded up, by at
            most 6%, to one of a few sizes. Otherwise batches of slightly different size would fragment memory, and every step
            would allocate fresh memory.
    """
    short = [length for length in lengths if length <= ROW_TOKENS]
    rows = fill_rows(lengths, row_tokens=ROW_TOKENS)
    shared_cost = len(rows) * ROW_TOKENS * (1 + _WEIGHT_COST * ROW_TOKENS) + _GROUP_COST
    grouped_cost = sum(length * (1 + _WEIGHT_COST * length) for length in short) + _GROUP_COST * len(set(short))
    if shared_cost >= grouped_cost:
        return []
    grain = 2 ** max(0, len(rows).bit_length() - 5)
    return rows + [[]] * (-len(rows) % grain)


def fill_rows(lengths: Sequence[int], *, row_tokens: int) -> list[list[int]]:
    """Assign the texts that fit to rows of ``row_tokens`` tokens, always taking the longest text that still fits.

    Args:
        lengths: Tokens per text; longer texts are skipped.
        row_tokens: Tokens per row.

    Returns:
        The indices in ``lengths`` of each row's texts.
    """
    of_length: list[list[int]] = [[] for _ in range(row_tokens + 1)]
    for text in reversed(range(len(lengths))):
        if lengths[text] <= row_tokens:
            of_length[lengths[text]].append(text)
    rows: list[list[int]] = []
    longest = row_tokens
    while True:
        while longest > 0 and not of_length[longest]:
            longest -= 1
        if longest == 0:
            return rows
        row, free, length = [], row_tokens, longest
        while length > 0:
            if of_length[length]:
                row.append(of_length[length].pop())
                free -= length
                length = min(length, free)
            else:
                length -= 1
        rows.append(row)


def pad(packed: PackedTexts, *, pad_id: int) -> tuple[Int[Tensor, "texts longest"], Bool[Tensor, "texts longest"]]:
    """Pad a packed batch to rows of equal length, in packed order.

    Returns:
        The ids, and ``is_token``: True on real tokens.
    """
    lengths = packed.length_tensor()
    steps = torch.arange(max(packed.lengths), device=packed.ids.device)
    is_token = steps < lengths[:, None]
    rows = torch.full(is_token.shape, pad_id, dtype=torch.long, device=packed.ids.device)
    rows[is_token] = packed.ids[packed.owners < packed.texts]
    return rows, is_token


def batches_by_tokens(lengths: Sequence[int], *, batch_tokens: int) -> Iterator[list[int]]:
    """Split texts into batches of at most ``batch_tokens`` tokens, grouping texts of similar length.

    A text longer than the budget becomes a batch alone.

    Args:
        lengths: Tokens per text.
        batch_tokens: Token budget per batch, without padding.

    Yields:
        Indices in ``lengths`` of the batch's texts; every index occurs once. Longest first, so that memory peaks at the
            start of a long job.
    """
    batch: list[int] = []
    tokens = 0
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        if batch and tokens + lengths[text] > batch_tokens:
            yield batch
            batch, tokens = [], 0
        batch.append(text)
        tokens += lengths[text]
    if batch:
        yield batch
