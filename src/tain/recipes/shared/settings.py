"""What every recipe does with its settings first."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from tain.foundation.errors import UserError
from tain.foundation.old_names import renamed
from tain.recipes.mirror.config import MirrorConfig

Config = TypeVar("Config")


def resolve_config(kind: type[Config], verb: str, config: Config | None, settings: dict[str, Any]) -> Config:
    """Take a recipe's settings from the object or from the keywords that it was given.

    Args:
        kind: Dataclass of the settings.
        verb: The recipe's name, for messages.
        config: All settings at once.
        settings: Some of them by name; the others keep their defaults.

    Raises:
        UserError: Both were given, a name is unknown, or the settings cannot work.
    """
    if config is not None and settings:
        raise UserError(f"settings were given twice, as config and as {', '.join(settings)}: give one or the other")
    settings = renamed(settings, of=verb)
    known = [entry.name for entry in fields(kind)]  # pyright: ignore[reportArgumentType]
    if unknown := sorted(set(settings) - set(known)):
        raise UserError(f"{verb} knows no setting {', '.join(unknown)}: it knows {', '.join(known)}")
    needed = [
        entry.name
        for entry in fields(kind)  # pyright: ignore[reportArgumentType]
        if entry.default is MISSING and entry.default_factory is MISSING and entry.name not in settings
    ]
    if config is None and needed:
        raise UserError(f"{verb} needs to be told {', '.join(needed)}: give it by name")
    if config is not None and not isinstance(config, kind):
        raise UserError(f"config is {type(config).__name__}: give a {kind.__name__}, or single settings by name")
    return config or kind(**settings)


SUGGESTIONS = ("learning_rate", "matrix_learning_rate", "dropout", "max_pairs")


def suggested_settings(record: Mapping[str, Any], *, name: str | Path) -> dict[str, float | int]:
    """Read the settings that a model's folder suggests for mirroring: any of ``SUGGESTIONS``.

    Args:
        record: Its ``tain.json``.
        name: What the user called it.

    Raises:
        UserError: It says what is no setting of this kind.
    """
    suggested = record.get("mirror", {})
    is_settings = isinstance(suggested, dict) and all(isinstance(value, int | float) for value in suggested.values())
    if not is_settings or not suggested.keys() <= set(SUGGESTIONS):
        raise UserError(f"the tain.json of {str(name)!r} suggests {suggested} for mirroring: it may name {', '.join(SUGGESTIONS)}")
    MirrorConfig(recipe="best", **suggested)  # refuses values that cannot work
    return suggested
