"""What operators of a server need: keys, a time limit, metrics, logs without texts, and readiness."""

import io
import json
import logging
import re
import urllib.request

import pytest
from http_client import request_of, wait_until

from tain.foundation.errors import UserError
from tain.serving.batching import ComputeError
from tain.serving.keys import MOST_KEYS, ApiKeys, read_keys
from tain.serving.logs import JsonFormatter, RequestLog
from tain.serving.served import Served

# ---- keys


def test_each_of_several_keys_opens(serve, free):
    client = serve([Served("free", embedder=free)], api_key=["first", "second"])
    for key, status in (("first", 200), ("second", 200), ("third", 401), ("first second", 401), ("", 401)):
        assert client.ask("/v1/embeddings", {"input": "a"}, Authorization=f"Bearer {key}")[0] == status
    assert client.ask("/v1/embeddings", {"input": "a"}, Authorization="bearer second")[0] == 200


def test_what_reveals_no_model_needs_no_key_and_the_rest_does(serve, free):
    client = serve([Served("free", embedder=free)], api_key="secret")
    for path, status in (("/health", 200), ("/ready", 200), ("/openapi.json", 200), ("/v1/models", 401), ("/metrics", 401), ("/info", 401)):
        assert client.ask(path)[0] == status
    status, said = client.post("/embed", inputs="a")
    assert (status, said["error_type"]) == (401, "Validation")


def test_all_keys_are_compared_whichever_fits(monkeypatch):
    compared = []
    monkeypatch.setattr("tain.serving.keys.hmac.compare_digest", lambda left, right: compared.append(1) or left == right)
    keys = ApiKeys(["a", "b", "c", "a"])
    for key in ("a", "b", "c", "none"):
        compared.clear()
        assert keys.opens({"authorization": f"Bearer {key}"}) == (key != "none")
        assert len(compared) == len(keys) == 3
    assert ApiKeys().opens({})
    assert not keys.opens({}) and not keys.opens({"authorization": "Basic a"})
    assert not keys.opens({"authorization": "Bearer \xff"})


def test_a_file_of_keys_is_read(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# of the shop\nfirst\n\n  second  \r\n#third\n")
    assert read_keys(file) == ["first", "second"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "which has 0 keys: give a file with 1 to 1,000, one per line"),
        (b"# only\n", "which has 0 keys"),
        (b"good\nschl\xc3\xbcssel\n", "line 2 of "),
        (b"two words\n", "holds characters that HTTP headers cannot carry"),
        (b"\xff\xfe", "which cannot be read (it is not UTF-8)"),
        (b"key\n" * (MOST_KEYS + 1), "which has 1,001 keys"),
    ],
)
def test_a_file_that_holds_no_usable_keys_is_refused(tmp_path, content, message):
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_keys(file)
    assert message in str(refused.value)


# ---- time limit


def test_a_request_that_takes_too_long_is_given_up(serve, stuck, threads):
    client = serve([Served("stuck", embedder=stuck)], request_timeout_s=0.2)
    status, said = client.post("/v1/embeddings", input="a")  # its batch runs
    assert (status, said["error"]["code"]) == (504, "timeout")
    assert said["error"]["message"] == "the request took longer than 0.2 seconds: send fewer texts at a time"
    assert client.post("/v1/embeddings", input="b")[0] == 504  # it waits, and leaves the queue
    wait_until(lambda: client.waiting() == 0)
    stuck.is_let.set()
    wait_until(lambda: client.post("/v1/embeddings", input="c")[0] == 200)
    assert ["b"] not in stuck.encoded


# ---- metrics


