"""Exact scoring of many cached candidates block by block, so that the candidates may be memory-mapped from disk.

The similarities of a block to all vectors of a context are one matrix product; the following passes stay in the processor's cache.
When only the best k are wanted, most candidates can skip the product: a score is a weighted mean of similarities, so it cannot exceed
the largest one, and that is bounded using a few directions in which the vectors of the context differ.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tain.foundation.errors import ShapeError
from tain.models.plain_scanning import Best

_BLOCK_NUMBERS = 2**18  # similarities per block; keeps them in the cache between passes
_BLOCK_ROWS = (512, 8192)
_PRODUCT_CONTEXTS = 2048  # contexts with one vector each, multiplied with a block at once: 64 MB of scores
_FEWEST_VECTORS = 8  # with fewer vectors, the full product is as cheap as the bounds
_DIRECTIONS = 16  # directions of the bound
_WORTH_BOUNDING = 0.3  # share of surviving candidates from which the full product is cheaper
_ROUNDING = 1e-6  # rounding of a squared length in float32
_SLACK = 1e-5  # rounding of products, relative to the lengths of both vectors


def scan_all(candidates: Float[np.ndarray, "candidates dim"], context: Float[Tensor, "vectors dim"]) -> Float[np.ndarray, " candidates"]:
    """Score every candidate for one context.

    Args:
        candidates: Cached vectors, float32; may be memory-mapped.
        context: The context's vectors: one for a bi-encoder, several for a poly-encoder.
    """
    _refuse_other_width(candidates, context)
    scores = np.empty(len(candidates), dtype=np.float32)
    for start, block in _blocks(candidates, _rows_a_block(len(context))):
        scores[start : start + len(block)] = _mixed(context @ block.T).numpy()
    return scores


def scan_best(
    candidates: Float[np.ndarray, "candidates dim"],
    contexts: Sequence[Float[Tensor, "_ dim"]],
    *,
    k: int,
    is_deleted: np.ndarray | None = None,
    squares: Float[np.ndarray, " candidates"] | None = None,
) -> list[Best]:
    """Find the ``k`` best candidates of each context; exact, as if all were scored.

    Args:
        candidates: Cached vectors, float32; may be memory-mapped.
        contexts: Vectors of each context.
        k: Number of candidates to return.
        is_deleted: True for candidates to skip.
        squares: Squared length of each candidate; computed if not given.
    """
    for context in contexts:
        _refuse_other_width(candidates, context)
    if not contexts or k < 1:
        return [Best(np.empty(0, np.int64), np.empty(0, np.float32)) for _ in contexts]
    if all(len(context) == 1 for context in contexts):
        return _best_by_products(candidates, torch.cat(list(contexts)), k, is_deleted)
    searches = [_Search(context, k) for context in contexts]
    rows_a_block = _rows_a_block(max(map(len, contexts)))
    for start, block in _blocks(candidates, rows_a_block):
        stop = start + len(block)
        living = None if is_deleted is None else torch.from_numpy(np.flatnonzero(~is_deleted[start:stop]))
        known = None if squares is None else torch.from_numpy(np.array(squares[start:stop]))
        for search in searches:
            search.look_through(block, start, living=living, squares=known)
    return [search.best() for search in searches]


def _best_by_products(candidates: np.ndarray, contexts: Tensor, k: int, is_deleted: np.ndarray | None) -> list[Best]:
    """Search with one vector per context: one product serves all contexts, and the best of each block are kept."""
    groups = contexts.split(_PRODUCT_CONTEXTS)
    bests = [(torch.empty(len(group), 0), torch.empty(len(group), 0, dtype=torch.int64)) for group in groups]
    for start, block in _blocks(candidates, _BLOCK_ROWS[1]):
        gone = None if is_deleted is None else torch.from_numpy(is_deleted[start : start + len(block)])
        for number, group in enumerate(groups):
            found = group @ block.T  # (contexts, rows)
            if gone is not None:
                found[:, gone] = -torch.inf
            top, indices = _top_of_block(found, k)
            scores, rows = bests[number]
            bests[number] = _first(torch.cat([scores, top], 1), torch.cat([rows, indices + start], 1), k)
    return [_in_order(mine, indices, k) for scores, rows in bests for mine, indices in zip(scores, rows, strict=True)]


class _Search:
    """State of one context's search through the blocks, with the best candidates so far."""

    def __init__(self, context: Tensor, k: int) -> None:
        self.context, self.k = context, k
        self.scores = torch.empty(0)
        self.rows = torch.empty(0, dtype=torch.int64)
        self.threshold = -torch.inf  # score of the k-th best so far
        self.is_bounding = len(context) >= _FEWEST_VECTORS
        if self.is_bounding:
            directions = min(_DIRECTIONS, *context.shape)
            self.basis = torch.linalg.svd(context, full_matrices=False).Vh[:directions]  # (directions, dim)
            self.coordinates = context @ self.basis.T  # (vectors, directions)
            self.longest = float(context.norm(dim=1).max())
            self.rest = (context - self.coordinates @ self.basis).norm(dim=1)  # (vectors,): length of the part outside the directions

    def look_through(self, block: Tensor, start: int, *, living: Tensor | None, squares: Tensor | None) -> None:
        if living is not None and len(living) < len(block):
            if not len(living):
                return
            block, squares = block[living], None if squares is None else squares[living]
        indices = torch.arange(len(block)) if living is None else living
        if self.is_bounding and self.threshold > -torch.inf:
            bounds = self._bounds(block, squares)
            survivors = self._above(bounds)
            if len(survivors) <= _WORTH_BOUNDING * len(block):
                self._score_survivors(block, survivors, bounds, indices + start)
                return
            self.is_bounding = False  # too many directions differ for useful bounds: full products from here on
        self._score_whole(block, indices + start)

    def best(self) -> Best:
        return _in_order(self.scores, self.rows, self.k)

    def _bounds(self, block: Tensor, squares: Tensor | None) -> Tensor:
        """Upper bound of each candidate's largest similarity to the context's vectors (rows,)."""
        if squares is None:
            squares = block.square().sum(1)
        inside = self.basis @ block.T  # (directions, rows)
        # the difference of two close squares is mostly rounding, so its root is bounded from below
        outside = (squares - inside.square().sum(0)).clamp_(min=0).add_(squares, alpha=_ROUNDING).sqrt_()
        similar = torch.addmm(self.rest[:, None] * outside, self.coordinates, inside)  # (vectors, rows)
        return similar.amax(0).add_(squares.sqrt(), alpha=_SLACK * self.longest)

    def _above(self, bounds: Tensor) -> Tensor:
        slack = _SLACK * max(1.0, abs(self.threshold))
        return torch.nonzero(bounds >= self.threshold - slack)[:, 0]

    def _score_survivors(self, block: Tensor, survivors: Tensor, bounds: Tensor, rows: Tensor) -> None:
        if len(survivors) > 4 * self.k:  # most promising first, which raises the threshold for the others
            first = survivors[bounds[survivors].topk(2 * self.k).indices]
            self._take(_mixed(self.context @ block[first].T), rows[first])
            is_first = torch.zeros(len(block), dtype=torch.bool)
            is_first[first] = True
            survivors = self._above(bounds)
            survivors = survivors[~is_first[survivors]]
        if len(survivors):
            self._take(_mixed(self.context @ block[survivors].T), rows[survivors])

    def _score_whole(self, block: Tensor, rows: Tensor) -> None:
        similarities = self.context @ block.T  # (vectors, rows)
        if self.threshold == -torch.inf:
            self._take(_mixed(similarities), rows)
            return
        hopeful = self._above(similarities.amax(0))
        if len(hopeful):
            self._take(_mixed(similarities[:, hopeful]), rows[hopeful])

    def _take(self, scores: Tensor, rows: Tensor) -> None:
        scores, rows = torch.cat([self.scores, scores]), torch.cat([self.rows, rows])
        if len(scores) > self.k:
            scores, rows = _first(scores, rows, self.k)
        self.scores, self.rows = scores, rows
        if len(scores) == self.k:
            self.threshold = float(scores.min())


