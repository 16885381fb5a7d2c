"""Filters over the metadata of candidates: ``year >= 2020 and lang in (en, de) and not exists draft``."""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import ge, gt, le, lt
from typing import Any

from tain.foundation.errors import UserError

_TOKEN = re.compile(
    r"""\s*(?:(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|(?P<sign><=|>=|!=|==|[=<>(),])|(?P<word>[^\s'"=<>!(),]+))""", re.DOTALL
)
_BLANK = re.compile(r"\s*\Z")
_WHOLE = re.compile(r"[+-]?\d{1,300}")  # exact as int; int refuses thousands of digits
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {"<": lt, "<=": le, ">": gt, ">=": ge}
_DEEPEST = 50  # brackets and nots inside each other
_LONGEST = 100_000  # characters
_GRAMMAR = "write conditions like year>=2020 and (lang=en or lang in (de, fr)) and not exists draft"


@dataclass(frozen=True)
class _Value:
    """A value in a filter: what it was written as, and what it may be compared with.

    Attributes:
        text: The text itself, without quotation marks.
        number: Its number, if it was written as one without quotation marks.
        truth: Its truth value, if it was written as one without quotation marks.
    """

    text: str
    number: int | float | None = None
    truth: bool | None = None


@dataclass(frozen=True)
class Condition:
    """A comparison of one field.

    Attributes:
        field: Name of the field; dots lead into objects.
        sign: ``=``, ``<``, ``<=``, ``>``, ``>=``, ``in`` or ``exists``.
        values: What it is compared with.
    """

    field: str
    sign: str
    values: tuple[_Value, ...] = ()

    def matches(self, metadata: dict[str, Any]) -> bool:
        found = _looked_up(metadata, self.field)
        if self.sign == "exists":
            return found is not None
        items = found if isinstance(found, list) else [found]
        return any(self._holds(item) for item in items)

    def _holds(self, item: Any) -> bool:
        if self.sign in ("=", "in"):
            return any(_equals(item, value) for value in self.values)
        return _is_ordered(item, self.values[0], _ORDERS[self.sign])


@dataclass(frozen=True)
class Not:
    """True where its part is false."""

    part: "Filter"

    def matches(self, metadata: dict[str, Any]) -> bool:
        return not self.part.matches(metadata)


@dataclass(frozen=True)
class AllOf:
    """True where all parts are true."""

    parts: "tuple[Filter, ...]"

    def matches(self, metadata: dict[str, Any]) -> bool:
        return all(part.matches(metadata) for part in self.parts)


@dataclass(frozen=True)
class AnyOf:
    """True where one part is true."""

    parts: "tuple[Filter, ...]"

    def matches(self, metadata: dict[str, Any]) -> bool:
        return any(part.matches(metadata) for part in self.parts)


Filter = Condition | Not | AllOf | AnyOf


def parse_filter(text: str) -> Filter:
    """Parse a filter.

    Conditions are ``field = value``, ``!=``, ``<``, ``<=``, ``>``, ``>=``, ``field in (value, value)``, ``field not in (...)`` and
    ``exists field``, joined by ``and``, ``or``, ``not`` and brackets; ``and`` binds stronger than ``or``. Names and values with spaces
    or signs are quoted.

    - A number without quotation marks compares with numbers, and with texts that spell a number; ``true`` and ``false`` likewise.
    - Any other value compares with texts, by code points.
    - A list matches if one of its items does. A missing field or null matches no comparison; ``!=`` and ``not in`` are the opposite of
      ``=`` and ``in``, so they do match it.

    Args:
        text: The filter.

    Raises:
        UserError: It is not a filter.

    Examples:
        >>> from tain.ranking.filters import parse_filter
        >>> parse_filter("year >= 2020 and lang = en").matches({"year": 2021, "lang": "en"})
        True
    """
    if not isinstance(text, str):
        raise UserError(f"filter is {text!r:.60}, not text: {_GRAMMAR}")
    if len(text) > _LONGEST:
        raise UserError(
            f"filter has {len(text):,} characters, more than {_LONGEST:,}: keep the wanted values in a column, and compare that"
        )
    return _Parser(text).whole()


