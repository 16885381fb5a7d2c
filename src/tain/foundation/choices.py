"""Allowed values of settings, without torch, so that printing a help text is fast."""

import os
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tain.foundation.errors import refuse_all

Pooling = Literal["cls", "mean", "mean-with-padding"]
AnyPooling = Literal["cls", "mean", "mean-with-padding", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"]  # without training
Dtype = Literal["auto", "float32", "bfloat16"]
ComputeDtype = Literal["auto", "float32", "bfloat16", "int8"]
Backend = Literal["auto", "onnx", "torch"]
Layout = Literal["auto", "packed", "padded"]
Truncation = Literal["cut", "error", "mean-of-chunks"]
OutputDtype = Literal["float32", "float16", "int8", "binary"]
Split = Literal["space", "code-point"]
Fusion = Literal["scores", "weighted", "ranks"]
RankerType = Literal["bi", "poly", "cross"]
CodeKind = Literal["pooled", "learned", "first", "last", "last-and-first"]

BUILT_IN = {"tain-mini": "tain_mini"}  # built-in models and their folders in assets
LEXICAL, CHARACTERS = "lexical", "characters"  # baselines that evaluate accepts like models
STATIC = "static:"  # another, followed by a model name
POOLINGS: tuple[str, ...] = get_args(AnyPooling)
FILLED: Any = None  # default of a setting that a resolved config must fill in: ``refuse_wrong_kinds`` refuses it


def is_baseline(name: str) -> bool:
    """Whether a model name is that of a baseline: ``lexical``, ``characters``, or ``static:`` with a model."""
    return name in (LEXICAL, CHARACTERS) or name.startswith(STATIC)


_KINDS: dict[Any, tuple[type | tuple[type, ...], str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    Path: ((str, os.PathLike), "a path"),
}


def filled_in(config: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a dataclass by name, with these values where it has None."""
    own = {entry.name: getattr(config, entry.name) for entry in fields(config)}
    return own | {name: value for name, value in values.items() if own[name] is None}


def wrong_choices(config: Any) -> list[str]:
    """Describe the fields of a settings dataclass with values outside their ``Literal``."""
    problems = []
    for name, kinds in _kinds_of(config).items():
        allowed = [value for each in kinds if get_origin(each) is Literal for value in get_args(each)]
        given = getattr(config, name)
        if allowed and given not in allowed and not (given is None and NoneType in kinds):
            problems.append(f"{name} is {given!r}: give {', '.join(map(str, allowed))}")
    return problems


def wrong_seed(seed: object) -> list[str]:
    """Describe a seed that some random generator does not take; empty if all take it."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= int(seed) < 2**63:
        return [f"seed is {seed!r}: give a whole number, 0 or more, and less than 2 to the power 63"]
    return []


def wrong_resamples(resamples: object) -> list[str]:
    """Describe a number of bootstrap resamples that gives no interval; empty if it gives one."""
    if isinstance(resamples, bool) or not isinstance(resamples, Integral) or int(resamples) < 1:
        return [f"resamples is {resamples!r}, but an interval needs at least 1: give 1000"]
    return []


def refuse_wrong_kinds(config: Any) -> None:
    """Refuse fields of a settings dataclass with values of the wrong type.

    Raises:
        UserError: There are such fields.
    """
    problems = []
    for name, kinds in _kinds_of(config).items():
        given, known = getattr(config, name), [_KINDS[kind] for kind in kinds if kind in _KINDS]
        is_left_out = given is None and NoneType in kinds
        if is_left_out or len(known) < len(set(kinds) - {NoneType}):
            continue
        is_flag = isinstance(given, bool) and bool not in kinds  # Python treats bool as an integer
        if is_flag or not any(isinstance(given, kind) for kind, _ in known):
            problems.append(f"{name} is {given!r}: give {' or '.join(words for _, words in known)}")
    refuse_all(problems)


def _kinds_of(config: Any) -> dict[str, tuple[Any, ...]]:
    hints = get_type_hints(type(config))
    return {name: get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,) for name, kind in hints.items()}
