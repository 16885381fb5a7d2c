import json
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.cli.main import main


class FakeEmbedder:
    """Stands in for a loaded model: counts hashed words into as many places as its name says."""

    loaded: list[tuple[str, dict[str, Any]]]
    truncated = 0
    layout = "packed"

    def __init__(self, dim: int) -> None:
        self._dim = dim

    @classmethod
    def load(cls, name: str, **options: Any) -> "FakeEmbedder":
        cls.loaded.append((name, options))
        return cls(int(name.rpartition("-")[2]))

    def encode(self, texts: list[str], *, batch_tokens: int | None = None) -> np.ndarray:
        vectors = np.zeros((len(texts), self._dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in text.split():
                vectors[row, zlib.crc32(word.encode()) % self._dim] += 1
        return vectors


@pytest.fixture(autouse=True)
def fake_models(monkeypatch: pytest.MonkeyPatch) -> type[FakeEmbedder]:
    FakeEmbedder.loaded = []
    monkeypatch.setattr("tain.models.embedder.Embedder", FakeEmbedder)
    return FakeEmbedder


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    rng = np.random.default_rng(2)
    lines = ["sentence1\tsentence2\tscore"]
    for _ in range(30):
        left = [f"word{n}" for n in rng.integers(0, 40, size=6)]
        kept = int(rng.integers(0, 7))
        right = left[:kept] + [f"word{n}" for n in rng.integers(0, 40, size=6 - kept)]
        lines.append(f"{' '.join(left)}\t{' '.join(right)}\t{kept}")
    path = tmp_path / "pairs.tsv"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exited:
        main(["evaluate", *arguments])
    assert exited.value.code == 2
    out, error = capsys.readouterr()
    assert out == "" and error.count("\n") == 1
    return error


def test_results_go_to_stdout_and_progress_to_stderr(pairs: str, capsys: pytest.CaptureFixture[str]):
    main(["evaluate", "model-128", "model-4", "--suite", pairs, "--resamples", "50"])
    out, error = capsys.readouterr()
    assert "pairs" in out and "model-4" in out and "model-128 on Own sets, pairs" in " ".join(out.split())
    assert "encoding with model-128" in error and "encoding" not in out


def test_intervals_do_not_depend_on_the_folder_a_table_lies_in(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    moved = tmp_path / "elsewhere" / Path(pairs).name
    moved.parent.mkdir()
    moved.write_bytes(Path(pairs).read_bytes())
    intervals = []
    for index in (pairs, str(moved)):
        main(["evaluate", "model-64", "--suite", index, "--resamples", "20", "--json"])
        (row,) = json.loads(capsys.readouterr().out)["suites"][0]["groups"][0]["rows"]
        intervals.append(row["figures"])
    assert intervals[0] == intervals[1]


def test_figures_are_written_as_json_and_drawn_as_svg(pairs: str, tmp_path: Path):
    figures, chart = tmp_path / "new" / "figures.json", tmp_path / "chart.svg"
    main(["evaluate", "model-64", "--suite", pairs, "--resamples", "20", "-o", str(figures), "--chart", str(chart), "--quiet"])
    assert json.loads(figures.read_text())["models"][0]["name"] == "model-64"
    assert ElementTree.fromstring(chart.read_text()).tag.endswith("svg")


def test_json_prints_everything_as_one_object(pairs: str, capsys: pytest.CaptureFixture[str]):
    main(["evaluate", "model-64", "--suite", pairs, "--resamples", "20", "--json"])
    out, error = capsys.readouterr()
    assert json.loads(out)["resamples"] == 20
    assert all(json.loads(line)["event"] for line in error.splitlines())


def test_options_reach_the_model(pairs: str, fake_models: type[FakeEmbedder]):
    options = ["--pooling", "cls", "--max-tokens", "32", "--device", "cpu", "--dtype", "float32", "--batch-tokens", "512", "--quiet"]
    main(["evaluate", "model-64", "--suite", pairs, "--resamples", "5", *options])
    assert fake_models.loaded == [
        ("model-64", {"pooling": "cls", "max_tokens": 32, "device": "cpu", "dtype": "float32", "trust_remote_code": False})
    ]


def test_geometry_reads_texts_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = tmp_path / "texts.txt"
    texts.write_text("".join(f"word{n} word{n + 1} and word{n} word{n + 2}\n" for n in range(20)))
    main(["evaluate", "model-64", "--suite", "label-free", "--texts", str(texts), "--resamples", "20"])
    assert "uniformity ↓" in capsys.readouterr().out


def test_without_data_it_says_what_to_give_and_loads_no_model(capsys: pytest.CaptureFixture[str], fake_models: type[FakeEmbedder]):
    assert "suite sts needs data, but none was given: give --data DIR" in refusal(["model-64"], capsys)
    assert fake_models.loaded == []


@pytest.mark.parametrize("more", [[], ["--suite", "label-free", "--texts", "some.txt"]])
def test_a_split_of_what_has_none_is_refused(
    more: list[str], pairs: str, capsys: pytest.CaptureFixture[str], fake_models: type[FakeEmbedder]
):
    error = refusal(["model-64", "--suite", pairs, *more, "--split", "dev"], capsys)
    assert "split is 'dev', but your own tables and label-free are not split: leave it out" in error
    assert fake_models.loaded == []


def test_a_taken_output_is_refused_before_any_work(pairs: str, capsys: pytest.CaptureFixture[str], fake_models: type[FakeEmbedder]):
    assert "already exists" in refusal(["model-64", "--suite", pairs, "--chart", pairs], capsys)
    assert fake_models.loaded == []


def test_overwrite_replaces_the_files(pairs: str, tmp_path: Path):
    target = tmp_path / "figures.json"
    target.write_text("old")
    main(["evaluate", "model-64", "--suite", pairs, "--resamples", "5", "-o", str(target), "--overwrite", "--quiet"])
    assert json.loads(target.read_text())["split"] == "test"


def test_one_model_a_language_is_told_each_texts_language(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    rng = np.random.default_rng(5)
    (tmp_path / "bli").mkdir()
    for part in ("train", "test"):
        lines = ["en\tde", *(f"{word} x\t{word} y" for word in (f"w{n}" for n in rng.integers(0, 90, 40)))]
        (tmp_path / "bli" / f"en-de.{part}.tsv").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    main(["evaluate", "en=model-64,de=model-64", "--suite", "bli_en-de", "--data", str(tmp_path), "--resamples", "10", "--json", "--quiet"])
    report = json.loads(capsys.readouterr().out)
    assert report["models"][0]["name"] == "en=model-64,de=model-64"
    assert report["suites"][0]["groups"][0]["rows"][0]["figures"][0]["value"] > 20


def test_word_vectors_in_text_are_a_model(tmp_path: Path, pairs: str, capsys: pytest.CaptureFixture[str]):
    words = tmp_path / "words.vec"
    rng = np.random.default_rng(5)
    words.write_text("".join(f"word{n} {' '.join(map(str, rng.normal(size=30).round(3)))}\n" for n in range(40)))
    main(["evaluate", str(words), "--suite", pairs, "--resamples", "10", "--json"])
    assert json.loads(capsys.readouterr().out)["suites"][0]["groups"][0]["rows"][0]["figures"][0]["value"] > 30


def test_a_model_by_language_is_told_the_language_of_an_own_table(pairs: str, capsys: pytest.CaptureFixture[str]):
    by_language = "en=model-64,es=model-64"
    assert "have no given language: give --language" in refusal([by_language, "--suite", pairs, "--quiet"], capsys)
    refused = refusal([by_language, "--suite", pairs, "--quiet", "--language", "en,tr"], capsys)
    assert "supports en, es, but there are texts in tr" in refused
    main(["evaluate", by_language, "--suite", pairs, "--resamples", "10", "--language", "en,es", "--quiet"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["m", "--suite", "PAIRS", "--texts", "PAIRS"], "texts and level only apply to the suite label-free: leave them out"),
        (["m", "--suite", "PAIRS", "--level", "word"], "texts and level only apply to the suite label-free"),
        (["en=model-64,de", "--suite", "PAIRS"], "'de' is not LANGUAGE=MODEL"),
        (["en=model-64,en=model-32", "--suite", "PAIRS"], "each language once"),
        (["missing.vec", "--suite", "PAIRS"], "'missing.vec' does not exist"),
        (["model-64", "--suite", "PAIRS", "--language", "en,de,fr"], "language is 'en,de,fr'"),
        (["model-64", "--suite", "transfer", "--data", "."], "none of the sets of 'transfer' is in '.'"),
        (["model-64", "--suite", "stz"], "suite is 'stz'"),
        (["model-64", "./nowhere", "--suite", "PAIRS"], "'./nowhere' does not exist"),
        (["model-64", "--suite", "PAIRS", "--batch-tokens", "0"], "batch_tokens is 0"),
        (["model-64", "--suite", "PAIRS", "--resamples", "0"], "resamples is 0"),
        (["model-64", "--suite", "label-free"], "needs texts"),
        (["model-64", "--suite", "missing.tsv"], "missing.tsv"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(arguments: list[str], words: str, pairs: str, capsys: pytest.CaptureFixture[str]):
    assert words in refusal([pairs if argument == "PAIRS" else argument for argument in arguments], capsys)


# ---- baselines


def test_baselines_stand_beside_models(pairs: str, capsys: pytest.CaptureFixture[str]):
    main(["evaluate", "model-64", "lexical", "characters", "static:tain-mini", "--suite", pairs, "--resamples", "5", "--json", "--quiet"])
    report = json.loads(capsys.readouterr().out)
    assert [model["name"] for model in report["models"]] == ["model-64", "lexical", "characters", "static:tain-mini"]
    (row,) = report["suites"][0]["groups"][0]["rows"]
    assert all(figure["value"] is not None for figure in row["figures"])


def test_baselines_alone_need_no_torch(pairs: str):
    import subprocess
    import sys

    code = "import sys; sys.modules['torch'] = sys.modules['transformers'] = None; from tain.cli.main import main; main(sys.argv[1:])"
    command = [
        sys.executable,
        "-c",
        code,
        "evaluate",
        "lexical",
        "characters",
        "static:tain-mini",
        "--suite",
        pairs,
        "--resamples",
        "5",
        "--quiet",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "static:tain-mini" in done.stdout


def test_fit_texts_reach_the_baselines(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    texts = tmp_path / "texts.txt"
    texts.write_text("word1 word2 word3\nword1 word5\n")
    found = []
    for more in ([], ["--fit-texts", str(texts)]):
        main(["evaluate", "lexical", "--suite", pairs, "--resamples", "5", "--json", "--quiet", *more])
        found.append(json.loads(capsys.readouterr().out)["suites"][0]["groups"][0]["rows"][0]["figures"][0]["value"])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["static:"], "names no model with input embeddings: give static:tain-mini"),
        (["static:words.vec"], "word vectors are already static: give words.vec"),
        (["static:./nowhere"], "model './nowhere' does not exist"),
        (["static:lexical"], "model is 'lexical', a baseline"),
        (["en=lexical,de=model-4"], "a baseline treats all languages the same way: give lexical alone"),
        (["en=characters,de=model-4"], "a baseline treats all languages the same way: give characters alone"),
    ],
)
def test_baselines_that_cannot_be_made_are_refused(
    models: list[str], message: str, pairs: str, capsys: pytest.CaptureFixture[str], fake_models: type[FakeEmbedder]
):
    assert message in refusal(["model-64", *models, "--suite", pairs], capsys)
    assert fake_models.loaded == []


def test_a_static_student_is_refused(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    student = tmp_path / "student"
    student.mkdir()
    (student / "tain.json").write_text('{"kind": "student"}')
    assert "a student has no input embeddings" in refusal([f"static:{student}", "--suite", pairs], capsys)


@pytest.mark.parametrize("name", ["lexical", "characters"])
def test_a_folder_called_like_a_baseline_is_told_from_it(
    name: str, pairs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert f"give ./{name} for the folder" in refusal([name, "--suite", pairs], capsys)
    from tain.models.saved import locate

    assert Path(locate(f"./{name}")) == Path(name)


def test_fit_texts_without_a_baseline_are_refused(pairs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "fit_texts only applies to lexical, characters and static:MODEL" in refusal(
        ["model-4", "--suite", pairs, "--fit-texts", "texts.txt"], capsys
    )
