"""Exported students: onnxruntime and NumPy agree with the module within one quantisation step; sizes in bytes."""

import numpy as np
import onnx
import pytest
import torch

from tain.foundation.errors import UserError
from tain.students.graphs import NumpyGraph, OnnxGraph
from tain.students.onnx_file import read_onnx
from tain.students.torch.export import FORMAT, write_student
from tain.students.torch.qrnn import PQRNN, StudentShape
from tain.students.torch.static import StaticStudent

SHAPE = StudentShape(features=40, bottleneck=12, state=6, layers=2, text_outputs=5, token_outputs=3)


def batch(lengths=(7, 4, 1, 2), seed=0, longest=None):
    rng = np.random.default_rng(seed)
    rows = rng.choice([-127, -60, 0, 127], size=(15, 40)).astype(np.int8)
    rows[0] = 0
    ids = np.zeros((len(lengths), longest or max(lengths)), dtype=np.int64)
    for index, length in enumerate(lengths):
        ids[index, :length] = rng.integers(1, 15, size=length)
    return rows, ids


def trained(shape=SHAPE):
    made = PQRNN(shape).train()
    for seed in range(4):
        rows, ids = batch(seed=seed)
        made(torch.from_numpy(rows).float() / 127, torch.from_numpy(ids))
    return made.eval()


def as_trained(made, rows, ids):
    with torch.no_grad():
        text, tokens = made(torch.from_numpy(rows).float() / 127, torch.from_numpy(ids))
    return {name: values.numpy() for name, values in (("text", text), ("tokens", tokens)) if values is not None}


def inputs_of(rows, ids):
    """As a reader gives them that knows no token yet; row 0 of ``rows`` is padding."""
    return {"rows": rows[1:].view(np.uint8) ^ 0x80, "known": np.zeros((1, SHAPE.bottleneck), np.uint8), "ids": ids}


@pytest.mark.parametrize("graph_class", [OnnxGraph, NumpyGraph])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 3},
        {"kernel_width": 1},
        {"kernel_width": 3},
        {"bidirectional": False},
        {"text_outputs": 0},
        {"token_outputs": 0},
        {"skip": True},
        {"skip": True, "text_outputs": 0},
    ],
    ids=str,
)
def test_the_file_agrees_with_the_trained_student(graph_class, changes, tmp_path):
    made = trained(StudentShape(**{**vars(SHAPE), **changes}))
    write_student(made, tmp_path / "student.onnx")
    graph = graph_class(tmp_path / "student.onnx")
    for lengths, longest in (((7, 4, 1, 2), None), ((7, 4), 12), ((1,), None), ((3, 0), None)):
        rows, ids = batch(lengths, longest=longest)
        expected, found = as_trained(made, rows, ids), graph.run(inputs_of(rows, ids))
        assert set(found) == {"codes", *expected}
        for name, values in expected.items():
            # a state that lies between two steps may go either way: one step of 1/127 through the last matrix
            step = 2 / 127 * max(p.abs().max().item() for p in (made.text_head or made.token_head).parameters()) * 3
            if made.skip_head is not None:
                step += 2 * made.skip_range.grid()[0].item() * made.skip_head.weight.abs().max().item()
            is_real = (ids > 0) if name == "tokens" else np.ones(len(ids), dtype=bool)  # what stands behind a text's end means nothing
            apart = np.abs(found[name] - values)[is_real]
            assert apart.max(initial=0.0) <= step
            assert np.mean(apart > 1e-5) < 0.2


def test_numpy_and_onnxruntime_agree(tmp_path):
    write_student(trained(), tmp_path / "student.onnx")
    rows, ids = batch()
    inputs = inputs_of(rows, ids)
    ours, theirs = NumpyGraph(tmp_path / "student.onnx").run(inputs), OnnxGraph(tmp_path / "student.onnx").run(inputs)
    for name in ("text", "tokens"):
        np.testing.assert_allclose(ours[name], theirs[name], atol=0.02)
        assert ours[name].dtype == theirs[name].dtype == np.float32
    assert np.abs(ours["codes"].astype(int) - theirs["codes"]).max() <= 1
    assert ours["codes"].dtype == theirs["codes"].dtype == np.uint8


@pytest.mark.parametrize("known", [14, 5])
@pytest.mark.parametrize("graph_class", [OnnxGraph, NumpyGraph])
def test_codes_stand_for_features(graph_class, known, tmp_path):
    write_student(trained(), tmp_path / "student.onnx")
    graph = graph_class(tmp_path / "student.onnx")
    inputs = inputs_of(*batch())
    expected = graph.run(inputs)
    again = inputs | {"rows": inputs["rows"][known:], "known": np.concatenate([inputs["known"], expected["codes"][:known]])}
    found = graph.run(again)
    np.testing.assert_array_equal(found["codes"], expected["codes"][known:])
    for name in ("text", "tokens"):
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("graph_class", [OnnxGraph, NumpyGraph])
def test_static_students_agree_too(graph_class, tmp_path):
    made = StaticStudent(tokens=20, dim=6, outputs=4).eval()
    write_student(made, tmp_path / "student.onnx")
    ids = np.array([[3, 5, 0], [1, 19, 7], [0, 0, 0]])
    with torch.no_grad():
        expected = made(torch.from_numpy(ids)).numpy()
    found = graph_class(tmp_path / "student.onnx").run({"ids": ids})["text"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_products_are_of_bytes_and_a_weight_takes_one(tmp_path):
    shape = StudentShape(features=512, bottleneck=96, state=64, layers=3, text_outputs=20)
    student = PQRNN(shape).eval()
    write_student(student, tmp_path / "student.onnx")
    model = onnx.load(tmp_path / "student.onnx")
    operations = [node.op_type for node in model.graph.node]
    assert "MatMul" not in operations and "Gemm" not in operations
    assert operations.count("MatMulInteger") == 1 + 2 * 3 + 2
    size = (tmp_path / "student.onnx").stat().st_size
    # a byte a weight, twelve more an output for scales, shifts and zeros, and the graph itself
    parameters = sum(parameter.numel() for parameter in student.parameters())
    assert parameters < size < 1.15 * parameters


def test_the_reader_gives_what_the_onnx_package_gives(tmp_path):
    write_student(trained(), tmp_path / "student.onnx")
    tensors, metadata = read_onnx(tmp_path / "student.onnx")
    model = onnx.load(tmp_path / "student.onnx")
    assert set(tensors) == {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        np.testing.assert_array_equal(tensors[tensor.name], onnx.numpy_helper.to_array(tensor))
    assert metadata == {entry.key: entry.value for entry in model.metadata_props}


@pytest.mark.parametrize("graph_class", [OnnxGraph, NumpyGraph])
def test_broken_and_foreign_files_are_refused(graph_class, tmp_path):
    path = tmp_path / "student.onnx"
    path.write_bytes(b"\xff\xff nothing of the kind")
    with pytest.raises(UserError, match=r"student\.onnx' (is not an ONNX file|cannot be run)"):
        graph_class(path)
    write_student(trained(), path)
    model = onnx.load(path)
    whole = model.metadata_props[0].value
    model.metadata_props[0].value = whole.replace(f'"format": {FORMAT}', '"format": 9')
    onnx.save(model, path)
    with pytest.raises(UserError, match=f"has version 9, but this tain reads {FORMAT}"):
        graph_class(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(UserError, match="not a tain student"):
        graph_class(path)
