"""How much of a masked language model's gradient noise comes from the choice of masks, how much from the choice of texts.

Zheng et al. 2020 (fully-explored masking) argue that the gradients of two masks of one text covary less, the farther apart the masks
are in Hamming distance, so that disjoint masks average to a quieter gradient. All variances here are traces of covariance matrices, so
inner products of gradients are all that is needed. With ``mu(x)`` the mean gradient of text ``x`` over masks:

- mask variance: ``E |g|^2 - E |mu(x)|^2``
- data variance: ``E |mu(x)|^2 - |E mu(x)|^2``
- covariance at a distance: ``E <g(m), g(m')> - E |mu(x)|^2`` over pairs of masks that far apart

Every square of a mean is estimated from products of independent draws, never from a mean's own square, so all figures are unbiased.
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

SHARES = (1.0, 0.75, 0.5, 0.25, 0.0)  # of their places that two masks have in common


class SignedFold:
    """Shrink vectors so that inner products stay as they are, on average.

    Each element gets a fixed random sign, and the vector is folded up: elements whose places differ by a multiple of ``size`` are added
    (a count sketch, Charikar et al. 2002, with places in turn for buckets). A product of two vectors changes by about the product of their
    lengths divided by ``sqrt(size / 2)``, up or down. Vectors that are no longer than ``size`` are left alone.

    Args:
        length: Elements of a vector.
        size: Elements to keep.
        generator: Draws the signs.
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
        """Fold the vector that these parts make when laid end to end."""
        vector = torch.cat([part.flatten().float() for part in parts])
        if self._signs is None:
            return vector
        self._signs = self._signs.to(vector.device)
        folded = torch.nn.functional.pad(vector * self._signs, (0, -len(vector) % self.size))
        return folded.view(-1, self.size).sum(0)


def draw_masks(
    maskable: Int64[np.ndarray, " positions"], *, masked: int, disjoint: int, rng: np.random.Generator
) -> list[Int64[np.ndarray, " masked"]]:
    """Draw ``disjoint`` masks that share no place, then one for each of ``SHARES`` but 0 that shares that much with the first.

    Every mask on its own is uniform among the sets of ``masked`` places, and every pair is uniform among the pairs with as much in common.
    """
    order = rng.permutation(maskable)
    masks = [order[number * masked : (number + 1) * masked] for number in range(disjoint)]
    for share in SHARES[:-1]:
        kept = round(share * masked)
        masks.append(np.concatenate([rng.permutation(masks[0])[:kept], rng.permutation(order[masked:])[: masked - kept]]))
    return masks


