"""Lays the texts of a batch end to end, and cuts long work into batches of a token budget."""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tain.batches.types import PackedTexts


def pack(ids: Sequence[Sequence[int]]) -> PackedTexts:
    """Sort texts by length and lay them end to end.

    Args:
        ids: Token ids of each text, at least one token each.

    Returns:
        The packed batch; its ``order`` leads back to the order given.
    """
    order = sorted(range(len(ids)), key=lambda text: len(ids[text]))
    flat = torch.tensor(list(chain.from_iterable(ids[text] for text in order)), dtype=torch.long)
    return PackedTexts(flat, tuple(len(ids[text]) for text in order), torch.tensor(order))


def pad(packed: PackedTexts, *, pad_id: int) -> tuple[Int[Tensor, "texts longest"], Bool[Tensor, "texts longest"]]:
    """Turn a packed batch into rows of equal length, in packed order.

    Returns:
        The ids, and ``is_token``: True on real tokens.
    """
    lengths = packed.length_tensor()
    steps = torch.arange(max(packed.lengths), device=packed.ids.device)
    is_token = steps < lengths[:, None]
    rows = torch.full(is_token.shape, pad_id, dtype=torch.long, device=packed.ids.device)
    rows[is_token] = packed.ids
    return rows, is_token


def batches_by_tokens(lengths: Sequence[int], *, batch_tokens: int) -> Iterator[list[int]]:
    """Cut texts into batches of at most ``batch_tokens`` tokens, texts of like length together.

    A text longer than the budget makes a batch of its own.

    Args:
        lengths: Tokens of each text.
        batch_tokens: Padding-free budget of a batch.

    Yields:
        Places of the batch's texts in ``lengths``; every place comes once. Longest first, so that
        memory peaks at the start of a long job and not at its end.
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
