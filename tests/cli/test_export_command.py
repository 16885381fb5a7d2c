import json
from pathlib import Path

import numpy as np
import pytest

from tain.cli.main import main
from tain.models.embedder import Embedder


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_an_exported_folder_is_encoded_in_each_backend(
    bert_folder: Path, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(sentences) + "\n")
    out = str(tmp_path / "out")
    main(["export", str(bert_folder), "-o", out, "--texts", str(texts), "--min-cosine", "0.9", "--json", "--quiet"])
    shown = json.loads(capsys.readouterr().out)
    assert shown["folder"] == out and shown["check"]["float32"]["largest_difference"] < 1e-4
    assert set(shown["bytes"]) == {"onnx/model.onnx", "onnx/model_quantized.onnx", "onnx/model_qint8_avx512_vnni.onnx"}
    found = {}
    for name, more in {"auto": [], "torch": ["--backend", "torch"], "int8": ["--compute-dtype", "int8"]}.items():
        main(["encode", out, str(texts), "-o", str(tmp_path / f"{name}.npy"), "--quiet", *more])
        found[name] = np.load(tmp_path / f"{name}.npy")
    expected = Embedder.load(bert_folder, device="cpu", dtype="float32").encode(sentences)
    np.testing.assert_allclose(found["auto"], expected, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(found["torch"], expected, atol=0.1)
    assert np.abs(found["int8"] - expected).max() > 1e-4
    assert "holds no exported graph" in refused(
        ["encode", str(bert_folder), str(texts), "-o", str(tmp_path / "no.npy"), "--backend", "onnx"], capsys
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--min-cosine", "2"], "min_cosine is 2.0"),
        (["--max-tokens", "4000"], "max_tokens is 4000"),
        (["--language", "de"], "treats all texts alike"),
    ],
)
def test_what_cannot_work_is_one_line_and_leaves_nothing(
    more: list[str], message: str, bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert message in refused(["export", str(bert_folder), "-o", str(tmp_path / "out"), "--quiet", *more], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_bench_prints_a_row_for_each_backend(bert_folder: Path, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tain.recipes.export.recipe import export

    export(bert_folder, tmp_path / "out", texts=sentences, int8=False)
    main(["bench", str(tmp_path / "out"), "--texts", "10", "--repeats", "1", "--threads", "1", "--json", "--quiet"])
    rows = json.loads(capsys.readouterr().out)["backends"]
    assert [(row["backend"], row["dtype"]) for row in rows] == [("torch", "float32"), ("torch", "bfloat16"), ("onnx", "float32")]
    assert [row["is_auto"] for row in rows] == [False, False, True]
    assert rows[2]["cosine"] == pytest.approx(1.0, abs=1e-5) and all(row["short_per_s"] > 0 and row["memory_mb"] > 0 for row in rows)
