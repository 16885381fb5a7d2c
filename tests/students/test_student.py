"""Students without torch: outputs, the command line, and invalid input."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from tain.cli.main import main
from tain.foundation.errors import NotFiniteError, UserError
from tain.recipes.distil.recipe import distil
from tain.students.inputs import HashedReader
from tain.students.student import Student, is_student
from tain.text.records import Example

SMALL = {"features": 64, "bottleneck": 16, "state": 12, "layers": 2, "batch_texts": 8, "epochs": 1, "held_out": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def embedding_student(bert_folder, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "embedding"
    distil(bert_folder, sentences, folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def tagging_student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "tagging"
    examples = [Example(f"go to {city}", "go", ("O", "O", "B-city")) for city in "abcdefghijkl"]
    distil("none", examples, folder, task="tag", max_tokens=5, **SMALL)
    return folder


def without_torch(code: str) -> str:
    """Run code in a Python that has no torch, no transformers and no onnx."""
    blocked = "import sys\nfor name in ('torch', 'transformers', 'onnx', 'sentence_transformers'): sys.modules[name] = None\n"
    done = subprocess.run([sys.executable, "-c", blocked + code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_batches_and_order_change_no_vector(embedding_student, sentences, backend):
    student = Student.load(embedding_student, backend=backend)
    together = student.encode(sentences)
    np.testing.assert_allclose(student.encode(sentences, batch_tokens=1), together, atol=1e-5)
    np.testing.assert_allclose(student.encode(sentences[::-1])[::-1], together, atol=1e-5)
    lengths = np.linalg.norm(student.encode(sentences, normalize=True), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)
    assert student.encode([]).shape == (0, student.dim)


def test_long_texts_are_cut_or_refused_and_never_split(embedding_student, sentences):
    student = Student.load(embedding_student)
    limit = student.max_tokens or 0
    fits, long = " ".join(["sea"] * limit), " ".join(["sea"] * (limit + 1))
    np.testing.assert_array_equal(student.encode([fits], truncation="error"), student.encode([fits]))
    student.encode([long, fits])
    assert student.truncated == 1
    with pytest.raises(UserError, match=rf"text 1 \('sea sea.*\) has more than {limit} tokens, and a student's limit is fixed"):
        student.encode([fits, long], truncation="error")
    with pytest.raises(UserError, match="does not split it: let truncation be cut or error"):
        student.encode([fits], truncation="mean-of-chunks")


def test_a_student_is_refused_in_torch(embedding_student, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("the sea\n")
    with pytest.raises(SystemExit):
        main(["encode", str(embedding_student), str(tmp_path / "texts.txt"), "-o", str(tmp_path / "v.npy"), "--backend", "torch"])
    assert "is a student, which runs in onnxruntime: leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_the_features_of_a_token_are_asked_for_once(embedding_student, sentences, backend, monkeypatch):
    student, asked = Student.load(embedding_student, backend=backend), []
    plain = HashedReader.rows_of
    monkeypatch.setattr(HashedReader, "rows_of", lambda reader, tokens: asked.extend(tokens) or plain(reader, tokens))
    first = student.encode(sentences[:5])
    with pytest.raises(UserError, match="has no tokens"):
        student.encode(["quite new words", ""])  # met, and never run
    again = student.encode(sentences)
    alone = student.encode(["new words quite"])
    assert len(asked) == len(set(asked)) + 3  # those three twice
    np.testing.assert_allclose(first, again[:5], atol=1e-6)
    fresh = Student.load(embedding_student, backend=backend)
    np.testing.assert_allclose(fresh.encode(sentences), again, atol=1e-6)
    np.testing.assert_allclose(fresh.encode(["new words quite"]), alone, atol=1e-6)


def test_a_student_encodes_and_is_evaluated_without_torch(embedding_student, sentences, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(sentences), encoding="utf-8")
    rows = [f"{one}\t{other}\t{index}" for index, (one, other) in enumerate(pairwise(sentences))]
    (tmp_path / "pairs.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]), encoding="utf-8")
    without_torch(
        "from tain.cli.main import main\n"
        f"main(['encode', {str(embedding_student)!r}, {str(tmp_path / 'texts.txt')!r}, '-o', {str(tmp_path / 'v.npy')!r}, '--quiet'])"
    )
    np.testing.assert_allclose(np.load(tmp_path / "v.npy"), Student.load(embedding_student).encode(sentences), atol=1e-6)
    said = without_torch(
        "from tain.cli.main import main\n"
        f"main(['evaluate', {str(embedding_student)!r}, '--suite', {str(tmp_path / 'pairs.tsv')!r}, '--resamples', '50', '--json', '--quiet'])"
    )
    assert json.loads(said)["models"][0]["name"] == str(embedding_student)


def test_numpy_alone_runs_a_student(embedding_student, sentences):
    said = without_torch(
        "sys.modules['onnxruntime'] = None\n"
        "from tain.students.student import Student\n"
        f"print(Student.load({str(embedding_student)!r}, backend='numpy').encode({sentences[:2]!r}).shape)"
    )
    assert said.strip() == f"(2, {Student.load(embedding_student).dim})"


def test_every_token_has_a_tag_and_those_beyond_the_limit_are_outside(tagging_student):
    student = Student.load(tagging_student)
    said = student.predict(["go to a", "go to a and then to b and to c"])
    short, long = (one.tags or [] for one in said)
    assert (len(short), len(long)) == (3, 10)
    assert long[5:] == ["O"] * 5
    assert student.truncated == 1
    assert said[0].label == "go"


# ---- text that is still being typed


@pytest.fixture(scope="module")
def forward_student(tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "forward"
    examples = [Example(f"{verb} to {city} now", verb, ("O", "O", "B-city", "O")) for city in "abcdefghijkl" for verb in ("go", "fly")]
    distil("none", examples, folder, task="tag", forward_only=True, max_tokens=6, **(SMALL | {"epochs": 4}))
    return folder


@pytest.mark.parametrize("pieces", [["g", "o", " t", "o a", " n", "ow"], ["fly to b ", "", " now and for ever and a day"], ["go to a now"]])
def test_streaming_gives_at_each_point_the_outputs_of_the_text_so_far(forward_student, pieces):
    student = Student.load(forward_student, backend="numpy")
    typed, text = student.stream(), ""
    for piece in pieces:
        typed.type(piece)
        text += piece
        said, whole = typed.predict(), student.predict([text])[0]
        assert said == typed.predict()  # looking changes nothing
        assert (said.label, said.tags) == (whole.label, whole.tags)
        assert said.chance == pytest.approx(whole.chance, abs=0.05)  # a state between two steps may round either way


def test_vectors_of_a_text_being_typed_are_those_of_its_beginning(bert_folder, sentences, tmp_path):
    distil(bert_folder, sentences, tmp_path / "student", forward_only=True, kernel_width=3, **SMALL)
    student = Student.load(tmp_path / "student", backend="numpy")
    typed, text = student.stream(), ""
    for piece in ("The quick, ", "brown fo", "x jumps."):
        typed.type(piece)
        text += piece
        np.testing.assert_allclose(typed.encode(), student.encode([text])[0], atol=0.02)


def test_a_beginning_costs_nothing_again(forward_student, monkeypatch):
    typed = Student.load(forward_student, backend="numpy").stream()
    read = []
    kept = typed._graph.read_on
    monkeypatch.setattr(typed._graph, "read_on", lambda past, codes: read.append(len(codes)) or kept(past, codes))
    typed.type("go to a ")
    typed.type("now ")
    assert read == [1, 1, 1, 1]


def test_a_token_that_is_typed_again_is_known(forward_student, monkeypatch):
    student, asked, plain = Student.load(forward_student, backend="numpy"), [], HashedReader.rows_of
    monkeypatch.setattr(HashedReader, "rows_of", lambda reader, tokens: asked.extend(tokens) or plain(reader, tokens))
    for _ in range(2):
        typed = student.stream()
        typed.type("go to a to go ")
        typed.predict()
    assert sorted(asked) == ["<EOS>", "a", "go", "to"]


def test_students_that_cannot_be_streamed_are_refused(forward_student, tagging_student, embedding_student):
    with pytest.raises(UserError, match=r"does not read forwards only.*: distil with --forward-only"):
        Student.load(tagging_student, backend="numpy").stream()
    with pytest.raises(UserError, match="load it with backend='numpy' to stream"):
        Student.load(forward_student).stream()
    with pytest.raises(UserError, match="was distilled to tag, so it has no vectors"):
        Student.load(forward_student, backend="numpy").stream().encode()


# ---- refusals


def test_what_a_student_cannot_do_is_refused(embedding_student, tagging_student, unchecked):
    with pytest.raises(UserError, match="was distilled to tag, so it has no vectors"):
        Student.load(tagging_student).encode(["a"])
    student = Student.load(embedding_student)
    with pytest.raises(UserError, match="was distilled to embed, so it has no labels"):
        student.predict(["a"])
    with pytest.raises(UserError, match="treats all texts alike: remove it"):
        student.encode(["a"], language="en")
    with pytest.raises(UserError, match="text 1 is int, not text"):
        student.encode(["a", 3])
    with pytest.raises(UserError, match="backend is 'abacus'"):
        Student.load(embedding_student, backend="abacus")


@pytest.mark.parametrize("missing", ["projection.json", "tain.json", "student.onnx"])
def test_a_folder_that_is_not_whole_is_refused(embedding_student, missing, tmp_path):
    shutil.copytree(embedding_student, tmp_path / "student")
    (tmp_path / "student" / missing).unlink()
    assert is_student(tmp_path / "student")  # what is left of one
    with pytest.raises(UserError, match="that tain distil wrote"):
        Student.load(tmp_path / "student")


def test_broken_files_beside_the_graph_are_refused(embedding_student, bert_folder, sentences, tmp_path):
    shutil.copytree(embedding_student, tmp_path / "student")
    (tmp_path / "student" / "tain.json").write_text('{"kind": "encoder", "format": 1}')
    with pytest.raises(UserError, match=r"tain\.json' does not describe a student"):
        Student.load(tmp_path / "student")
    record = json.loads((embedding_student / "tain.json").read_text())
    for damage in ({"dim": "8"}, {"labels": 5}):
        (tmp_path / "student" / "tain.json").write_text(json.dumps(record | damage))
        with pytest.raises(UserError, match=r"has a damaged tain.json: give the whole folder that tain distil wrote"):
            Student.load(tmp_path / "student")
    distil(bert_folder, sentences, tmp_path / "static", student="static", epochs=0, held_out=0, batch_texts=8, device="cpu")
    (tmp_path / "static" / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer\.json' cannot be read"):
        Student.load(tmp_path / "static")
    (tmp_path / "static" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"tokenizer\.json' does not exist"):
        Student.load(tmp_path / "static")


def test_files_of_different_students_are_refused(embedding_student, tmp_path):
    shutil.copytree(embedding_student, tmp_path / "student")
    path = tmp_path / "student" / "projection.json"
    whole = path.read_text()
    for was, other in (('"features": 64', '"features": 65'), ('"ngram_features": 32', '"ngram_features": 16')):
        assert was in whole
        path.write_text(whole.replace(was, other))
        with pytest.raises(UserError, match="the files come from different students"):
            Student.load(tmp_path / "student")
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(UserError, match="has version 3, but this tain reads 2"):
        Student.load(tmp_path / "student")


def test_a_dim_that_is_not_the_graphs_is_refused(embedding_student, tmp_path):
    shutil.copytree(embedding_student, tmp_path / "student")
    path = tmp_path / "student" / "tain.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"dim": record["dim"] + 1}))
    with pytest.raises(UserError, match="the files come from different students"):
        Student.load(tmp_path / "student")


def test_a_static_student_shares_no_batch_between_a_book_and_short_texts(bert_folder, sentences, tmp_path):
    distil(bert_folder, sentences, tmp_path / "static", student="static", epochs=0, held_out=0, batch_texts=8, device="cpu")
    student = Student.load(tmp_path / "static")
    assert student._reader.estimate("漢" * 4000) == 2000
    assert student._reader.estimate("glass and sand") == 3
    assert student._reader.estimate("x" * 800) == 100
    with pytest.raises(UserError, match=r"holds half a character \(a lone surrogate\)"):
        student.encode(["a \ud800 b"])


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_threads_take_turns(embedding_student, backend):
    """Each batch has words that no other has, so a token kept under another's number would show at once and later."""
    student = Student.load(embedding_student, backend=backend, threads=1)
    batches = [[f"w{number} x{number + index} y{index}" for index in range(6)] for number in range(100, 160)]
    switching_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            found = list(threads.map(student.encode, batches))
    finally:
        sys.setswitchinterval(switching_s)
    fresh = Student.load(embedding_student, backend=backend, threads=1)
    for batch, vectors in zip(batches, found, strict=True):
        np.testing.assert_allclose(vectors, fresh.encode(batch), atol=1e-6)
        np.testing.assert_allclose(student.encode(batch), vectors, atol=1e-6)


