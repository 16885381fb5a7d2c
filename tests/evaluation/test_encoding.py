from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tain.evaluation.encoding import EncodedOnce, OnePerLanguage, languages_of, refuse_unknown_languages
from tain.foundation.errors import UserError


class ByLanguage:
    """Moves every text's vector by its language."""

    name, languages = "by language", ("de", "en")

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, list[str]]] = []

    def encode(self, texts: list[str], /, *, language: str | None = None) -> np.ndarray:
        self.asked.append((language, list(texts)))
        return np.array([[len(text), self.languages.index(language or "")] for text in texts], dtype=np.float32)


def test_an_encoder_that_treats_all_texts_alike_encodes_a_text_once_whatever_its_language(bag: Callable[..., Any]):
    encoder = bag()
    once = EncodedOnce(encoder)
    once.prepare([("en", ["glass", "sand"]), ("de", ["sand"]), (None, ["glass"])])
    np.testing.assert_array_equal(once.encode(["sand"], language="de"), once.encode(["sand"], language="en"))
    assert sorted(encoder.asked) == ["glass", "sand"]


def test_an_encoder_with_languages_is_told_them_and_the_same_text_has_a_vector_for_each():
    encoder = ByLanguage()
    once = EncodedOnce(encoder)
    once.prepare([("en", ["sand", "glass"]), ("de", ["sand"])])
    assert once.encode(["sand", "sand"], language="de").tolist() == [[4, 0], [4, 0]]
    assert once.encode(["glass", "sand"], language="en").tolist() == [[5, 1], [4, 1]]
    assert encoder.asked == [("en", ["glass", "sand"]), ("de", ["sand"])] and once.distinct == 3


def test_told_stands_for_one_language():
    assert EncodedOnce(ByLanguage()).for_language("en").encode(["sand"]).tolist() == [[4, 1]]


def test_each_language_has_its_encoder(bag: Callable[..., Any]):
    english, german = bag("a"), bag("b")
    both = OnePerLanguage({"en": english, "de": german})
    assert both.name == "en=a,de=b" and languages_of(both) == ("en", "de") and languages_of(english) == ()
    both.encode(["glass"], language="de")
    assert (english.asked, german.asked) == ([], ["glass"])
    with pytest.raises(UserError, match="have no given language"):
        both.encode(["glass"])


def test_an_encoder_of_one_language_that_must_be_told_it_is_told():
    both = OnePerLanguage({"en": ByLanguage(), "de": ByLanguage()})
    assert both.encode(["glass"], language="en").tolist() == [[5, 1]]


def test_languages_are_refused_before_anything_is_encoded():
    encoder = ByLanguage()
    with pytest.raises(UserError, match="supports de, en, but there are texts in fr, it"):
        refuse_unknown_languages(encoder, ["it", "en", "fr", None])
    with pytest.raises(UserError, match="no given language: give --language"):
        refuse_unknown_languages(encoder, ["en", None])
    refuse_unknown_languages(encoder, ["en", "de"])
    assert encoder.asked == []
