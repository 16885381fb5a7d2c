"""Distillation end to end on tiny models: every task, teacher and student; resume; and every refusal."""

import json
import math
import zlib
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.correction import LanguageCorrection
from tain.models.embedder import Embedder
from tain.recipes.distil import data as distil_data
from tain.recipes.distil import figures as distil_figures
from tain.recipes.distil import trainer as distil_trainer
from tain.recipes.distil.config import PRESETS, DistilConfig
from tain.recipes.distil.data import DistillationData, LabelledTexts, _drawn, gather
from tain.recipes.distil.figures import label_figures, vector_figures
from tain.recipes.distil.recipe import distil
from tain.recipes.distil.teacher import TeacherOutputs, load_teacher
from tain.recipes.distil.trainer import DistilTrainer
from tain.students.student import Student
from tain.text.cleaning import same_text_key
from tain.text.records import Example, Prediction
from tain.training.checkpoint import checkpoint_folder

SMALL: dict[str, Any] = {
    "features": 64,
    "bottleneck": 16,
    "state": 12,
    "layers": 1,
    "batch_texts": 8,
    "epochs": 2,
    "held_out": 8,
    "device": "cpu",
}
STATIC: dict[str, Any] = {"student": "static", "static_dim": 16, "batch_texts": 8, "held_out": 8, "device": "cpu"}

OPENINGS = ["please", "hello", "well now", "ok then", "i say", "dear me"]
CLOSINGS = ["today", "please", "for me", "at noon", "if you can", "right now"]
CITIES = ["rome", "oslo", "lima", "new york", "san jose"]


@pytest.fixture(scope="module")
def texts(sentences):
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    rng = np.random.default_rng(3)
    return [" ".join(rng.choice(words, size=rng.integers(4, 9))) for _ in range(96)]


@pytest.fixture(scope="module")
def flights():
    """Texts with an intent and a slot, which a few rules tell; few are the same."""
    rng = np.random.default_rng(4)
    made = []
    for _ in range(160):
        city = CITIES[int(rng.integers(len(CITIES)))]
        is_flight = rng.random() < 0.5
        opening = f"{rng.choice(OPENINGS)} {'show flights to' if is_flight else 'what is the weather in'}"
        closing = str(rng.choice(CLOSINGS))
        tags = ["B-city", *["I-city"] * (len(city.split()) - 1)]
        outside = [["O"] * len(part.split()) for part in (opening, closing)]
        made.append(Example(f"{opening} {city} {closing}", "flight" if is_flight else "weather", (*outside[0], *tags, *outside[1])))
    return made


def intents_of(examples):
    return np.array([[4.0, -4.0] if example.label == "flight" else [-4.0, 4.0] for example in examples], dtype=np.float32)


def slots_of(examples):
    names = ["B-city", "I-city", "O"]
    return np.array([[8.0 * (name == tag) for name in names] for example in examples for tag in example.tags], dtype=np.float32)


# ---- embed


