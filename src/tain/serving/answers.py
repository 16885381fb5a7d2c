"""Vectors as JSON, written by orjson outside the event loop."""

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import orjson
from jaxtyping import Float32

from tain.foundation.vectors import unit_length
from tain.models.vector_forms import shortened
from tain.serving.served import Embedded

Made = TypeVar("Made")

_INLINE_NUMBERS = 16_384  # so few are written in less time than a thread takes to be woken under load


async def away(numbers: int, make: Callable[[], Made]) -> Made:
    """Call ``make``, in a thread if there is much to write: a large answer takes a second, in which other requests must go on.

    Args:
        numbers: How many numbers are written.
        make: Makes the answer.
    """
    return make() if numbers <= _INLINE_NUMBERS else await asyncio.to_thread(make)


def vectors_of(found: Sequence[Embedded], *, dims: int | None, normalize: bool) -> Float32[np.ndarray, "texts dim"]:
    """The vectors of an answer.

    Args:
        found: The encoded texts.
        dims: Number of dimensions to keep; the shortened vectors are normalised. None: all.
        normalize: Scale vectors to length 1.

    Raises:
        UserError: The vectors are shorter than ``dims``.
    """
    vectors = np.stack([each.vector for each in found])
    if normalize:
        unit_length(vectors, out=vectors)
    return np.ascontiguousarray(shortened(vectors, dims))


def as_numbers(vectors: np.ndarray) -> list[bytes]:
    """Each vector as a JSON array, with as many digits as its data type has."""
    return [orjson.dumps(vector, option=orjson.OPT_SERIALIZE_NUMPY) for vector in vectors]


def as_base64(vectors: Float32[np.ndarray, "texts dim"]) -> list[bytes]:
    """Each vector as a JSON string: little-endian float32 in base64, which OpenAI's clients ask for."""
    return [b'"%b"' % base64.b64encode(vector.tobytes()) for vector in vectors.astype("<f4", copy=False)]


def joined(rows: Sequence[bytes]) -> bytes:
    """JSON values as a JSON array."""
    return b"[%b]" % b",".join(rows)