@dataclass(frozen=True)
class GradientProducts:
    """Inner products of gradients, as measured on the texts of a probe.

    Attributes:
        squares: Mean squared length of a text's gradients.
        means: Estimate of the squared length of each text's mean gradient, from pairs of independent masks.
        shared: Mean product of pairs of masks of one text with each of ``SHARES`` in common.
        between: Products of the texts' mean gradients with each other; the diagonal is of no use.
        disjoint: Masks that fully explore a text, or as many of them as were drawn (K).
        masking_rate: Share of the maskable places that a mask covers.
        masked: Mean size of a mask.
        masks: Gradients taken a text.
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
    """Take gradients under masks drawn for the purpose and multiply them with each other.

    Args:
        gradient: Gives the gradient (all of it, or what a ``SignedFold`` leaves) of text number n under a mask.
        texts: Each text's maskable places.
        masking_rate: Share of these that a mask covers.
        disjoint: Masks of a round that share no place, 2 or more.
        rounds: Independent rounds a text, 2 or more.
        rng: Draws the masks.
        progress: Told of every text.

    Raises:
        UserError: The masks do not fit into a text, or there are too few texts or rounds.
    """
    _refuse_settings(texts, masking_rate, disjoint, rounds)
    rows: list[tuple[float, float, list[float]]] = []
    mean_gradients: list[Tensor] = []
    sizes = []
    with progress.task("gradients", len(texts)) as task:
        for number, maskable in enumerate(texts):
            masked = min(max(1, round(masking_rate * len(maskable))), len(maskable) // disjoint)  # rounding up may leave no room
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
    """Mean square, squared mean, and mean product at each share, of one text.

    Squares and the mean come from the disjoint masks alone: where these explore the text fully, much of the noise of the three
    cancels in the figures made from them.
    """
    rounds = len(products)
    within = [products[number, :, number] for number in range(rounds)]
    across = [products[left, :disjoint, right, :disjoint] for left in range(rounds) for right in range(rounds) if left != right]
    square = float(np.mean([np.diag(part)[:disjoint].mean() for part in within]))
    # the mask with everything in common is the first one again, corrupted anew
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
        raise UserError(f"masks is {disjoint}, but covariance needs pairs of masks: give 2 or more, up to 1 / masking_rate")
    if rounds < 2:
        raise UserError(f"rounds is {rounds}, but a squared mean is estimated from independent rounds: give 2 or more")
    if len(texts) < 2:
        raise UserError(f"{len(texts)} block of text was given, but data variance needs 2 or more (64): give more text")
    if disjoint * masking_rate > 1 + 1e-9:
        raise UserError(
            f"{disjoint} disjoint masks of {masking_rate:.0%} each are more than the whole text: "
            f"give --masks {int(1 / masking_rate + 1e-9)} or fewer, or a lower --masking-rate"
        )
    shortest = min(len(maskable) for maskable in texts)
    if shortest < disjoint:
        raise UserError(
            f"a block has {shortest} tokens that may be masked, too few for {disjoint} disjoint masks: give longer --block-tokens"
        )


def additive_correlation(share: float, masking_rate: float) -> float:
    """What the correlation would be if each masked token had a gradient of its own that other masks leave alone.

    Then a mask's gradient is the mean of a sample without replacement, and two samples that share ``share`` of their places correlate
    by ``(share - rate) / (1 - rate)``: disjoint ones negatively, for what one has taken the other cannot have.
    """
    return (share - masking_rate) / (1 - masking_rate)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval from resampling texts."""

    value: float
    low: float
    high: float

    def inverse(self) -> "Estimate":
        return Estimate(1 / self.value, 1 / self.high, 1 / self.low)


@dataclass(frozen=True)
class GradientVariance:
    """Where the gradient's noise comes from; each figure an ``Estimate``.

    Attributes:
        squared_mean: Squared length of the mean gradient over texts and masks: the signal.
        mask_variance: Of one text's gradient over masks.
        data_variance: Of the texts' mean gradients.
        data_share: Data variance as a share of both.
        covariances: At each of ``SHARES``.
        correlations: Covariances as shares of the mask variance.
        slope: Change of the correlation from the same places to none in common, by a straight line through all shares.
        disjoint_ratio: Variance of the mean of K disjoint masks of a text, against K independent ones: 1 saves nothing, 0 all.
        step_ratio: Variance of a step's gradient from K disjoint masks of each text, against one mask of each of K times as many
            texts, which costs the same: above 1 more texts are better.
        texts: Texts measured.
        products: What all this was computed from.
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
    """Turn inner products into variances, with percentile bootstrap intervals over texts.

    Raises:
        UserError: The estimate of the mask variance is not above 0, so that nothing can be said in shares of it.
    """
    texts = len(products.squares)
    if not (products.squares - products.means).mean() > 1e-9 * products.squares.mean():
        raise UserError(
            f"the gradients of different masks do not differ measurably ({texts} blocks, {products.masks} masks each): "
            "give more --blocks or --rounds, or a model that has learnt something"
        )
    drawn = rng.multinomial(texts, np.full(texts, 1 / texts), size=resamples)
    weights = np.vstack([np.ones(texts), drawn]).astype(np.float64)  # the first row is the sample itself
    weights = weights[(weights > 0).sum(1) > 1]  # a resample of one text alone has no data variance
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
    """Mean product over pairs of different texts; a text drawn twice is not a pair with itself."""
    products = ((weights @ between) * weights).sum(1) - weights**2 @ np.diag(between)
    return products / (weights.sum(1) ** 2 - (weights**2).sum(1))


def _estimate(values: np.ndarray) -> Estimate:
    """The first value is that of the sample, the rest are resamples'."""
    low, high = np.percentile(values[1:], [2.5, 97.5]) if len(values) > 1 else (values[0], values[0])
    return Estimate(float(values[0]), float(low), float(high))
