"""all-MiniLM-L6-v2 under onnxruntime: the rival of students at run time.

Written out node by node, since exporters are not a dependency. Texts of one length go together, so nothing is padded and no mask is needed;
onnxruntime fuses what it can.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from measuring import minilm_folder


class MiniLM:
    """Texts to vectors of length 1, on one thread unless told otherwise."""

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        write(folder / "minilm.onnx")
        self.size_bytes = (folder / "minilm.onnx").stat().st_size
        self._session = onnxruntime.InferenceSession(str(folder / "minilm.onnx"), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(256)

    def encode(self, texts: list[str], *, batch_tokens: int = 4096) -> np.ndarray:
        found = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        by_length: dict[int, list[int]] = {}
        for index, ids in enumerate(found):
            by_length.setdefault(len(ids), []).append(index)
        vectors = np.empty((len(texts), 384), dtype=np.float32)
        for length, indices in by_length.items():
            rows = max(1, batch_tokens // length)
            for start in range(0, len(indices), rows):
                part = indices[start : start + rows]
                ids = np.array([found[index] for index in part], dtype=np.int64)
                vectors[part] = np.asarray(self._session.run(None, {"ids": ids})[0])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write(path: Path) -> None:
    """Write the graph: ``ids`` (texts, tokens) to the mean of the last layer's tokens (texts, 384)."""
    import transformers

    model = transformers.AutoModel.from_pretrained(minilm_folder(), trust_remote_code=False)
    weights = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    heads, layers = model.config.num_attention_heads, model.config.num_hidden_layers
    nodes: list[onnx.NodeProto] = []
    stored: dict[str, Any] = {}

    def node(operation, *inputs, **attributes):
        name = f"{operation}_{len(nodes)}"
        nodes.append(helper.make_node(operation, list(inputs), [name], **attributes))
        return name

    def store(name, values):
        stored[name] = np.asarray(values)
        return name

    def linear(values, name):
        product = node("MatMul", values, store(f"{name}.w", np.ascontiguousarray(weights[f"{name}.weight"].T)))
        return node("Add", product, store(f"{name}.b", weights[f"{name}.bias"]))

    def norm(values, name):
        scale, bias = store(f"{name}.w", weights[f"{name}.weight"]), store(f"{name}.b", weights[f"{name}.bias"])
        return node("LayerNormalization", values, scale, bias, epsilon=model.config.layer_norm_eps)

    whole = store("whole", np.array([0, 0, heads, -1], dtype=np.int64))
    flat = store("flat", np.array([0, 0, -1], dtype=np.int64))
    tokens = node("Slice", node("Shape", "ids"), store("one", np.array([1])), store("two", np.array([2])), store("zero", np.array([0])))
    positions = node("Slice", store("positions", weights["embeddings.position_embeddings.weight"]), "zero", tokens, "zero")
    values = node("Gather", store("words", weights["embeddings.word_embeddings.weight"]), "ids")
    values = node("Add", node("Add", values, positions), store("type", weights["embeddings.token_type_embeddings.weight"][0]))
    values = norm(values, "embeddings.LayerNorm")
    root = store("root", np.float32(np.sqrt(model.config.hidden_size // heads)))
    for number in range(layers):
        index = f"encoder.layer.{number}"
        turned = {"query": [0, 2, 1, 3], "key": [0, 2, 3, 1], "value": [0, 2, 1, 3]}
        parts = {
            name: node("Transpose", node("Reshape", linear(values, f"{index}.attention.self.{name}"), whole), perm=order)
            for name, order in turned.items()
        }
        shares = node("Softmax", node("Div", node("MatMul", parts["query"], parts["key"]), root), axis=-1)
        mixed = node("Reshape", node("Transpose", node("MatMul", shares, parts["value"]), perm=[0, 2, 1, 3]), flat)
        mixed = linear(mixed, f"{index}.attention.output.dense")
        values = norm(node("Add", mixed, values), f"{index}.attention.output.LayerNorm")
        wide = linear(values, f"{index}.intermediate.dense")
        error = node("Erf", node("Div", wide, store("root_two", np.float32(np.sqrt(2)))))
        wide = node("Mul", node("Mul", wide, node("Add", error, store("unit", np.float32(1)))), store("half", np.float32(0.5)))
        values = norm(node("Add", linear(wide, f"{index}.output.dense"), values), f"{index}.output.LayerNorm")
    nodes.append(helper.make_node("ReduceMean", [values], ["vectors"], axes=[1], keepdims=0))
    graph = helper.make_graph(
        nodes,
        "minilm",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["texts", "tokens"])],
        [helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["texts", model.config.hidden_size])],
        initializer=[numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
