"""Choices that settings and encoders share, without torch, so that reading a help text costs nothing."""

from typing import Literal, get_args

Pooling = Literal["cls", "mean", "mean-with-padding"]
Dtype = Literal["auto", "float32", "bfloat16"]
Layout = Literal["auto", "packed", "padded"]
Split = Literal["space", "code-point"]
RankerType = Literal["bi", "poly", "cross"]
CodeKind = Literal["pooled", "learned", "first", "last", "last-and-first"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
