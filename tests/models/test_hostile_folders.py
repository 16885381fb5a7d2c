"""Folders made to do harm: each is refused with one line, soon, and without the memory that its numbers ask for."""

import hashlib
import json
import resource
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder

MOST_SECONDS = 60  # on a busy machine; what is refused at once takes a few milliseconds
MOST_MEGABYTES = 500


@pytest.fixture
def copied(bert_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_folder, tmp_path / "model"))


def safetensors_of(header: dict[str, Any] | bytes, data: bytes, *, length: int | None = None) -> bytes:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + data


def tensor(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


HOSTILE: dict[str, bytes] = {
    "a header of 2^60 bytes": safetensors_of(b"{}", b"", length=2**60),
    "a header of 2^64 - 1 bytes": safetensors_of(b"{}", b"", length=2**64 - 1),
    "a header longer than the file": safetensors_of({"a": tensor([1], 0, 4)}, b"\0" * 4, length=10_000),
    "overlapping offsets": safetensors_of({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, b"\0" * 12),
    "the same bytes twice": safetensors_of({"a": tensor([2], 0, 8), "b": tensor([2], 0, 8)}, b"\0" * 8),
    "offsets beyond the file": safetensors_of({"a": tensor([2**40], 0, 2**42)}, b"\0" * 8),
    "a shape that its bytes do not hold": safetensors_of({"a": tensor([2**30, 2**30], 0, 8)}, b"\0" * 8),
    "a shape whose product overflows": safetensors_of({"a": tensor([2**33, 2**33], 0, 8)}, b"\0" * 8),
    "a gap before the first tensor": safetensors_of({"a": tensor([1], 8, 12)}, b"\0" * 12),
    "deeply nested JSON": safetensors_of(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, b""),
    "nothing": b"",
}


def refused(load: Callable[[], object]) -> str:
    """The one line of the refusal, within time and memory."""
    began_s, before_kib = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError) as caught:
        load()
    assert time.monotonic() - began_s < MOST_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024 < MOST_MEGABYTES
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", HOSTILE)
def test_weights_with_a_lying_header_are_refused(copied: Path, kind: str):
    (copied / "model.safetensors").write_bytes(HOSTILE[kind])
    refused(lambda: Embedder.load(copied, dtype="float32", device="cpu"))


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_correction_with_a_lying_header_is_refused(tmp_path: Path, kind: str):
    from tain.models.correction import read_by_language

    (tmp_path / "language_correction.safetensors").write_bytes(HOSTILE[kind])
    refused(lambda: read_by_language(tmp_path / "language_correction.safetensors", name="m"))


@pytest.mark.parametrize(
    "change", [{"hidden_size": 10**9}, {"vocab_size": 10**12}, {"num_hidden_layers": 10**9}, {"intermediate_size": 2**60}], ids=str
)
def test_a_config_that_asks_for_more_than_the_weights_hold_is_refused(copied: Path, change: dict[str, int]):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | change))
    refused(lambda: Embedder.load(copied, dtype="float32", device="cpu"))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "tain.json"])
def test_deeply_nested_json_is_refused(copied: Path, file: str):
    (copied / file).write_text('{"a":' * 100_000 + "1" + "}" * 100_000)
    refused(lambda: Embedder.load(copied, dtype="float32", device="cpu"))


# ---- ONNX


def graph_with_data_outside(path: Path, location: str) -> bytes:
    """A graph that adds a tensor, whose bytes are in another file, to its input."""
    import onnx
    from onnx import TensorProto, helper

    stored = TensorProto(name="stored", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        stored.external_data.add(key=key, value=value)
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "stored"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [stored],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    content = model.SerializeToString()
    path.write_bytes(content)
    assert onnx.load_from_string(content).graph.initializer[0].data_location == TensorProto.EXTERNAL
    return content


@pytest.mark.parametrize("location", ["../secret.bin", "SECRET", "link.bin"])
def test_a_graph_does_not_read_files_outside_of_its_folder(tmp_path: Path, location: str):
    from tain.exported.graph import TransformerGraph
    from tain.students.graphs import OnnxGraph

    (tmp_path / "secret.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    graph_with_data_outside(folder / "model.onnx", location.replace("SECRET", str(tmp_path / "secret.bin")))
    refused(lambda: TransformerGraph(folder / "model.onnx", name="m", pad_id=0))
    refused(lambda: OnnxGraph(folder / "model.onnx"))


@pytest.mark.parametrize("path", ["../model.onnx", "/etc/hostname", "onnx/../../model.onnx", "C:\\model.onnx"])
def test_an_export_that_names_files_outside_of_its_folder_is_refused(copied: Path, path: str):
    from tain.exported.folder import read_export

    (copied.parent / "model.onnx").write_bytes(b"")
    content = {"format": 1, "kind": "encoder", "graphs": {"float32": path}, "digests": {path: hashlib.sha256(b"").hexdigest()}}
    content |= {"max_tokens": 8, "dim": 4, "normalize": False, "pads": True, "pad_id": 0, "unknown_id": None, "pooling": "mean"}
    (copied / "onnx").mkdir()
    (copied / "onnx" / "export.json").write_text(json.dumps(content))
    assert "lies outside of the folder" in refused(lambda: read_export(copied, name="m"))


@pytest.mark.parametrize(
    "content",
    [
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a graph of 2^62 bytes
        b"\x3a" + b"\x80" * 200_000,  # a length that does not end
        b"\x3a\x10\x2a\x0e\x0a\x09\x80\x80\x80\x80\x80\x80\x80\x80\x40\x10\x01",  # a tensor of 2^62 numbers
    ],
    ids=["size", "varint", "dims"],
)
def test_a_students_graph_with_lying_sizes_is_refused(tmp_path: Path, content: bytes):
    from tain.students.onnx_file import read_onnx

    (tmp_path / "student.onnx").write_bytes(content)
    refused(lambda: read_onnx(tmp_path / "student.onnx"))


# ---- indexes


@pytest.mark.parametrize(
    "change", [{"dim": 2**60}, {"dim": -1}, {"fingerprint": "../../x" * 10**6}, {"format": 10**30}], ids=lambda c: next(iter(c))
)
def test_an_index_with_a_lying_manifest_is_refused(tmp_path: Path, change: dict[str, Any]):
    from tain.ranking.index import CandidateIndex

    index = CandidateIndex.create(tmp_path / "index", dim=4, fingerprint="f", model="m")
    index.append(["a"], np.ones((1, 4), np.float32))
    about = json.loads((index.folder / "index.json").read_text())
    (index.folder / "index.json").write_text(json.dumps(about | change))

    def search() -> None:
        CandidateIndex.open(index.folder).refuse_other_model("f", "m")

    assert len(refused(search)) < 10_000
