"""Read JSON files written by tain, with every field checked.

A custom checker, because msgspec and pydantic are not in the base install and the files are flat records of a few fields.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tain.foundation.errors import UserError

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}


@dataclass(frozen=True, kw_only=True)
class Field:
    """Allowed values of one field of a record.

    Attributes:
        kind: ``str``, ``int``, ``float`` (a finite number, including integers), ``bool``, ``list`` or ``dict``.
        least: Lowest number, or smallest length of a list.
        most: Highest number.
        among: Allowed values; empty allows all.
        items: Requirements for each item of a list (or each value of an object).
        fields: Fields of an object.
        is_needed: The field is required.
        may_be_null: ``null`` is allowed.
    """

    kind: type
    least: int | float | None = None
    most: int | float | None = None
    among: tuple[object, ...] = ()
    items: "Field | None" = None
    fields: "Mapping[str, Field] | None" = None
    is_needed: bool = True
    may_be_null: bool = False


def read_object(path: Path, fields: Mapping[str, Field], *, damaged: str, advice: str) -> dict[str, Any]:
    """Read a JSON object and check its known fields; other fields are passed through.

    Args:
        path: The file.
        fields: The known fields.
        damaged: Beginning of error messages, such as ``index 'x' has a damaged index.json``.
        advice: Continuation of error messages: what to do. The problem follows in brackets.

    Raises:
        UserError: The file is not JSON, not an object, or a field is missing or invalid.
        OSError: It cannot be read; each caller handles a missing file differently.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{damaged}: {advice} (it is not JSON: {_first_line(error)})") from None
    return checked_object(content, fields, damaged=damaged, advice=advice)


def checked_object(content: Any, fields: Mapping[str, Field], *, damaged: str, advice: str) -> dict[str, Any]:
    """Check JSON content read elsewhere; see ``read_object``.

    Raises:
        UserError: It is not an object, or a field is missing or invalid.
    """
    if problem := _problem(content, Field(kind=dict, fields=fields), ""):
        raise UserError(f"{damaged}: {advice} ({problem})")
    return content


def _problem(value: Any, field: Field, name: str) -> str | None:
    """Describe the problem of a value; None if there is none."""
    called = name or "it"
    if value is None and field.may_be_null:
        return None
    if not _is_of_kind(value, field.kind):
        return f"{called} is {_shown(value)}, not {_NAMES[field.kind]}"
    if field.among and value not in field.among:
        return f"{called} is {_shown(value)}, not one of {', '.join(map(repr, field.among))}"
    if field.kind in (int, float, list):
        size, what = _size(value), f"{called} {'has' if field.kind is list else 'is'}"
        if field.least is not None and size < field.least:
            return f"{what} {size:,}, {'fewer' if field.kind is list else 'less'} than {field.least:,}"
        if field.most is not None and size > field.most:
            return f"{what} {size:,}, more than {field.most:,}"
    return _problem_inside(value, field, name)


def _size(value: Any) -> int | float:
    return len(value) if isinstance(value, list) else value


def _problem_inside(value: Any, field: Field, name: str) -> str | None:
    prefix = f"{name}." if name else ""
    for inner, known in (field.fields or {}).items():
        if inner not in value:
            if known.is_needed:
                return f"{prefix}{inner} is missing"
        elif problem := _problem(value[inner], known, f"{prefix}{inner}"):
            return problem
    if field.items is not None:
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for index, each in entries:
            if problem := _problem(each, field.items, f"{name}[{index}]"):
                return problem
    return None


def _is_of_kind(value: Any, kind: type) -> bool:
    if isinstance(value, bool):
        return kind is bool  # Python treats bool as an integer
    if kind is float:
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, kind)


def _shown(value: object) -> str:
    spelled = repr(value)
    return spelled if len(spelled) <= 40 else f"a {type(value).__name__} of {len(spelled):,} characters"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
