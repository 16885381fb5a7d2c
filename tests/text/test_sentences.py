import pytest

from tain.text.sentences import split_sentences


@pytest.mark.parametrize(
    ("paragraph", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("It costs 3.50 now. He paid.", ["It costs 3.50 now.", "He paid."]),
        ("Dr. Smith met J. R. Tolkien. They talked.", ["Dr. Smith met J. R. Tolkien.", "They talked."]),
        ("In the U.S. Army he rose. Then he left.", ["In the U.S. Army he rose.", "Then he left."]),
        ('She said "Go." Then she went.', ['She said "Go."', "Then she went."]),
        ("Wait... what? no idea.", ["Wait... what? no idea."]),  # a lower-case letter begins no sentence
        ("Es kam 1999. 2000 ging es.", ["Es kam 1999.", "2000 ging es."]),
        ("Это первое. Это второе.", ["Это первое.", "Это второе."]),
        ("第一句。第二句！第三句", ["第一句。", "第二句！", "第三句"]),
        ("¿Qué hora es? ¡Tarde!", ["¿Qué hora es?", "¡Tarde!"]),
        ("no end marks at all", ["no end marks at all"]),
        ("", []),
        ("   ", []),
    ],
)
def test_sentences_end_where_a_reader_ends_them(paragraph, sentences):
    assert split_sentences(paragraph) == sentences


def test_nothing_but_white_space_is_lost():
    paragraph = 'A first (with "quotes.") And a second, e.g. this. Third!  Fourth?   '
    assert "".join("".join(split_sentences(paragraph)).split()) == "".join(paragraph.split())
