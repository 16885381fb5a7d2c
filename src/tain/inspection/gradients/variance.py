"""Variance decomposition of a masked language model's gradient: choice of masks versus choice of texts.

Zheng et al. 2020 (fully-explored masking) argue that the gradients of two masks of one text covary less, the larger the Hamming distance
of the masks, so that averaging over disjoint masks reduces variance. All variances here are traces of covariance matrices, so inner
products of gradients suffice. With ``mu(x)`` the mean gradient of text ``x`` over masks:

- mask variance: ``E |g|^2 - E |mu(x)|^2``
- data variance: ``E |mu(x)|^2 - |E mu(x)|^2``
- covariance at a distance: ``E <g(m), g(m')> - E |mu(x)|^2`` over pairs of masks that far apart

Squares of means are estimated from products of independent draws, never from a squared sample mean, so all figures are unbiased.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress

Gradient = Callable[[int, Int64[np.ndarray, " masked"]], Tensor]

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # shares of positions that two masks have in common


class SignedFold:
    """Random projection that preserves inner products on average (count sketch).

    Each element gets a fixed random sign, and elements at positions that differ by a multiple of ``size`` are added
    (Charikar et al. 2002, with positions in turn as buckets). The standard error of a product is about the product of the two lengths
    divided by ``sqrt(size / 2)``. Vectors not longer than ``size`` are unchanged.

    Args:
        length: Length of a vector.
        size: Length of the result.
        generator: Random generator of the signs.
    """

    def __init__(self, length: int, size: int, *, generator: torch.Generator) -> None:
        self.length, self.size = length, min(length, size)
        self._signs = None
        if not self.is_exact:
            self._signs = torch.randint(0, 2, (length,), generator=generator, dtype=torch.int8) * 2 - 1

    @property
    def is_exact(self) -> bool:
        return self.length <= self.size

    def __call__(self, parts: Sequence[Tensor]) -> Float[Tensor, " size"]:
        """Fold the concatenation of these parts."""
        vector = torch.cat([part.flatten().float() for part in parts])
        if self._signs is None:
            return vector
        self._signs = self._signs.to(vector.device)
        folded = torch.nn.functional.pad(vector * self._signs, (0, -len(vector) % self.size))
        return folded.view(-1, self.size).sum(0)


def draw_masks(
    maskable: Int64[np.ndarray, " positions"], *, masked: int, disjoint: int, rng: np.random.Generator
) -> list[Int64[np.ndarray, " masked"]]:
    """Draw ``disjoint`` disjoint masks, then one per nonzero entry of ``SHARES`` with that overlap with the first.

    Each mask is uniform among sets of ``masked`` positions, and each pair is uniform among pairs with the same overlap.
    """
    order = rng.permutation(maskable)
    masks = [order[number * masked : (number + 1) * masked] for number in range(disjoint)]
    for share in SHARES[:-1]:
        kept = round(share * masked)
        masks.append(np.concatenate([rng.permutation(masks[0])[:kept], rng.permutation(order[masked:])[: masked - kept]]))
    return masks


@dataclass(frozen=True)
class GradientProducts:
    """Inner products of gradients, measured on the texts of a probe.

    Attributes:
        squares: Mean squared gradient length per text.
        means: Estimated squared length of each text's mean gradient, from pairs of independent masks.
        shared: Mean product of pairs of masks of one text, for each overlap in ``SHARES``.
        between: Products of the mean gradients of different texts; the diagonal is not used.
        disjoint: Number of disjoint masks per round (K); at most as many as cover a text.
        masking_rate: Share of the maskable positions in a mask.
        masked: Mean size of a mask.
        masks: Gradients per text.
    """

    squares: Float64[np.ndarray, " texts"]
    means: Float64[np.ndarray, " texts"]
    shared: Float64[np.ndarray, "texts shares"]
    between: Float64[np.ndarray, "texts texts"]
    disjoint: int
    masking_rate: float
    masked: float
    masks: int


def measure_products(
    gradient: Gradient,
    texts: Sequence[Int64[np.ndarray, " _"]],
    *,
    masking_rate: float,
    disjoint: int,
    rounds: int = 2,
    rng: np.random.Generator,
    progress: Progress,
) -> GradientProducts:
    """Compute gradients under random masks, and their inner products.

    Args:
        gradient: Computes the gradient (complete, or folded by ``SignedFold``) of text n under a mask.
        texts: Maskable positions of each text.
        masking_rate: Share of these in a mask.
        disjoint: Disjoint masks per round, 2 or more.
        rounds: Independent rounds per text, 2 or more.
        rng: Random generator of the masks.
        progress: Receives an update per text.

    Raises:
        UserError: The masks do not fit into a text, or there are too few texts or rounds.
    """
    _refuse_settings(texts, masking_rate, disjoint, rounds)
    rows: list[tuple[float, float, list[float]]] = []
    mean_gradients: list[Tensor] = []
    sizes = []
    with progress.task("gradients", len(texts)) as task:
        for number, maskable in enumerate(texts):
            masked = min(max(1, round(masking_rate * len(maskable))), len(maskable) // disjoint)  # rounding up may leave too few positions
            masks = [draw_masks(maskable, masked=masked, disjoint=disjoint, rng=rng) for _ in range(rounds)]
            gradients = torch.stack([gradient(number, mask) for drawn in masks for mask in drawn])  # (rounds * masks, size)
            products = (gradients @ gradients.T).double().cpu().numpy().reshape(rounds, len(masks[0]), rounds, len(masks[0]))
            rows.append(_summed_up(products, disjoint))
            is_disjoint = torch.arange(len(gradients), device=gradients.device) % len(masks[0]) < disjoint
            mean_gradients.append(gradients[is_disjoint].mean(0).cpu())
            sizes.append(masked)
            task.advance()
    means = torch.stack(mean_gradients)
    return GradientProducts(
        squares=np.array([row[0] for row in rows]),
        means=np.array([row[1] for row in rows]),
        shared=np.array([row[2] for row in rows]),
        between=(means @ means.T).double().numpy(),
        disjoint=disjoint,
        masking_rate=masking_rate,
        masked=float(np.mean(sizes)),
        masks=rounds * (disjoint + len(SHARES) - 1),
    )


def _summed_up(products: Float64[np.ndarray, "rounds masks rounds masks"], disjoint: int) -> tuple[float, float, list[float]]:
    """Mean square, squared mean, and mean product at each overlap, of one text.

    Squares and the mean use only the disjoint masks: if these cover the text, much of the noise cancels in the figures derived
    from them.
    """
    rounds = len(products)
    within = [products[number, :, number] for number in range(rounds)]
    across = [products[left, :disjoint, right, :disjoint] for left in range(rounds) for right in range(rounds) if left != right]
    square = float(np.mean([np.diag(part)[:disjoint].mean() for part in within]))
    # the mask with full overlap is the first one again, with newly drawn corruption
    with_first = [float(np.mean([part[0, disjoint + index] for part in within])) for index in range(len(SHARES) - 1)]
    is_pair = ~np.eye(disjoint, dtype=bool)
    apart = float(np.mean([part[:disjoint, :disjoint][is_pair].mean() for part in within]))
    return square, float(np.mean(across)), [*with_first, apart]


def _refuse_settings(texts: Sequence[np.ndarray], masking_rate: float, disjoint: int, rounds: int) -> None:
    if not 0 < masking_rate <= 0.5:
        raise UserError(
            f"masking_rate is {masking_rate:g}: give a share above 0 and up to 0.5, or no two masks of a text are disjoint (BERT: 0.15)"
        )
    if disjoint < 2:
        raise UserError(f"masks is {disjoint}, but covariance needs at least two masks: give 2 or more, up to 1 / masking_rate")
    if rounds < 2:
        raise UserError(f"rounds is {rounds}, but a squared mean is estimated from independent rounds: give 2 or more")
    if len(texts) < 2:
        raise UserError(f"got {len(texts)} block of text, but data variance needs 2 or more (64): give more text")
    if disjoint * masking_rate > 1 + 1e-9:
        raise UserError(
            f"{disjoint} disjoint masks of {masking_rate:.0%} each are more than the whole text: "
            f"give --masks {int(1 / masking_rate + 1e-9)} or fewer, or a lower --masking-rate"
        )
    shortest = min(len(maskable) for maskable in texts)
    if shortest < disjoint:
        raise UserError(
            f"a block has {shortest} tokens that may be masked, too few for {disjoint} disjoint masks: give a larger --block-tokens"
        )


def additive_correlation(share: float, masking_rate: float) -> float:
    """Expected correlation if each masked token had its own gradient, unaffected by other masks.

    A mask's gradient is then the mean of a sample without replacement, and two samples that share ``share`` of their positions have
    correlation ``(share - rate) / (1 - rate)``, which is negative for disjoint ones.
    """
    return (share - masking_rate) / (1 - masking_rate)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval from resampled texts."""

    value: float
    low: float
    high: float

    def inverse(self) -> "Estimate":
        return Estimate(1 / self.value, 1 / self.high, 1 / self.low)


