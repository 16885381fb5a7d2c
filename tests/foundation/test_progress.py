import io
import json
import shutil
import sys

import pytest

from tain.foundation.progress import Progress


def events(stream: io.StringIO) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in stream.getvalue().splitlines()]


def test_nothing_ever_goes_to_stdout(capsys):
    for progress in (Progress.for_terminal(), Progress.for_terminal(json=True), Progress.for_terminal(quiet=True)):
        progress.note("a note")
        progress.warn("a warning")
        with progress.task("work", 2) as task:
            task.advance(2)
        progress.close()
    assert capsys.readouterr().out == ""


def test_the_style_follows_flags_then_the_terminal(monkeypatch):
    assert Progress.for_terminal(json=True).style == "json"
    assert Progress.for_terminal(quiet=True).style == "quiet"
    assert Progress.for_terminal(json=True, quiet=True).style == "json-quiet"
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert Progress.for_terminal().style == "lines"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert Progress.for_terminal().style == "bar"


def test_silent_prints_nothing_and_warns_through_warnings(capsys):
    progress = Progress.silent()
    progress.note("a note")
    with progress.task("work", 1) as task:
        task.advance()
    with pytest.warns(UserWarning, match="act on this"):
        progress.warn("act on this")
    assert capsys.readouterr().err == ""


def test_mute_prints_nothing_and_does_not_warn(capsys):
    progress = Progress.mute()
    progress.note("a note")
    progress.warn("a warning")  # warnings are errors in tests
    with progress.task("work", 1) as task:
        task.advance()
    assert capsys.readouterr().err == ""


def test_quiet_json_keeps_warnings_only():
    stream = io.StringIO()
    progress = Progress("json-quiet", stream)
    progress.note("nobody asked")
    with progress.task("steps", 2) as task:
        task.advance(2)
    progress.warn("mind this")
    assert events(stream) == [{"event": "warning", "message": "mind this"}]


def test_quiet_keeps_warnings_only():
    stream = io.StringIO()
    progress = Progress("quiet", stream)
    progress.note("a note")
    progress.warn("act on this")
    with progress.task("work", 1) as task:
        task.advance()
    assert stream.getvalue() == "warning: act on this\n"


def test_a_log_gets_one_plain_line_for_a_short_task():
    stream = io.StringIO()
    with Progress("lines", stream).task("steps", 3) as task:
        for loss in (3.0, 2.0, 1.23456):
            task.advance(loss=loss)
    (line,) = stream.getvalue().splitlines()
    assert line.startswith("steps: 3/3 in ")
    assert line.endswith(" s, loss 1.235")
    assert "\r" not in stream.getvalue()


def test_an_unknown_total_is_left_out():
    stream = io.StringIO()
    with Progress("lines", stream).task("texts", None) as task:
        task.advance(1234)
    assert stream.getvalue().startswith("texts: 1,234 in ")


def test_json_is_one_object_a_line():
    stream = io.StringIO()
    progress = Progress("json", stream)
    progress.note("größer")
    progress.warn("act on this")
    with progress.task("steps", 2) as task:
        task.advance(2, loss=0.5)
    note, warning, done = events(stream)
    assert note == {"event": "note", "message": "größer"}
    assert warning == {"event": "warning", "message": "act on this"}
    assert done.pop("elapsed_s") >= 0
    assert done == {"event": "progress", "task": "steps", "done": 2, "total": 2, "loss": 0.5}


def test_json_stays_json_whatever_the_figures():
    import numpy as np

    stream = io.StringIO()
    with Progress("json", stream).task("steps", 2) as task:
        task.advance(loss=float("nan"), norm=float("inf"), rate=np.float32(0.5), kind=1.0, done=7.0)  # type: ignore[arg-type]
    (event,) = events(stream)
    assert event["loss"] is None
    assert event["norm"] is None
    assert event["rate"] == 0.5
    assert event["done"] == 1  # a figure never hides the count


def test_a_bar_never_wraps_and_is_gone_before_the_next_line(monkeypatch):
    monkeypatch.setattr("tain.foundation.progress._DRAW_EVERY_S", 0.0)
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: type("Size", (), {"columns": 30})())
    stream = io.StringIO()
    progress = Progress("bar", stream)
    with progress.task("a task with quite a long name indeed", 3) as task:
        task.advance(loss=1.0)
        task.advance(loss=0.5)
        progress.note("meanwhile")
        task.advance(loss=0.25)
    drawn, last = stream.getvalue().rsplit("\r", maxsplit=1)
    assert all(len(part) <= 29 for part in drawn.replace("meanwhile\n", "").split("\r"))
    assert "\r" + " " * 29 + "\rmeanwhile\n" in drawn
    assert last.startswith("a task with quite a long name indeed: 3/3 in ")
    assert last.endswith("\n")


def test_close_wipes_the_bar(monkeypatch):
    monkeypatch.setattr("tain.foundation.progress._DRAW_EVERY_S", 0.0)
    stream = io.StringIO()
    progress = Progress("bar", stream)
    progress._draw("half a bar")
    progress.close()
    progress.close()
    assert stream.getvalue() == "\rhalf a bar\r          \r"


def test_a_task_that_fails_still_prints_its_count():
    stream = io.StringIO()
    with pytest.raises(ValueError), Progress("lines", stream).task("steps", 9) as task:
        task.advance(4)
        raise ValueError
    assert stream.getvalue().startswith("steps: 4/9 in ")
