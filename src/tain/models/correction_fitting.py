"""Fit vector corrections (whitening, component removal) from a stream of vectors in constant memory."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tain.foundation.errors import ShapeError, UserError
from tain.models.correction import LinearCorrection

_FLAT = 1e-7  # relative to the largest variance; smaller values are rounding errors of float32 vectors


class Moments:
    """Running count, mean and scatter of vectors in float64, updated in blocks (Chan, Golub and LeVeque 1983).

    Both the covariance and the uncentred second moment follow from these, and so do the singular vectors of all vectors: the left
    singular vectors of M (dim, vectors) are the eigenvectors of M M^T. The result is exact; memory is dim squared.

    Attributes:
        count: Vectors so far.
        mean: Mean vector (dim,).
        scatter: Sum of the outer products of the deviations from the mean (dim, dim).
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))

    def add(self, vectors: Float[np.ndarray, "vectors dim"]) -> None:
        """Add a block of vectors.

        Raises:
            ShapeError: The dimension differs from earlier blocks.
            UserError: A vector contains nan or infinity.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ShapeError(f"expected vectors of dimension {len(self.mean)}, got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise UserError("the model gives vectors with nan or infinity, so no correction can be fitted: check its weights")
        if len(vectors) == 0:
            return
        block = vectors.astype(np.float64)
        mean = block.mean(axis=0)
        centred = block - mean
        total = self.count + len(block)
        apart = mean - self.mean
        self.scatter += centred.T @ centred + np.outer(apart, apart) * (self.count * len(block) / total)
        self.mean += apart * (len(block) / total)
        self.count = total

    def transformed(self, matrix: Float[np.ndarray, "new_dim dim"]) -> "Moments":
        """Moments of the vectors ``matrix @ v``."""
        made = Moments(len(matrix))
        made.count, made.mean, made.scatter = self.count, matrix @ self.mean, matrix @ self.scatter @ matrix.T
        return made

    def second_moment(self) -> np.ndarray:
        """Mean outer product of the vectors, not centred (dim, dim)."""
        return self.scatter / self.count + np.outer(self.mean, self.mean)

    def covariance(self) -> np.ndarray:
        """Covariance matrix (dim, dim)."""
        return self.scatter / self.count


@dataclass(frozen=True, kw_only=True)
class LanguageFit:
    """Directions fitted for one language, with statistics.

    Attributes:
        language: Language code.
        texts: Number of vectors used for fitting.
        directions: Float32 (components, dim), strongest first, signed towards the mean.
        removed_share: Share of the mean squared length of the vectors along the directions, 0 to 1.
        spectrum: The same share for each of the first ten directions, removed or not.
        cosine_to_mean: Absolute cosine between the first direction and the mean vector, 0 to 1; near 1, the mean is removed.
        mean_before: Length of the mean vector divided by the root mean square length of the vectors, 0 to 1.
        mean_after: The same after removing the directions.
        mean: The mean vector (dim,).
    """

    language: str
    texts: int
    directions: np.ndarray
    removed_share: float
    spectrum: tuple[float, ...]
    cosine_to_mean: float
    mean_before: float
    mean_after: float
    mean: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LinearFit:
    """A fitted whitening or component removal, with statistics.

    Attributes:
        correction: Matrix and bias.
        texts: Number of vectors used for fitting.
        removed_share: Share of the variance that is removed; for a whitening to fewer dimensions, the share of the dropped dimensions.
        spectrum: Variance shares of the first ten principal components before the correction.
        mean_before: Length of the mean vector divided by the root mean square length of the vectors; 0 after the correction.
    """

    correction: LinearCorrection
    texts: int
    removed_share: float
    spectrum: tuple[float, ...]
    mean_before: float


def fit_language(moments: Moments, *, language: str, components: int) -> LanguageFit:
    """Fit the ``components`` strongest uncentred directions of one language.

    Yang et al. 2021 (CMLM), which removes one direction.

    Raises:
        UserError: There are fewer vectors than directions, as many directions as dimensions, or only zero vectors.
    """
    _refuse_components(moments, components, what=f"language {language!r}")
    second = moments.second_moment()
    strengths, directions = _descending(second)
    total = float(np.trace(second))
    if total <= 0:
        raise UserError(f"language {language!r}: all vectors are zero, so there is no direction to remove: give other texts")
    kept = directions[:components]
    kept = kept * np.where(kept @ moments.mean < 0, -1.0, 1.0)[:, None]  # the sign of an eigenvector is arbitrary
    mean_length, length = float(np.linalg.norm(moments.mean)), float(np.sqrt(total))
    after = moments.mean - kept.T @ (kept @ moments.mean)
    left = total - float(strengths[:components].sum())
    return LanguageFit(
        language=language,
        texts=moments.count,
        directions=kept.astype(np.float32),
        removed_share=float(strengths[:components].sum() / total),
        spectrum=tuple(float(share) for share in strengths[:10] / total),
        cosine_to_mean=float(abs(kept[0] @ moments.mean) / mean_length) if mean_length > 0 else 0.0,
        mean_before=mean_length / length,
        mean_after=float(np.linalg.norm(after) / np.sqrt(left)) if left > _FLAT * total else 0.0,
        mean=moments.mean.copy(),
    )


def fit_top_removal(moments: Moments, *, components: int) -> LinearFit:
    """Fit a correction that centres vectors and removes the ``components`` strongest principal components (Mu and Viswanath 2018).

    Raises:
        UserError: As ``fit_language``.
    """
    _refuse_components(moments, components, what="remove_top", option="remove_top")
    variances, directions = _variances(moments)
    top = directions[:components]
    weight = np.eye(len(moments.mean)) - top.T @ top
    return _linear_fit(moments, weight, variances, removed=float(variances[:components].sum()))


def fit_whitening(moments: Moments, *, dimensions: int | None = None, power: float = 1.0) -> LinearFit:
    """Fit a whitening: centre vectors and scale each principal component to variance 1 (Su et al. 2021; Huang et al. 2021).

    A power below 1 whitens partially: a component of variance v keeps the variance v ** (1 - power). 0.5 is a compromise between raw
    vectors, where a few components dominate the cosine, and whitened vectors, where noise weighs as much as signal.

    With all dimensions kept, the components are rotated back so that each coordinate stays close to its original value (cosines are
    invariant to rotation). A component without variance stays 0; vectors after a layer normalization have one.

    Args:
        moments: Moments of the vectors.
        dimensions: Number of strongest components to keep; default: all.
        power: 0 (centre only) to 1 (all variances 1).

    Raises:
        UserError: There are too few vectors to estimate the variances, or more dimensions than the vectors vary in.
    """
    dim = len(moments.mean)
    refuse_dimensions(dimensions, dim)
    kept = dimensions or dim
    if moments.count <= kept:
        fewer = " or --dimensions below their number" if moments.count > 2 else ""
        raise UserError(
            f"{moments.count:,} texts are too few to estimate the variances of {kept} dimensions: give many more than {kept}{fewer}"
        )
    variances, directions = _variances(moments)
    varies = variances > _FLAT * variances[0]
    if dimensions is not None and dimensions > varies.sum():
        raise UserError(f"dimensions is {dimensions}, but these vectors vary in {varies.sum()} of {dim} only: give {varies.sum()} or fewer")
    scales = np.power(variances, -power / 2, out=np.zeros(dim), where=varies)
    weight = (directions * scales[:, None])[:kept]
    return _linear_fit(moments, weight if dimensions else directions.T @ weight, variances, removed=float(variances[kept:].sum()))


def refuse_dimensions(dimensions: int | None, dim: int) -> None:
    """Refuse a number of dimensions outside 1 to ``dim``.

    Raises:
        UserError: ``dimensions`` is below 1 or above ``dim``.
    """
    if dimensions is not None and not 1 <= dimensions <= dim:
        raise UserError(f"dimensions is {dimensions}, but the vectors have {dim}: give 1 to {dim}, or leave it out")


def refuse_components(components: int, dim: int, *, option: str = "components") -> None:
    """Refuse a number of components that leaves no dimension.

    Raises:
        UserError: ``components`` is below 1, or not below ``dim``.
    """
    if not 1 <= components < dim:
        raise UserError(
            f"{option} is {components}, but vectors of dimension {dim} must keep at least one: give 1 to {dim - 1} (the paper: 1)"
        )


def _variances(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    if moments.count < 2:
        raise UserError(f"{moments.count} texts were given, but a variance needs at least 2: give thousands")
    variances, directions = _descending(moments.covariance())
    if variances[0] <= 0:
        raise UserError("all vectors are identical, so there is no direction to correct: give other texts, or another model")
    return variances, directions


def _linear_fit(moments: Moments, weight: np.ndarray, variances: np.ndarray, *, removed: float) -> LinearFit:
    bias = -weight @ moments.mean
    total = float(variances.sum())
    return LinearFit(
        correction=LinearCorrection(weight.astype(np.float32), bias.astype(np.float32)),
        texts=moments.count,
        removed_share=removed / total,
        spectrum=tuple(float(share) for share in variances[:10] / total),
        mean_before=float(np.linalg.norm(moments.mean) / np.sqrt(np.trace(moments.second_moment()))),
    )


def _descending(symmetric: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (dim,), clipped at 0, and eigenvectors as rows (dim, dim), largest first, each with its largest entry positive."""
    values, vectors = np.linalg.eigh(symmetric)
    rows = vectors.T[::-1]
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1, keepdims=True), axis=1)
    return np.maximum(values[::-1], 0.0), rows * np.where(largest < 0, -1.0, 1.0)