@dataclass(frozen=True)
class GradientVariance:
    """Sources of gradient noise; each figure is an ``Estimate``.

    Attributes:
        squared_mean: Squared length of the mean gradient over texts and masks (the signal).
        mask_variance: Variance of one text's gradient over masks.
        data_variance: Variance of the texts' mean gradients.
        data_share: Data variance as a share of the sum of both.
        covariances: Covariance at each of ``SHARES``.
        correlations: Covariances divided by the mask variance.
        slope: Change of the correlation from full to no overlap, from a linear fit.
        disjoint_ratio: Variance of the mean over K disjoint masks of a text, relative to K independent ones: 1 saves nothing, 0 everything.
        step_ratio: Variance of a step's gradient from K disjoint masks per text, relative to one mask each of K times as many
            texts at equal cost: above 1, more texts are better.
        texts: Number of texts.
        products: Inner products behind the figures.
    """

    squared_mean: Estimate
    mask_variance: Estimate
    data_variance: Estimate
    data_share: Estimate
    covariances: tuple[Estimate, ...]
    correlations: tuple[Estimate, ...]
    slope: Estimate
    disjoint_ratio: Estimate
    step_ratio: Estimate
    texts: int
    products: GradientProducts


def gradient_variance(products: GradientProducts, *, resamples: int = 1000, rng: np.random.Generator) -> GradientVariance:
    """Compute variances from inner products, with percentile bootstrap intervals over texts.

    Raises:
        UserError: The estimated mask variance is not above 0, so shares of it are undefined.
    """
    texts = len(products.squares)
    if not (products.squares - products.means).mean() > 1e-9 * products.squares.mean():
        raise UserError(
            f"the gradients of different masks do not differ measurably ({texts} blocks, {products.masks} masks each): "
            "give more --blocks or --rounds, or a trained model"
        )
    drawn = rng.multinomial(texts, np.full(texts, 1 / texts), size=resamples)
    weights = np.vstack([np.ones(texts), drawn]).astype(np.float64)  # the first row is the sample itself
    weights = weights[(weights > 0).sum(1) > 1]  # a resample of a single text has no data variance
    counts = weights.sum(1)
    squares, means = weights @ products.squares / counts, weights @ products.means / counts
    shared = weights @ products.shared / counts[:, None]  # (resamples, shares)
    between = _mean_of_pairs(products.between, weights)

    mask, data = squares - means, means - between
    covariances = shared - means[:, None]
    correlations = covariances / mask[:, None]
    distances = 1 - np.array(SHARES)
    centred = distances - distances.mean()
    extra = products.disjoint - 1
    return GradientVariance(
        squared_mean=_estimate(between),
        mask_variance=_estimate(mask),
        data_variance=_estimate(data),
        data_share=_estimate(data / (data + mask)),
        covariances=tuple(_estimate(column) for column in covariances.T),
        correlations=tuple(_estimate(column) for column in correlations.T),
        slope=_estimate(correlations @ centred / (centred @ centred)),
        disjoint_ratio=_estimate(1 + extra * correlations[:, -1]),
        step_ratio=_estimate((products.disjoint * data + mask + extra * covariances[:, -1]) / (data + mask)),
        texts=texts,
        products=products,
    )


def _mean_of_pairs(between: Float64[np.ndarray, "texts texts"], weights: Float64[np.ndarray, "resamples texts"]) -> np.ndarray:
    """Mean product over pairs of different texts; repeated draws of a text are not paired with each other."""
    products = ((weights @ between) * weights).sum(1) - weights**2 @ np.diag(between)
    return products / (weights.sum(1) ** 2 - (weights**2).sum(1))


def _estimate(values: np.ndarray) -> Estimate:
    """Build an estimate from the sample's value, followed by those of the resamples."""
    low, high = np.percentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high))
