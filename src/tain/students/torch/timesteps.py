"""Layout of texts of different lengths by time step, without padding, for recurrent layers."""

from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

Walk = list[tuple[slice, slice | None, slice | None]]


class Timesteps:
    """Index of a step-major layout: the first tokens of all texts, then the second ones, and so on; longer texts first, so each step is a slice.

    Args:
        is_token: True at tokens, bool (texts, tokens); texts are left-aligned.

    Attributes:
        starts: Row of the first token of each step.
        counts: Tokens per step; these belong to the first texts of the previous step.
    """

    def __init__(self, is_token: Bool[Tensor, "texts tokens"]) -> None:
        self.shape = is_token.shape
        lengths, order = is_token.sum(dim=1).sort(descending=True, stable=True)
        there = torch.arange(self.shape[1], device=is_token.device)[:, None] < lengths
        self.counts: list[int] = [count for count in there.sum(dim=1).tolist() if count]
        starts = F.pad(there.sum(dim=1).cumsum(dim=0), (1, 1))  # one more, for the end
        starts[-1] = starts[-2]
        self.starts: list[int] = starts[: len(self.counts)].tolist()
        self._position, rank = there.nonzero(as_tuple=True)
        self._text = order[rank]
        ends = lengths[rank] - 1
        self._turned = starts[ends - self._position] + rank
        first, last = self._position == 0, self._position == ends
        rows = torch.arange(len(rank), device=is_token.device)
        self._before = torch.where(first, rows, starts[(self._position - 1).clamp(min=0)] + rank)
        self._after = torch.where(last, rows, starts[self._position + 1] + rank)
        self._first, self._last = first.nonzero()[:, 0], last.nonzero()[:, 0]

    def __len__(self) -> int:
        return len(self._position)

    @cached_property
    def walks(self) -> tuple[Walk, Walk]:
        """Forward and backward order: rows of each step, rows of the previously read step, and the texts present in both.

        Since texts are sorted by length, the texts of a step are the first ones of the step to its left.
        """
        rows = [slice(start, start + count) for start, count in zip(self.starts, self.counts, strict=True)]
        forwards: Walk = [(here, None, None) for here in rows[:1]]
        backwards: Walk = [(here, None, None) for here in rows[-1:]]
        for left, right in pairwise(rows):
            shared = slice(left.start, left.start + right.stop - right.start)
            forwards.append((right, shared, right))
            backwards.insert(1, (left, right, shared))
        return forwards, backwards

    def packed(self, padded: Shaped[Tensor, "texts tokens *dim"]) -> Shaped[Tensor, "steps *dim"]:
        return padded[self._text, self._position]

    def padded(self, values: Float[Tensor, "steps dim"], *, fill: float = 0.0) -> Float[Tensor, "texts tokens dim"]:
        return values.new_full((*self.shape, values.shape[1]), fill).index_put((self._text, self._position), values)

    def turned(self, values: Float[Tensor, "steps dim"]) -> Float[Tensor, "steps dim"]:
        """Reverse every text."""
        return _Moved.apply(values, self._turned, self._turned, None, None)  # pyright: ignore[reportReturnType]

    def shifted(self, values: Shaped[Tensor, "steps dim"], *, is_ahead: bool = False) -> Shaped[Tensor, "steps dim"]:
        """Values of the previous token (or the next one) at each token; zeros where there is none."""
        before, ahead = (self._before, self._first), (self._after, self._last)
        (indices, empty), (back, empty_back) = (ahead, before) if is_ahead else (before, ahead)
        return _Moved.apply(values, indices, back, empty, empty_back)  # pyright: ignore[reportReturnType]


class _Moved(torch.autograd.Function):
    """Moves rows to zero, one or two targets; its gradient is also a lookup, so nothing has to be summed."""

    @staticmethod
    def forward(context: Any, values: Tensor, indices: Tensor, back: Tensor, empty: Tensor | None, empty_back: Tensor | None) -> Tensor:
        context.back, context.empty_back = back, empty_back
        return _moved(values, indices, empty)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _moved(gradients[0], context.back, context.empty_back), None, None, None, None


def _moved(values: Tensor, indices: Tensor, empty: Tensor | None) -> Tensor:
    moved = values.index_select(0, indices)
    return moved if empty is None else moved.index_fill_(0, empty, 0.0)


