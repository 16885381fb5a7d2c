"""Minimal ONNX reader for stored tensors and metadata, which needs only NumPy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tain.foundation.errors import UserError

# field numbers in onnx.proto
_MODEL_GRAPH, _MODEL_METADATA, _GRAPH_TENSOR = 7, 14, 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_BYTES = 1, 2, 8, 9
_TYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8"}

_VARINT, _LENGTH = 0, 2  # wire types
_FIXED_BYTES = {1: 8, 5: 4}


def read_onnx(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the stored tensors by name, and the metadata.

    Raises:
        UserError: The file cannot be read, or is not an ONNX file.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise UserError(
            f"student file {str(path)!r} cannot be read ({error.strerror}): give the whole folder that tain distil wrote"
        ) from None
    tensors: dict[str, np.ndarray] = {}
    metadata: dict[str, str] = {}
    try:
        for field, value in _fields(content):
            if field == _MODEL_GRAPH and isinstance(value, memoryview):
                tensors |= dict(
                    _tensor(part) for number, part in _fields(value) if number == _GRAPH_TENSOR and isinstance(part, memoryview)
                )
            elif field == _MODEL_METADATA and isinstance(value, memoryview):
                entry = {number: bytes(part).decode() for number, part in _fields(value) if isinstance(part, memoryview)}
                metadata[entry[1]] = entry[2]
    except (IndexError, KeyError, ValueError):
        raise UserError(f"student file {str(path)!r} is not an ONNX file, or incomplete: distil the student again") from None
    return tensors, metadata


def _tensor(content: memoryview) -> tuple[str, np.ndarray]:
    dims: list[int] = []
    kind, name, raw = 0, "", memoryview(b"")
    for field, value in _fields(content):
        if field == _TENSOR_DIMS:
            dims += [value] if isinstance(value, int) else list(_varints(value))
        elif field == _TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif field == _TENSOR_NAME and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif field == _TENSOR_BYTES and isinstance(value, memoryview):
            raw = value
    return name, np.frombuffer(raw, dtype=_TYPES[kind]).reshape(dims)


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Iterate over a message's fields: integers as such, fields with a length as bytes."""
    index = 0
    while index < len(content):
        key, index = _varint(content, index)
        field, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, index = _varint(content, index)
            yield field, value
            continue
        size = _FIXED_BYTES.get(wire)
        if wire == _LENGTH:
            size, index = _varint(content, index)
        if size is None or index + size > len(content):
            raise ValueError("not a protocol buffer")
        yield field, content[index : index + size]
        index += size


def _varints(content: memoryview) -> Iterator[int]:
    index = 0
    while index < len(content):
        value, index = _varint(content, index)
        yield value


def _varint(content: memoryview, index: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[index]
        index += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, index
