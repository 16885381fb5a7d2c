"""Filters: what each condition means, how they are joined, and one line for what is no filter."""

import operator

import pytest

from tain.foundation.errors import UserError
from tain.ranking.filters import parse_filter

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given
from hypothesis import strategies as st

ROW = {
    "year": 2021,
    "price": 9.5,
    "lang": "en",
    "title": "Deep sea (part 2)",
    "draft": False,
    "tags": ["glass", "tin", 7],
    "author": {"name": "Ada", "born": {"year": 1815}},
    "a.b": 1,
    "empty": None,
    "date": "2024-03-01",
    "zip": "0123",
    "count": "12",
}


@pytest.mark.parametrize(
    ("text", "is_match"),
    [
        ("year=2021", True),
        ("year == 2021.0", True),
        ("year!=2021", False),
        ("year>=2021 and year<=2021", True),
        ("year>2021", False),
        ("year<2022", True),
        ("price>9", True),
        ("lang=en", True),
        ("lang='en'", True),
        ('lang="en"', True),
        ("lang=EN", False),
        ("title='Deep sea (part 2)'", True),
        ("draft=false", True),
        ("draft=False", True),
        ("draft='false'", False),
        ("draft=0", False),
        ("year='2021'", False),  # in quotation marks, a text
        ("count>=12", True),  # a text that spells a number, as csv has them
        ("count=12.0", True),
        ("count='12'", True),
        ("count<'2'", True),  # texts by code points
        ("zip=123", True),
        ("zip='123'", False),
        ("date>=2024-01-01 and date<2025-01-01", True),
        ("lang in (de, en)", True),
        ("lang in (de)", False),
        ("lang not in (de, fr)", True),
        ("year in (2020, 2021)", True),
        ("tags=tin", True),
        ("tags=7", True),
        ("tags in (silver, glass)", True),
        ("tags!=tin", False),
        ("tags>6", True),
        ("author.name=Ada", True),
        ("author.born.year<1900", True),
        ("author.died.year<1900", False),
        ("a.b=1", True),
        ("exists year", True),
        ("exists(author.born)", True),
        ("exists empty", False),
        ("not exists missing", True),
        ("missing=1", False),
        ("missing!=1", True),
        ("missing not in (1, 2)", True),
        ("missing<1", False),
        ("author=Ada", False),
        ("lang<5", False),
        ("draft<1", False),
        ("lang=de or lang=en and year=2021", True),
        ("lang=en or lang=de and year=1", True),  # and binds stronger
        ("(lang=en or lang=de) and year=1", False),
        ("not (lang=en and year=1)", True),
        ("not not lang=en", True),
        ("NOT lang=de AND EXISTS year", True),
    ],
)
def test_conditions_mean_what_the_page_says(text, is_match):
    assert parse_filter(text).matches(ROW) is is_match


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "filter is empty"),
        ("   ", "filter is empty"),
        ("year", "it ends where a comparison is expected"),
        ("year=", "it ends where a value is expected"),
        ("year=and", None),
        ("year = )", "')' is found where a value is expected, character 8"),
        ("year ~ 3", "'~' is no comparison, character 6"),
        ("=3", "'=' is found where the name of a field is expected"),
        ("and=3", "'and' is found where the name of a field is expected (put a field of that name in quotation marks)"),
        ("(year=3", "a bracket is not closed"),
        ("year=3)", "')' follows a complete condition"),
        ("year=3 lang=en", "'lang' follows a complete condition: join conditions by and or or, character 8"),
        ("lang in de", "in is followed by a list of values in brackets"),
        ("lang in (de", "a bracket is not closed"),
        ("lang not de", "after a name, not is followed by in"),
        ("lang='en", "a quotation mark is not closed, character 6"),
        ("lang!en", "'!' has no meaning here"),
        ("lang=null", "null is no value: write not exists NAME"),
        ("(" * 60 + "a=1" + ")" * 60, "more than 50 brackets or nots are inside each other"),
        ("not " * 5000 + "a=1", "more than 50 brackets or nots"),
        ("a=1 or " * 20_000 + "a=1", "more than 100,000: keep the wanted values in a column"),
        ("exists (a", "a bracket is not closed"),
    ],
)
def test_what_is_no_filter_is_one_line(text, problem):
    if problem is None:
        assert parse_filter(text).matches({"year": "and"})  # a word like any other where a value is expected
        return
    with pytest.raises(UserError) as caught:
        parse_filter(text)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_quotation_marks_may_be_escaped():
    assert parse_filter(r"a='it\'s' and 'odd name'=1").matches({"a": "it's", "odd name": 1})


def test_large_whole_numbers_are_compared_exactly():
    assert not parse_filter(f"a={2**60 + 1}").matches({"a": 2**60})
    assert parse_filter(f"a<{10**400}").matches({"a": 1})


SIGNS = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@given(value=st.integers(-5, 5), other=st.integers(-5, 5), sign=st.sampled_from(sorted(SIGNS)))
def test_numbers_compare_as_in_python(value, other, sign):
    assert parse_filter(f"a {sign} {other}").matches({"a": value}) == SIGNS[sign](value, other)


@given(st.text(max_size=40))
def test_any_text_is_a_filter_or_refused(text):
    try:
        assert parse_filter(text).matches(ROW) in (True, False)
    except UserError:
        return


def test_long_whole_numbers_in_texts_are_exact():
    chosen = parse_filter("tweet=1234567890123456789")
    assert chosen.matches({"tweet": "1234567890123456789"}) and chosen.matches({"tweet": 1234567890123456789})
    assert not chosen.matches({"tweet": "1234567890123456790"})
    assert not parse_filter("tweet!=1234567890123456789").matches({"tweet": " 1234567890123456789 "})
