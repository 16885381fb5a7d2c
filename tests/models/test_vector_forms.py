"""Stored forms of vectors: what they keep, their ranges on disk, and what evaluation says about their loss."""

import json
from pathlib import Path

import numpy as np
import pytest

from tain.cli.main import main
from tain.exported.encoder import ExportedEncoder, recorded_ranges
from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.encode_to_file import encode_to_file, partial_folder, ranges_file
from tain.models.vector_forms import Int8Ranges, decoded, stored_as, vector_bytes
from tain.recipes.export.recipe import export


@pytest.fixture(scope="module")
def embedder(bert_folder: Path) -> Embedder:
    return Embedder.load(bert_folder, device="cpu", dtype="float32")


def test_eight_bits_are_decoded_to_half_a_step(rng: np.random.Generator):
    vectors = rng.standard_normal((300, 16)).astype(np.float32)
    ranges = Int8Ranges.calibrated(vectors)
    found = decoded(stored_as(vectors, "int8", ranges=ranges), ranges=ranges)
    steps = (ranges.high - ranges.low) / 255
    assert (np.abs(found - vectors) <= 0.5001 * steps).all()
    assert ranges.outside(vectors) == 0.0


def test_numbers_outside_of_the_ranges_are_clipped_and_counted():
    ranges = Int8Ranges(np.zeros(2, np.float32), np.ones(2, np.float32))
    vectors = np.array([[-3.0, 0.5], [0.2, 7.0]], dtype=np.float32)
    assert stored_as(vectors, "int8", ranges=ranges)[[0, 1], [0, 1]].tolist() == [-128, 127]
    assert ranges.outside(vectors) == 0.5


def test_a_dimension_that_never_changes_is_kept():
    vectors = np.array([[0.25, 1.0], [0.25, 2.0]], dtype=np.float32)
    ranges = Int8Ranges.calibrated(vectors)
    np.testing.assert_allclose(decoded(stored_as(vectors, "int8", ranges=ranges), ranges=ranges)[:, 0], 0.25, atol=1e-6)


def test_signs_and_halves_are_decoded(rng: np.random.Generator):
    vectors = rng.standard_normal((5, 11)).astype(np.float32)
    np.testing.assert_array_equal(decoded(stored_as(vectors, "binary"), dim=11), np.where(vectors > 0, 1.0, -1.0))
    np.testing.assert_allclose(decoded(stored_as(vectors, "float16")), vectors, rtol=1e-3)


def test_ranges_keep_every_bit_on_disk(rng: np.random.Generator, tmp_path: Path):
    ranges = Int8Ranges.calibrated(rng.standard_normal((9, 7)).astype(np.float32))
    ranges.save(tmp_path / "ranges.json")
    again = Int8Ranges.load(tmp_path / "ranges.json")
    np.testing.assert_array_equal(again.low, ranges.low)
    np.testing.assert_array_equal(again.high, ranges.high)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"format": 2}', "not in format 1"),
        ('{"format": 1, "low": [1, 2], "high": [3]}', "damaged ranges"),
        ('{"format": 1, "low": [1], "high": [0]}', "damaged ranges"),
        ('{"format": 1, "low": [1], "high": ["x"]}', "damaged ranges"),
        ('{"format": 1, "low": [NaN], "high": [1]}', "damaged ranges"),
    ],
)
def test_damaged_ranges_are_refused(content: str, message: str, tmp_path: Path):
    (tmp_path / "ranges.json").write_text(content)
    with pytest.raises(UserError, match=message):
        Int8Ranges.load(tmp_path / "ranges.json")


def test_ranges_of_other_vectors_and_missing_ones_are_refused(rng: np.random.Generator, tmp_path: Path):
    vectors = rng.standard_normal((5, 4)).astype(np.float32)
    ranges = Int8Ranges.calibrated(vectors[:, :3])
    with pytest.raises(UserError, match="for vectors of 3 numbers, these have 4"):
        stored_as(vectors, "int8", ranges=ranges)
    with pytest.raises(UserError, match=r"load them from the .ranges.json file"):
        decoded(stored_as(vectors, "int8"))
    with pytest.raises(UserError, match="cannot be read"):
        Int8Ranges.load(tmp_path / "none.json")


@pytest.mark.parametrize("ending", [".npy", ".safetensors", ".parquet"])
def test_a_file_in_int8_is_decoded_with_the_ranges_beside_it(ending: str, embedder: Embedder, sentences: list[str], tmp_path: Path):
    path = tmp_path / f"vectors{ending}"
    made = encode_to_file(embedder, sentences, path, dtype="int8", window_texts=5)
    assert made.ranges == ranges_file(path) and made.ranges.name == f"vectors{ending}.ranges.json"
    ranges = Int8Ranges.load(made.ranges)
    expected = embedder.encode(sentences)
    np.testing.assert_allclose(ranges.low, expected[:5].min(axis=0), atol=1e-6)  # of the first window
    stored = _read(path)
    assert stored.dtype == np.int8
    clipped = np.clip(expected, ranges.low, ranges.high)
    assert (np.abs(decoded(stored, ranges=ranges) - clipped) <= 0.51 * (ranges.high - ranges.low) / 255 + 1e-6).all()


