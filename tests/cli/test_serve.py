"""``tain serve`` as a process: it says where it is, answers, and stops; what cannot be served is refused before anything is loaded."""

import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from command_line import run

import tain.serving
from tain.cli import serve as serve_command
from tain.recipes.distil.recipe import distil
from tain.students.student import Student

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
        assert re.fullmatch(r"listening on port \d+, loading small, other\n", process.stderr.readline())
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
        expected = Student.load(student).encode(sentences[:3], normalize=True)
        np.testing.assert_allclose([row["embedding"] for row in said["data"]], expected, atol=1e-5)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read().split("\n") == ["stopping; repeat to stop at once", "stopped", ""]
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# a model that computes until it may read a line; what happens is told on stderr, so that no test waits for a time
_WAITING = """
import atexit, sys
import numpy as np
from tain.serving import batching, served, server

def tell(line):
    sys.stderr.write(line + "\\n")
    sys.stderr.flush()

class Waiting:
    dim = 2
    def encode(self, texts, normalize=None):
        tell("computing")
        sys.stdin.readline()
        return np.ones((len(texts), 2), dtype=np.float32)
    def count_tokens(self, texts):
        return [1] * len(texts)

submit = batching.Queue.submit
def told(self, *args, **options):
    future = submit(self, *args, **options)
    tell("queued")
    return future

batching.Queue.submit = told
served.load_served = lambda name, model, **options: served.Served(name, embedder=Waiting())
atexit.register(tell, "finalised")
"""


class Process:
    """A server as a process of its own, which computes until it is let."""

    def __init__(self, *options):
        code = f"{_WAITING}\nfrom tain.cli.main import main\nmain(['serve', 'tain-mini', '--port', '0', *{options!r}])"
        self.process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.threads = ThreadPoolExecutor(2)
        assert self.line().endswith(", loading tain-mini")
        self.address = self.line().split()[-1]

    def line(self):
        return self.process.stderr.readline().rstrip("\n")

    def ask(self):
        """Send a request from another thread; its status is the result."""
        request = urllib.request.Request(f"{self.address}/embeddings", data=b'{"input": "a"}')

        def send():
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return answer.status
            except urllib.error.HTTPError as error:
                return error.code
            except OSError:
                return None

        return self.threads.submit(send)

    def let(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def rest(self):
        """The exit code, and what is left on stderr."""
        code = self.process.wait(120)
        return code, self.process.stderr.read().split("\n")[:-1]


@pytest.fixture
def start():
    made = []

    def start(*options):
        made.append(Process(*options))
        return made[-1]

    yield start
    for one in made:
        one.process.kill()
        one.process.wait()
        one.threads.shutdown()
        one.process.stdin.close()
        one.process.stderr.close()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_what_has_begun_and_refuses_what_waits(start, sent):
    server = start()
    begun = server.ask()
    assert sorted((server.line(), server.line())) == ["computing", "queued"]
    waiting = server.ask()
    assert server.line() == "queued"
    server.process.send_signal(sent)
    assert server.line() == "stopping; repeat to stop at once"
    assert waiting.result() == 503
    server.let()
    assert begun.result() == 200
    assert server.rest() == (0, ["stopped", "finalised"])


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_busy_server_at_once_and_without_an_abort(start, second):
    server = start()
    begun = server.ask()
    assert sorted((server.line(), server.line())) == ["computing", "queued"]
    server.process.send_signal(signal.SIGINT)
    assert server.line() == "stopping; repeat to stop at once"
    server.process.send_signal(second)
    code, lines = server.rest()
    assert (code, lines) == (128 + second, [])  # the interpreter is not finalised: native code of the other thread would abort it
    assert begun.result() is None


def test_a_batch_that_does_not_end_keeps_no_server_from_stopping(start):
    server = start("--grace-s", "0.1")
    begun = server.ask()
    assert sorted((server.line(), server.line())) == ["computing", "queued"]
    server.process.send_signal(signal.SIGTERM)
    assert server.line() == "stopping; repeat to stop at once"
    assert begun.result() == 503
    assert server.rest() == (0, ["stopped"])


_LOADING = """
import sys
from tain.cli.main import main
from tain.serving import served

def load(name, model, **options):
    sys.stderr.write("loading\\n")
    sys.stdin.readline()
    return real(name, model, **options)

real, served.load_served = served.load_served, load
main(["serve", MODEL, "--port", "0"])
"""


@pytest.fixture
def loading(student):
    """A server process that waits before it loads its model, and its address."""
    code = _LOADING.replace("MODEL", repr(str(student)))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None and process.stdin is not None
    (port,) = re.findall(r"listening on port (\d+), loading small", process.stderr.readline())
    assert process.stderr.readline() == "loading\n"
    yield process, f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()
    process.stdin.close()
    process.stderr.close()


def status_of(address, path, body=None):
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data=body), timeout=60) as answer:
            return answer.status, json.load(answer), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), error.headers