def test_labels_of_another_student_are_refused(tagging_student, tmp_path):
    shutil.copytree(tagging_student, tmp_path / "student")
    path = tmp_path / "student" / "tain.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"tags": record["tags"][:-1]}))
    with pytest.raises(UserError, match=r"has 2 outputs for tokens, but tain.json names 1: the files come from different students"):
        Student.load(tmp_path / "student")
    for broken in ({"format": "2"}, {"task": "paint"}):
        path.write_text(json.dumps(record | broken))
        with pytest.raises(UserError, match=r"has a damaged tain.json: give the whole folder that tain distil wrote"):
            Student.load(tmp_path / "student")


@pytest.mark.parametrize("backend", ["onnx", "numpy"])
def test_a_text_without_tokens_is_refused_by_every_student(embedding_student, tagging_student, backend):
    for blank in ("", " ", "\t"):
        with pytest.raises(UserError, match="has no tokens for student"):
            Student.load(embedding_student, backend=backend).encode(["a text", blank])
    with pytest.raises(UserError, match="has no tokens for student"):
        Student.load(tagging_student, backend=backend).predict(["a text", "  "])


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_student_that_gives_numbers_that_are_not_finite_is_refused(number, embedding_student, monkeypatch):
    student = Student.load(embedding_student)
    run = student.graph.run
    monkeypatch.setattr(student.graph, "run", lambda arrays: {**run(arrays), "text": np.full_like(run(arrays)["text"], number)})
    with pytest.raises(NotFiniteError, match="gave numbers that are not finite for 2 of 2 texts"):
        student.encode(["a text", "another"])


@pytest.mark.parametrize(
    "change", [{"format": -3}, {"dim": -1}, {"dim": [8]}, {"labels": [1]}, {"normalise": "yes"}, {"config": []}], ids=str
)
def test_every_field_of_a_students_record_is_checked(embedding_student, tmp_path, change):
    shutil.copytree(embedding_student, tmp_path / "student")
    path = tmp_path / "student" / "tain.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=rf"has a damaged tain.json: give the whole folder that tain distil wrote \({next(iter(change))}"):
        Student.load(tmp_path / "student")
