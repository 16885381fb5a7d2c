"""Forms of vectors that vector stores take: fewer numbers, float16, eight bits a number, one bit a number."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from tain.foundation.choices import OutputDtype
from tain.foundation.errors import UserError
from tain.foundation.json_files import read_object
from tain.foundation.vectors import unit_length

RANGES_FORMAT = 1
BYTES = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 0.125}  # of a number


@dataclass(frozen=True)
class Int8Ranges:
    """The lowest and highest value of each dimension, which become -128 and 127.

    Attributes:
        low: Lowest values.
        high: Highest values.
    """

    low: Float32[np.ndarray, " dim"]
    high: Float32[np.ndarray, " dim"]

    @classmethod
    def calibrated(cls, vectors: Float32[np.ndarray, "texts dim"]) -> "Int8Ranges":
        """Take the ranges of some vectors, preferably of a few thousand texts; values beyond them are clipped later.

        Raises:
            UserError: There are no vectors.
        """
        if not len(vectors):
            raise UserError("the ranges of int8 are measured on vectors, but there are none: give texts, or the ranges of another run")
        return cls(vectors.min(axis=0), vectors.max(axis=0))

    @classmethod
    def load(cls, path: str | Path) -> "Int8Ranges":
        """Read ranges from a file that ``save`` wrote.

        Raises:
            UserError: The file is missing or damaged.
        """
        what = f"ranges file {str(path)!r}"
        try:
            content = read_object(Path(path), {}, damaged=f"{what} is damaged", advice="encode the texts again")
        except OSError as error:
            raise UserError(f"{what} cannot be read ({error.strerror}): give the .ranges.json file beside vectors in int8") from None
        if content.get("format") != RANGES_FORMAT:
            raise UserError(f"{what} is not in format {RANGES_FORMAT}: give the .ranges.json file beside vectors in int8")
        return cls.read(content, what=what)

    @classmethod
    def read(cls, content: Mapping[str, Any], *, what: str) -> "Int8Ranges":
        """Read ranges from parsed JSON with ``low`` and ``high``; ``what`` names it in messages.

        Raises:
            UserError: It holds no ranges.
        """
        try:
            low, high = (np.array(content[name], dtype=np.float32) for name in ("low", "high"))
        except (KeyError, TypeError, ValueError, OverflowError):
            low = high = np.zeros(0, dtype=np.float32)
        is_whole = low.ndim == 1 and low.shape == high.shape and len(low) and np.isfinite(low).all() and np.isfinite(high).all()
        if not is_whole or (low > high).any():
            raise UserError(f"{what} has damaged ranges of int8: it needs low and high, one number per dimension each")
        return cls(low, high)

    def to_json(self) -> str:
        """The content of a ranges file; every bit of the numbers is kept."""
        numbers = {"low": self.low.astype(float).tolist(), "high": self.high.astype(float).tolist()}
        return json.dumps({"format": RANGES_FORMAT, "dtype": "int8", "dim": self.dim, **numbers}) + "\n"

    def save(self, path: Path) -> None:
        """Write a ranges file."""
        path.write_text(self.to_json(), encoding="utf-8")

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.low)

    def refuse_other(self, dim: int) -> None:
        """Refuse ranges for vectors of another length.

        Raises:
            UserError: They are.
        """
        if self.dim != dim:
            raise UserError(
                f"the ranges of int8 are for vectors of {self.dim} numbers, these have {dim}: give ranges made with the same dims"
            )

    def outside(self, vectors: Float32[np.ndarray, "texts dim"]) -> float:
        """Share of numbers outside of the ranges, which lose more than rounding."""
        return float(((vectors < self.low) | (vectors > self.high)).mean()) if vectors.size else 0.0


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


def stored_as(vectors: Float32[np.ndarray, "texts dim"], dtype: OutputDtype, *, ranges: Int8Ranges | None = None) -> np.ndarray:
    """Turn float32 vectors into what is stored.

    Args:
        vectors: One for each text.
        dtype: ``int8`` puts each dimension's range on -128 to 127; ``binary`` packs the signs, eight in a byte, the first in the highest bit
            (as sentence-transformers' ``ubinary``).
        ranges: Ranges of ``int8``; default: those of ``vectors``, which then should be many.

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
    if not len(vectors):
        return np.zeros(vectors.shape, dtype=np.int8)
    ranges = ranges or Int8Ranges.calibrated(vectors)
    ranges.refuse_other(vectors.shape[1])
    steps = (vectors - ranges.low) / _widths(ranges) * 255
    return (np.clip(np.rint(steps), 0, 255) - 128).astype(np.int8)


def decoded(stored: np.ndarray, *, ranges: Int8Ranges | None = None, dim: int | None = None) -> Float32[np.ndarray, "texts dim"]:
    """Turn stored vectors back into float32.

    Args:
        stored: Vectors as ``stored_as`` or ``tain encode`` gives them; the type tells the form: floats, int8, or uint8 for ``binary``.
        ranges: Ranges with which int8 was stored; needed for int8 only.
        dim: Number of dimensions of ``binary``, whose last byte may be partly empty; default: eight per byte.

    Returns:
        float32; for ``binary`` 1 and -1.

    Raises:
        UserError: The ranges are missing or of other vectors, or the type is none of these.
    """
    if stored.dtype.kind == "f":
        return stored.astype(np.float32)
    if stored.dtype == np.uint8:
        return np.unpackbits(stored, axis=1, count=dim).astype(np.float32) * 2 - 1
    if stored.dtype != np.int8:
        raise UserError(f"the vectors are of the type {stored.dtype}: give floats, int8 or uint8 (binary)")
    if ranges is None:
        raise UserError("vectors in int8 are decoded with the ranges they were stored with: load them from the .ranges.json file")
    ranges.refuse_other(stored.shape[1])
    return ((stored.astype(np.float32) + 128) / 255 * _widths(ranges) + ranges.low).astype(np.float32)


def vector_bytes(dim: int, dtype: OutputDtype) -> int:
    """Bytes of one stored vector."""
    return int(np.ceil(dim * BYTES[dtype]))


def _widths(ranges: Int8Ranges) -> Float32[np.ndarray, " dim"]:
    return np.maximum(ranges.high - ranges.low, np.float32(1e-12))
