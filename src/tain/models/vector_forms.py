"""Forms of vectors that vector stores take: fewer numbers, float16, eight bits a number, one bit a number."""

from typing import Literal

import numpy as np
from jaxtyping import Float32

from tain.foundation.errors import UserError
from tain.foundation.vectors import unit_length

OutputDtype = Literal["float32", "float16", "int8", "binary"]


def shortened(vectors: Float32[np.ndarray, "texts dim"], dims: int | None) -> Float32[np.ndarray, "texts fewer"]:
    """Keep the first ``dims`` numbers of each vector, scaled to length 1 again.

    Kusupati et al. 2022 (Matryoshka); loses least with a model whose first numbers count most, such as a whitened one.

    Raises:
        UserError: The vectors are shorter.
    """
    if dims is None or dims == vectors.shape[1]:
        return vectors
    if not 1 <= dims <= vectors.shape[1]:
        raise UserError(f"dims is {dims}, but the model's vectors have {vectors.shape[1]} numbers: give 1 to {vectors.shape[1]}")
    return unit_length(vectors[:, :dims])


def stored_as(
    vectors: Float32[np.ndarray, "texts dim"], dtype: OutputDtype, *, ranges: tuple[np.ndarray, np.ndarray] | None = None
) -> np.ndarray:
    """Turn float32 vectors into what is stored.

    Args:
        vectors: One for each text.
        dtype: ``int8`` puts each dimension's range on -128 to 127; ``binary`` packs the signs, eight in a byte, the first in the highest bit
            (as sentence-transformers' ``ubinary``).
        ranges: Lowest and highest value of each dimension for ``int8``; default: those of ``vectors``, which then want to be many.

    Raises:
        UserError: A value is too large for float16, or the ranges are of other vectors.
    """
    if dtype == "float32":
        return vectors
    if dtype == "float16":
        with np.errstate(over="ignore"):
            stored = vectors.astype(np.float16)
        if not np.isfinite(stored).all():
            raise UserError("a vector is too large for float16: store float32, or normalise")
        return stored
    if dtype == "binary":
        return np.packbits(vectors > 0, axis=1)
    low, high = ranges if ranges is not None else (vectors.min(axis=0), vectors.max(axis=0))
    if len(low) != vectors.shape[1]:
        raise UserError(f"the ranges of int8 are for vectors of {len(low)} numbers, these have {vectors.shape[1]}: leave the ranges out")
    steps = (vectors - low) / np.maximum(high - low, 1e-12) * 255
    return (np.clip(np.rint(steps), 0, 255) - 128).astype(np.int8)