@dataclass(frozen=True)
class _Token:
    text: str
    is_quoted: bool
    start: int

    def says(self, *words: str) -> bool:
        return not self.is_quoted and self.text.lower() in words


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(self._read(text))
        self._at = 0
        self._depth = 0

    def whole(self) -> Filter:
        if not self._tokens:
            raise UserError(f"filter is empty: {_GRAMMAR}")
        found = self._either()
        if self._next is not None:
            raise self._refusal(f"{self._next.text!r} follows a complete condition: join conditions by and or or")
        return found

    def _read(self, text: str) -> Iterator[_Token]:
        start = 0
        while not _BLANK.match(text, start):
            match = _TOKEN.match(text, start)
            if match is None:
                rest = text[start:].lstrip()
                problem = "a quotation mark is not closed" if rest[0] in "'\"" else f"{rest[0]!r} has no meaning here"
                raise UserError(f"filter {text!r:.200}: {problem}, character {len(text) - len(rest) + 1}: {_GRAMMAR}")
            is_quoted = match["quoted"] is not None
            written = re.sub(r"\\(.)", r"\1", match["quoted"][1:-1], flags=re.DOTALL) if is_quoted else match[0].strip()
            yield _Token(written, is_quoted, match.end() - len(match[0].lstrip()))
            start = match.end()

    @property
    def _next(self) -> _Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _take(self, wanted: str) -> _Token:
        token = self._next
        if token is None:
            raise self._refusal(f"it ends where {wanted} is expected")
        self._at += 1
        return token

    def _takes(self, *words: str) -> bool:
        if self._next is None or not self._next.says(*words):
            return False
        self._at += 1
        return True

    def _refusal(self, problem: str) -> UserError:
        place = "" if self._next is None else f", character {self._next.start + 1}"
        return UserError(f"filter {self._text!r:.200}: {problem}{place}: {_GRAMMAR}")

    def _either(self) -> Filter:
        parts = [self._both()]
        while self._takes("or"):
            parts.append(self._both())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _both(self) -> Filter:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self) -> Filter:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._refusal(f"more than {_DEEPEST} brackets or nots are inside each other")
        if self._takes("not"):
            found: Filter = Not(self._one())
        elif self._takes("("):
            found = self._either()
            self._close()
        else:
            found = self._condition()
        self._depth -= 1
        return found

    def _close(self) -> None:
        if not self._takes(")"):
            raise self._refusal("a bracket is not closed")

    def _condition(self) -> Filter:
        if self._takes("exists"):
            if self._takes("("):
                found = Condition(self._name(), "exists")
                self._close()
                return found
            return Condition(self._name(), "exists")
        field = self._name()
        if self._takes("not"):
            if not self._takes("in"):
                raise self._refusal("after a name, not is followed by in")
            return Not(Condition(field, "in", self._values()))
        if self._takes("in"):
            return Condition(field, "in", self._values())
        sign = self._take("a comparison")
        if not sign.says("=", "==", "!=", *_ORDERS):
            self._at -= 1
            raise self._refusal(f"{sign.text!r} is no comparison")
        value = self._value()
        if sign.text == "!=":
            return Not(Condition(field, "=", (value,)))
        return Condition(field, "=" if sign.text == "==" else sign.text, (value,))

    def _name(self) -> str:
        token = self._take("the name of a field")
        if not token.is_quoted and (_is_sign(token) or token.says("and", "or", "not", "in", "exists")):
            self._at -= 1
            raise self._refusal(
                f"{token.text!r} is found where the name of a field is expected (put a field of that name in quotation marks)"
            )
        return token.text

    def _values(self) -> tuple[_Value, ...]:
        if not self._takes("("):
            raise self._refusal("in is followed by a list of values in brackets")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        self._close()
        return tuple(values)

    def _value(self) -> _Value:
        token = self._take("a value")
        if token.is_quoted:
            return _Value(token.text)
        if _is_sign(token):
            self._at -= 1
            raise self._refusal(f"{token.text!r} is found where a value is expected")
        if token.says("null"):
            raise self._refusal("null is no value: write not exists NAME for a missing field")
        if _NUMBER.fullmatch(token.text):
            return _Value(token.text, number=int(token.text) if _WHOLE.fullmatch(token.text) else float(token.text))
        if token.says("true", "false"):
            return _Value(token.text, truth=token.says("true"))
        return _Value(token.text)


def _is_sign(token: _Token) -> bool:
    return not token.is_quoted and token.text[0] in "=<>!(),"


def _looked_up(metadata: dict[str, Any], field: str) -> Any:
    """Value of a field; None if it is missing. A key with dots in its name comes before objects inside each other."""
    if field in metadata:
        return metadata[field]
    found: Any = metadata
    for part in field.split("."):
        if not isinstance(found, dict):
            return None
        found = found.get(part)
    return found


def _equals(item: Any, value: _Value) -> bool:
    if isinstance(item, bool):
        return item is value.truth
    if isinstance(item, int | float):
        return value.number is not None and item == value.number
    if not isinstance(item, str):
        return False
    if value.truth is not None:
        return item.lower() == value.text.lower()
    if value.number is not None and (spelled := _spelled_number(item)) is not None:
        return spelled == value.number
    return item == value.text


def _is_ordered(item: Any, value: _Value, order: Callable[[Any, Any], bool]) -> bool:
    if isinstance(item, bool):
        return False
    if value.number is not None:
        number = item if isinstance(item, int | float) else _spelled_number(item)
        return number is not None and order(number, value.number)
    return isinstance(item, str) and order(item, value.text)


def _spelled_number(item: Any) -> int | float | None:
    """The number that a text spells, exact if it is a whole one."""
    if not isinstance(item, str) or not _NUMBER.fullmatch(item.strip()):
        return None
    if _WHOLE.fullmatch(item.strip()):
        return int(item)
    number = float(item)
    return number if math.isfinite(number) else None
