"""Turn a float32 graph into one whose products and embedding table are stored in eight bits.

Products are quantised dynamically: weights once and per output column, inputs by their range in each batch. Weights have seven
bits in a signed byte, as in students (``tain.students.torch.quantisation``): with eight, processors without VNNI instructions overflow, and
the vectors are wrong there. The embedding table keeps one scale for each row, so that a few wide rows of a large vocabulary do not coarsen
all the others.
"""

import logging
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
from jaxtyping import Float32
from onnx import TensorProto, helper, numpy_helper

from tain.exported.graph import padded
from tain.exported.tokenizer import FastTokenizer

_INSIDE = "/model/"  # what exporters call the nodes of the model itself; pooling and corrections stay in float32
_SMALLEST_TABLE = 64  # rows: smaller tables (segments) are not worth it
_WEIGHT_TOP = 64  # stored weights are -64 to 64
_MEASURED_TEXTS, _MEASURED_TOKENS = 24, 64  # on which single products are measured


def quantised(model: onnx.ModelProto, *, excluded: Collection[str] = ()) -> onnx.ModelProto:
    """Quantise a graph's products and its embedding table.

    Args:
        model: In float32.
        excluded: Names of product nodes that stay in float32.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    smaller = onnx.ModelProto()
    smaller.CopyFrom(model)
    _quantise_tables(smaller.graph)
    wanted = [node.name for node in product_nodes(smaller) if node.name not in set(excluded)]
    if not wanted:
        return smaller
    said = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # it advises to optimise the graph first, which the runtime does
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "int8.onnx"
            quantize_dynamic(
                smaller,
                file,
                op_types_to_quantize=["MatMul"],
                nodes_to_quantize=wanted,
                per_channel=True,
                weight_type=QuantType.QInt8,
                reduce_range=True,
                extra_options={"MatMulConstBOnly": True},
            )
            return onnx.load(str(file))
    finally:
        logging.getLogger().setLevel(said)


def product_nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The model's products with a stored matrix, in the order of the graph."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [node for node in model.graph.node if node.op_type == "MatMul" and node.name.startswith(_INSIDE) and node.input[1] in stored]


def products_by_harm(model: onnx.ModelProto, ids: Sequence[Sequence[int]], *, pad_id: int) -> list[tuple[str, float]]:
    """Measure for each product how far eight bits move its output on some texts, worst first.

    Args:
        model: In float32.
        ids: Token ids of a few texts.
        pad_id: Fills their rows up.

    Returns:
        Names of the nodes, and the length of the error relative to the length of the output.
    """
    import onnxruntime

    nodes = product_nodes(model)
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    known = {output.name for output in shown.graph.output}
    inputs = list(dict.fromkeys(node.input[0] for node in nodes))
    shown.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs if name not in known)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rows, is_token = padded(ids, pad_id)
    fed = {"input_ids": rows, "attention_mask": is_token, "token_type_ids": np.zeros_like(rows)}
    values = dict(zip(inputs, session.run(inputs, {each.name: fed[each.name] for each in session.get_inputs()}), strict=True))
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    harms = []
    for node in nodes:
        matrix = numpy_helper.to_array(weights[node.input[1]])
        seen = np.asarray(values[node.input[0]]).reshape(-1, matrix.shape[0])
        exact = seen @ matrix
        error = _by_steps(seen, axis=None) @ _by_steps(matrix, axis=0) - exact
        harms.append((node.name, float(np.linalg.norm(error) / max(float(np.linalg.norm(exact)), 1e-12))))
    return sorted(harms, key=lambda harm: -harm[1])


def worst_products(model: onnx.ModelProto, tokenizer: FastTokenizer, texts: Sequence[str], *, max_tokens: int, pad_id: int) -> list[str]:
    """Names of all products, those that lose most in eight bits first, measured on the first of ``texts``."""
    ids, _ = tokenizer.ids(texts[:_MEASURED_TEXTS], max_tokens=min(_MEASURED_TOKENS, max_tokens))
    return [node for node, _ in products_by_harm(model, ids, pad_id=pad_id)]


def _by_steps(values: Float32[np.ndarray, "rows columns"], *, axis: int | None) -> Float32[np.ndarray, "rows columns"]:
    """Round values to the steps that are left to them: 256 of their whole range, or 64 on either side of 0 for each column."""
    if axis is None:
        low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
        step = max(high - low, 1e-12) / 255
        return (np.rint((values - low) / step) * step + low).astype(np.float32)
    step = np.maximum(np.abs(values).max(axis=axis, keepdims=True), 1e-12) / _WEIGHT_TOP
    return (np.rint(values / step) * step).astype(np.float32)


def _quantise_tables(graph: onnx.GraphProto) -> None:
    """Store embedding tables in int8 with one scale for each row: Gather becomes Gather, Cast and Mul with the gathered scales."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    uses = [name for node in graph.node for name in node.input]
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        table = stored.get(node.input[0]) if node.op_type == "Gather" else None
        is_table = table is not None and table.data_type == TensorProto.FLOAT and len(table.dims) == 2
        if table is None or not is_table or table.dims[0] < _SMALLEST_TABLE or uses.count(table.name) > 1:
            nodes.append(node)
            continue
        values = numpy_helper.to_array(table)
        scales = np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / 127
        small = np.rint(values / scales).astype(np.int8)
        name = table.name
        graph.initializer.remove(table)
        graph.initializer.extend([numpy_helper.from_array(small, f"{name}_int8"), numpy_helper.from_array(scales, f"{name}_scale")])
        output = node.output[0]
        nodes += [
            helper.make_node("Gather", [f"{name}_int8", node.input[1]], [f"{output}_int8"], name=f"{node.name}_int8", axis=0),
            helper.make_node("Cast", [f"{output}_int8"], [f"{output}_cast"], name=f"{node.name}_cast", to=TensorProto.FLOAT),
            helper.make_node("Gather", [f"{name}_scale", node.input[1]], [f"{output}_scale"], name=f"{node.name}_scale", axis=0),
            helper.make_node("Mul", [f"{output}_cast", f"{output}_scale"], [output], name=f"{node.name}_mul"),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
