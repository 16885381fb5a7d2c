"""Near words for changed copies: the nearest by the encoder's vectors, from its tokenizer too, and only where a teacher looks at the copies."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.distil.config import DistilConfig
from tain.recipes.distil.data import gather
from tain.recipes.distil.near_words import near_words, whole_words
from tain.recipes.distil.teacher import TeacherOutputs
from tain.text.records import Example


class Vectors(Embedder):
    """An encoder whose words have the vectors that are given."""

    def __init__(self, vectors: dict[str, list[float]], tokens: list[str]) -> None:
        self.vectors = vectors
        known = {token: number for number, token in enumerate(tokens)}

        class Tokenizer:
            def get_vocab(self):
                return known

            def convert_tokens_to_string(self, parts):
                return parts[0].removeprefix("##")

            def __call__(self, texts, **_: Any):
                return {"input_ids": [[known[text.strip()]] if text.strip() in known else [0, 1] for text in texts]}

        self.tokenizer = Tokenizer()

    def encode(self, texts, **_: Any):
        return np.array([self.vectors.get(text, [0.0, -40.0]) for text in texts], dtype=np.float32)


class Judge:
    """A teacher that tells whether a text has a city."""

    name, reads, size_bytes, embedder, labels, tags = "judge", True, 1, None, ("city", "none"), None
    seen: list[str]

    def __init__(self) -> None:
        self.seen = []

    def teach(self, texts, *, indices=None, progress=None):
        self.seen += texts
        return TeacherOutputs(text=np.array([[1.0, 0.0] if "oslo" in text else [0.0, 1.0] for text in texts], dtype=np.float32))


CITIES = {
    "oslo": [9, 0.0],
    "bergen": [9, 1.0],
    "paris": [9, 3.0],
    "run": [-9, 0.5],
    "runs": [-9, 0.0],
    "ing": [0, 0],
    "x": [0, 0],
    "blue": [0, -40.0],
}


def test_near_words_are_the_nearest_once_the_mean_is_gone():
    encoder = Vectors(CITIES, ["bergen", "paris", "runs", "##ing", "x", "[MASK]"])
    assert sorted(whole_words(encoder)) == ["bergen", "paris", "runs"]
    found = near_words(encoder, [Example("Oslo run 7 blue!")])
    assert found == {"oslo": ["bergen", "paris"], "run": ["runs"]}


def test_a_words_near_ones_are_those_of_a_plain_search(bert_folder, sentences):
    encoder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    examples = [Example(sentence) for sentence in sentences]
    found = near_words(encoder, examples)
    ours = {word for sentence in sentences for word in sentence.lower().split(" ") if word.isalpha()}
    words = sorted(ours | set(whole_words(encoder)))
    vectors = encoder.encode(words, normalize=False)
    vectors = vectors - vectors.mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert found.keys() <= ours
    for word in ours:
        cosines = vectors @ vectors[words.index(word)]
        expected = [words[index] for index in np.argsort(-cosines, kind="stable") if words[index] != word and cosines[index] >= 0.5][:8]
        assert len(found.get(word, [])) == len(expected)
        np.testing.assert_allclose(
            [cosines[words.index(near)] for near in found.get(word, [])], [cosines[words.index(near)] for near in expected], atol=1e-5
        )


@pytest.mark.parametrize("exchange", [0.0, 0.9])
def test_a_teacher_is_asked_about_words_that_the_texts_do_not_have(exchange):
    encoder, judge = Vectors(CITIES, ["bergen", "paris", "runs"]), Judge()
    examples = [Example(f"oslo run number {number} of all these") for number in range(20)]
    config = DistilConfig(task="classify", batch_texts=4, held_out=0, word_replacement=exchange).resolved()
    data = gather(examples, judge, config, Progress.silent(), encoder)
    words = {word for text in judge.seen for word in text.split(" ")}
    assert ({"bergen", "runs"} <= words) == bool(exchange)
    assert data.train.taught.text is not None
    for example, taught in zip(data.train.examples, data.train.taught.text, strict=True):
        assert (taught[0] > taught[1]) == ("oslo" in example.text)


def test_labels_alone_bear_no_other_words():
    encoder = Vectors(CITIES, ["bergen"])
    none = SimpleNamespace(
        name="none", reads=False, size_bytes=None, embedder=None, labels=None, tags=None, teach=lambda *_, **__: TeacherOutputs()
    )
    examples = [Example(f"oslo run number {number} of all these", str(number % 2)) for number in range(20)]
    config = DistilConfig(task="classify", batch_texts=4, held_out=0, augmented_copies=2).resolved()
    data = gather(examples, none, config, Progress.silent(), encoder)
    assert not any("bergen" in example.text for example in data.train.examples)
    assert data.counts["augmented"] > 0
    with pytest.raises(UserError, match=r"word_replacement is 0\.9, but only a teacher that labels new texts can label the changed copies"):
        gather(examples, none, replace(config, word_replacement=0.9), Progress.silent(), encoder)