def forgetting(
    forget: Float[Tensor, "steps dim"], new: Float[Tensor, "steps dim"], steps: Timesteps, *, directions: int = 1
) -> Float[Tensor, "steps dim"]:
    """States of c_t = f_t * c_(t-1) + (1 - f_t) * z_t with c_0 = 0; with two directions the second half runs from the end, with c_(t+1).

    On a CPU step by step, with one pass over each slice; elsewhere by ``recur``, which needs fewer rounds but more work.

    Args:
        forget: Gates f, 0 to 1.
        new: Candidates z.
        steps: Layout of the rows.
        directions: 1 or 2.
    """
    if new.device.type == "cpu":
        return _Forgetting.apply(forget, new, steps, directions)  # pyright: ignore[reportReturnType]
    states = []
    for direction, (keep, add) in enumerate(zip(forget.chunk(directions, dim=1), new.chunk(directions, dim=1), strict=True)):
        turned = steps.turned if direction else lambda values: values
        keep, add = turned(keep), turned(add)
        states.append(turned(steps.packed(recur(steps.padded(keep), steps.padded((1 - keep) * add)))))
    return torch.cat(states, dim=1)


class _Forgetting(torch.autograd.Function):
    """The sequential loop, with the reversed loop as its gradient."""

    @staticmethod
    def forward(context: Any, forget: Tensor, new: Tensor, steps: Timesteps, directions: int) -> Tensor:
        context.steps, context.directions = steps, directions
        before = torch.zeros_like(new)  # the state before each token, in reading order
        states = torch.empty_like(new)
        for columns, walk in zip(_columns(new, directions), steps.walks[:directions], strict=True):
            for rows, earlier, here in walk:
                if here is not None:
                    before[here, columns] = states[earlier, columns]
                torch.lerp(new[rows, columns], before[rows, columns], forget[rows, columns], out=states[rows, columns])
        context.save_for_backward(forget, new, before)
        return states

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        forget, new, before = context.saved_tensors
        reached = gradients[0].clone()
        for columns, walk in zip(_columns(new, context.directions), context.steps.walks[: context.directions], strict=True):
            for _, earlier, here in reversed(walk):
                if here is not None:
                    reached[earlier, columns].addcmul_(forget[here, columns], reached[here, columns])
        return (before - new).mul_(reached), torch.addcmul(reached, forget, reached, value=-1), None, None


def _columns(values: Tensor, directions: int) -> list[slice]:
    """Columns of each direction."""
    state = values.shape[1] // directions
    return [slice(direction * state, (direction + 1) * state) for direction in range(directions)]


def recur(keep: Float[Tensor, "texts tokens dim"], add: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts tokens dim"]:
    """States of c_t = keep_t * c_(t-1) + add_t with c_0 = 0, in about log2(tokens) rounds.

    Two consecutive steps (k1, a1) and (k2, a2) combine to one step (k1 * k2, k2 * a1 + a2), so ranges are merged pairwise.
    """
    return _Recurrence.apply(keep, add)  # pyright: ignore[reportReturnType]


class _Recurrence(torch.autograd.Function):
    """Its gradient is also a recurrence, from the last token to the first; merging that pairwise too saves the tensors of each round."""

    @staticmethod
    def forward(context: Any, keep: Tensor, add: Tensor) -> Tensor:
        states = _joined(keep, add)
        context.save_for_backward(keep, states)
        return states

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        keep, states = context.saved_tensors
        later = F.pad(keep[:, 1:], (0, 0, 0, 1))
        reached = _joined(later.flip(1), gradients[0].flip(1)).flip(1)
        return reached * F.pad(states[:, :-1], (0, 0, 1, 0)), reached


def _joined(keep: Tensor, add: Tensor) -> Tensor:
    stretch, tokens = 1, keep.shape[1]
    while stretch < tokens:
        joined = add.clone()
        joined[:, stretch:].addcmul_(keep[:, stretch:], add[:, :-stretch])
        if 2 * stretch < tokens:
            longer = keep.clone()
            longer[:, stretch:] *= keep[:, :-stretch]
            keep = longer
        add, stretch = joined, 2 * stretch
    return add
