"""What users type first: load any folder, encode, compare, evaluate."""

import subprocess
import sys

import numpy as np
import pytest

import tain
from tain.loading import kind_of_model, load_encoder, load_labeller, load_ranker
from tain.loading import load as load_any
from tain.models.labeller import Labeller
from tain.models.rankers import Ranker
from tain.students.student import Student


@pytest.fixture(scope="module")
def encoder():
    return tain.load("tain-mini", dtype="float32")


@pytest.fixture(scope="module")
def kinds_of_folders(bert_folder, save_labeller, sentences, tmp_path_factory):
    student = tmp_path_factory.mktemp("students") / "student"
    small = {"features": 64, "bottleneck": 16, "state": 12, "layers": 2, "batch_texts": 8, "epochs": 1, "held_out": 0, "device": "cpu"}
    tain.distil(bert_folder, sentences, student, progress=False, **small)
    return {
        "encoder": bert_folder,
        "student": student,
        "classifier": save_labeller("SequenceClassification", ["good", "bad"]),
        "cross-encoder": save_labeller("SequenceClassification", ["score"]),
    }


def test_one_text_gives_one_vector_and_a_list_gives_rows(encoder):
    one, many = encoder.encode("one text"), encoder.encode(["one text", "another"])
    assert one.shape == (encoder.dim,)
    assert many.shape == (2, encoder.dim)
    np.testing.assert_allclose(one, many[0], atol=1e-5)


def test_normalize_gives_unit_vectors(encoder):
    vectors = encoder.encode(["one text", "another"], normalize=True)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_batch_size_changes_no_vector(encoder, size):
    texts = [f"text number {number} of some" for number in range(7)]
    np.testing.assert_allclose(encoder.encode(texts, batch_size=size), encoder.encode(texts), atol=1e-5)


def test_a_batch_size_below_one_is_refused(encoder):
    with pytest.raises(tain.UserError, match="batch_size is 0"):
        encoder.encode(["a", "b"], batch_size=0)


def test_similarity_is_the_matrix_of_cosines(encoder):
    left, right = encoder.encode(["a cat", "a dog", "rain"]), encoder.encode(["a kitten", "snow"])
    found = encoder.similarity(left, right)
    assert found.shape == (3, 2)
    expected = left[1] @ right[0] / np.linalg.norm(left[1]) / np.linalg.norm(right[0])
    assert found[1, 0] == pytest.approx(expected, abs=1e-5)
    assert encoder.similarity(left[0], right).shape == (1, 2)
    assert (encoder.similarity(np.zeros((1, encoder.dim)), right) == 0).all()


@pytest.mark.parametrize("given", [["a text"], "a text"])
def test_similarity_of_texts_is_refused(encoder, given):
    with pytest.raises(tain.UserError, match="similarity compares vectors"):
        encoder.similarity(given, given)


def test_similarity_of_two_widths_is_refused(encoder):
    with pytest.raises(tain.UserError, match="vectors of one encoder"):
        encoder.similarity(np.ones((1, 3)), np.ones((1, 4)))


def test_each_kind_of_folder_is_loaded_as_what_it_is(kinds_of_folders):
    expected = {"encoder": tain.Embedder, "student": Student, "classifier": Labeller, "cross-encoder": Ranker}
    for kind, folder in kinds_of_folders.items():
        assert isinstance(tain.load(folder), expected[kind]), kind
    holds = {"encoder": "encoder", "student": "student", "classifier": "labeller", "cross-encoder": "ranker"}
    assert {kind: kind_of_model(folder) for kind, folder in kinds_of_folders.items()} == holds


def test_a_loader_of_one_kind_refuses_the_others_by_name(kinds_of_folders):
    with pytest.raises(tain.UserError, match="so it predicts no labels"):
        load_labeller(kinds_of_folders["student"])
    with pytest.raises(tain.UserError, match="is a cross-encoder model"):
        load_encoder(kinds_of_folders["cross-encoder"])
    with pytest.raises(tain.UserError, match=r"pooling is 'cls', but .* is a student, where it is fixed"):
        load_encoder(kinds_of_folders["student"], pooling="cls")
    for load in (load_encoder, load_any):
        with pytest.raises(tain.UserError, match=r"backend is 'torch', but .* is a student, which runs in onnxruntime"):
            load(kinds_of_folders["student"], backend="torch")
    assert load_ranker(kinds_of_folders["encoder"], device="cpu", dtype="float32").type == "bi"


