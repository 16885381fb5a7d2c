"""Uniform reading of text collections from Python callers: lists, table columns, arrays, generators."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tain.foundation.errors import UserError


def each_item(given: Any, *, what: str = "text") -> Iterator[Any]:
    """Iterate once over a collection, in order; values of arrow and NumPy columns become Python objects.

    A collection is only iterated over. ``len`` and ``[]`` have other meanings for some types: a pandas frame has its rows as
    length but iterates over its column names, and a series looks up ``[3]`` by label.

    Args:
        given: A list, tuple, generator, dict view, NumPy array, or a column: a pandas, polars or arrow series.
        what: Name of an item in messages; its plural ends in s.

    Raises:
        UserError: It is one string, bytes, a table, a mapping, a set, or not iterable. Raised immediately, before reading.
    """
    if isinstance(given, str):
        raise UserError(f"{what}s are one string, which would be read character by character: give a list of {what}s")
    kind = type(given).__name__
    if isinstance(given, bytes | bytearray | memoryview):
        raise UserError(f"{what}s are {kind}, which would be read byte by byte: decode them, and give a list of {what}s")
    if isinstance(given, Mapping):
        raise UserError(f"{what}s are a {kind}, which is ambiguous between keys and values: give list(d.values()) or list(d)")
    if isinstance(given, set | frozenset):
        raise UserError(f"{what}s are a {kind}, whose order changes from run to run: give sorted({what}s)")
    if (columns := _columns_of(given)) is not None:
        shown = ", ".join(map(repr, columns[:5])) + (", ..." if len(columns) > 5 else "")
        raise UserError(
            f"{what}s are a {kind}, a table with columns {shown}: give the column that holds the {what}s, "
            "or two as list(zip(left, right)) if pairs are needed"
        )
    try:
        items = iter(given)
    except TypeError:
        raise UserError(f"{what}s are {given!r:.60}, a {kind}, which cannot be iterated over: give a list of {what}s") from None
    return map(_as_python, items)


def each_text(given: Iterable[str], *, what: str = "text", first: int = 0) -> Iterator[str]:
    """Iterate over texts like ``each_item``, and check that each is a string.

    Args:
        given: The texts.
        what: Name of a text in messages.
        first: Index of the first one, for messages.

    Raises:
        UserError: As ``each_item``; or, immediately, it is an array of several dimensions; or, when reached, an item is not a text.
    """
    if not isinstance(given, str) and isinstance(axes := getattr(given, "ndim", 1), int) and axes > 1 and _columns_of(given) is None:
        raise UserError(f"{what}s are an array of {axes} dimensions, but a list is needed: give one of its columns")
    return _checked(each_item(given, what=what), what, first)


def list_texts(given: Iterable[str], *, what: str = "text") -> list[str]:
    """Read all texts of a collection into a list; see ``each_text``."""
    return list(each_text(given, what=what))


def matched_lists(contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> tuple[list[str], list[list[str]]]:
    """Read contexts, and each one's list of candidates.

    Raises:
        UserError: Something is no text, or the number of lists differs from the number of contexts.
    """
    contexts = list_texts(contexts, what="context")
    listed = [list_texts(own, what="a context's candidate") for own in each_item(lists, what="list")]
    if len(contexts) != len(listed):
        raise UserError(f"{len(contexts):,} contexts were given with {len(listed):,} lists of candidates: give one list per context")
    return contexts, listed


def _checked(items: Iterator[Any], what: str, first: int) -> Iterator[str]:
    for index, item in enumerate(items, start=first):
        if not isinstance(item, str):
            shown = "nan (a missing value)" if isinstance(item, float) and item != item else type(item).__name__
            raise UserError(f"{what} {index} is {shown}, not text: give strings")
        yield item


def _as_python(item: Any) -> Any:
    """Convert a value of an arrow column or NumPy array to a Python object; other values are unchanged."""
    if type(item) is str:
        return item
    if type(item).__module__.partition(".")[0] == "pyarrow":
        return item.as_py()
    if type(item).__module__ == "numpy":
        return item.tolist()
    return item


def _columns_of(given: Any) -> list[Any] | None:
    """Column names of a table (pandas, polars, arrow, datasets); None if it is not a table."""
    for name in ("column_names", "columns"):
        found = getattr(given, name, None)
        if isinstance(found, dict):  # a data set with splits: columns of each split
            return list(found)
        if found is not None and not callable(found):
            return list(found)
    return None
