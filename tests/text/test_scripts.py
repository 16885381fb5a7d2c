import re
import unicodedata

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.text.scripts import count_words, graphemes, lacks_blanks, marks, script_of, units


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cafe\u0301", ["c", "a", "f", "e\u0301"]),
        ("مُحَمَّد", ["مُ", "حَ", "مَّ", "د"]),
        ("हिन्दी", ["हि", "न्", "दी"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", ["\u1112\u1161\u11ab", "\u1100\u1173\u11af"]),  # two Korean syllables of three jamo each
        ("한글", ["한", "글"]),
        ("👨‍👩‍👧👍🏽🇩🇪", ["👨‍👩‍👧", "👍🏽", "🇩🇪"]),
        ("か\u3099a", ["か\u3099", "a"]),
        ("a\r\nb", ["a", "\r\n", "b"]),
        ("", []),
    ],
)
def test_graphemes_are_what_readers_see_as_characters(text, found):
    assert graphemes(text) == found


def test_the_short_way_agrees_with_the_long_way():
    from tokenizers import Regex, pre_tokenizers

    split = pre_tokenizers.Split(Regex(r"\X"), "isolated")
    rng = np.random.default_rng(5)
    codes = [*range(32, 0x3200), *range(0x4E00, 0x4E40), *range(0xAC00, 0xAC40), *range(0xFF00, 0xFFA0)]
    beyond_the_annex = {0x1039, 0x17D2}  # and spacing marks, which the annex leaves alone in some scripts
    codes = np.array([code for code in codes if code not in beyond_the_annex and unicodedata.category(chr(code)) != "Mc"])
    for _ in range(400):
        text = "".join(chr(code) for code in rng.choice(codes, size=20) if unicodedata.category(chr(code))[0] != "C")
        assert graphemes(text) == [piece for piece, _ in split.pre_tokenize_str(text)]
    for code in codes:  # next to a letter, which no character of the short way joins
        text = f"a{chr(code)}b"
        assert graphemes(text) == [piece for piece, _ in split.pre_tokenize_str(text)], hex(code)


def test_many_loose_vowel_signs_are_joined_in_one_step():
    assert graphemes("\u102c" * 100_000) == ["\u102c" * 100_000]  # each sign on its own copies the text: half a minute


def test_half_a_character_is_refused():
    with pytest.raises(UserError, match="half a character"):
        graphemes("a\ud83d")


@pytest.mark.parametrize("text", ["我喜欢喝茶", "日本語の文です", "ฉันชอบดื่มชา", "我有 iPhone 手机", "ຂ້ອຍມັກຊາ", "ខ្ញុំចូលចិត្តតែ"])
def test_scripts_without_blanks_are_recognised(text):
    assert lacks_blanks(text)


@pytest.mark.parametrize("text", ["", "one", "я люблю чай", "나는 차를 좋아한다", "أنا أحب الشاي", "मुझे चाय पसंद है", "The sign 茶 means tea"])
def test_scripts_with_blanks_are_recognised(text):
    assert not lacks_blanks(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", 0),
        ("one two", 2),
        ("手机", 1),
        ("茶", 1),
        ("我喜欢喝茶的人", 3),
        ("手机。", 1),
        ("我有 iPhone 手机", 3),
        ("나는 차를 좋아한다", 3),
        ("मैं हिन्दी में 茶 पीता हूँ", 6),  # vowel signs do not end a word
        ("من می\u200cخواهم 茶", 3),
    ],
)
def test_words_are_counted_in_every_script(text, words):
    assert count_words(text) == words


@pytest.mark.parametrize("text", ["我有 iPhone 手机。", " two words ", "ฉันชอบ ดื่มชา", "a\n我  b", ""])
def test_units_join_to_the_text(text):
    assert "".join(units(text)) == text


def test_units_cut_neither_words_nor_graphemes():
    assert units("我有 iPhone 手机") == ["我", "有", " iPhone", " 手", "机"]
    assert units("ที่นี่") == ["ที่", "นี่"]


def test_the_script_of_a_letter_is_its_name_in_unicode():
    assert [script_of(character) for character in "aж茶ع1."] == ["latin", "cyrillic", "cjk", "arabic", "", ""]


def test_all_marks_are_in_the_class():
    pattern = re.compile(f"[{marks()}]")
    for code in range(0x20000):
        assert bool(pattern.match(chr(code))) == (unicodedata.category(chr(code))[0] == "M"), hex(code)


def test_a_letter_keeps_its_variation_selector_and_its_burmese_and_khmer_signs():
    from tain.text.scripts import graphemes, units

    assert units("葛\U000e0100飾区の人々")[0] == "葛\U000e0100"
    for text in ("စာကိုလေ့လာနေပါသည်", "ខ្ញុំចូលចិត្តស្រីស្អាត", "မြန်မာနိုင်ငံသည်"):
        pieces = graphemes(text)
        assert "".join(pieces) == text and len(pieces) > 3
        assert not any(unicodedata.category(piece[0]).startswith("M") or piece[-1] in "\u1039\u17d2" for piece in pieces)
        assert units(text) == pieces
