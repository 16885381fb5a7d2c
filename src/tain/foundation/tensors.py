"""Read safetensors files in torch, or in NumPy, which lacks some of their data types."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

_SAME = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"}
_SAME |= {"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"}
# name -> bits of exponent and mantissa, bias, and whether the largest exponent holds infinities (else one NaN a sign, all mantissa bits set)
_EIGHT_BITS = {"F8_E4M3": (4, 3, 7, False), "F8_E5M2": (5, 2, 15, True)}


def read_tensors(path: Path) -> "dict[str, Tensor]":
    """Read a file's tensors in their stored data types.

    Raises:
        ValueError: It cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError, KeyError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def read_arrays(path: Path) -> "dict[str, np.ndarray]":
    """Read a file's tensors without torch; bfloat16 and eight-bit floats are converted to float32, which represents them exactly.

    Raises:
        ValueError: It cannot be read, or has a data type that is not supported.
    """
    from safetensors import SafetensorError, deserialize

    try:
        stored = deserialize(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    return {name: _array(entry["data"], entry["dtype"]).reshape(entry["shape"]) for name, entry in stored}


def _array(data: bytes | bytearray, dtype: str) -> "np.ndarray":
    import numpy as np

    if dtype in _SAME:
        return np.frombuffer(data, dtype=_SAME[dtype]).copy()
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    if dtype in _EIGHT_BITS:
        return _eight_bit_values(*_EIGHT_BITS[dtype])[np.frombuffer(data, dtype=np.uint8)]
    raise ValueError(f"its data type is {dtype}, which is not supported")


def _eight_bit_values(exponent_bits: int, mantissa_bits: int, bias: int, has_infinity: bool) -> "np.ndarray":
    """Values of the 256 numbers of an eight-bit floating-point type, as defined by the Open Compute Project, in float32."""
    import numpy as np

    codes = np.arange(256)
    sign = np.where(codes >> 7, -1.0, 1.0)
    exponent, mantissa = (codes >> mantissa_bits) & (2**exponent_bits - 1), codes & (2**mantissa_bits - 1)
    share = mantissa / 2**mantissa_bits
    values = np.where(exponent == 0, share * 2.0 ** (1 - bias), (1 + share) * 2.0 ** (exponent - bias))
    is_last = exponent == 2**exponent_bits - 1
    if has_infinity:
        values = np.where(is_last, np.where(mantissa == 0, np.inf, np.nan), values)
    else:
        values = np.where(is_last & (mantissa == 2**mantissa_bits - 1), np.nan, values)
    return (sign * values).astype(np.float32)
