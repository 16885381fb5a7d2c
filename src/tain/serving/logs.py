"""Structured logs: one JSON object per line, without any text that a client sent."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from io import TextIOBase
from typing import Any


class RequestLog:
    """Writes one line per answered request.

    Args:
        stream: Where to; default: standard error.
    """

    def __init__(self, stream: TextIOBase | None = None) -> None:
        self._stream = stream

    def write(self, **fields: Any) -> None:
        """Write a line; fields that are None are left out."""
        line = {"time": _now(), "event": "request", **{name: value for name, value in fields.items() if value is not None}}
        print(json.dumps(line), file=self._stream or sys.stderr, flush=True)


class JsonFormatter(logging.Formatter):
    """Formats log records as JSON.

    Of an exception it gives the types and the frames. Its message is left out, because it may quote a text.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {"time": _now(), "event": "log", "level": record.levelname.lower(), "logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = _chain(record.exc_info[1])
            line["message"] = str(record.msg)
        else:
            line["message"] = record.getMessage()
        return json.dumps(line)


def log_as_json() -> None:
    """Write the records of tain and uvicorn as JSON lines on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    for name in ("tain", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False


def _chain(error: BaseException) -> list[dict[str, Any]]:
    """An exception and its causes: types, and the frames of each, innermost last."""
    found: list[dict[str, Any]] = []
    one: BaseException | None = error
    while one is not None and len(found) < 10:
        frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(one.__traceback__)]
        found.append({"type": type(one).__name__, "frames": frames[-20:]})
        one = one.__cause__
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
