import json
from pathlib import Path

import numpy as np
import pytest
import torch

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


def test_sts_of_both_graphs_and_the_points_that_int8_loses(bert_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tain.exported.folder import read_export

    (tmp_path / "data" / "sts").mkdir(parents=True)
    rows = ["the sea\tthe deep sea\t5", "the sea\tan old book\t1", "a dog\ta fox\t3", "warm bread\tthe market\t2"]
    (tmp_path / "data" / "sts" / "sts12.tsv").write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n")
    out = tmp_path / "out"
    main(["export", str(bert_folder), "-o", str(out), "--min-cosine", "0.5", "--sts", str(tmp_path / "data"), "--json", "--quiet"])
    found = json.loads(capsys.readouterr().out)["check"]["sts"]
    assert found["points_lost"] == pytest.approx(found["float32"] - found["int8"]) and set(found) == {"float32", "int8", "points_lost"}
    assert read_export(out, name="out").check["sts"] == found


def test_the_int8_figures_of_each_tower_are_shown(
    bert_folder: Path, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], generator: torch.Generator
):
    from tain.models.rankers import DualRanker

    settings = {"kind": "pooled", "codes": 1, "scale": 1.0, "is_scale_learned": False, "context_tokens": 12, "candidate_tokens": 9}
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    ranker = DualRanker.start(embedder, is_shared=False, generator=generator, **settings)
    (tmp_path / "ranker").mkdir()
    ranker.save(tmp_path / "ranker", record={}, card="# test\n")
    (tmp_path / "texts.txt").write_text("\n".join(sentences) + "\n")
    options = ["--texts", str(tmp_path / "texts.txt"), "--min-cosine", "0.5", "--quiet"]
    main(["export", str(tmp_path / "ranker"), "-o", str(tmp_path / "out"), *options, "--json"])
    check = json.loads(capsys.readouterr().out)["check"]
    assert set(check["towers"]) == {"context", "candidate"}
    assert all(0.5 <= tower["int8"]["mean_cosine"] <= 1.0 for tower in check["towers"].values())
    main(["export", str(tmp_path / "ranker"), "-o", str(tmp_path / "again"), *options])
    shown = capsys.readouterr().out
    assert "context tower, int8: mean cosine" in shown and "candidate tower, int8: mean cosine" in shown


def test_a_bench_prints_a_row_for_each_backend(bert_folder: Path, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from tain.recipes.export.recipe import export

    export(bert_folder, tmp_path / "out", texts=sentences, int8=False)
    main(["bench", str(tmp_path / "out"), "--texts", "10", "--repeats", "1", "--threads", "1", "--json", "--quiet"])
    rows = json.loads(capsys.readouterr().out)["backends"]
    assert [(row["backend"], row["dtype"]) for row in rows] == [("torch", "float32"), ("torch", "bfloat16"), ("onnx", "float32")]
    assert [row["is_auto"] for row in rows] == [False, False, True]
    assert rows[2]["cosine"] == pytest.approx(1.0, abs=1e-5) and all(row["short_per_s"] > 0 and row["memory_mb"] > 0 for row in rows)
