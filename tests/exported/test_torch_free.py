"""Exported models where torch and transformers are not installed: a process in which importing either of them fails."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tain.models.embedder import Embedder
from tain.recipes.export.recipe import export

_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder
class Missing(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
import importlib.util as found
real = found.find_spec
found.find_spec = lambda name, package=None: None if name in ("torch", "transformers") else real(name, package)
sys.meta_path.insert(0, Missing())
from tain.cli.main import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def exported(bert_folder: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bert"
    export(bert_folder, folder, texts=sentences, int8=False)
    return folder


@pytest.fixture
def texts_file(sentences: list[str], tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("\n".join(sentences) + "\n")
    return tmp_path / "texts.txt"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _WITHOUT, *map(str, arguments)], capture_output=True, text=True, check=False)


def test_encode_writes_torchs_vectors(exported: Path, texts_file: Path, sentences: list[str], tmp_path: Path):
    done = run("encode", exported, texts_file, "-o", tmp_path / "vectors.npy", "--quiet")
    assert done.returncode == 0, done.stderr
    expected = Embedder.load(exported, device="cpu", dtype="float32").encode(sentences)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-5, rtol=1e-4)


def test_the_built_in_model_encodes(texts_file: Path, tmp_path: Path, sentences: list[str]):
    done = run("encode", "tain-mini", texts_file, "-o", tmp_path / "vectors.npy", "--quiet")
    assert done.returncode == 0, done.stderr
    expected = Embedder.load("tain-mini", device="cpu", dtype="float32").encode(sentences)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), expected, atol=1e-4)


def test_evaluate_measures(exported: Path, tmp_path: Path):
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\nthe sea\tthe deep sea\t5\nthe sea\tan old book\t1\na dog\ta fox\t3\n")
    done = run("evaluate", exported, "--suite", tmp_path / "pairs.tsv", "--resamples", 200, "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["models"][0]["name"] == str(exported)


def test_rank_scores_and_searches(exported: Path, texts_file: Path, tmp_path: Path, sentences: list[str]):
    (tmp_path / "pairs.tsv").write_text(f"context\tanswer\n{sentences[0]}\t{sentences[0]}\n{sentences[0]}\t{sentences[5]}\n")
    done = run("rank", "score", exported, tmp_path / "pairs.tsv", "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    found = run(
        *("rank", "search", exported, texts_file, "--index", tmp_path / "index", "--candidates", texts_file, "-k", 2, "--json", "--quiet")
    )
    assert found.returncode == 0, found.stderr
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert len(hits) == len(sentences) and all(len(each["hits"]) == 2 for each in hits)


def test_what_needs_torch_says_so(bert_folder: Path, texts_file: Path, tmp_path: Path):
    done = run("encode", bert_folder, texts_file, "-o", tmp_path / "vectors.npy", "--quiet")
    assert done.returncode == 2
    assert "tain[train]" in done.stderr