def test_a_server_that_loads_its_models_is_alive_and_not_ready(loading):
    process, address = loading
    assert status_of(address, "/health")[:2] == (200, {"status": "loading"})
    status, said, headers = status_of(address, "/ready")
    assert (status, said["status"], headers["Retry-After"]) == (503, "loading", "2")
    status, said, headers = status_of(address, "/v1/embeddings", b'{"input": "a"}')
    assert (status, said["error"]["code"], headers["Retry-After"]) == (503, "loading", "2")
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stderr.readline().startswith("serving small (embeddings, rerank) at ")
    assert status_of(address, "/ready")[:2] == (200, {"status": "ok", "models": 1})
    assert status_of(address, "/v1/embeddings", b'{"input": "a"}')[0] == 200


def test_a_server_that_loads_its_models_can_be_stopped(loading):
    process, _ = loading
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert process.stderr.read().split("\n") == ["stopping; repeat to stop at once", "stopped", ""]


def test_a_model_that_cannot_be_loaded_ends_the_server_with_one_line(student, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    shutil.copytree(student, damaged)
    max(damaged.iterdir(), key=lambda file: file.stat().st_size).write_bytes(b"no weights")
    assert run("serve", student, damaged, "--port", 0, "--quiet") == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and str(damaged) in said and said.count("\n") == 1


def test_an_error_of_ours_while_loading_keeps_its_traceback(student, monkeypatch):
    monkeypatch.setattr("tain.serving.served.load_served", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("serve", student, "--port", 0, "--quiet")


def test_a_port_that_is_taken_is_refused_at_once(student, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run("serve", student, "--port", port) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: cannot listen at 127.0.0.1:{port} (Address already in use): give another --port, or 0 for a free one")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no model is given: give one or more, tain serve encoder"),
        (("tain-mini", "--port", 70000), "port is 70000: give 1 to 65535, or 0 for a free one"),
        (("tain-mini", "--max-wait-s", 0), "max_wait_s is 0.0: give a number of seconds above 0"),
        (("tain-mini", "--max-wait-s", "nan"), "max_wait_s is nan: give a number of seconds above 0"),
        (("tain-mini", "--grace-s", 0), "grace_s is 0.0: give a number of seconds above 0"),
        (("tain-mini", "--request-timeout-s", -1), "request_timeout_s is -1.0: give a number of seconds above 0"),
        (("tain-mini", "--api-keys", "no/such/file"), "api_keys is 'no/such/file', which cannot be read (No such file or directory)"),
        (("tain-mini", "--max-request-tokens", 0), "max_request_tokens is 0: give 1 or more"),
        (
            ("tain-mini", "--cors-origin", "page.example"),
            "cors_origin is 'page.example', which is no origin: give one without a path, for example https://example.org",
        ),
        (("tain-mini", "--cors-origin", "https://page.example/path"), "cors_origin is 'https://page.example/path', which is no origin"),
        (("tain-mini", "tain-mini"), "two models are called 'tain-mini', 'tain-mini' and 'tain-mini': rename one with NAME=MODEL"),
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


@pytest.mark.parametrize(
    ("key", "message"), [(" \n", "holds only whitespace"), ("schlüssel", "holds characters that HTTP headers cannot carry")]
)
def test_a_key_that_nobody_can_send_is_refused(student, capsys, monkeypatch, key, message):
    monkeypatch.setenv("TAIN_API_KEY", key)
    assert run("serve", student, "--port", 0) == 2
    assert message in capsys.readouterr().err


def test_a_key_may_end_with_the_line_of_its_file(monkeypatch):
    monkeypatch.setenv("TAIN_API_KEY", "secret\n")
    assert serve_command._keys(None) == ["secret"]


@pytest.fixture
def served(monkeypatch):
    """Runs ``tain serve`` as far as to the start of the server; gives its service and options."""
    found = {}

    def start(app, listener, **options):
        options["load"]()
        found.update(options, service=app.state.service, port=listener.getsockname()[1], app=app)
        return True

    monkeypatch.setattr("tain.serving.server.run", start)

    def serve(*arguments, **environment):
        found.clear()
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert run("serve", *arguments, "--quiet") == 0
        return found

    return serve


def test_every_option_can_come_from_the_environment(student, served, tmp_path):
    (tmp_path / "keys").write_text("first\nsecond\n")
    found = served(
        TAIN_SERVE_MODELS=f"{student} other={student}",
        TAIN_SERVE_PORT="0",
        TAIN_SERVE_MAX_WAIT_S="1.5",
        TAIN_SERVE_MAX_REQUEST_TOKENS="1000",
        TAIN_SERVE_REQUEST_TIMEOUT_S="20",
        TAIN_SERVE_GRACE_S="3",
        TAIN_SERVE_NORMALIZE="false",
        TAIN_SERVE_LOG_JSON="true",
        TAIN_SERVE_API_KEYS=str(tmp_path / "keys"),
        TAIN_API_KEY="third",
        TAIN_SERVE_CORS_ORIGIN="https://a.example https://b.example",
    )
    service, limits = found["service"], found["service"].limits
    assert list(service.served) == [student.name, "other"]
    assert (limits.max_wait_s, limits.max_request_tokens, limits.request_timeout_s, found["grace_s"]) == (1.5, 1000, 20.0, 3.0)
    assert all(one.normalize is None for one in service.served.values())
    assert service.log is not None and found["has_own_log"]
    assert [service.keys.opens({"authorization": f"Bearer {key}"}) for key in ("first", "second", "third", "fourth")] == [True] * 3 + [
        False
    ]
    (cors,) = [each for each in found["app"].user_middleware if "allow_origins" in each.kwargs]
    assert cors.kwargs["allow_origins"] == ["https://a.example", "https://b.example"]


def test_options_of_the_command_line_win_over_the_environment(student, served):
    found = served(
        student,
        "--grace-s",
        "5",
        "--normalize",
        TAIN_SERVE_MODELS="no/such",
        TAIN_SERVE_GRACE_S="3",
        TAIN_SERVE_PORT="0",
        TAIN_SERVE_NORMALIZE="false",
    )
    assert (found["grace_s"], list(found["service"].served)) == (5.0, [student.name])
    assert found["service"].served[student.name].normalize is True
    assert served(student, "--port", "0")["grace_s"] == 3.0


def test_a_variable_that_cannot_be_is_refused_in_one_line(student, capsys, monkeypatch):
    monkeypatch.setenv("TAIN_SERVE_PORT", "tcp://10.0.0.1:80")  # as Kubernetes sets it for a service of that name
    assert run("serve", student) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and "tcp://10.0.0.1:80" in said and said.count("\n") == 1


def test_a_variable_of_no_option_is_warned_of(student, served, capsys, monkeypatch):
    served(student, TAIN_SERVE_PORT="0", TAIN_SERVE_GRACE="3", TAIN_SERVE_SERVICE_HOST="10.0.0.1")
    assert capsys.readouterr().err == "warning: TAIN_SERVE_GRACE is the name of no option and is ignored: see tain serve --help\n"


@pytest.mark.parametrize("file", ["Containerfile", "docs/serve.md"])
def test_variables_that_are_named_are_those_of_options(file):
    text = (Path(__file__).parents[2] / file).read_text(encoding="utf-8")
    options = {f"TAIN_SERVE_{name.upper()}" for name in inspect.signature(serve_command.serve).parameters}
    named = set(re.findall(r"TAIN_SERVE_[A-Z_]*[A-Z]", text))
    assert named <= options
    assert file == "Containerfile" or named == options  # the guide names all


def test_the_environment_of_a_server_changes_no_other_command(monkeypatch, capsys):
    monkeypatch.setenv("TAIN_ENCODE_OUTPUT", "x.npy")
    assert run("encode", "tain-mini", "no/such/file.txt") == 2
    assert "--output" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(student, capsys, monkeypatch):
    for name in ("server", "protocol"):  # as if nothing had imported them yet
        monkeypatch.delitem(sys.modules, f"tain.serving.{name}", raising=False)
        monkeypatch.delattr(tain.serving, name, raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert run("serve", student, "--port", 0) == 2
    assert capsys.readouterr().err == 'error: tain serve needs uvicorn, which is not installed: run pip install "tain[serve]"\n'
