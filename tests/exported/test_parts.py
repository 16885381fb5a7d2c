"""The parts of the torch-free path: batches, padding, forms of vectors, the choice of a backend."""

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from tain.exported import choosing, graph
from tain.exported.choosing import runs_exported
from tain.exported.encoder import ExportedEncoder
from tain.exported.folder import EXPORT_FILE
from tain.exported.graph import batches_of_rows, padded
from tain.foundation.errors import UserError
from tain.foundation.machine import thread_limit, usable_cores
from tain.models.embedder import Embedder
from tain.models.encode_to_file import encode_to_file
from tain.models.plain_scanning import plain_scan_all, plain_scan_best
from tain.models.vector_forms import shortened, stored_as


def test_batches_hold_every_row_once_and_never_more_than_the_budget(rng: np.random.Generator):
    lengths = rng.integers(1, 60, size=200).tolist()
    batches = list(batches_of_rows(lengths, batch_tokens=100))
    assert sorted(row for batch in batches for row in batch) == list(range(200))
    assert all(len(batch) == 1 or len(batch) * max(lengths[row] for row in batch) <= 100 for batch in batches)


@pytest.mark.parametrize("pads", [True, False])
def test_no_other_way_to_cut_the_rows_costs_less(rng: np.random.Generator, pads: bool):
    def work(batches: list[list[int]]) -> int:  # lengths of rows, longest first
        return sum(len(batch) * batch[0] + graph._CALL_TOKENS for batch in batches)

    for _ in range(30):
        lengths = sorted(rng.integers(1, 40, size=8).tolist(), reverse=True)
        ways = []
        for cuts in itertools.product([False, True], repeat=7):
            ends = [0, *(row + 1 for row, is_cut in enumerate(cuts) if is_cut), 8]
            way = [lengths[start:end] for start, end in itertools.pairwise(ends)]
            if all(len(part) == 1 or (len(part) * part[0] <= 60 and (pads or part[0] == part[-1])) for part in way):
                ways.append(way)
        found = [[lengths[row] for row in batch] for batch in batches_of_rows(lengths, batch_tokens=60, pads=pads)]
        assert found in ways
        assert work(found) == min(map(work, ways))


def test_rows_of_different_lengths_stay_apart_where_padding_changes_vectors():
    batches = list(batches_of_rows([3, 5, 3, 5, 4], batch_tokens=1000, pads=False))
    assert batches == [[1, 3], [4], [0, 2]]


@pytest.mark.parametrize("deterministic", [False, True])
def test_threads_change_no_vector(monkeypatch: pytest.MonkeyPatch, deterministic: bool):
    texts = [f"{'word ' * (number % 17)}number {number}" for number in range(150)]
    one = ExportedEncoder.load("tain-mini", threads=1)
    several = ExportedEncoder.load("tain-mini", threads=3)
    monkeypatch.setattr(several.graph, "run", run := Recorded(several.graph.run))
    expected, found = (encoder.encode(texts, deterministic=deterministic) for encoder in (one, several))
    assert len(run.threads) > 1 and threading.main_thread().ident not in run.threads
    if deterministic:
        assert found.tobytes() == expected.tobytes()
    assert np.abs(found - expected).max() < 1e-5
    assert several.encode(["alone"]) == pytest.approx(one.encode(["alone"]), abs=1e-5)


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("2,4", 2), ("", None), ("0", None), ("many", None)])
def test_threads_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch, given: str, expected: int | None):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert thread_limit() == expected
    made = ExportedEncoder.load("tain-mini").graph
    assert made.threads == (expected or usable_cores())
    assert made._session(made._own_threads).get_session_options().intra_op_num_threads == (expected or (1 if usable_cores() == 1 else 0))
    assert ExportedEncoder.load("tain-mini", threads=1).graph.threads == 1


def test_few_rows_are_shared_out_among_threads():
    two = ExportedEncoder.load("tain-mini", threads=2).graph
    sizes = [sum(10 for _ in batch) for batch in two.batches([10] * 60)]
    assert sum(sizes) == 600 and max(sizes) <= 150
    assert len(list(two.batches([10] * 12))) == 1  # not worth it
    assert len(list(two.batches([10] * 60, batch_tokens=600))) == 1


class Recorded:
    """A function, and the threads that called it."""

    def __init__(self, function: Callable[..., list[np.ndarray]]) -> None:
        self._function = function
        self.threads: set[int | None] = set()

    def __call__(self, *given: Any, **more: Any) -> list[np.ndarray]:
        self.threads.add(threading.get_ident())
        time.sleep(0.001)
        return self._function(*given, **more)


