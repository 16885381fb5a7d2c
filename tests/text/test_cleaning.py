import pytest

from tain.text.cleaning import drop_repeats, same_text_key
from tain.text.records import Deduplicated


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("A dog.", "a DOG."),
        ("a  dog\tbarks \n", " a dog barks"),
        ("Straße", "STRASSE"),
        ("ﬁne ｗｉｄｅ ①", "fine wide 1"),
        ("cafe\u0301", "café"),
        ("a\u00a0dog", "a dog"),
        ("ΟΔΟΣ", "οδος"),
        ("\u01f0", "\u01f0".upper()),  # a letter whose capital is two characters
    ],
)
def test_case_width_and_white_space_do_not_make_a_text_another(left, right):
    assert same_text_key(left) == same_text_key(right)


@pytest.mark.parametrize(("left", "right"), [("cafe", "café"), ("a dog", "a dog."), ("ab", "a b"), ("", "."), ("ı", "i")])
def test_accents_punctuation_and_letters_do(left, right):
    assert same_text_key(left) != same_text_key(right)


def test_the_key_of_a_key_is_the_key_itself():
    for code in (*range(0xD800), *range(0xE000, 0x30000)):
        key = same_text_key(f"A{chr(code)}b")
        assert same_text_key(key) == key, hex(code)


def test_plain_english_takes_no_other_way_than_the_rest():
    for code in range(128):
        # an accent turns the short way off and stays apart from the character before it
        assert same_text_key(f"{chr(code)}Q é") == same_text_key(f"{chr(code)}Q") + " é"


def test_the_first_of_each_text_stays_as_it_was_and_in_order():
    assert drop_repeats(["B b", "A", "b  B", "C", "a", "a"]) == Deduplicated(texts=["B b", "A", "C"], dropped=3)


def test_nothing_in_nothing_out():
    assert drop_repeats(iter([])) == Deduplicated(texts=[], dropped=0)