@pytest.mark.parametrize("settings", [SMALL, STATIC], ids=["pqrnn", "static"])
def test_a_student_of_vectors_is_saved_and_runs_from_its_folder_alone(bert_folder, texts, tmp_path, settings):
    result = distil(bert_folder, texts, tmp_path / "student", **settings)
    assert result.trained.losses[-1] < result.trained.losses[0]
    loaded = Student.load(tmp_path / "student")
    np.testing.assert_array_equal(loaded.encode(texts[:9]), result.student.encode(texts[:9]))
    np.testing.assert_allclose(Student.load(tmp_path / "student", backend="numpy").encode(texts[:9]), loaded.encode(texts[:9]), atol=0.05)
    assert loaded.dim == Embedder.load(bert_folder).dim
    record = json.loads((tmp_path / "student" / "tain.json").read_text())
    assert record["kind"] == "student"
    assert set(record["figures"]) == {"cosine", "pairs", "found"}
    assert record["sizes"]["student_bytes"] == sum(
        path.stat().st_size
        for path in (tmp_path / "student").iterdir()
        if path.name in ("student.onnx", "projection.json", "tokenizer.json", "tain.json")
    )
    assert "Student.load" in (tmp_path / "student" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["student"]  # no checkpoint is left


def test_training_brings_a_student_nearer_to_its_teacher(bert_folder, texts):
    settings = SMALL | {"state": 32, "bottleneck": 32, "features": 256, "learning_rate": 5e-3}
    short, long = (distil(bert_folder, texts, **(settings | {"epochs": epochs})) for epochs in (1, 25))
    assert long.figures["pairs"] > short.figures["pairs"] + 0.1
    assert long.figures["found"] > short.figures["found"]


def test_a_static_student_can_stay_as_it_starts(bert_folder, texts):
    result = distil(bert_folder, texts, epochs=0, **(STATIC | {"static_dim": 32}))
    assert result.trained.steps == 0
    assert result.figures["pairs"] > 0.2  # its teacher's vectors of single tokens already tell texts apart


def test_vectors_on_disk_teach_what_the_model_does(bert_folder, texts, tmp_path):
    vectors = Embedder.load(bert_folder, dtype="float32").encode(texts)
    np.save(tmp_path / "vectors.npy", vectors)
    from_disk, from_model = (distil(teacher, texts, init_words=0, **SMALL) for teacher in (tmp_path / "vectors.npy", bert_folder))
    assert from_disk.trained.losses == pytest.approx(from_model.trained.losses, rel=1e-4)
    with_words = distil(tmp_path / "vectors.npy", texts, token_vectors=str(bert_folder), **SMALL)
    assert with_words.trained.losses == pytest.approx(distil(bert_folder, texts, **SMALL).trained.losses, rel=1e-3)
    assert with_words.trained.losses[0] != from_disk.trained.losses[0]


def test_an_interrupted_run_ends_as_one_that_was_not(own_model, train_on, texts, tmp_path, interrupting):
    settings = SMALL | {"epochs": 3, "checkpoint_every_s": 0.0, "distortion": 0.2, "zoneout": 0.2}
    whole = distil(own_model, texts, tmp_path / "whole", **settings)
    with interrupting(DistilTrainer, 14):
        distil(own_model, texts, tmp_path / "student", **settings)
    with pytest.raises(UserError, match=r"made with other settings \(content of the texts was"):
        distil(own_model, [*texts[1:], "another text"], tmp_path / "student", **settings, resume=True)
    with pytest.raises(UserError, match="would be lost"):
        distil(own_model, texts, tmp_path / "student", **settings)
    resumed = distil(own_model, texts, tmp_path / "student", **settings, resume=True)
    assert resumed.trained.losses == whole.trained.losses
    # the last bit of a loaded moment may round otherwise, and with it a weight between two steps
    np.testing.assert_allclose(resumed.student.encode(texts), whole.student.encode(texts), atol=0.05)
    with interrupting(DistilTrainer, 14):
        distil(own_model, texts, tmp_path / "other", **settings)
    train_on(own_model)
    with pytest.raises(UserError, match="content of the teacher was '"):
        distil(own_model, texts, tmp_path / "other", **settings, resume=True)


def test_a_student_begins_where_another_one_ended(bert_folder, texts, flights, tmp_path):
    settings = SMALL | {"state": 16, "bottleneck": 20, "features": 96, "epochs": 6}
    first = distil(bert_folder, texts, tmp_path / "first", keep_weights=True, separate=False, **settings)
    light = {name: value for name, value in SMALL.items() if name not in ("features", "bottleneck", "state", "layers")} | {"epochs": 1}
    # vectors: everything is taken over, so the first step's loss is about where the other run ended
    again = distil(bert_folder, texts, init_from=str(tmp_path / "first"), learning_rate=1e-5, **light)
    assert again.module.shape == first.module.shape
    assert again.trained.losses[0] < first.trained.losses[0]
    assert np.mean(again.trained.losses) == pytest.approx(np.mean(first.trained.losses[-10:]), rel=0.15)
    forwards = tmp_path / "forwards"
    distil(bert_folder, texts, forwards, keep_weights=True, forward_only=True, kernel_width=3, **SMALL)
    begun = distil(bert_folder, texts, init_from=str(forwards), **light).config
    assert (begun.forward_only, begun.kernel_width) == (True, 3)
    # labels: all but the heads
    fresh = {name: tensor.clone() for name, tensor in first.module.state_dict().items()}
    made = distil("none", flights, init_from=str(tmp_path / "first"), task="classify", learning_rate=1e-6, **light)
    assert made.config.features == 96
    assert made.config.state == 16
    for name, tensor in made.module.named_parameters():
        is_taken = not name.startswith(("text_head", "skip_"))
        assert is_taken == (tensor.shape == fresh[name].shape and bool((tensor - fresh[name]).abs().max() < 1e-3)), name


def test_what_cannot_be_begun_with_is_refused(bert_folder, texts, flights, tmp_path):
    distil(bert_folder, texts, tmp_path / "bare", **SMALL)
    distil(bert_folder, texts, tmp_path / "kept", keep_weights=True, **SMALL)
    assert "has no student.onnx" in refused("none", flights, task="classify", init_from=str(tmp_path))
    assert "has no weights.safetensors to start from: distil it with --keep-weights" in refused(
        "none", flights, task="classify", init_from=str(tmp_path / "bare")
    )
    assert "must have its shape (layers is 3, there 1): leave these settings out" in refused(
        "none", flights, task="classify", layers=3, init_from=str(tmp_path / "kept")
    )
    (tmp_path / "kept" / "weights.safetensors").write_bytes(b"no weights")
    assert "cannot be read" in refused("none", flights, task="classify", init_from=str(tmp_path / "kept"), device="cpu")
    save_file({"attention.weight": np.zeros((1, 24), dtype=np.float32)}, tmp_path / "kept" / "weights.safetensors")
    assert "does not fit its student (bottleneck.weight)" in refused(
        "none", flights, task="classify", init_from=str(tmp_path / "kept"), device="cpu"
    )


def test_a_student_is_begun_with_one_that_reads_alike(bert_folder, texts, tmp_path):
    distil(bert_folder, texts, tmp_path / "kept", keep_weights=True, split="code-point", **SMALL)
    said = refused(bert_folder, texts, init_from=str(tmp_path / "kept"), device="cpu", held_out=8, batch_texts=8)
    assert "must split tokens as it does: give --split code-point" in said


def test_a_damaged_checkpoint_is_told_whatever_the_number_type(bert_folder, texts, tmp_path):
    (tmp_path / ".student.checkpoint").mkdir()
    (tmp_path / ".student.checkpoint" / "state.json").write_text("{")
    assert checkpoint_folder(tmp_path / "student") == tmp_path / ".student.checkpoint"
    assert "is damaged" in refused(bert_folder, texts, tmp_path / "student", resume=True, **SMALL)


def test_more_directions_than_the_vectors_have_are_refused(bert_folder, texts):
    said = refused(bert_folder, texts, **STATIC | {"static_dim": 40, "epochs": 1})
    assert said == "static_dim is 40, but the token vectors have 32 directions: give as many or fewer"


def test_equal_seeds_give_equal_students_and_others_do_not(bert_folder, texts):
    first, again, other = (distil(bert_folder, texts, **SMALL, seed=seed) for seed in (1, 1, 2))
    assert first.trained.losses == again.trained.losses != other.trained.losses


def test_vector_figures_are_perfect_for_the_teacher_itself(rng):
    vectors = rng.normal(size=(20, 6)).astype(np.float32)
    assert vector_figures(3 * vectors, vectors) == pytest.approx({"cosine": 1.0, "pairs": 1.0, "found": 1.0})


def test_vector_figures_of_many_texts_compare_a_part_at_a_time(rng, monkeypatch):
    ours, theirs = rng.normal(size=(2, 50, 6)).astype(np.float32)
    theirs += 2 * ours
    whole = vector_figures(ours, theirs)
    assert 0 < whole["found"] < 1
    monkeypatch.setattr(distil_figures, "_COMPARED", 20)
    parted = vector_figures(ours, theirs)
    assert (parted["found"], parted["cosine"]) == (whole["found"], pytest.approx(whole["cosine"]))
    assert parted["pairs"] == vector_figures(ours[:20], theirs[:20])["pairs"]


def test_an_encoder_corrected_by_language_is_no_teacher(bert_folder, texts, tmp_path):
    corrected = Embedder.load(bert_folder, device="cpu", dtype="float32")
    corrected.correction = LanguageCorrection({"en": np.eye(32, dtype=np.float32)[:1]})
    (tmp_path / "corrected").mkdir()
    corrected.save(tmp_path / "corrected", record={"correction": {"method": "languages"}}, card="")
    assert "training texts have no language" in refused(tmp_path / "corrected", texts, **SMALL)


# ---- classify and tag


def test_intents_and_slots_are_learnt_together_from_logits_on_disk(flights, tmp_path):
    save_file({"intents": intents_of(flights), "slots": slots_of(flights)}, tmp_path / "logits.safetensors")
    bare = [Example(example.text) for example in flights]
    settings = SMALL | {"epochs": 14, "learning_rate": 1e-2, "features": 256, "task": "tag"}
    names = {"labels": ["flight", "weather"], "tags": ["B-city", "I-city", "O"]}
    result = distil(tmp_path / "logits.safetensors", bare, tmp_path / "student", **names, **settings)
    said = Student.load(tmp_path / "student").predict([example.text for example in flights[:20]])
    assert np.mean([one.label == example.label for one, example in zip(said, flights, strict=False)]) > 0.9
    assert np.mean([tuple(one.tags) == example.tags for one, example in zip(said, flights, strict=False)]) > 0.8
    assert result.figures["agreement"] > 0.9
    assert "student_slot_f1" not in result.figures  # nobody has tagged the texts


def test_given_labels_teach_without_a_teacher(flights):
    settings = SMALL | {"epochs": 14, "learning_rate": 1e-2, "features": 256, "augmented_copies": 1}
    result = distil("none", flights, task="tag", **settings)
    assert result.counts["augmented"] > 100
    assert result.figures["student_accuracy"] > 0.9
    assert result.figures["student_slot_f1"] > 0.8
    assert "teacher_accuracy" not in result.figures


@pytest.mark.parametrize(("kind", "task"), [("SequenceClassification", "classify"), ("TokenClassification", "tag")])
def test_a_model_below_its_head_is_the_encoder_that_students_start_from(save_labeller, kind, task):
    folder = save_labeller(kind, ["O", "B-a"])
    teacher = load_teacher(folder, task=task, given=1, labels=None, tags=None, device=torch.device("cpu"), trust_remote_code=False)
    vectors = teacher.embedder.encode(["show flights", "to rome"], normalize=False)
    body, tokenizer = transformers.AutoModel.from_pretrained(folder).eval(), transformers.AutoTokenizer.from_pretrained(folder)
    for text, vector in zip(["show flights", "to rome"], vectors, strict=True):
        with torch.no_grad():
            expected = body(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(dim=1)[0]
        np.testing.assert_allclose(vector, expected, atol=1e-5)


@pytest.mark.parametrize("student", ["pqrnn", "static"])
def test_a_classifier_teaches_labelled_and_unlabelled_texts(save_labeller, flights, student, tmp_path):
    folder = save_labeller("SequenceClassification", ["weather", "flight"])
    settings = SMALL if student == "pqrnn" else STATIC | {"epochs": 1}
    mixed = [example if index % 2 else Example(example.text) for index, example in enumerate(flights)]
    result = distil(folder, mixed, tmp_path / "student", task="classify", **settings)
    assert Student.load(tmp_path / "student").record["labels"] == ["weather", "flight"]  # in the order of the teacher's logits
    assert result.counts["augmented"] > 0
    assert {"student_accuracy", "teacher_accuracy", "agreement"} <= set(result.figures)
    said = result.student.predict(["show flights to rome"])[0]
    assert said.tags is None
    assert said.chance is not None and 0 < said.chance <= 1


def test_a_taggers_logits_are_those_of_each_words_first_piece(save_labeller, flights):
    folder = save_labeller("TokenClassification", ["O", "B-city", "I-city"])
    teacher = load_teacher(folder, task="tag", given=2, labels=None, tags=None, device=torch.device("cpu"), trust_remote_code=False)
    texts = ["show flights to rome", "mirrors"]
    found = teacher.teach(texts, indices=None, progress=Progress.silent()).tokens
    assert found is not None and [part.shape for part in found] == [(4, 3), (1, 3)]
    model = transformers.AutoModelForTokenClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    encoded = tokenizer(texts[0].split(), is_split_into_words=True, return_tensors="pt")
    logits = model(**encoded).logits[0].detach().numpy()
    firsts = [encoded.word_ids(0).index(word) for word in range(4)]
    np.testing.assert_allclose(found[0], logits[firsts], atol=1e-5)
    result = distil(folder, flights, task="tag", **SMALL)
    assert {"teacher_slot_f1", "student_exact"} <= set(result.figures)


def test_a_classifier_beside_a_tagger_labels_the_whole_texts(save_labeller, flights, tmp_path):
    tagger = save_labeller("TokenClassification", ["O", "B-city", "I-city"])
    classifier = save_labeller("SequenceClassification", ["weather", "flight"])
    bare = [Example(example.text) for example in flights]
    result = distil(tagger, bare, tmp_path / "student", task="tag", classifier=classifier, **SMALL)
    said = Student.load(tmp_path / "student")
    assert (said.labels, said.tags) == (("weather", "flight"), ("O", "B-city", "I-city"))
    assert "agreement" in result.figures
    assert result.sizes["teacher_bytes"]
    assert "only applies with a tagger as teacher" in refused(classifier, flights, task="classify", classifier=classifier, **SMALL)


def test_names_of_labels_that_nobody_gives_are_no_outputs(save_labeller, flights):
    tagger = save_labeller("TokenClassification", ["O", "B-city", "I-city"])
    bare = [Example(example.text) for example in flights]
    result = distil(tagger, bare, task="tag", labels=["flight", "weather"], **(SMALL | {"epochs": 1, "augmented_copies": 0}))
    assert result.student.labels == ()
    assert result.student.predict(["show flights"])[0].label is None


class Rule:
    name, labels, tags, reads, size_bytes, embedder = "rule", ("flight", "weather"), None, True, None, None

    def teach(self, texts, *, indices, progress):
        return TeacherOutputs(text=np.array([[8.0, 0.0] if "flights" in text else [0.0, 8.0] for text in texts], dtype=np.float32))


def test_anything_that_labels_texts_can_teach(flights):
    texts = [example.text for example in flights]
    settings = SMALL | {"epochs": 8, "learning_rate": 1e-2, "features": 256}
    result = distil(Rule(), texts, task="classify", **settings)
    assert result.figures["agreement"] > 0.9
    assert "a teacher object has its own" in refused(Rule(), texts, task="classify", labels=["a", "b"], **SMALL)


def test_a_clean_teacher_teaches_a_student_what_noisy_labels_cannot(flights):
    """Papers.md 4f, check 8."""

    class Clean:
        name, labels, tags, reads, size_bytes, embedder = "clean", ("flight", "weather"), None, True, None, None

        def teach(self, texts, *, indices, progress):
            return TeacherOutputs(text=np.array([[4.0, -4.0] if "flights" in text else [-4.0, 4.0] for text in texts], dtype=np.float32))

    rng, turned = np.random.default_rng(5), {"flight": "weather", "weather": "flight"}
    known, unseen = flights[:110], flights[110:]
    noisy = [Example(one.text, turned[one.label] if rng.random() < 0.4 else one.label) for one in known]
    settings = SMALL | {
        "epochs": 20,
        "learning_rate": 1e-2,
        "features": 256,
        "state": 24,
        "held_out": 0,
        "augmented_copies": 0,
        "zoneout": 0.0,
    }

    def accuracy(teacher, **more):
        said = distil(teacher, noisy, task="classify", **settings, **more).student.predict([one.text for one in unseen])
        return np.mean([mine.label == one.label for mine, one in zip(said, unseen, strict=True)])

    taught, untaught = accuracy(Clean(), label_weight=0.0), accuracy("none")
    assert taught == 1.0
    assert untaught < taught - 0.05


def test_held_out_texts_are_those_that_people_have_labelled(flights):
    unlabelled = [Example(f"{one.text} {number}") for number, one in enumerate(flights * 3)]
    config = DistilConfig(task="classify", held_out=50)
    examples = [*unlabelled, *flights]
    different = len({one.text for one in flights})
    order, held = _drawn(examples, config)
    assert held == different // 10
    assert all(examples[index].label for index in order[:held])
    assert _drawn(unlabelled, config)[1] == len(unlabelled) // 10


def test_no_text_that_is_held_out_is_trained_on(flights, monkeypatch):
    seen = []
    step = DistilTrainer.gradient_step

    def watched(self, indices, *, step: int, kept=step):
        seen.extend(self.data.train.examples[index].text for index in indices)
        seen_held.update(example.text for example in self.data.held.examples)
        return kept(self, indices, step=step)

    seen_held: set[str] = set()
    monkeypatch.setattr(DistilTrainer, "gradient_step", watched)
    twice = [*flights, *flights]
    result = distil("none", twice, task="classify", **(SMALL | {"epochs": 1, "augmented_copies": 0}))
    assert len(seen_held) == 8
    assert not seen_held & set(seen)
    assert result.counts["repeated"] >= 8  # the other copies of what was held out


def test_no_changed_copy_is_a_text_that_is_held_out(flights):
    data = gather(
        flights, Rule(), DistilConfig(task="classify", held_out=40, batch_texts=8, augmented_copies=8).resolved(), Progress.silent()
    )
    held = {same_text_key(example.text) for example in data.held.examples}
    made = {same_text_key(example.text) for example in data.train.examples[-data.counts["augmented"] :]}
    assert data.counts["held_out"] == len(held) > 5
    # slots are exchanged among texts, so some copies would have been
    everything = gather(
        flights, Rule(), DistilConfig(task="classify", held_out=0, batch_texts=8, augmented_copies=8).resolved(), Progress.silent()
    )
    assert held & {same_text_key(example.text) for example in everything.train.examples[-everything.counts["augmented"] :]}
    assert not held & made


def test_a_copy_of_other_words_keeps_no_label_that_nobody_gave_it(save_labeller, flights, monkeypatch):
    monkeypatch.setattr(distil_data, "near_words", lambda encoder, examples: {"flights": ["weather"], "weather": ["flights"]})
    tagger = save_labeller("TokenClassification", ["O", "B-city", "I-city"])
    teacher = load_teacher(
        tagger, task="tag", given=len(flights), labels=None, tags=None, device=torch.device("cpu"), trust_remote_code=False
    )
    config = DistilConfig(task="tag", held_out=0, batch_texts=8).resolved()
    data = gather(flights, teacher, config, Progress.silent(), teacher.embedder)
    assert data.counts["augmented"] > 0
    assert (data.train.labels[-data.counts["augmented"] :] == -1).all()
    assert (data.train.labels[: -data.counts["augmented"]] >= 0).all()


def test_figures_count_what_people_said_and_the_teacher_beside_it():
    examples = [Example("fly to oslo", "go", ("O", "O", "B-city")), Example("rain in rome", "weather", ("O", "O", "B-city")), Example("hm")]
    logits = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    held = LabelledTexts(examples, TeacherOutputs(text=logits), np.array([0, 1, -1]), [None, None, None])
    said = [Prediction("go", 1.0, ["O", "O", "B-city"]), Prediction("weather", 1.0, ["O", "O", "O"]), Prediction("go", 1.0, ["O"])]
    found = label_figures(said, DistillationData(held, held, ("go", "weather"), ("B-city", "O"), {}))
    assert found == pytest.approx(
        {
            "student_accuracy": 1.0,
            "student_slot_f1": 2 / 3,
            "student_exact": 0.5,
            "teacher_accuracy": 0.5,
            "agreement": 1 / 3,
        }
    )


def test_what_the_teacher_did_not_read_is_outside():
    examples = [Example("rain in rome", None, ("B-city", "O", "O"))]
    logits = [np.array([[1.0, 0.0], [np.nan, np.nan], [np.nan, np.nan]], dtype=np.float32)]
    held = LabelledTexts(examples, TeacherOutputs(tokens=logits), np.array([-1]), [None])
    found = label_figures([Prediction(None, None, ["O", "O", "O"])], DistillationData(held, held, (), ("B-city", "O"), {}))
    assert (found["teacher_slot_f1"], found["teacher_exact"]) == (1.0, 1.0)


def test_texts_that_people_have_labelled_are_not_left_out_for_others(flights):
    given = [*flights[:30], *(Example(f"{example.text} again") for example in flights[:100])]
    data = gather(
        given,
        Rule(),
        DistilConfig(task="classify", max_texts=40, held_out=8, batch_texts=8, augmented_copies=0).resolved(),
        Progress.silent(),
    )
    assert len(data.train) == 40
    assert sum(bool(example.label) for example in data.train.examples) + sum(bool(example.label) for example in data.held.examples) == 30


# ---- refusals


def refused(*arguments, **settings) -> str:
    with pytest.raises(UserError) as stopped:
        distil(*arguments, **settings)
    return str(stopped.value)


def test_all_wrong_settings_are_refused_at_once(unchecked):
    with pytest.raises(UserError) as stopped:
        DistilConfig(task="sing", student="parrot", temperature=0.0, label_weight=2.0, batch_texts=1, epochs=-1, layers=0)
    for part in (
        "task is 'sing'",
        "student is 'parrot'",
        "temperature is 0.0",
        "label_weight is 2.0",
        "batch_texts is 1",
        "epochs is -1",
        "layers is 0",
    ):
        assert part in str(stopped.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "tag", "student": "static"}, "cannot tag: give --student pqrnn"),
        ({"task": "tag", "separate": True}, "separate and split would split tokens further than their tags"),
        ({"epochs": 0}, "this student starts from random weights"),
        ({"student": "static", "task": "classify", "epochs": 0}, "this student starts from random weights"),
        ({"student": "static", "layers": 2, "distortion": 0.3}, "layers, distortion has no effect with --student static: remove it"),
        ({"label_weight": 0.5}, "label_weight has no effect with --task embed: remove it"),
        ({"task": "tag", "split": "code-point"}, "separate and split would split tokens further"),
        ({"seed": -1}, "seed is -1: give a whole number, 0 or more"),
        ({"seed": 2**63}, "and less than 2 to the power 63"),
        ({"weight_decay": math.nan}, "weight_decay is nan: give 0 or more"),
        ({"vector_weight": math.inf}, "vector_weight is infinite: give a number"),
        ({"learning_rate": math.inf}, "learning_rate is infinite: give a number"),
        ({"checkpoint_every_s": -5.0}, "checkpoint_every_s is -5.0: give 0 seconds or more"),
        ({"features": 64, "ngram_features": 65}, "ngram_features is 65: give 0 to all 64 features"),
        ({"ngram_features": 10241}, "ngram_features is 10241: give 0 to all 10240 features"),
        ({"student": "static", "dtype": "bfloat16"}, "a static student is trained in float32"),
        ({"init_from": "x", "init_words": 7}, "only apply to students that start from random weights"),
        ({"init_from": "x", "token_vectors": "y"}, "only apply to students that start from random weights"),
        (
            {"task": "classify", "augmented_copies": 0, "word_replacement": 0.5},
            "word_replacement changes copies, but augmented_copies 0 makes none",
        ),
        ({"token_vectors": "x", "init_words": 0}, "token_vectors initialise a pqrnn only through init_words"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DistilConfig(**settings)


def test_presets_fill_what_is_not_given():
    config = DistilConfig(task="classify", state=7).resolved()
    assert (config.state, config.layers, config.epochs) == (7, PRESETS["classify"].layers, PRESETS["classify"].epochs)
    assert DistilConfig(features=100).resolved().ngram_features == 50
    assert (config.kernel_width, config.forward_only) == (2, False)
    assert DistilConfig(student="static").resolved().kernel_width is None


def test_logits_that_do_not_match_the_names_are_refused(flights, tmp_path):
    np.save(tmp_path / "logits.npy", intents_of(flights))
    where = (tmp_path / "logits.npy", flights)
    assert "has logits of 2 labels, but 3 names were given" in refused(*where, task="classify", labels=["a", "b", "c"], **SMALL)
    assert "without names: give a file with --labels" in refused(*where, task="classify", **SMALL)
    assert "does not know (flight, weather)" in refused(*where, task="classify", labels=["a", "b"], **SMALL)
    assert "contain 'a' twice" in refused(*where, task="classify", labels=["a", "a"], **SMALL)
    assert "a matrix, which cannot label new texts" in refused(
        *where, task="classify", labels=["flight", "weather"], augmented_copies=1, **SMALL
    )


def test_matrices_of_other_shapes_are_refused(flights, texts, tmp_path):
    np.save(tmp_path / "logits.npy", intents_of(flights[:9]))
    assert "has 9 rows, but there are 96 texts" in refused(tmp_path / "logits.npy", texts, **SMALL)
    save_file({"slots": slots_of(flights)[:-1]}, tmp_path / "slots.safetensors")
    assert "tokens (separated by whitespace): give one row per token" in refused(
        tmp_path / "slots.safetensors", flights, task="tag", tags=["B-city", "I-city", "O"], **SMALL
    )
    assert "needs vectors: use that name" in refused(tmp_path / "slots.safetensors", texts, **SMALL)
    np.save(tmp_path / "bad.npy", np.full((96, 3), np.nan, np.float32))
    assert "give a matrix of finite floating-point numbers" in refused(tmp_path / "bad.npy", texts, **SMALL)
    (tmp_path / "none.npy").write_bytes(b"nothing")
    assert "cannot be read" in refused(tmp_path / "none.npy", texts, **SMALL)


def test_teachers_that_cannot_teach_are_refused(bert_folder, flights, texts):
    idle = {"label_weight": 0.9, "word_replacement": 0.9}
    assert "label_weight, word_replacement has no effect without a teacher" in refused("none", flights, task="classify", **idle, **SMALL)
    assert "vectors can only be learnt from a teacher" in refused("none", texts, **SMALL)
    assert "has no trained head to classify with" in refused(bert_folder, flights, task="classify", **SMALL)
    assert "name an encoder with --token-vectors" in refused("none", flights, task="classify", **STATIC)


def test_a_teacher_whose_outputs_do_not_fit_is_refused(flights):
    class Odd(Rule):
        tags = None

        def __init__(self, lessons, **own):
            self._lessons = lessons
            for name, value in own.items():
                setattr(self, name, value)

        def teach(self, texts, *, indices, progress):
            return self._lessons(texts)

    def rows(count, width):
        return np.zeros((count, width), dtype=np.float32)

    few = Odd(lambda texts: TeacherOutputs(text=rows(len(texts) - 1, 2)))
    assert "rows of 2: give one row per item" in refused(few, flights, task="classify", **SMALL)
    wide = Odd(lambda texts: TeacherOutputs(text=rows(len(texts), 3)))
    assert "of shape (160, 3), which should be 160 rows of 2" in refused(wide, flights, task="classify", **SMALL | {"held_out": 0})
    nameless = Odd(lambda texts: TeacherOutputs(text=rows(len(texts), 2)), labels=None)
    assert "logits of texts without class names" in refused(nameless, flights, task="classify", **SMALL)
    broken = Odd(lambda texts: TeacherOutputs(text=np.where(np.arange(len(texts))[:, None] == 3, np.nan, rows(len(texts), 2))))
    assert "gave 1 of 158 texts nan or infinity" in refused(broken, flights, task="classify", **SMALL)
    double = Odd(lambda texts: TeacherOutputs(text=rows(len(texts), 2).astype(np.float64)))
    distil(double, flights, task="classify", **SMALL)
    short = Odd(lambda texts: TeacherOutputs(tokens=[rows(1, 3) for _ in texts]), labels=None, tags=("B-city", "I-city", "O"))
    assert "logits for the tokens of" in refused(short, flights, task="tag", **SMALL)


def test_a_head_of_the_other_kind_is_refused(save_labeller, flights):
    tagger = save_labeller("TokenClassification", ["O", "B-city", "I-city"])
    classifier = save_labeller("SequenceClassification", ["flight", "weather"])
    bare = [Example(example.text) for example in flights]
    assert "is a tagger, but a classifier is needed" in refused(tagger, bare, task="classify", **SMALL)
    assert "is a classifier, but a tagger is needed" in refused(classifier, bare, task="tag", **SMALL)
    assert "is a tagger, but a classifier is needed" in refused(tagger, bare, task="tag", classifier=tagger, **SMALL)


def test_students_teach_no_students(bert_folder, texts, flights, tmp_path):
    distil("none", flights, tmp_path / "student", task="classify", **SMALL)
    assert "is itself a student" in refused(tmp_path / "student", flights, task="classify", **SMALL)
    assert "is itself a student" in refused(tmp_path / "student", texts, **SMALL)
    assert "a student, which has no word tokens" in refused(bert_folder, texts, token_vectors=str(tmp_path / "student"), **SMALL)


def test_texts_without_tokens_are_refused_before_a_static_student_is_trained(bert_folder, texts, monkeypatch):
    monkeypatch.setattr(DistilTrainer, "train", lambda trainer, **_: pytest.fail("trained"))
    assert "has no tokens for the tokenizer of" in refused(bert_folder, [*texts, "\u200b"], **STATIC)


def test_texts_that_cannot_serve_are_refused(bert_folder, texts, flights):
    assert "text number 2 has no tokens" in refused(bert_folder, [texts[0], "  "], **SMALL)
    assert "there are no texts" in refused(bert_folder, [], **SMALL)
    assert "fewer than a batch of 8: give more texts, or --batch-texts 2" in refused(bert_folder, texts[:5], **SMALL)
    assert "no text has a label" in refused("none", texts, task="classify", **SMALL)
    assert "no text has tags" in refused("none", texts, task="tag", **SMALL)
    assert "no text has a label" in refused("none", texts, task="classify", labels=["a", "b"], **SMALL)
    assert "no text has tags" in refused("none", texts, task="tag", tags=["O", "B-a"], **SMALL)
    wrong = [*flights, Example("two tokens", "flight", ("O",))]
    assert "text number 161 has 2 tokens (separated by whitespace) and 1 tags" in refused("none", wrong, task="tag", **SMALL)
    assert "read character by character" in refused(bert_folder, "one", **SMALL)
    half = [example if index % 2 else Example(example.text) for index, example in enumerate(flights)]
    assert "80 of 160 texts have no label (text number 1 first), and there is no teacher to label them" in refused(
        "none", half, task="classify", **SMALL
    )
    assert "distil has no setting epoch" in refused(bert_folder, texts, epoch=3)


# ---- what it is all for


def test_keywords_are_spotted_among_more_words_than_there_are_parameters():
    """Papers.md 4f, check 9: against a table of the same size, whose few buckets the fillers flood."""
    rng = np.random.default_rng(8)
    keywords = {f"key{number}": "even" if number % 2 == 0 else "odd" for number in range(10)}

    def text(keyword):
        words = [*(f"w{rng.integers(10**9)}" for _ in range(12)), keyword]
        return Example(" ".join(rng.permutation(words)), keywords[keyword])

    examples = [text(str(rng.choice(list(keywords)))) for _ in range(800)]
    unseen = [text(str(rng.choice(list(keywords)))) for _ in range(400)]
    settings = {"features": 128, "ngram_features": 0, "bottleneck": 8, "state": 8, "layers": 1, "kernel_width": 1, "held_out": 0}
    fixed = {"augmented_copies": 0, "distortion": 0.0, "zoneout": 0.0, "learning_rate": 1e-2, "batch_texts": 32, "epochs": 12}
    result = distil("none", examples, task="classify", device="cpu", **settings, **fixed)
    parameters = result.sizes["parameters"] or 0
    different = len({word for example in examples for word in example.text.split()})
    assert different > 4 * parameters
    said = result.student.predict([example.text for example in unseen])
    ours = np.mean([one.label == example.label for one, example in zip(said, unseen, strict=True)])

    dim = 16
    buckets = parameters // dim
    table = torch.nn.EmbeddingBag(buckets, dim, mode="mean")
    head = torch.nn.Linear(dim, 2)
    optimizer = torch.optim.AdamW([*table.parameters(), *head.parameters()], lr=1e-2)

    def ids(some):
        return torch.tensor([[zlib.crc32(word.encode()) % buckets for word in example.text.split()] for example in some])

    def numbers(some):
        return torch.tensor([int(example.label == "odd") for example in some])

    for step in range(12 * 25):
        part = examples[32 * (step % 25) : 32 * (step % 25) + 32]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(table(ids(part))), numbers(part)).backward()
        optimizer.step()
    theirs = (head(table(ids(unseen))).argmax(1) == numbers(unseen)).float().mean().item()
    assert ours > 0.9
    assert ours > theirs + 0.1


def test_a_skip_begins_with_what_words_say_of_labels(flights, tmp_path):
    """Untrained but for the fit, from labels alone and from a teacher's logits."""
    settings = SMALL | {"features": 256, "bottleneck": 64, "epochs": 1, "learning_rate": 1e-9, "held_out": 0}
    np.save(tmp_path / "logits.npy", intents_of(flights))
    texts, labels = [example.text for example in flights], [example.label for example in flights]
    for teacher, names in (("none", None), (tmp_path / "logits.npy", ["flight", "weather"])):
        said = distil(teacher, flights, task="classify", labels=names, **settings).student.predict(texts)
        assert np.mean([one.label == label for one, label in zip(said, labels, strict=True)]) > 0.9
    without = distil("none", flights, task="classify", mean_skip=False, **settings).student.predict(texts)
    assert np.mean([one.label == label for one, label in zip(without, labels, strict=True)]) < 0.8


@pytest.mark.parametrize("known", [0, 1])
def test_a_skip_of_texts_that_hardly_have_labels_is_trained_all_the_same(flights, known):
    few = [Example(one.text, one.label if index < known else None, one.tags) for index, one in enumerate(flights)]
    labels = sorted({one.label for one in flights})
    if known:
        made = distil("none", few, task="tag", labels=labels, **SMALL | {"held_out": 0, "epochs": 1})
        assert made.module.skip_head is not None
    else:
        made = distil("none", few, task="tag", **SMALL | {"held_out": 0, "epochs": 1})
        assert made.module.skip_head is None  # nothing is said of whole texts
    assert np.isfinite(made.trained.losses).all()


def test_a_student_of_labels_begun_with_one_of_vectors_has_a_skip_of_its_own(bert_folder, texts, flights, tmp_path):
    wide = SMALL | {"features": 256, "bottleneck": 64}
    distil(bert_folder, texts, tmp_path / "first", keep_weights=True, separate=False, **wide)
    light = {name: value for name, value in SMALL.items() if name not in ("features", "bottleneck", "state", "layers")} | {"epochs": 1}
    begun = {"init_from": str(tmp_path / "first"), "task": "classify", "learning_rate": 1e-9} | light
    assert distil("none", flights, mean_skip=False, **begun).module.skip_head is None
    said = distil("none", flights, **begun).student.predict([one.text for one in flights])
    assert np.mean([one.label == other.label for one, other in zip(said, flights, strict=True)]) > 0.9


def test_resuming_without_a_folder_is_refused(texts):
    assert "no output is given" in refused("none", texts, resume=True)


def test_resuming_what_is_not_there_is_refused_before_anything_is_loaded(texts, tmp_path):
    assert "there is nothing to resume" in refused("no such teacher", texts, tmp_path / "student", resume=True)


def test_vectors_on_disk_may_be_bfloat16(texts, tmp_path):
    from safetensors.torch import save_file as save_tensors

    generator = torch.Generator().manual_seed(1)
    save_tensors({"vectors": torch.randn(len(texts), 8, generator=generator).bfloat16()}, tmp_path / "vectors.safetensors")
    teacher = load_teacher(
        tmp_path / "vectors.safetensors",
        task="embed",
        given=len(texts),
        labels=None,
        tags=None,
        device=torch.device("cpu"),
        trust_remote_code=False,
    )
    taught = teacher.teach(texts, indices=np.arange(len(texts)), progress=Progress.silent()).text
    assert taught.dtype == np.float32
    assert taught.shape == (len(texts), 8)


# ---- texts that teacher or student cannot tell apart


@pytest.mark.parametrize("student", ["pqrnn", "static"])
def test_texts_with_the_same_tokens_are_no_negatives_of_each_other(bert_folder, texts, student, monkeypatch):
    masks = []
    plain = distil_trainer.contrastive_distillation

    def watched(*vectors, is_same, **settings):
        masks.append(is_same)
        return plain(*vectors, is_same=is_same, **settings)

    monkeypatch.setattr(distil_trainer, "contrastive_distillation", watched)
    twins = ["a caf\u00e9 by the sea", "a cafe by the sea"]  # the uncased teacher drops accents
    settings = {**(SMALL if student == "pqrnn" else STATIC), "held_out": 0, "epochs": 1, "batch_texts": 12}
    settings |= {"init_words": 0} if student == "pqrnn" else {}
    with pytest.warns(
        UserWarning,
        match="2 of 12 texts have the same tokens as others for the teacher or the student, so they are not used as each other's negatives",
    ):
        distil(bert_folder, [*texts[:10], *twins], **settings)
    assert [int(mask.sum()) for mask in masks] == [12 + 2]


def test_a_student_that_reads_less_than_its_teacher_does_not_tell_apart_what_it_cannot(bert_folder, texts):
    long = [f"{texts[0]} {texts[1]} {ending}" for ending in ("today", "tomorrow")]
    with pytest.warns(UserWarning, match="2 of 12 texts have the same tokens as others"):
        distil(bert_folder, [*texts[2:12], *long], **SMALL | {"held_out": 0, "epochs": 1, "init_words": 0, "max_tokens": 8})


def test_equal_rows_of_a_matrix_are_no_negatives_of_each_other(texts, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    vectors[3] = vectors[5]
    np.save(tmp_path / "teacher.npy", vectors)
    with pytest.warns(UserWarning, match="2 of 12 texts have the same tokens as others"):
        distil(tmp_path / "teacher.npy", texts[:12], **SMALL | {"held_out": 0, "epochs": 1, "init_words": 0})
