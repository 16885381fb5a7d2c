"""Which objects count as a collection of texts, and how they are read."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.text.collections import each_item, each_text, list_texts

TEXTS = ["one text", "another", "a third", "the last"]


class PolarsSeries:
    """A column as polars has them: no pandas methods, values by iterating alone, and a length."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self.name, self.dtype = "text", "String"

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)


class PolarsFrame:
    """A table as polars has them: it iterates over its columns, and its length is the number of rows."""

    columns = ("text", "label")
    height = 4

    def __len__(self) -> int:
        return self.height

    def __iter__(self) -> Iterator[PolarsSeries]:
        return iter([PolarsSeries(TEXTS), PolarsSeries(["a", "b", "a", "b"])])


class LyingLength(list[str]):
    def __len__(self) -> int:
        return 2


def _series(**settings: Any) -> Any:
    pandas = pytest.importorskip("pandas")
    return pandas.Series(TEXTS, index=[3, 2, 1, 0], **settings)


def _arrow(*chunks: list[str]) -> Any:
    return pytest.importorskip("pyarrow").chunked_array(list(chunks))


GIVEN: dict[str, Any] = {
    "list": lambda: TEXTS,
    "tuple": lambda: tuple(TEXTS),
    "generator": lambda: (text for text in TEXTS),
    "dict values": lambda: dict(enumerate(TEXTS)).values(),
    "dict keys": lambda: dict.fromkeys(TEXTS).keys(),
    "array of strings": lambda: np.array(TEXTS),
    "array of objects": lambda: np.array(TEXTS, dtype=object),
    "pandas series with other labels": _series,
    "pandas series of objects": lambda: _series(dtype=object),
    "pandas index": lambda: pytest.importorskip("pandas").Index(TEXTS),
    "pandas categories": lambda: _series(dtype="category"),
    "arrow column": lambda: _arrow(TEXTS[:1], TEXTS[1:]),
    "polars series": lambda: PolarsSeries(TEXTS),
    "column of a data set": lambda: pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS})["text"],
    "list that misstates its length": lambda: LyingLength(TEXTS),
}


@pytest.mark.parametrize("make", GIVEN.values(), ids=GIVEN.keys())
def test_texts_are_taken_by_content_in_their_order(make: Any):
    found = list_texts(make())
    assert found == TEXTS
    assert all(isinstance(text, str) for text in found)


def test_arrays_give_plain_strings():
    assert {type(text) for text in list_texts(np.array(TEXTS))} == {str}


REFUSED: dict[str, tuple[Any, str]] = {
    "string": (lambda: "one text", r"texts are one string, which would be read character by character: give a list of texts"),
    "bytes": (lambda: b"one", r"texts are bytes, which would be read byte by byte: decode them"),
    "dict": (lambda: {"a": "one"}, r"texts are a dict, which is ambiguous between keys and values: give list\(d.values\(\)\) or list\(d\)"),
    "set": (lambda: set(TEXTS), r"texts are a set, whose order changes from run to run: give sorted\(texts\)"),
    "frozenset": (lambda: frozenset(TEXTS), r"texts are a frozenset, whose order changes"),
    "number": (lambda: 3, r"texts are 3, a int, which cannot be iterated over: give a list of texts"),
    "none": (lambda: None, r"texts are None, a NoneType, which cannot be iterated over"),
    "array without axes": (lambda: np.array("one"), r"a ndarray, which cannot be iterated over"),
    "array of two axes": (lambda: np.array([TEXTS, TEXTS]), r"texts are an array of 2 dimensions"),
    "pandas frame": (
        lambda: pytest.importorskip("pandas").DataFrame({"text": TEXTS, "n": range(4)}),
        r"texts are a DataFrame, a table with columns 'text', 'n': give the column that holds the texts",
    ),
    "arrow table": (lambda: pytest.importorskip("pyarrow").table({"text": TEXTS}), r"texts are a Table, a table with columns 'text'"),
    "polars frame": (PolarsFrame, r"texts are a PolarsFrame, a table with columns 'text', 'label'"),
    "data set": (
        lambda: pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS}),
        r"texts are a Dataset, a table with columns 'text'",
    ),
    "data set with splits": (
        lambda: pytest.importorskip("datasets").DatasetDict({"train": pytest.importorskip("datasets").Dataset.from_dict({"text": TEXTS})}),
        r"texts are a DatasetDict, which is ambiguous between keys and values",
    ),
    "many columns": (lambda: SimpleNamespace(columns=[f"c{n}" for n in range(9)]), r"columns 'c0', 'c1', 'c2', 'c3', 'c4', \.\.\.: give"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_collection_of_texts_is_refused_before_anything_is_read(make: Any, message: str, unchecked: None):
    with pytest.raises(UserError, match=message):
        each_text(make())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["one", None], "text 1 is NoneType, not text: give strings"),
        (["one", float("nan")], r"text 1 is nan \(a missing value\), not text"),
        ([b"one"], "text 0 is bytes, not text"),
        ([["one"]], "text 0 is list, not text"),
    ],
)
@pytest.mark.parametrize("kind", [list, PolarsSeries])
def test_an_item_that_is_no_text_is_refused_by_its_place(kind: Any, values: list[Any], message: str, unchecked: None):
    with pytest.raises(UserError, match=message):
        list_texts(kind(values))


def test_missing_values_of_columns_are_refused(unchecked: None):
    pandas = pytest.importorskip("pandas")
    for column in (pandas.Series(["one", None]), pandas.Series(["one", None], dtype="string"), _arrow(["one", None])):  # type: ignore[list-item]
        with pytest.raises(UserError, match=r"text 1 is .*, not text: give strings"):
            list_texts(column)


def test_a_stream_is_read_no_further_than_asked():
    read = []

    def endless() -> Iterator[str]:
        while True:
            read.append(len(read))
            yield "text"

    stream = each_text(endless())
    assert [next(stream), next(stream)] == ["text", "text"]
    assert len(read) == 2


def test_messages_name_what_is_wanted(unchecked: None):
    with pytest.raises(UserError, match=r"candidates are one string, .*: give a list of candidates"):
        list_texts("ab", what="candidate")
    with pytest.raises(UserError, match="candidate 1 is int, not text"):
        list_texts(["a", 1], what="candidate")  # type: ignore[list-item]
    with pytest.raises(UserError, match="text 8 is int"):
        list(each_text(["a", 1], first=7))  # type: ignore[list-item]


def test_rows_of_an_array_are_lists_of_python_objects():
    assert list(each_item(np.array([["a", "b"], ["c", "d"]]))) == [["a", "b"], ["c", "d"]]
