"""Corrections out of vectors that stream past: memory does not grow with their number."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tain.foundation.errors import ShapeError, UserError
from tain.models.correction import LinearCorrection

_FLAT = 1e-7  # of the largest variance: what is smaller is rounding of float32 vectors


class Moments:
    """Count, mean and scatter of vectors, in float64, a block at a time (Chan, Golub and LeVeque 1983).

    Their covariance and their uncentred second moment both follow from these, and with them the singular vectors of all vectors
    together: those of M (dim, vectors) are the eigenvectors of M M^T. Exact, in memory of dim squared.

    Attributes:
        count: Vectors so far.
        mean: Theirs (dim,).
        scatter: Sum of the outer products of what differs from the mean (dim, dim).
    """

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.mean = np.zeros(dim)
        self.scatter = np.zeros((dim, dim))

    def add(self, vectors: Float[np.ndarray, "vectors dim"]) -> None:
        """Take a block in.

        Raises:
            ShapeError: The vectors have another width.
            UserError: One has nan or infinity.
        """
        if vectors.ndim != 2 or vectors.shape[1] != len(self.mean):
            raise ShapeError(f"vectors of {len(self.mean)} numbers are counted here, got {vectors.shape}")
        if not np.isfinite(vectors).all():
            raise UserError("the model gives vectors with nan or infinity, from which nothing can be fitted: check its weights")
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

    def second_moment(self) -> np.ndarray:
        """Mean of the outer products of the vectors as they are, not centred (dim, dim)."""
        return self.scatter / self.count + np.outer(self.mean, self.mean)

    def covariance(self) -> np.ndarray:
        """Mean of the outer products of what differs from the mean (dim, dim)."""
        return self.scatter / self.count


@dataclass(frozen=True, kw_only=True)
class LanguageFit:
    """The directions of one language.

    Attributes:
        language: Its code.
        texts: Vectors they were fitted on.
        directions: Float32 (components, dim), the strongest first, on the mean's side.
        removed_share: Share of the vectors' mean squared length that lies along the directions, 0 to 1.
        spectrum: The same for each of the first ten directions, removed or not.
        cosine_to_mean: Of the first direction with the mean vector, 0 to 1: near 1 it is the mean that is removed.
        mean_before: Length of the mean vector over the vectors' root mean square length, 0 to 1.
        mean_after: The same without the directions.
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
    """A whitening, or a removal of the strongest components.

    Attributes:
        correction: The matrix and the shift.
        texts: Vectors it was fitted on.
        removed_share: Share of the variance around the mean that is no longer there; of a whitening to fewer dimensions that of the
            dimensions left out.
        spectrum: Shares of the variance of the first ten principal components before.
        mean_before: Length of the mean vector over the vectors' root mean square length; afterwards it is 0.
    """

    correction: LinearCorrection
    texts: int
    removed_share: float
    spectrum: tuple[float, ...]
    mean_before: float


def fit_language(moments: Moments, *, language: str, components: int) -> LanguageFit:
    """Find the ``components`` directions in which a language's vectors, not centred, are strongest.

    Yang et al. 2021 (CMLM), where one direction is removed.

    Raises:
        UserError: Fewer vectors than directions, directions for every dimension, or nothing but zeros.
    """
    _refuse_components(moments, components, what=f"language {language!r}")
    second = moments.second_moment()
    strengths, directions = _descending(second)
    total = float(np.trace(second))
    if total <= 0:
        raise UserError(f"language {language!r}: all vectors are zero, which have no direction: give other texts")
    kept = directions[:components]
    kept = kept * np.where(kept @ moments.mean < 0, -1.0, 1.0)[:, None]  # an eigenvector has no side of its own
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
    """Centre the vectors and take out the ``components`` strongest principal components (Mu and Viswanath 2018).

    Raises:
        UserError: As ``fit_language``.
    """
    _refuse_components(moments, components, what="remove_top", option="remove_top")
    variances, directions = _variances(moments)
    top = directions[:components]
    weight = np.eye(len(moments.mean)) - top.T @ top
    return _linear_fit(moments, weight, variances, removed=float(variances[:components].sum()))


