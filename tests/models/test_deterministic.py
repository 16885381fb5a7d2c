"""With ``deterministic`` a text has the same bits whatever its neighbours, the order, the batches and the number of threads."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tain.exported.encoder import ExportedEncoder
from tain.foundation.errors import UserError
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.embedder import Embedder
from tain.recipes.export.recipe import export

Load = Callable[[int], Any]
OPTIONS = [{}, {"batch_tokens": 1}, {"batch_size": 3}, {"batch_tokens": 100_000}]


@pytest.fixture(scope="module")
def texts(sentences: list[str]) -> list[str]:
    return [*sentences, *(sentence[:20] for sentence in sentences), "glass", " ".join(sentences)]


@pytest.fixture(scope="module")
def exported_folder(bert_folder: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bert"
    export(bert_folder, folder, texts=sentences, min_cosine=0.9)
    return folder


def embedder_with(folder: Path, parts: str) -> Embedder:
    embedder = Embedder.load(folder, device="cpu", dtype="float32")
    rng = np.random.default_rng(3)
    if "whitened" in parts:
        embedder.correction = LinearCorrection(rng.standard_normal((24, 32)).astype(np.float32), rng.standard_normal(24).astype(np.float32))
    if "languages" in parts:
        embedder.correction = LanguageCorrection({"en": np.linalg.qr(rng.standard_normal((32, 4)))[0].T.astype(np.float32)})
    embedder.normalize = "scaled" in parts
    return embedder


def torch_on(embedder: Embedder) -> Load:
    def load(threads: int) -> Embedder:
        torch.set_num_threads(threads)
        return embedder

    return load


@pytest.fixture(params=["torch", "torch whitened scaled", "torch languages", "torch built-in", "onnx float32", "onnx int8"])
def load(request: pytest.FixtureRequest, bert_folder: Path, exported_folder: Path) -> Any:
    """Gives the encoder for a number of threads."""
    before = torch.get_num_threads()
    if request.param.startswith("onnx"):
        yield lambda threads: ExportedEncoder.load(exported_folder, dtype=request.param.split()[1], threads=threads)
    elif request.param == "torch built-in":
        yield torch_on(Embedder.load("tain-mini", device="cpu", dtype="float32"))
    else:
        yield torch_on(embedder_with(bert_folder, request.param))
    torch.set_num_threads(before)


def bits(vectors: np.ndarray) -> list[bytes]:
    return [vector.tobytes() for vector in vectors]


def test_neighbours_order_batches_and_threads_change_no_bit(load: Load, texts: list[str]):
    encoder = load(1)
    options = {"deterministic": True} | ({"language": "en"} if encoder.languages else {})
    expected = bits(encoder.encode(texts, **options))
    assert len(set(expected)) == len(set(texts))
    alone = [encoder.encode([text], **options)[0].tobytes() for text in texts]
    assert alone == expected
    for threads in (1, 2):
        encoder = load(threads)
        for batches in OPTIONS:
            assert bits(encoder.encode(texts, **options, **batches)) == expected
        order = np.random.default_rng(threads).permutation(len(texts))
        shuffled = bits(encoder.encode([texts[index] for index in order], **options))
        assert shuffled == [expected[index] for index in order]
        assert bits(encoder.encode(texts[::3], **options)) == expected[::3]


def test_the_vectors_are_those_of_a_usual_run_up_to_rounding(load: Load, texts: list[str]):
    encoder = load(1)
    options = {"language": "en"} if encoder.languages else {}
    tolerance = 0.2 if getattr(encoder, "dtype", "") == "int8" else 1e-4  # in int8, one scale for all inputs of a batch
    np.testing.assert_allclose(
        encoder.encode(texts, deterministic=True, **options), encoder.encode(texts, **options), atol=tolerance, rtol=1e-3
    )


def test_chunks_are_deterministic_too(load: Load, texts: list[str]):
    found = []
    for threads, size in ((1, None), (2, 5)):
        encoder = load(threads)
        options = {"language": "en"} if encoder.languages else {}
        limit, encoder.max_tokens = encoder.max_tokens, 12
        vectors = encoder.encode(texts, truncation="mean-of-chunks", deterministic=True, batch_size=size, **options)
        assert encoder.chunked > 3
        encoder.max_tokens = limit
        found.append(bits(vectors))
    assert found[0] == found[1]


def test_the_number_of_threads_comes_back(bert_folder: Path, texts: list[str]):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Embedder.load(bert_folder, device="cpu", dtype="float32").encode(texts, deterministic=True)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_two_processes_give_the_same_bits(bert_folder: Path, texts: list[str], tmp_path: Path):
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "backwards.txt").write_text("\n".join(texts[::-1]) + "\n")
    stored = []
    for threads, name in ((1, "texts"), (2, "backwards")):
        out = tmp_path / f"{name}.npy"
        command = [sys.executable, "-m", "tain", "encode", str(bert_folder), str(tmp_path / f"{name}.txt"), "-o", str(out)]
        subprocess.run([*command, "--deterministic", "--quiet"], check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        stored.append(bits(np.load(out)))
    assert stored[0] == stored[1][::-1]


def test_a_student_says_that_it_does_not_support_it(tmp_path: Path):
    from tain.students.student import Student

    student = Student.__new__(Student)
    student.name, student.record = "tiny", {"task": "embed", "dim": 4}
    with pytest.raises(UserError, match="deterministic is on, which student 'tiny' does not support"):
        student.encode(["glass"], deterministic=True)