def test_given_ranges_are_used_and_warned_of_where_they_clip(
    embedder: Embedder, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from tain.foundation.progress import Progress

    narrow = Int8Ranges(np.full(32, -1e-3, np.float32), np.full(32, 1e-3, np.float32))
    made = encode_to_file(embedder, sentences, tmp_path / "a.npy", dtype="int8", int8_ranges=narrow, progress=Progress("lines"))
    assert made.ranges is not None
    np.testing.assert_array_equal(Int8Ranges.load(made.ranges).low, narrow.low)
    assert "lie outside of the ranges of int8" in capsys.readouterr().err
    with pytest.raises(UserError, match="int8_ranges are given, but dtype is 'float32'"):
        encode_to_file(embedder, sentences, tmp_path / "b.npy", int8_ranges=narrow)
    with pytest.raises(UserError, match="for vectors of 32 numbers, these have 8"):
        encode_to_file(embedder, sentences, tmp_path / "b.npy", dtype="int8", dims=8, int8_ranges=narrow)


def test_ranges_that_exist_are_not_replaced_unasked(embedder: Embedder, sentences: list[str], tmp_path: Path):
    (tmp_path / "a.npy.ranges.json").write_text("mine")
    with pytest.raises(UserError, match=r"a\.npy\.ranges\.json' already exists"):
        encode_to_file(embedder, sentences, tmp_path / "a.npy", dtype="int8")
    encode_to_file(embedder, sentences, tmp_path / "a.npy", dtype="int8", overwrite=True)
    assert Int8Ranges.load(tmp_path / "a.npy.ranges.json").dim == 32


def test_a_resumed_run_keeps_the_ranges_of_its_first_window(embedder: Embedder, sentences: list[str], tmp_path: Path):
    def stopping():
        yield from sentences[:7]
        raise KeyboardInterrupt

    whole, path = tmp_path / "whole.npy", tmp_path / "a.npy"
    encode_to_file(embedder, sentences, whole, dtype="int8", window_texts=3)
    with pytest.raises(KeyboardInterrupt):
        encode_to_file(embedder, stopping(), path, dtype="int8", window_texts=3)
    assert not ranges_file(path).exists()
    encode_to_file(embedder, sentences, path, dtype="int8", window_texts=3, resume=True)
    assert path.read_bytes() == whole.read_bytes()
    assert ranges_file(path).read_bytes() == ranges_file(whole).read_bytes()


def test_a_run_that_is_killed_between_its_two_files_can_be_resumed(
    embedder: Embedder, sentences: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tain.models import encode_to_file as module

    path = tmp_path / "a.npy"
    place = module._place

    def killed(whole: Path, target: Path, *, overwrite: bool) -> None:
        if target == path:
            raise KeyboardInterrupt
        place(whole, target, overwrite=overwrite)

    monkeypatch.setattr(module, "_place", killed)
    with pytest.raises(KeyboardInterrupt):
        encode_to_file(embedder, sentences, path, dtype="int8")
    assert ranges_file(path).exists() and not path.exists() and partial_folder(path).is_dir()
    monkeypatch.undo()
    encode_to_file(embedder, sentences, path, dtype="int8", resume=True)
    assert len(np.load(path)) == len(sentences)


@pytest.fixture(scope="module")
def exported_folder(bert_folder: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bert"
    export(bert_folder, folder, texts=sentences, int8=False)
    return folder


def test_the_command_line_takes_recorded_ranges(
    exported_folder: Path, bert_folder: Path, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "texts.txt").write_text("\n".join(sentences) + "\n")
    out = tmp_path / "v.npy"
    options = ["--output-dtype", "int8", "--int8-ranges", str(exported_folder), "--json", "--quiet"]
    main(["encode", str(exported_folder), str(tmp_path / "texts.txt"), "-o", str(out), *options])
    shown = json.loads(capsys.readouterr().out)
    assert shown["int8_ranges"] == str(ranges_file(out))
    ranges = ExportedEncoder.load(exported_folder).int8_ranges
    assert ranges is not None
    np.testing.assert_array_equal(Int8Ranges.load(ranges_file(out)).low, ranges.low)
    assert _read(out).dtype == np.int8
    with pytest.raises(UserError, match="has no ranges of int8"):
        recorded_ranges(bert_folder)


def test_evaluation_shows_what_each_form_loses(bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rows = ["the sea\tthe deep sea\t5", "the sea\tan old book\t1", "a dog\ta fox\t3", "warm bread\tthe market\t2", "glass\tsand\t4"]
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n")
    base = ["evaluate", str(bert_folder), "--suite", str(tmp_path / "pairs.tsv"), "--resamples", "50", "--quiet", "--dtype", "float32"]
    main([*base, "--output-dtype", "int8", "--output-dtype", "binary", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [each["bytes"] for each in found["forms"]] == [128, 32, 4]
    assert found["forms"][0]["lost"] is None and found["forms"][1]["lost"] == pytest.approx(0.0, abs=20.0)
    assert [each["model"] for each in found["forms"]] == [str(bert_folder), f"{bert_folder} (int8)", f"{bert_folder} (binary)"]
    main([*base, "--dims", "8", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [each["bytes"] for each in found["forms"]] == [128, 32]
    main([*base, "--output-dtype", "float16"])
    assert "bytes a vector" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["evaluate", "lexical", "--suite", str(tmp_path / "pairs.tsv"), "--dims", "8"])
    assert "is a baseline: leave it out" in capsys.readouterr().err


def test_bytes_are_counted():
    assert [vector_bytes(384, dtype) for dtype in ("float32", "float16", "int8", "binary")] == [1536, 768, 384, 48]
    assert vector_bytes(9, "binary") == 2


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)["vectors"]
    from pyarrow import parquet

    return np.stack(parquet.read_table(path)["vector"].to_numpy())