def _refuse_components(moments: Moments, components: int, *, what: str, option: str = "components") -> None:
    refuse_components(components, len(moments.mean), option=option)
    if moments.count <= components:
        raise UserError(f"{what}: {moments.count} texts are too few to estimate {components} directions: give more (the paper: 10,000)")


def fit_joined(moments: Moments, *, powers: tuple[float, float], second_share: float = 0.5, centred: bool = True) -> LinearCorrection:
    """Fit a correction for concatenated vectors: whiten both halves partially, scale them to the lengths that their shares need, and rotate.

    The cosine of the result is close to the weighted mean of the cosines of the two halves. Its numbers are the principal components,
    strongest first, so it can be cut.

    Args:
        moments: Moments of vectors that concatenate the outputs of two encoders.
        powers: Whitening power of each half; see ``fit_whitening``.
        second_share: Weight of the second half, 0 to 1.
        centred: Whether the mean is subtracted. Without it, lengths and directions are measured from the origin.

    Raises:
        UserError: As ``fit_whitening``.
    """
    half = len(moments.mean) // 2
    if moments.count <= half:
        raise UserError(
            f"{moments.count:,} texts are too few to estimate the variances of {half} dimensions: give many more than {half}, or --whiten 0"
        )
    covariance = moments.covariance() if centred else moments.second_moment()
    weight = np.zeros_like(covariance)
    for part, power, share in zip((slice(0, half), slice(half, None)), powers, (1 - second_share, second_share), strict=True):
        variances, directions = _descending(covariance[part, part])
        varies = variances > _FLAT * variances[0]
        scales = np.power(variances, -power / 2, out=np.zeros(half), where=varies)
        whitening = directions.T @ (directions * scales[:, None])
        weight[part, part] = whitening * np.sqrt(2 * share / np.trace(whitening @ covariance[part, part] @ whitening.T))
    _, strongest = _descending(weight @ covariance @ weight.T)
    weight = strongest @ weight
    shift = -weight @ moments.mean if centred else np.zeros(2 * half)
    return LinearCorrection(weight.astype(np.float32), shift.astype(np.float32))
