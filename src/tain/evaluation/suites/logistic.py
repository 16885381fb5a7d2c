"""Batched logistic regression: all folds and penalties of a cross-validation on one feature table, computed together."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tain.foundation.errors import ShapeError

_REMEMBERED_STEPS = 10  # history length of L-BFGS
_MOST_STEPS = 300
_CLOSE_ENOUGH = 1e-8  # relative decrease of the loss at which a fit has converged
_SUFFICIENT_DECREASE = 1e-4  # Armijo's constant
_MOST_HALVINGS = 40


@dataclass(frozen=True)
class LogisticFits:
    """Result of ``LogisticRegressions.fit``.

    Attributes:
        weights: Float64 (fits, columns, dim), for the original features; one column for two classes, otherwise one per class.
        intercepts: Float64 (fits, columns).
        predicted: Predicted class of every feature row, used in the fit or not, int (fits, rows).
        steps: L-BFGS steps of the slowest fit.
    """

    weights: np.ndarray
    intercepts: np.ndarray
    predicted: np.ndarray
    steps: int


class LogisticRegressions:
    """Logistic regression with an L2 penalty, as in scikit-learn: 1/2 |w|^2 + C * (sum of the row losses in nats).

    The intercept is not penalized. Two classes have one weight vector; more classes use softmax with one vector per class. Held-out rows
    have weight 0, so all fits of a cross-validation share one product with the features. L-BFGS runs for all fits in parallel, each with
    its own line search. The features are rotated to their principal components, which does not change the solution (the penalty is
    rotation-invariant) and lets each step start from the initial curvature.

    Args:
        features: Finite numbers (rows, dim).
        labels: Class per row, 0 to classes - 1.
        classes: Number of classes, 2 or more.

    Raises:
        ShapeError: A label is out of range, or there are fewer than two classes.
    """

    def __init__(self, features: Float[np.ndarray, "rows dim"], labels: Int[np.ndarray, " rows"], *, classes: int) -> None:
        if classes < 2 or len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
            raise ShapeError(f"labels must be 0 to classes - 1 with 2 or more classes, got {classes} and {np.unique(labels)}")
        given = torch.from_numpy(np.asarray(features, dtype=np.float64))
        self._mean = given.mean(0)
        centred = given - self._mean  # an unpenalized intercept absorbs any shift
        curvatures, self._basis = torch.linalg.eigh(centred.T @ centred)
        self._curvatures = torch.cat([curvatures.clamp(min=0), torch.tensor([float(len(given))], dtype=torch.float64)])
        self._rows = torch.cat([centred @ self._basis, torch.ones(len(given), 1, dtype=torch.float64)], dim=1)  # (rows, dim + 1)
        self._penalised = torch.ones(self._rows.shape[1], 1, 1, dtype=torch.float64)
        self._penalised[-1] = 0.0
        self._columns = 1 if classes == 2 else classes
        self._classes = classes
        self._labels = torch.from_numpy(np.asarray(labels, dtype=np.int64))
        one_hot = torch.nn.functional.one_hot(self._labels, classes).to(torch.float64)
        self._wanted = (one_hot[:, 1:] if classes == 2 else one_hot)[:, None, :]  # (rows, 1, columns)

    def fit(self, is_used: Bool[np.ndarray, "fits rows"], strengths: Float[np.ndarray, " fits"]) -> LogisticFits:
        """Fit each row selection of ``is_used`` with its C in ``strengths`` (above 0; smaller is a stronger penalty)."""
        counted = torch.from_numpy(is_used.T * strengths[None, :])  # C per row and fit, 0 for held-out rows: (rows, fits)
        start_curvature = (1 / self._classes) * (1 - 1 / self._classes) * counted.sum(0) / len(counted)
        scale = 1.0 / (self._penalised + start_curvature[None, :, None] * self._curvatures[:, None, None] + 1e-12)  # (dim + 1, fits, 1)
        weights = torch.zeros(self._rows.shape[1], len(strengths), self._columns, dtype=torch.float64)
        logits = self._logits(weights)
        loss = self._loss(weights, logits, counted)
        gradient = self._gradient(weights, logits, counted)
        memory = _Memory(scale)
        steps = 0
        for steps in range(1, _MOST_STEPS + 1):  # noqa: B007 - used after the loop
            direction = -memory.newton_like(gradient)
            slope = _dot(gradient, direction)
            is_open = -slope / 2 > _CLOSE_ENOUGH * loss
            if not is_open.any():
                break
            logits_direction = self._logits(direction)
            length, loss = self._line_search(weights, direction, logits, logits_direction, counted, loss, slope, is_open)
            step = length[None, :, None] * direction
            weights, logits = weights + step, logits + length[None, :, None] * logits_direction
            before, gradient = gradient, self._gradient(weights, logits, counted)
            memory.remember(step, gradient - before)
            if not (length > 0).any():
                break  # all fits are at their minimum in float64
        return self._fits(weights, logits, steps)

    def _logits(self, weights: Tensor) -> Tensor:
        return (self._rows @ weights.flatten(1)).unflatten(1, weights.shape[1:])  # (rows, fits, columns)

    def _loss(self, weights: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
        chosen_logits = (logits * self._wanted).sum(-1)
        losses = (
            torch.nn.functional.softplus(logits).squeeze(-1) - chosen_logits
            if self._columns == 1
            else torch.logsumexp(logits, -1) - chosen_logits
        )
        return (counted * losses).sum(0) + _dot(self._penalised * weights, weights) / 2

    def _gradient(self, weights: Tensor, logits: Tensor, counted: Tensor) -> Tensor:
        likely = torch.sigmoid(logits) if self._columns == 1 else torch.softmax(logits, -1)
        wrong = counted[:, :, None] * (likely - self._wanted)
        return (self._rows.T @ wrong.flatten(1)).unflatten(1, weights.shape[1:]) + self._penalised * weights

    def _line_search(
        self,
        weights: Tensor,
        direction: Tensor,
        logits: Tensor,
        logits_direction: Tensor,
        counted: Tensor,
        loss: Tensor,
        slope: Tensor,
        is_open: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Halve the step of each open fit until its loss decreases enough; finished fits, and fits that cannot decrease, get a step of 0."""
        length = is_open.to(torch.float64)
        found, falls = loss, torch.zeros_like(is_open)
        for _ in range(_MOST_HALVINGS):
            at = length[None, :, None]
            found = self._loss(weights + at * direction, logits + at * logits_direction, counted)
            falls = found <= loss + _SUFFICIENT_DECREASE * length * slope
            if falls.all():
                return length, found
            length = torch.where(falls, length, length / 2)
        length = torch.where(falls, length, 0.0)
        return length, torch.where(falls, found, loss)

    def _fits(self, weights: Tensor, logits: Tensor, steps: int) -> LogisticFits:
        turned = torch.einsum("de,efk->fkd", self._basis, weights[:-1])
        intercepts = weights[-1] - torch.einsum("fkd,d->fk", turned, self._mean)
        predicted = (logits.squeeze(-1) > 0).long() if self._columns == 1 else logits.argmax(-1)
        return LogisticFits(turned.numpy(), intercepts.numpy(), predicted.T.numpy(), steps)