def test_telling_what_a_folder_holds_needs_no_torch(kinds_of_folders):
    blocked = "import sys\nfor name in ('torch', 'transformers'): sys.modules[name] = None\nfrom tain.loading import kind_of_model\n"
    folders = [str(folder) for folder in kinds_of_folders.values()]
    code = blocked + f"print([kind_of_model(folder) for folder in {folders!r}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "['encoder', 'student', 'labeller', 'ranker']", done.stderr


def test_one_text_gives_one_vector_of_a_student_too(kinds_of_folders):
    student = tain.load(kinds_of_folders["student"])
    vectors = student.encode(["one text", "another"], batch_size=1)
    np.testing.assert_allclose(student.encode("one text"), vectors[0], atol=1e-6)
    assert student.similarity(vectors, vectors).shape == (2, 2)


def test_a_student_has_no_other_device(kinds_of_folders):
    with pytest.raises(tain.UserError, match="runs on the CPU"):
        tain.load(kinds_of_folders["student"], device="cuda")


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(tain.UserError, match=r"\./nowhere"):
        tain.load("./nowhere")


def test_evaluate_takes_names_and_encoders_and_prints_a_table(tmp_path, encoder):
    table = tmp_path / "pairs.tsv"
    rows = ["a cat\ta kitten\t4", "a cat\ta car\t1", "rain\tsnow\t3", "rain\tbread\t0", "a dog\ta puppy\t5"]
    table.write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n", encoding="utf-8")
    by_name = tain.evaluate(["tain-mini", "lexical"], suite=str(table), resamples=20, progress=False)
    assert [model.name for model in by_name.models] == ["tain-mini", "lexical"]
    assert "lexical" in str(by_name)
    alone = tain.evaluate(encoder, suite=[str(table)], resamples=20, progress=False)
    found = [report.suites[0].groups[0].rows[0].figures[0].value for report in (by_name, alone)]
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_evaluate_names_a_model_that_is_not_there():
    with pytest.raises(tain.UserError, match=r"\./nowhere"):
        tain.evaluate("./nowhere", suite="sts", data="also-nowhere", progress=False)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "13", True])
def test_wrong_seeds_are_refused_by_every_function_in_one_line(seed, tmp_path, unchecked):
    from tain.demo.run import refuse_settings
    from tain.evaluation.mlm import masked_losses
    from tain.evaluation.tagging import measure_tagging
    from tain.inspection.gradients.probe import probe_gradients
    from tain.ranking.evaluation import evaluate_rankers

    texts = ["a text about the sea"] * 3
    calls = {
        "evaluate": lambda: tain.evaluate("tain-mini", "label-free", texts=texts, seed=seed),
        "mirror": lambda: tain.mirror("tain-mini", texts, seed=seed),
        "pretrain": lambda: tain.pretrain("tain-mini", ["no.txt"], tmp_path / "out", seed=seed),
        "distil": lambda: tain.distil("tain-mini", texts, seed=seed),
        "train_ranker": lambda: tain.train_ranker("tain-mini", [("a", "b")], tmp_path / "out", seed=seed),
        "compare": lambda: tain.compare("tain-mini", texts, tmp_path / "out", seed=seed),
        "export": lambda: tain.export("tain-mini", tmp_path / "out", seed=seed),
        "inspect": lambda: tain.inspect("tain-mini", texts, seed=seed),
        "gradients": lambda: probe_gradients("tain-mini", ["no.txt"], seed=seed),
        "masked losses": lambda: masked_losses([], ["no.txt"], seed=seed),
        "taggers": lambda: measure_tagging([], [], seed=seed),
        "rankers": lambda: evaluate_rankers([], None, seed=seed),
        "demo": lambda: refuse_settings(minutes=2.0, sentences=1000, functions=100, seed=seed),
    }
    for name, call in calls.items():
        with pytest.raises(tain.UserError, match=f"seed is {seed!r}: give a whole number"):
            call()
            pytest.fail(name)


def test_all_wrong_options_of_an_evaluation_are_named_at_once(unchecked):
    with pytest.raises(tain.UserError, match=r"resamples is 0.*; seed is -1: .*; split is 'train': give test or dev; level is 'x'"):
        tain.evaluate("tain-mini", "sts", split="train", seed=-1, resamples=0, level="x")
