"""A graph without weights, which reads them from the model's own ``model.safetensors``: for the built-in model, stored once."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

_SMALL = 1024  # numbers: smaller tensors stay in the graph


def without_weights(model: onnx.ModelProto, stored: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, dict[str, tuple[str, bool]]]:
    """Take out of a graph every weight that is in a safetensors file already, as it is or transposed.

    Args:
        model: The graph, in float32.
        stored: The file's tensors, in any data type that float32 holds exactly.

    Returns:
        The graph, and for each weight that is missing in it: its name in the file, and whether it is transposed there.
    """
    light = onnx.ModelProto()
    light.CopyFrom(model)
    by_sum: dict[tuple[int, float], list[str]] = {}
    for name, array in stored.items():
        by_sum.setdefault(_key(array), []).append(name)
    found: dict[str, tuple[str, bool]] = {}
    for tensor in light.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < _SMALL:
            continue
        values = numpy_helper.to_array(tensor)
        match = _match(values, {name: stored[name] for name in by_sum.get(_key(values), ())})
        if match is not None:
            found[tensor.name] = match
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="model.safetensors")
    return light, found


def _key(array: np.ndarray) -> tuple[int, float]:
    """Equal for equal numbers in any order of axes: sums of sorted numbers do not depend on how they were laid out."""
    return array.size, float(np.sort(array.astype(np.float64), axis=None).sum())


def _match(values: np.ndarray, candidates: Mapping[str, np.ndarray]) -> tuple[str, bool] | None:
    for name, array in candidates.items():
        if array.shape == values.shape and np.array_equal(array.astype(np.float32), values):
            return name, False
        if array.ndim == 2 and array.T.shape == values.shape and np.array_equal(array.T.astype(np.float32), values):
            return name, True
    return None