def _mixed(similarities: Float[Tensor, "vectors rows"]) -> Float[Tensor, " rows"]:
    """sum_i softmax_i(S) S_i per column; ``heads.mixed_scores`` for one context, with fewer passes over memory."""
    if len(similarities) == 1:
        return similarities[0]
    weights = (similarities - similarities.amax(0)).exp_()
    total = weights.sum(0)
    return weights.mul_(similarities).sum(0).div_(total)


def _top_of_block(scores: Float[Tensor, "contexts rows"], k: int) -> tuple[Tensor, Tensor]:
    """Each context's ``k`` best scores and their indices; earlier ones win ties."""
    if scores.shape[1] <= k:
        return scores.sort(dim=1, descending=True, stable=True)
    top = scores.topk(k + 1, dim=1)
    values, indices = top.values[:, :k].clone(), top.indices[:, :k].clone()
    is_tied = top.values[:, k - 1] == top.values[:, k]
    if is_tied.any():
        ordered = scores[is_tied].sort(dim=1, descending=True, stable=True)
        values[is_tied], indices[is_tied] = ordered.values[:, :k], ordered.indices[:, :k]
    return values, indices


def _first(scores: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` best along the last axis; earlier rows win ties."""
    order = rows.argsort(dim=-1)
    scores, indices = scores.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return scores[..., :k], rows.gather(-1, order).gather(-1, indices[..., :k])


def _in_order(scores: Tensor, rows: Tensor, k: int) -> Best:
    is_found = scores > -torch.inf
    found, indices = scores[is_found].numpy(), rows[is_found].numpy()
    order = np.lexsort((indices, -found))[:k]
    return Best(indices[order], found[order])


def _blocks(candidates: np.ndarray, rows: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(candidates), rows):
        yield start, _as_tensor(candidates[start : start + rows])


def _as_tensor(block: np.ndarray) -> Float[Tensor, "rows dim"]:
    """View a block as a tensor without copying, even if its file is mapped read-only."""
    if block.dtype != np.float32 or not block.flags.writeable:
        block = np.array(block, dtype=np.float32)
    return torch.from_numpy(np.asarray(block))


def _rows_a_block(vectors: int) -> int:
    return min(max(_BLOCK_NUMBERS // vectors, _BLOCK_ROWS[0]), _BLOCK_ROWS[1])


def _refuse_other_width(candidates: np.ndarray, context: Tensor) -> None:
    if candidates.ndim != 2 or context.ndim != 2 or candidates.shape[1] != context.shape[1]:
        raise ShapeError(f"candidates are {candidates.shape} and a context's vectors {tuple(context.shape)}: the dimensions must agree")
