"""Length and cosine similarity of vectors, in NumPy."""

from typing import TYPE_CHECKING, Any

from tain.foundation.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def unit_length(vectors: "np.ndarray", *, out: "np.ndarray | None" = None) -> "np.ndarray":
    """Scale each vector (..., dim) to length 1; zeros stay zeros. ``out=vectors`` needs no second array."""
    import numpy as np

    return np.divide(vectors, np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12), out=out)


def cosine_similarities(left: Any, right: Any) -> "np.ndarray":
    """Cosine of every left vector with every right vector.

    Args:
        left: Vectors (n, dim), or one vector (dim,), as array-likes.
        right: Vectors (m, dim), or one vector (dim,).

    Returns:
        float32 (n, m). A zero vector has cosine 0 with everything.

    Raises:
        UserError: The arguments are texts, or their dimensions differ.
    """
    first, second = (_unit_rows(vectors) for vectors in (left, right))
    if first.shape[1] != second.shape[1]:
        raise UserError(f"the vectors have {first.shape[1]} and {second.shape[1]} dimensions: give vectors of one encoder")
    return first @ second.T


def _unit_rows(vectors: Any) -> "np.ndarray":
    import numpy as np

    rows = np.asarray(vectors)
    if rows.dtype.kind not in "fiu" or rows.ndim not in (1, 2):
        raise UserError("similarity compares vectors: give what encode returns, an array (texts, dim)")
    return unit_length(np.atleast_2d(rows).astype(np.float32))
