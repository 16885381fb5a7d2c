"""Refuse untrusted tokenizers that hang, panic or blow up ordinary texts.

A ``tokenizer.json`` contains regular expressions and replacements. It cannot run code, but it can use unlimited time or memory.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tain.foundation.errors import UserError

LIMIT_S = 20.0  # an ordinary tokenizer takes milliseconds

_MOST_GROWTH = 64  # largest number of characters, and tokens, per input character
_CHARACTERS = ("a", "A", "1", " ", "\n", ".", "-", "é", "漢", "👍")
_RUN = 1000  # characters; backtracking regular expressions show on repeats that fail to match at the end
_RUNS = ("a", "A", "1", " ", "\n", ".", "-", "é", "漢", "ab", "a ", "a1", "a.", "'s", "\r\n")


def refuse_wild_tokenizer(backend: Any, *, name: str) -> None:
    """Test a tokenizer on short texts and on long repeats, within ``LIMIT_S``.

    This detects problems with ordinary texts. It is no guarantee for all texts.

    Args:
        backend: A tokenizer of the package tokenizers, which runs without the interpreter's lock.
        name: Name given by the user.

    Raises:
        UserError: It takes too long, panics, or turns one character into very many characters or tokens.
    """
    growth = _growth(_settings(backend.normalizer))
    if growth > _MOST_GROWTH:
        raise UserError(
            f"the tokenizer of model {name!r} replaces one character by up to {growth:,.0f}, which can take all memory: give another model"
        )
    with _unpadded(backend):
        _try_texts(backend, name)


@contextmanager
def _unpadded(backend: Any) -> Iterator[None]:
    """Disable padding and truncation of a tokenizer."""
    padding, truncation = (getattr(backend, name, None) for name in ("padding", "truncation"))
    if padding is not None:
        backend.no_padding()
    if truncation is not None:
        backend.no_truncation()
    try:
        yield
    finally:
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)


def _try_texts(backend: Any, name: str) -> None:
    for texts in (list(_CHARACTERS), [run * (_RUN // len(run)) + end for run in _RUNS for end in ("", "!")]):
        lengths = _within(LIMIT_S, lambda texts=texts: [len(found.ids) for found in backend.encode_batch_fast(texts)], name)
        longest = max((length / len(text) for length, text in zip(lengths, texts, strict=True)), default=0) if lengths else 0
        if longest > _MOST_GROWTH:
            raise UserError(f"the tokenizer of model {name!r} makes {longest:,.0f} tokens of one character: give another model")


def _settings(normalizer: Any) -> dict[str, Any]:
    """Settings of a normalizer in tokenizer.json; empty if there is none, or it is written in Python."""
    try:
        return json.loads(normalizer.__getstate__()) if normalizer is not None else {}
    except Exception:  # the package raises nothing narrower
        return {}


def _growth(normalizer: dict[str, Any]) -> float:
    """Largest number of characters that one character can become through the listed replacements."""
    kind = normalizer.get("type")
    if kind == "Sequence":
        growth = 1.0
        for step in normalizer.get("normalizers", []):
            growth *= _growth(step)
        return growth
    if kind == "Prepend":
        return 1.0 + len(normalizer.get("prepend", ""))
    if kind == "Replace":
        pattern, content = normalizer.get("pattern", {}), len(normalizer.get("content", ""))
        if literal := pattern.get("String"):
            return max(1.0, content / len(literal))
        return 1.0 + content  # a regular expression may match the empty string before each character
    return 1.0


def _within(limit_s: float, function: Callable[[], list[int]], name: str) -> list[int]:
    """Call a function in a separate thread, which is left running if it does not end in time."""
    outcome: list[Any] = []

    def call() -> None:
        try:
            outcome.append(function())
        except Exception:  # such as a text that the vocabulary cannot represent; reported when it occurs
            outcome.append([])
        except BaseException as panic:  # from native code
            outcome.append(panic)

    thread = threading.Thread(target=call, name="tain-tokenizer-check", daemon=True)
    thread.start()
    thread.join(limit_s)
    if not outcome:
        raise UserError(f"the tokenizer of model {name!r} does not finish on a text of {_RUN:,} characters: give another model")
    if isinstance(outcome[0], BaseException):
        reason = " ".join(str(outcome[0]).split())[:200]
        raise UserError(f"the tokenizer of model {name!r} panics on an ordinary text ({reason}): give another model")
    return outcome[0]
