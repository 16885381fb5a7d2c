"""Transformers classifiers and taggers: their logits, what they say, what is cut, and what is refused."""

import shutil

import numpy as np
import pytest
import transformers

from tain.foundation.errors import UserError
from tain.models.labeller import Labeller


def test_a_classifier_says_what_transformers_says(save_labeller, sentences):
    folder = save_labeller("SequenceClassification", ["no", "yes", "perhaps"])
    labeller = Labeller.load(folder, device="cpu")
    assert (labeller.labels, labeller.tags) == (("no", "yes", "perhaps"), ())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for text, said, logits in zip(sentences, labeller.predict(sentences), labeller.logits(sentences), strict=True):
        alone = model(**tokenizer(text, truncation=True, max_length=40, return_tensors="pt")).logits[0].detach()
        np.testing.assert_allclose(logits, alone.numpy(), atol=1e-5)
        assert said.label == labeller.labels[int(alone.argmax())]
        assert said.chance == pytest.approx(alone.softmax(-1).max().item(), rel=1e-4)
        assert said.tags is None


def test_a_tagger_tags_every_token_and_those_beyond_its_limit_are_outside(save_labeller):
    labeller = Labeller.load(save_labeller("TokenClassification", ["B-a", "I-a"]), device="cpu")
    long = " ".join(["mirror"] * 60)
    short, cut = (said.tags or [] for said in labeller.predict(["a thin mirror", long]))
    assert len(short) == 3 and set(short) <= {"B-a", "I-a"}
    assert len(cut) == 60
    assert cut[-1] == "O" and cut[0] in ("B-a", "I-a")
    assert labeller.truncated == 1


def test_texts_that_just_fit_are_not_counted_as_cut(save_labeller):
    labeller = Labeller.load(save_labeller("SequenceClassification", ["no", "yes"]), device="cpu")
    labeller.predict([" ".join(["a"] * 38), " ".join(["a"] * 39)])  # 40 tokens with both ends, and 41
    assert labeller.truncated == 1


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(save_labeller, sentences, tmp_path):
    folder = shutil.copytree(save_labeller("SequenceClassification", ["no", "yes"]), tmp_path / "model")
    expected = Labeller.load(folder, device="cpu").logits(sentences[:4])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token, tokenizer.pad_token = tokenizer.sep_token, None
    tokenizer.save_pretrained(folder)
    np.testing.assert_allclose(Labeller.load(folder, device="cpu").logits(sentences[:4]), expected, atol=1e-5)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has a tokenizer without a padding token and without an end token: give it one of them"):
        Labeller.load(folder, device="cpu")


def test_what_cannot_label_is_refused(save_labeller, bert_folder):
    with pytest.raises(UserError, match="is neither a classifier nor a tagger: give a student, or a fine-tuned"):
        Labeller.load(bert_folder)
    with pytest.raises(UserError, match="has no trained head to classify with"):
        Labeller.load(bert_folder, kind="classify")
    folder = save_labeller("SequenceClassification", ["no", "yes"])
    with pytest.raises(UserError, match="has logits of 2 labels, but 3 names were given"):
        Labeller.load(folder, names=["a", "b", "c"])
    with pytest.raises(UserError, match="twice"):
        Labeller.load(folder, names=["a", "a"])


def test_models_that_give_no_classes_are_refused(save_labeller, bert_folder):
    folder = save_labeller("SequenceClassification", ["score"])
    with pytest.raises(UserError, match=r"is a cross-encoder, which scores pairs of texts: use tain rank score, or give a classifier"):
        Labeller.load(folder)
    folder = save_labeller("SequenceClassification", ["sad", "glad"], problem_type="multi_label_classification")
    with pytest.raises(UserError, match="gives multi_label_classification, so no single class"):
        Labeller.load(folder)


def test_a_model_that_is_nowhere_is_said_to_be(unchecked):
    with pytest.raises(UserError, match="there is no folder 'nowhere-at-all' here, and no model of that name"):
        Labeller.load("nowhere-at-all", device="cpu")
