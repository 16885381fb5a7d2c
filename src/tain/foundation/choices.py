"""Choices that settings and encoders share, without torch, so that reading a help text costs nothing."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Pooling = Literal["cls", "mean", "mean-with-padding"]
Dtype = Literal["auto", "float32", "bfloat16"]
Layout = Literal["auto", "packed", "padded"]
Split = Literal["space", "code-point"]
RankerType = Literal["bi", "poly", "cross"]
CodeKind = Literal["pooled", "learned", "first", "last", "last-and-first"]

POOLINGS: tuple[str, ...] = get_args(Pooling)


def wrong_choices(config: Any) -> list[str]:
    """Tell which fields of a settings' dataclass hold none of the values that their ``Literal`` allows."""
    problems = []
    for name, kind in get_type_hints(type(config)).items():
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        allowed = [value for each in kinds if get_origin(each) is Literal for value in get_args(each)]
        given = getattr(config, name)
        if allowed and given not in allowed and not (given is None and NoneType in kinds):
            problems.append(f"{name} is {given!r}: give {', '.join(map(str, allowed))}")
    return problems