class _Memory:
    """Recent steps of every fit: multiplies a gradient by the L-BFGS inverse Hessian (Nocedal's two loops)."""

    def __init__(self, scale: Tensor) -> None:
        self._scale = scale  # initial diagonal of the inverse Hessian (dim + 1, fits, 1)
        self._pairs: list[tuple[Tensor, Tensor, Tensor]] = []

    def remember(self, step: Tensor, change: Tensor) -> None:
        curvature = _dot(step, change)
        # a fit that did not move has no curvature information, so its pair is ignored
        inverse = torch.where(curvature > 0, 1 / curvature.clamp(min=1e-300), 0.0)
        self._pairs = [*self._pairs[-_REMEMBERED_STEPS + 1 :], (step, change, inverse)]

    def newton_like(self, gradient: Tensor) -> Tensor:
        found, shares = gradient.clone(), []
        for step, change, inverse in reversed(self._pairs):
            share = inverse * _dot(step, found)
            found -= share[None, :, None] * change
            shares.append(share)
        found = self._scale * found
        for (step, change, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            found += (share - inverse * _dot(change, found))[None, :, None] * step
        return found


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Inner product of two weights (dim + 1, fits, columns) per fit: (fits,)."""
    return torch.einsum("dfk,dfk->f", left, right)