def fit_whitening(moments: Moments, *, dimensions: int | None = None, power: float = 1.0) -> LinearFit:
    """Centre the vectors and give each of their principal components variance 1 (Su et al. 2021; Huang et al. 2021).

    A power below 1 whitens in part: a component of variance v keeps the variance v ** (1 - power). 0.5 is a compromise between vectors in
    which few components decide the cosine, and whitened ones, in which noise weighs as much as what differs.

    With all dimensions the components are turned back, so that every number of a vector stays nearest to what it was (cosines do not
    know the turn), and a component that never varies stays 0: vectors behind a layer normalisation have one.

    Args:
        moments: Of the vectors.
        dimensions: Components kept, the strongest; all where it is left out.
        power: 0 (centre only) to 1 (all variances 1).

    Raises:
        UserError: Too few vectors to know the variances, or more dimensions than the vectors vary in.
    """
    dim = len(moments.mean)
    refuse_dimensions(dimensions, dim)
    kept = dimensions or dim
    if moments.count <= kept:
        fewer = " or --dimensions below their number" if moments.count > 2 else ""
        raise UserError(f"{moments.count:,} texts cannot tell the variances of {kept} dimensions: give many more than {kept}{fewer}")
    variances, directions = _variances(moments)
    varies = variances > _FLAT * variances[0]
    if dimensions is not None and dimensions > varies.sum():
        raise UserError(f"dimensions is {dimensions}, but these vectors vary in {varies.sum()} of {dim} only: give {varies.sum()} or fewer")
    scales = np.power(variances, -power / 2, out=np.zeros(dim), where=varies)
    weight = (directions * scales[:, None])[:kept]
    return _linear_fit(moments, weight if dimensions else directions.T @ weight, variances, removed=float(variances[kept:].sum()))


def refuse_dimensions(dimensions: int | None, dim: int) -> None:
    """Refuse to keep more numbers of a vector than it has.

    Raises:
        UserError: ``dimensions`` are none, or more than ``dim``.
    """
    if dimensions is not None and not 1 <= dimensions <= dim:
        raise UserError(f"dimensions is {dimensions}, but the vectors have {dim}: give 1 to {dim}, or leave it out")


def refuse_components(components: int, dim: int, *, option: str = "components") -> None:
    """Refuse to take all directions out of vectors.

    Raises:
        UserError: ``components`` are none, or as many as ``dim``.
    """
    if not 1 <= components < dim:
        raise UserError(f"{option} is {components}, but vectors of {dim} numbers must keep some: give 1 to {dim - 1} (the paper: 1)")


def _variances(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    if moments.count < 2:
        raise UserError(f"{moments.count} texts were given, but a variance needs at least 2: give thousands")
    variances, directions = _descending(moments.covariance())
    if variances[0] <= 0:
        raise UserError("all vectors are the same, so there is no direction to correct: give other texts, or another model")
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
    """Eigenvalues (dim,), none below 0, and eigenvectors as rows (dim, dim), the largest first, each with its largest entry positive."""
    values, vectors = np.linalg.eigh(symmetric)
    rows = vectors.T[::-1]
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1, keepdims=True), axis=1)
    return np.maximum(values[::-1], 0.0), rows * np.where(largest < 0, -1.0, 1.0)


def _refuse_components(moments: Moments, components: int, *, what: str, option: str = "components") -> None:
    refuse_components(components, len(moments.mean), option=option)
    if moments.count <= components:
        raise UserError(f"{what}: {moments.count} texts cannot tell {components} directions: give more (the paper: 10,000)")


def fit_joined(moments: Moments, *, powers: tuple[float, float], dimensions: int) -> LinearCorrection:
    """Whiten the two halves of joined vectors in part, bring both to the same mean length, and keep the strongest directions of the whole.

    The cosine of the result is near to the mean of the two halves' cosines.

    Args:
        moments: Of vectors whose first half is one encoder's and whose second half is another's.
        powers: How far to whiten each half; see ``fit_whitening``.
        dimensions: Numbers of the result, half the vectors' or fewer for a cut.

    Raises:
        UserError: As ``fit_whitening``.
    """
    half = len(moments.mean) // 2
    if moments.count <= half:
        raise UserError(
            f"{moments.count:,} texts cannot tell the variances of {half} dimensions: give many more than {half}, or --whiten 0"
        )
    covariance = moments.covariance()
    weight = np.zeros_like(covariance)
    for part, power in zip((slice(0, half), slice(half, None)), powers, strict=True):
        variances, directions = _descending(covariance[part, part])
        varies = variances > _FLAT * variances[0]
        scales = np.power(variances, -power / 2, out=np.zeros(half), where=varies)
        whitening = directions.T @ (directions * scales[:, None])
        weight[part, part] = whitening / np.sqrt(np.trace(whitening @ covariance[part, part] @ whitening.T))
    _, strongest = _descending(weight @ covariance @ weight.T)
    weight = strongest[:dimensions] @ weight
    return LinearCorrection(weight.astype(np.float32), (-weight @ moments.mean).astype(np.float32))
