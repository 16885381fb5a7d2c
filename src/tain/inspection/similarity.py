"""Where the cosine of two texts comes from: a number for each pair of their tokens, which sum to it exactly."""

import numpy as np
from jaxtyping import Float, Float64

from tain.foundation.errors import ShapeError


def token_pair_contributions(
    left: Float[np.ndarray, "left_tokens dim"], right: Float[np.ndarray, "right_tokens dim"]
) -> Float64[np.ndarray, "left_tokens right_tokens"]:
    """Split the cosine of two mean-pooled texts over their pairs of tokens.

    The mean vectors are p = sum_i u_i / n and q = sum_j v_j / m, so that cos(p, q) = sum_ij u_i . v_j / (n m |p| |q|): nothing is left over.
    A pair's number is large where both vectors are long and point one way; it may be negative.

    Args:
        left: One text's token vectors, special tokens included, as they are pooled.
        right: The other's.

    Raises:
        ShapeError: A text's mean vector is zero, so that there is no cosine.
    """
    left, right = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(left.mean(0)) * np.linalg.norm(right.mean(0))
    if not lengths:
        raise ShapeError("a text's mean vector is zero, and the cosine with it has no meaning")
    return left @ right.T / (len(left) * len(right) * lengths)
