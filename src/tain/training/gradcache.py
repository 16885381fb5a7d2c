"""GradCache: gradients of a batch-wide loss in the memory of one micro-batch.

Gao et al. 2021 ("Scaling deep contrastive learning batch size under memory limited setup"). Embed all micro-batches, differentiate
the loss, embed again with gradients. The result is the gradient of the whole batch for any micro-batch size, provided the random
numbers of the two passes agree.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from tain.training import distributed
from tain.training.async_loss import backward

Part = TypeVar("Part")


def cached_gradients(
    parts: Sequence[Part],
    *,
    rows: Sequence[Sequence[int]],
    embed: Callable[[Part], Float[Tensor, "rows dim"]],
    loss: Callable[[Float[Tensor, "all dim"]], Tensor],
    reseed: Callable[[int], object],
    total: int,
    rows_each: int = 1,
    after_part: Callable[[], object] = lambda: None,
) -> float:
    """Accumulate this process's share of the gradient of ``loss`` in the model's parameters.

    Args:
        parts: This process's micro-batches. A single part runs once; several run twice, first without gradients.
        rows: Row indices of each part's vectors among this process's rows.
        embed: Computes the vectors of a part, with gradients if torch records them.
        loss: Loss over all rows, ordered by process.
        reseed: Sets the random state for part n, so that both passes drop the same elements.
        total: Items over all processes, distributed by ``distributed.share_of``.
        rows_each: Number of consecutive rows per item.
        after_part: Called after each part's gradient has been added, if there are several parts.

    Returns:
        The loss, equal in every process. Sum the gradients over processes with ``distributed.sum_gradients``.
    """
    is_single = len(parts) == 1
    vectors: list[Tensor] = []
    with torch.set_grad_enabled(is_single):
        for number, part in enumerate(parts):
            reseed(number)
            vectors.append(embed(part))
    indices = torch.tensor([index for part_rows in rows for index in part_rows])
    mine = torch.cat(vectors)[indices.argsort().to(vectors[0].device)]
    items = distributed.gathered(mine.detach().reshape(-1, rows_each * mine.shape[1]), total=total)
    everyone = items.reshape(total * rows_each, -1).clone().requires_grad_()
    value = loss(everyone)
    read = backward(value)
    assert everyone.grad is not None
    share = distributed.share_of(total)
    gradient = everyone.grad[share.start * rows_each : share.stop * rows_each]
    if is_single:
        mine.backward(gradient)
    else:
        for number, (part, part_rows) in enumerate(zip(parts, rows, strict=True)):
            reseed(number)
            embed(part).backward(gradient[list(part_rows)])
            after_part()
    return read()
