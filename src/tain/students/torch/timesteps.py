"""Tokens of texts of different lengths without padding, ordered by their place: what recurrent layers read step by step."""

from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

Walk = list[tuple[slice, slice | None, slice | None]]


class Timesteps:
    """First come the first tokens of all texts, then the second ones, and so on; longer texts first, so that each step is one slice.

    Args:
        is_token: Where there is a token, bool (texts, tokens); texts are filled from the left.

    Attributes:
        starts: Row of each step's first token.
        counts: Tokens of each step; texts that are so long are the first ones of the step before.
    """

    def __init__(self, is_token: Bool[Tensor, "texts tokens"]) -> None:
        self.shape = is_token.shape
        lengths, order = is_token.sum(dim=1).sort(descending=True, stable=True)
        there = torch.arange(self.shape[1], device=is_token.device)[:, None] < lengths
        self.counts: list[int] = [count for count in there.sum(dim=1).tolist() if count]
        starts = F.pad(there.sum(dim=1).cumsum(dim=0), (1, 1))  # one more, for what follows the last
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
        """Forwards and backwards, each step's rows, the rows of the step read before it, and who of this step was there.

        Texts end one after the other, so who is at a step was at the one to its left, and is among the first of that.
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
        """Every text from its end to its beginning."""
        return _Moved.apply(values, self._turned, self._turned, None, None)  # pyright: ignore[reportReturnType]

    def shifted(self, values: Shaped[Tensor, "steps dim"], *, is_ahead: bool = False) -> Shaped[Tensor, "steps dim"]:
        """At each token what stood at the one before it (or ahead of it); zeros where there is none."""
        before, ahead = (self._before, self._first), (self._after, self._last)
        (indices, empty), (back, empty_back) = (ahead, before) if is_ahead else (before, ahead)
        return _Moved.apply(values, indices, back, empty, empty_back)  # pyright: ignore[reportReturnType]


class _Moved(torch.autograd.Function):
    """Rows that go to other places, none to two: then the gradient is a lookup too, and nothing has to be added up."""

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
    """States of c_t = f_t * c_(t-1) + (1 - f_t) * z_t with c_0 = 0; with two directions the second half of them from the end, by c_(t+1).

    Step by step on a processor, where a step is one pass over its slice; elsewhere by ``recur``, which needs fewer rounds for more work.

    Args:
        forget: Gates f, 0 to 1.
        new: Candidates z.
        steps: Whose rows these are.
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
    """The loop, and for the gradient the loop from its end to its beginning."""

    @staticmethod
    def forward(context: Any, forget: Tensor, new: Tensor, steps: Timesteps, directions: int) -> Tensor:
        context.steps, context.directions = steps, directions
        before = torch.zeros_like(new)  # each token's state before it, in the order of reading
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
    """Which columns each direction has."""
    state = values.shape[1] // directions
    return [slice(direction * state, (direction + 1) * state) for direction in range(directions)]


def recur(keep: Float[Tensor, "texts tokens dim"], add: Float[Tensor, "texts tokens dim"]) -> Float[Tensor, "texts tokens dim"]:
    """States of c_t = keep_t * c_(t-1) + add_t with c_0 = 0, in about log2(tokens) rounds.

    Two steps (k1, a1) and (k2, a2) in a row are one step (k1 * k2, k2 * a1 + a2), so stretches can be joined pairwise.
    """
    return _Recurrence.apply(keep, add)  # pyright: ignore[reportReturnType]


class _Recurrence(torch.autograd.Function):
    """The gradient is a recurrence of its own, from the last token to the first: joining it pairwise too keeps no round's tensors."""

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
