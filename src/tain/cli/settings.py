"""Build a recipe's config from a TOML file and command-line flags; flags win."""

import re
import tomllib
import types
from dataclasses import fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from cyclopts import Parameter

from tain.foundation.errors import UserError
from tain.foundation.old_names import renamed

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|min|h)?")
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, None: 1.0}


@cache
def flags_of(config_class: type, *, without: tuple[str, ...] = ()) -> type:
    """Make a dataclass with the same fields, all defaulting to None, so that given flags can be told apart.

    Help texts come from the fields' annotations, defaults from the config itself.
    """
    hints = get_type_hints(config_class, include_extras=True)
    made = []
    for entry in fields(config_class):
        if entry.name in without:
            continue
        kind, help_text = hints[entry.name], ""
        if get_origin(kind) is Annotated:
            kind, help_text, *_ = get_args(kind)
        if entry.default is not None and not isinstance(entry.default, bool) and entry.default != ():
            help_text += f" [{_plain(entry.default)}]"
        can_be_on = entry.default is True or (entry.default is None and bool in get_args(kind))
        negative = None if can_be_on else ()  # a flag that can be on by default has a --no-... form
        parameter = Parameter(help=help_text, show_default=False, negative=negative)
        optional = kind if _allows_none(kind) else kind | None
        made.append((entry.name, Annotated[optional, parameter], None))
    # without it, cyclopts would treat the class as a built-in type
    return make_dataclass(
        f"{config_class.__name__}Flags", made, frozen=True, kw_only=True, namespace={"__module__": config_class.__module__}
    )


def build_config(config_class: type, flags: Any, *, file: Path | None, **more: Any) -> Any:
    """Build the config from a TOML file and the flags that were given; flags win.

    Raises:
        UserError: The file is missing, invalid or names unknown settings; or a setting is invalid.
    """
    settings = _read_toml(file, config_class) if file is not None else {}
    if flags is not None:
        settings |= {entry.name: value for entry in fields(flags) if (value := getattr(flags, entry.name)) is not None}
    settings |= {name: value for name, value in more.items() if value is not None}
    return config_class(**settings)


def refuse_idle(given: dict[str, object], *, of: str, instead: str = "") -> None:
    """Refuse flags that have no effect on this task or suite.

    Args:
        given: Values by flag name; None means not given.
        of: Name of the task or suite, for the message.
        instead: Alternative that the message offers.

    Raises:
        UserError: At least one was given.
    """
    if named := [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]:
        raise UserError(f"{', '.join(named)} has no effect with {of}: remove it{instead}")


def seconds(text: str) -> float:
    """Read a duration such as ``30s``, ``2m`` or ``1h``; a bare number is seconds.

    Raises:
        UserError: It is not a duration.
    """
    match = _TIME.fullmatch(text.strip().lower())
    if match is None:
        raise UserError(f"{text!r} is not a duration: give one like 30s, 2m or 1h")
    return float(match[1]) * _UNIT_S[match[2]]


def _read_toml(file: Path, config_class: type) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"settings file {str(file)!r} does not exist: give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"settings file {str(file)!r} is not valid TOML ({error}): write lines like temperature = 0.04") from None
    known = {entry.name: entry for entry in fields(config_class)}
    content = {name.replace("-", "_"): value for name, value in content.items()}
    content = renamed(content, of=config_class.__name__.removesuffix("Config").lower())
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise UserError(f"settings file {str(file)!r} has unknown settings {', '.join(unknown)}: known are {', '.join(known)}")
    hints = get_type_hints(config_class)
    for name, value in content.items():
        content[name] = _checked(file, name, value, hints[name])
    return content


def _checked(file: Path, name: str, value: Any, kind: Any) -> Any:
    """Check a TOML value against a field's type; integers are accepted for floats, lists of strings for paths."""
    options = get_args(kind) if isinstance(kind, types.UnionType) or get_origin(kind) is Union else (kind,)
    for option in options:
        if get_origin(option) is tuple and isinstance(value, list):
            kind_of_item = get_args(option)[0]
            if all(isinstance(item, str if kind_of_item is Path else kind_of_item) for item in value):
                return tuple(kind_of_item(item) for item in value)
        if option is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if option is Path and isinstance(value, str):
            return Path(value)
        if option in (int, float, bool, str) and type(value) is option:
            return value
        if get_args(option) and value in get_args(option):
            return value
    raise UserError(
        f"settings file {str(file)!r} gives {name} = {value!r}: this value has the wrong type, see the help of --{name.replace('_', '-')}"
    )


def _allows_none(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