def figures(client, **headers):
    request = urllib.request.Request(f"http://127.0.0.1:{client.port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def test_requests_texts_tokens_and_refusals_are_counted(serve, free):
    client = serve([Served("free", embedder=free)], max_request_tokens=100)
    client.post("/v1/embeddings", input=["a", "b", "c"])
    client.post("/v1/embeddings/", input="d")
    client.post("/v1/embeddings", input="a" * 4000)
    client.post("/v1/embeddings", input="a", model="other")
    client.ask("/no/such/path-of-a-client", {"secret": 1})
    found = figures(client)
    of = 'model="free",use="embeddings"'
    assert found[f"tain_texts_total{{{of}}}"] == 4
    assert found[f"tain_tokens_total{{{of}}}"] == 4
    assert found[f"tain_batch_texts_sum{{{of}}}"] == 4
    for name in ("queue", "tokenizing", "inference"):
        assert found[f"tain_{name}_seconds_count{{{of}}}"] == 2
    assert found['tain_requests_total{path="/v1/embeddings",status="200"}'] == 2
    assert found['tain_requests_total{path="other",status="404"}'] == 1
    assert found['tain_refusals_total{reason="max_tokens_per_request"}'] == 1
    assert found['tain_refusals_total{reason="model_not_found"}'] == 1
    assert found["tain_body_bytes"] == 0
    assert not any("no/such" in name for name in found)


def test_what_waits_is_shown_and_early_refusals_are_counted(serve, stuck, threads, monkeypatch):
    monkeypatch.setattr("tain.serving.batching._Speed.seconds_per_token", 1.0)
    monkeypatch.setattr("tain.serving.batching._Speed.batch_tokens", 100)
    client = serve([Served("stuck", embedder=stuck)], max_wait_s=1.0)
    running = [threads.submit(client.post, "/v1/embeddings", input="a")]
    assert stuck.has_begun.wait(20)
    for count in (1, 2):  # 2 s each
        running.append(threads.submit(client.post, "/v1/embeddings", input="a"))
        wait_until(lambda count=count: client.waiting() == count)
    assert client.post("/v1/embeddings", input="a")[0] == 429
    found = figures(client)
    assert found["tain_waiting_seconds"] == 4.0
    assert found['tain_refusals_total{reason="overloaded"}'] == 1
    assert found['tain_requests_total{path="/v1/embeddings",status="429"}'] == 1
    stuck.is_let.set()
    assert [one.result()[0] for one in running] == [200, 200, 200]


# ---- logs


def test_each_request_is_a_line_without_its_texts(serve, free):
    stream = io.StringIO()
    client = serve([Served("free", embedder=free)], log=RequestLog(stream), api_key="secret")
    key = {"Authorization": "Bearer secret"}
    client.ask("/v1/embeddings", {"input": ["private words", "b"]}, **key)
    client.ask("/v1/embeddings", {"input": "private words"})
    client.ask("/private/words", **key)
    client.ask("/v1/models/free", **key)
    client.ask("/v1/embeddings", {"input": "bug private"}, **key)
    wait_until(lambda: stream.getvalue().count("\n") == 5)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["status"] for line in lines] == [200, 401, 404, 200, 200]
    first = lines[0]
    assert {name: first[name] for name in ("event", "method", "path", "model", "use", "texts", "truncated")} == {
        "event": "request",
        "method": "POST",
        "path": "/v1/embeddings",
        "model": "free",
        "use": "embeddings",
        "texts": 2,
        "truncated": 0,
    }
    assert 0 <= first["waited_s"] <= first["seconds"] < 20
    assert "private" not in stream.getvalue() and "secret" not in stream.getvalue()
    assert lines[3]["path"] == "/v1/models/{name:path}"


def test_a_request_has_a_number_in_its_answer_and_in_the_log(serve, free):
    stream = io.StringIO()
    client = serve([Served("free", embedder=free)], log=RequestLog(stream))
    found = [
        client.ask("/v1/embeddings", {"input": "a"}, **headers)[2]["X-Request-ID"]
        for headers in ({"X-Request-ID": "trace-1"}, {"X-Request-ID": "two words"}, {"X-Request-ID": "a" * 129}, {})
    ]
    assert found[0] == "trace-1"
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in found[1:])
    assert len(set(found)) == 4
    wait_until(lambda: stream.getvalue().count("\n") == 4)
    assert [json.loads(line)["request_id"] for line in stream.getvalue().splitlines()] == found


def test_errors_are_logged_with_their_frames_and_not_with_what_they_quote():
    def fail():
        raise KeyError("private words")

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("tain.test_of_logs")
    logger.addHandler(handler)
    try:
        try:
            fail()
        except KeyError as error:
            raise ComputeError("private words") from error
    except ComputeError:
        logger.exception("Exception in ASGI application")
    logger.removeHandler(handler)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["message"]) == ("error", "Exception in ASGI application")
    assert [each["type"] for each in line["exception"]] == ["ComputeError", "KeyError"]
    assert line["exception"][1]["frames"][-1].endswith(" fail")
    assert "private" not in stream.getvalue()


# ---- readiness


def test_readiness_counts_the_models_and_ends_with_the_server(serve, stuck, threads):
    client = serve([Served("stuck", embedder=stuck), Served("other", labeller=stuck)])
    assert client.ask("/ready")[:2] == (200, {"status": "ok", "models": 2})
    held = client.connect()
    begun = threads.submit(client.post, "/v1/embeddings", input="a")
    assert stuck.has_begun.wait(20)
    wait_until(lambda: len(client.connections()) == 2)
    held.sendall(request_of({"input": "a"})[:10])  # a connection on which a request has begun stays open
    client.service.scheduler.stop()
    assert client.ask("/ready")[:2] == (503, {"status": "stopping", "models": 2})
    stuck.is_let.set()
    assert begun.result()[0] == 200
    held.close()


def test_while_models_are_loaded_requests_for_them_are_refused(serve, free):
    client = serve([], api_key="secret", loading=["free", "other"])
    key = {"Authorization": "Bearer secret"}
    assert client.ask("/health")[:2] == (200, {"status": "loading"})
    status, said, headers = client.ask("/ready")
    assert (status, said, headers["Retry-After"]) == (
        503,
        {"status": "loading", "models": 0, "reason": "the models are being loaded"},
        "2",
    )
    assert client.ask("/v1/models")[0] == 401  # the key comes first
    message = "the server is loading its models (free, other): try again in a moment"
    for path, content in (("/v1/models", None), ("/v1/embeddings", {"input": "a"}), ("/info", None), ("/v1/models/free", None)):
        status, said, headers = client.ask(path, content, **key)
        assert (status, headers["Retry-After"]) == (503, "2")
        assert (said["error"] if path == "/info" else said["error"]["message"]) == message
    client.service.finish_loading([Served("free", embedder=free), Served("other", embedder=free)])
    assert client.ask("/ready")[:2] == (200, {"status": "ok", "models": 2})
    assert client.ask("/v1/embeddings", {"input": "a", "model": "other"}, **key)[0] == 200
