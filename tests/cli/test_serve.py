"""``tain serve`` as a process: it says where it is, answers, and stops; what cannot be served is refused before anything is loaded."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
from command_line import run

from tain.cli import serve as serve_command
from tain.recipes.distil import distil
from tain.runtime.student import Student

SMALL = {"features": 64, "bottleneck": 16, "state": 12, "layers": 1, "batch_texts": 8, "epochs": 1, "held_out": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def student(bert_folder, sentences, tmp_path_factory):
    folder = tmp_path_factory.mktemp("students") / "small"
    distil(bert_folder, sentences, folder, **SMALL)
    return folder


def test_a_student_is_served_without_torch_until_it_is_interrupted(student, sentences):
    blocked = "import sys\nfor name in ('torch', 'transformers', 'onnx', 'sentence_transformers'): sys.modules[name] = None\n"
    code = f"{blocked}from tain.cli.main import main\nmain(['serve', {str(student)!r}, 'other={student}', '--port', '0'])"
    environment = {**os.environ, "TAIN_API_KEY": "secret"}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("serving small (embeddings, rerank), other (embeddings, rerank) at http://127.0.0.1:")
        address = line.split()[-1]
        request = urllib.request.Request(
            f"{address}/embeddings",
            data=json.dumps({"input": sentences[:3], "model": "other"}).encode(),
            headers={"Authorization": "Bearer secret", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            said = json.load(answer)
        np.testing.assert_allclose([row["embedding"] for row in said["data"]], Student.load(student).encode(sentences[:3]), atol=1e-5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read().strip() == "stopped"
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_a_port_that_is_taken_is_refused_at_once(student, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("serve", student, "--port", port) == 2
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: nothing can listen at 127.0.0.1:{port} (Address already in use): give another --port, or 0 for a free one"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no model is given: give one or more, tain serve encoder"),
        (("tain-mini", "--port", 70000), "port is 70000: give 1 to 65535, or 0 for a free one"),
        (("tain-mini", "--most-waiting", 0), "most_waiting is 0: give 1 or more"),
        (("tain-mini", "tain-mini"), "two models are called 'tain-mini', 'tain-mini' and 'tain-mini': give one another name, NAME=MODEL"),
        (("=tain-mini",), "model is '=tain-mini': give MODEL, or NAME=MODEL"),
        (("./nowhere",), "'./nowhere'"),
        (("tain-mini", "--host", "no.such.host.invalid"), "host is 'no.such.host.invalid', which is no address of this machine"),
        (("tain-mini", "--host", "a..b"), "host is 'a..b', which is no address of this machine: give 127.0.0.1 or 0.0.0.0"),
        (("tain-mini", "--host", "192.0.2.1"), "host is '192.0.2.1', which is no address of this machine"),
    ],
)
def test_what_cannot_be_served_is_refused(arguments, message, capsys):
    assert run("serve", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(("key", "message"), [(" \n", "holds nothing but blanks"), ("schlüssel", "holds characters that no header")])
def test_a_key_that_nobody_can_send_is_refused(student, capsys, monkeypatch, key, message):
    monkeypatch.setenv("TAIN_API_KEY", key)
    assert run("serve", student, "--port", 0) == 2
    assert message in capsys.readouterr().err


def test_a_key_may_end_with_the_line_of_its_file(monkeypatch):
    monkeypatch.setenv("TAIN_API_KEY", "secret\n")
    assert serve_command._api_key() == "secret"


def test_a_missing_package_is_named_with_its_extra(student, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run("serve", student, "--port", 0) == 2
    assert capsys.readouterr().err == 'error: tain serve needs uvicorn, which is not installed: run pip install "tain[serve]"\n'
