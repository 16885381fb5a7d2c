"""Decompose the cosine of two texts into contributions of their token pairs."""

import numpy as np
from jaxtyping import Float, Float64

from tain.foundation.errors import ShapeError


def token_pair_contributions(
    left: Float[np.ndarray, "left_tokens dim"], right: Float[np.ndarray, "right_tokens dim"]
) -> Float64[np.ndarray, "left_tokens right_tokens"]:
    """Decompose the cosine of two mean-pooled texts over their token pairs.

    The mean vectors are p = sum_i u_i / n and q = sum_j v_j / m, so cos(p, q) = sum_ij u_i . v_j / (n m |p| |q|) exactly.
    A contribution is large if both vectors are long and have a similar direction; it may be negative.

    Args:
        left: Token vectors of one text, including special tokens, as they are pooled.
        right: Token vectors of the other text.

    Raises:
        ShapeError: The mean vector of a text is zero, so the cosine is undefined.
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left.mean(0)) * np.linalg.norm(right.mean(0))
    if not lengths:
        raise ShapeError("a text's mean vector is zero, so the cosine is undefined")
    return left @ right.T / (len(left) * len(right) * lengths)