def test_rows_are_filled_up_on_the_right():
    table, is_token = padded([[7], [8, 9]], 1)
    assert table.tolist() == [[7, 1], [8, 9]] and is_token.tolist() == [[1, 0], [1, 1]]


def test_shortened_vectors_have_length_one(rng: np.random.Generator):
    vectors = rng.standard_normal((5, 8)).astype(np.float32)
    assert np.linalg.norm(shortened(vectors, 3), axis=1) == pytest.approx(1.0)
    assert shortened(vectors, None) is vectors
    with pytest.raises(UserError, match="dims is 9"):
        shortened(vectors, 9)


def test_eight_bits_span_the_range_and_one_bit_is_the_sign():
    vectors = np.array([[-1.0, 0.0], [0.0, 2.0], [1.0, 4.0]], dtype=np.float32)
    assert stored_as(vectors, "int8").tolist() == [[-128, -128], [0, 0], [127, 127]]
    assert stored_as(np.array([[1, -1, 2, 0, 3, -2, -2, 1]], dtype=np.float32), "binary").tolist() == [[0b10101001]]
    with pytest.raises(UserError, match="too large for float16"):
        stored_as(np.array([[1e6]], dtype=np.float32), "float16")


def test_the_best_in_numpy_are_the_best_of_all_scores(rng: np.random.Generator):
    candidates = rng.integers(-2, 3, size=(50, 4)).astype(np.float32)  # small whole numbers, so that many scores are equal
    context = rng.integers(-2, 3, size=(3, 4)).astype(np.float32)
    scores = plain_scan_all(candidates, context)
    is_deleted = np.arange(50) % 7 == 0
    (best,) = plain_scan_best(candidates, [context], k=6, is_deleted=is_deleted)
    expected = [row for row in np.argsort(-scores, kind="stable") if not is_deleted[row]][:6]
    assert best.rows.tolist() == expected and best.scores.tolist() == scores[expected].tolist()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    (tmp_path / EXPORT_FILE).parent.mkdir()
    (tmp_path / EXPORT_FILE).write_text("{}")
    return tmp_path


def test_auto_takes_the_graph_of_an_exported_folder_and_torch_for_the_rest(exported: Path, bert_folder: Path):
    assert runs_exported(exported) and runs_exported(exported, device="cpu") and runs_exported(exported, dtype="int8")
    assert not runs_exported(exported, backend="torch")
    assert not runs_exported(exported, dtype="bfloat16") and not runs_exported(exported, device="cuda")
    assert not runs_exported(bert_folder) and not runs_exported("tain-mini")
    assert runs_exported("tain-mini", backend="onnx")


def test_without_torch_graphs_are_all_there_is(exported: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(choosing, "has_torch", lambda: False)
    assert runs_exported("tain-mini")
    with pytest.raises(UserError, match="dtype is 'bfloat16'"):
        runs_exported(exported, dtype="bfloat16")


def test_a_graph_that_is_not_there_is_refused(bert_folder: Path, exported: Path):
    with pytest.raises(UserError, match="holds no exported graph"):
        runs_exported(bert_folder, backend="onnx")
    with pytest.raises(UserError, match="holds no exported graph"):
        runs_exported(bert_folder, dtype="int8")
    with pytest.raises(UserError, match="give one or the other"):
        runs_exported(exported, backend="torch", dtype="int8")


@pytest.mark.parametrize("ending", ["npy", "safetensors"])
def test_a_file_can_hold_fewer_numbers_or_bits(ending: str, bert_folder: Path, sentences: list[str], tmp_path: Path):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    whole = embedder.encode(sentences)
    for dtype in ("float32", "binary"):
        made = encode_to_file(embedder, sentences, tmp_path / f"{dtype}.{ending}", dtype=dtype, dims=12)
        assert made.dim == 12
    stored = {dtype: _read(tmp_path / f"{dtype}.{ending}") for dtype in ("float32", "binary")}
    expected = whole[:, :12] / np.linalg.norm(whole[:, :12], axis=1, keepdims=True)
    np.testing.assert_allclose(stored["float32"], expected, atol=1e-6)
    assert stored["binary"].dtype == np.uint8 and stored["binary"].shape == (len(sentences), 2)
    assert np.unpackbits(stored["binary"], axis=1)[:, :12].tolist() == (whole[:, :12] > 0).astype(int).tolist()
    with pytest.raises(UserError, match="dims is 33"):
        encode_to_file(embedder, sentences, tmp_path / "more.npy", dims=33)


def _read(path: Path) -> np.ndarray:
    return np.load(path) if path.suffix == ".npy" else load_file(path)["vectors"]
