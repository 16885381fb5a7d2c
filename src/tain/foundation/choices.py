"""Choices that settings and encoders share, without torch, so that reading a help text costs nothing."""

from typing import Literal, get_args

Pooling = Literal["cls", "mean", "mean-with-padding"]
Dtype = Literal["auto", "float32", "bfloat16"]
Layout = Literal["auto", "packed", "padded"]

POOLINGS: tuple[str, ...] = get_args(Pooling)
