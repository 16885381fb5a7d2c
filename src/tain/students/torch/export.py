"""Export a student to an ONNX file with eight-bit weights and products."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from tain.students.torch.qrnn import PQRNN, QRNNLayer
from tain.students.torch.quantisation import UNIT_SCALE, UNIT_ZERO, QuantisedLinear, stored_table, stored_weight
from tain.students.torch.static import StaticStudent

FORMAT = 3  # version of the metadata and names read by the NumPy implementation

_OPSET, _IR = 17, 8
_ALL = 2**31 - 1
_NEVER = -1e6


def write_student(student: PQRNN | StaticStudent, path: Path, *, projection: str | None = None) -> None:
    """Write a student's graph as ONNX.

    Inputs of a pQRNN: ``rows`` (new tokens, features), feature bytes plus 128; ``known`` (1 + known tokens, bottleneck), with padding in
    row 0 (its values do not matter), followed by the ``codes`` of tokens from earlier calls; and ``ids`` (texts, tokens), which index the
    concatenation of ``known`` and ``rows``. A static student has ``ids`` only. Outputs, as far as they exist: ``text`` (texts, outputs),
    ``tokens`` (texts, tokens, labels), and for a pQRNN ``codes`` (new tokens, bottleneck): all that the layers need of a token, in a
    fraction of the bytes of its features.

    Products are computed in integers, so every processor gives the same; all other operations are float32.

    Args:
        student: The trained student; its moving statistics are folded into the scales of the products.
        path: Output file.
        projection: Fingerprint of its projection, stored in the file so that no other projection is used with it.
    """
    graph = _pqrnn(student) if isinstance(student, PQRNN) else _static(student)
    if projection is not None:
        graph.metadata["projection"] = projection
    path.write_bytes(graph.serialised())


class _Graph:
    """ONNX graph under construction: nodes, stored tensors and names."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        self.nodes: list[Any] = []
        self.stored: dict[str, np.ndarray] = {}
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.metadata = {"format": FORMAT, **metadata}

    def node(self, operation: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """Append a node; returns the name of its output, or names if there are several."""
        names = [f"{operation}_{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(operation, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def store(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        self.stored[name] = np.ascontiguousarray(np.asarray(values, dtype=dtype))
        return name

    def whole(self, *values: int) -> str:
        """A stored list of integers; equal lists are stored once."""
        return self.store("whole_" + "_".join(map(str, values)), values, np.int64)

    def byte(self, value: int) -> str:
        return self.store(f"byte_{value}", value, np.uint8)

    def number(self, value: float) -> str:
        return self.store(f"number_{value!r}", value)

    def flipped(self, values: str) -> str:
        return self.node("Slice", values, self.whole(-1), self.whole(-_ALL), self.whole(0), self.whole(-1))

    def quantised(self, values: str) -> str:
        return self.node("QuantizeLinear", values, self.number(UNIT_SCALE), self.byte(UNIT_ZERO))

    def output(self, name: str, values: str, shape: list[str | int]) -> None:
        self.metadata.setdefault("outputs", {})[name] = shape[-1]
        self.nodes.append(helper.make_node("Identity", [values], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def product(self, values: str, name: str, *, zero: int) -> str:
        """Multiply bytes with the stored matrix of that name, then scale and shift the integer results."""
        sums = self.node("MatMulInteger", values, f"{name}.weight", self.byte(zero))
        scaled = self.node("Mul", self.node("Cast", sums, to=TensorProto.FLOAT), f"{name}.scale")
        return self.node("Add", scaled, f"{name}.shift")

    def store_product(self, name: str, matrices: list[Tensor], *, step: float, scale: Tensor, shift: Tensor) -> None:
        """Store matrices (out, into) side by side, with a separate step per output.

        Args:
            name: Name of the product.
            matrices: Matrices with the same inputs.
            step: Step of the input's grid.
            scale: Factor applied to the product, one per output.
            shift: Added afterwards.
        """
        parts = [stored_weight(matrix) for matrix in matrices]
        steps = np.concatenate([own_steps.double().numpy() for _, own_steps in parts])
        self.store(f"{name}.weight", np.concatenate([stored.numpy() for stored, _ in parts]).T, np.int8)
        self.store(f"{name}.scale", steps * step * scale.detach().double().numpy())
        self.store(f"{name}.shift", shift.detach().numpy())

    def store_linear(self, name: str, linear: QuantisedLinear, *, step: float) -> None:
        self.store_product(name, [linear.weight], step=step, scale=torch.ones(linear.out_features), shift=linear.bias)

    def serialised(self) -> bytes:
        stored = [numpy_helper.from_array(values, name) for name, values in self.stored.items()]
        graph = helper.make_graph(self.nodes, "student", self.inputs, self.outputs, initializer=stored)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR, producer_name="tain")
        helper.set_model_props(model, {"tain": json.dumps(self.metadata)})
        onnx.checker.check_model(model)
        return model.SerializeToString()


def _pqrnn(student: PQRNN) -> _Graph:
    """Build the graph of a pQRNN. Inside, time is the first axis, so that the recurrence processes contiguous blocks."""
    shape = student.shape
    step, zero = (value.item() for value in student.bottleneck_range.grid())
    sizes = {"layers": shape.layers, "state": shape.state, "kernel_width": shape.kernel_width, "directions": shape.directions}
    heads = {"text": bool(shape.text_outputs), "tokens": bool(shape.token_outputs)}
    graph = _Graph(
        {"student": "pqrnn", "features": shape.features, "bottleneck": shape.bottleneck, **sizes, **heads, "step": step, "zero": zero}
    )
    graph.inputs = [
        helper.make_tensor_value_info("rows", TensorProto.UINT8, ["new", shape.features]),
        helper.make_tensor_value_info("known", TensorProto.UINT8, ["known", shape.bottleneck]),
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"]),
    ]
    turned = graph.node("Transpose", "ids", perm=[1, 0])  # (tokens, texts)
    is_token = graph.node("Unsqueeze", graph.node("Greater", turned, graph.store("none", 0, np.int64)), graph.whole(2))
    values, zero = _bottleneck(graph, student, turned, is_token, step=step, zero=int(zero))
    words, word_grid = values, (graph.number(step), graph.byte(zero))
    for number, layer in enumerate(student.layers):
        assert isinstance(layer, QRNNLayer)
        values = _layer(graph, layer, f"layer{number}", values, is_token, step=step, zero=zero)
        step, zero = UNIT_SCALE, UNIT_ZERO
    if student.text_head is not None:
        assert student.attention is not None
        graph.store_linear("attention", student.attention, step=step)
        graph.store_linear("text", student.text_head, step=step)
        logits = graph.node("Where", is_token, graph.product(values, "attention", zero=zero), graph.number(_NEVER))
        states = graph.node("DequantizeLinear", values, graph.number(step), graph.byte(zero))
        weights = graph.node("Softmax", logits, axis=0)
        text = graph.product(graph.quantised(_weighted(graph, weights, states)), "text", zero=zero)
        if student.skip_head is not None:
            means = _weighted(graph, weights, graph.node("DequantizeLinear", words, *word_grid))
            text = graph.node("Add", text, _skip(graph, student, means))
        graph.output("text", text, ["texts", shape.text_outputs])
    if student.token_head is not None:
        graph.store_linear("tokens", student.token_head, step=step)
        labels = graph.node("Transpose", graph.product(values, "tokens", zero=zero), perm=[1, 0, 2])
        graph.output("tokens", labels, ["texts", "tokens", shape.token_outputs])
    return graph


def _weighted(graph: _Graph, weights: str, values: str) -> str:
    return graph.node("ReduceSum", graph.node("Mul", weights, values), graph.whole(0), keepdims=0)


def _skip(graph: _Graph, student: PQRNN, means: str) -> str:
    assert student.skip_head is not None and student.skip_range is not None
    step, zero = (value.item() for value in student.skip_range.grid())
    graph.metadata["skip"] = {"step": step, "zero": int(zero)}
    graph.store_linear("skip", student.skip_head, step=step)
    stored = graph.node("QuantizeLinear", means, graph.number(step), graph.byte(int(zero)))
    return graph.product(stored, "skip", zero=int(zero))


def _bottleneck(graph: _Graph, student: PQRNN, ids: str, is_token: str, *, step: float, zero: int) -> tuple[str, int]:
    scale, shift = student.bottleneck_norm.scale_and_shift()
    linear = student.bottleneck
    graph.store_product("bottleneck", [linear.weight], step=UNIT_SCALE, scale=scale, shift=linear.bias * scale + shift)
    positive = graph.node("Relu", graph.product("rows", "bottleneck", zero=UNIT_ZERO))
    graph.nodes.append(helper.make_node("QuantizeLinear", [positive, graph.number(step), graph.byte(zero)], ["codes"]))
    graph.outputs.append(helper.make_tensor_value_info("codes", TensorProto.UINT8, ["new", student.shape.bottleneck]))
    every = graph.node("Concat", "known", "codes", axis=0)
    return graph.node("Where", is_token, graph.node("Gather", every, ids, axis=0), graph.byte(zero)), zero


def _layer(graph: _Graph, layer: QRNNLayer, name: str, values: str, is_token: str, *, step: float, zero: int) -> str:
    gates = 3 * layer.state
    sums, there = [], []
    for direction in range(layer.directions):
        own = slice(3 * direction, 3 * direction + 3)
        scale, shift = layer.scale_and_shift(direction)
        product = f"{name}.direction{direction}"
        matrices = list(layer.weight[own].detach())
        graph.store_product(product, matrices, step=step, scale=scale, shift=layer.bias[own].flatten() * scale + shift)
        read = graph.flipped(values) if direction else values
        sums.append(graph.product(_windows(graph, read, layer.kernel_width, zero), product, zero=zero))
        there.append(graph.flipped(is_token) if direction else is_token)
    shape = graph.whole(0, 0, layer.directions, gates)
    together = graph.node("Reshape", graph.node("Concat", *sums, axis=2), shape)  # (tokens, texts, directions, gates)
    z, rest = graph.node("Split", together, graph.whole(layer.state, 2 * layer.state), outputs=2, axis=3)
    f, o = graph.node("Split", graph.node("Sigmoid", rest), graph.whole(layer.state, layer.state), outputs=2, axis=3)
    is_there = graph.node("Unsqueeze", graph.node("Concat", *there, axis=2), graph.whole(3))
    keep = graph.node("Where", is_there, f, graph.number(1.0))
    add = graph.node("Mul", graph.node("Sub", graph.number(1.0), keep), graph.node("Tanh", z))
    states = graph.node("Where", is_there, graph.node("Mul", o, _recurrence(graph, keep, add)), graph.number(0.0))
    parts = states if layer.directions == 1 else graph.node("Split", states, graph.whole(1, 1), outputs=2, axis=2)
    parts = [parts] if isinstance(parts, str) else [parts[0], graph.flipped(parts[1])]
    flat = [graph.node("Squeeze", part, graph.whole(2)) for part in parts]
    return graph.quantised(graph.node("Concat", *flat, axis=2))


def _windows(graph: _Graph, values: str, kernel_width: int, zero: int) -> str:
    if kernel_width == 1:
        return values
    padded = graph.node("Pad", values, graph.whole(kernel_width - 1, 0, 0, 0, 0, 0), graph.byte(zero), mode="constant")
    parts = []
    for start in range(kernel_width):
        end = start - (kernel_width - 1) or _ALL
        parts.append(graph.node("Slice", padded, graph.whole(start), graph.whole(end), graph.whole(0)))
    return graph.node("Concat", *parts, axis=2)


def _recurrence(graph: _Graph, keep: str, add: str) -> str:
    """Compute c = keep * c + add along the first axis, for both directions and all texts at once.

    The scan output is what is kept at each step: the state is that plus ``add``, which saves a node per step.
    """
    parts = ["state", "keep", "add", "state_after", "kept"]
    inside = [helper.make_node("Mul", ["keep", "state"], ["kept"]), helper.make_node("Add", ["kept", "add"], ["state_after"])]
    infos = {part: helper.make_tensor_value_info(part, TensorProto.FLOAT, None) for part in parts}
    body = helper.make_graph(inside, "step", [infos[part] for part in parts[:3]], [infos[part] for part in parts[3:]])
    one_step = graph.node("Slice", graph.node("Shape", add), graph.whole(1), graph.whole(_ALL), graph.whole(0))
    begin = graph.node("ConstantOfShape", one_step)
    _, kept = graph.node("Scan", begin, keep, add, outputs=2, body=body, num_scan_inputs=2)
    return graph.node("Add", kept, add)


def _static(student: StaticStudent) -> _Graph:
    stored, step, zero = stored_table(student.table)
    graph = _Graph({"student": "static", "step": step, "zero": zero, "text": True, "tokens": False})
    graph.inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"])]
    graph.store("table", stored.numpy(), np.uint8)
    graph.store("text.weight", student.text_head.weight.detach().numpy().T)
    graph.store("text.shift", student.text_head.bias.detach().numpy())
    gathered = graph.node("DequantizeLinear", graph.node("Gather", "table", "ids", axis=0), graph.number(step), graph.byte(zero))
    is_token = graph.node("Cast", graph.node("Greater", "ids", graph.store("none", 0, np.int64)), to=TensorProto.FLOAT)
    total = graph.node(
        "ReduceSum", graph.node("Mul", gathered, graph.node("Unsqueeze", is_token, graph.whole(2))), graph.whole(1), keepdims=0
    )
    count = graph.node("Max", graph.node("ReduceSum", is_token, graph.whole(1), keepdims=1), graph.number(1.0))
    mean = graph.node("Div", total, count)
    graph.output(
        "text", graph.node("Add", graph.node("MatMul", mean, "text.weight"), "text.shift"), ["texts", student.text_head.out_features]
    )
    return graph
