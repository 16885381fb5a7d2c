"""A server under load and attack: it sheds, stays fair, tells the truth about itself, closes what drips, and stops."""

import gzip
import http.client
import json
import logging
import math
import re
import socket
import time
import urllib.error
import urllib.request

import pytest
from http_client import Stuck, answer_of, request_of, wait_until

from tain.serving import batching, bodies, protocol
from tain.serving import service as service_module
from tain.serving.served import Served


def slow(monkeypatch):
    """Every token takes a second, as far as the server knows; small batches."""
    monkeypatch.setattr(batching._Speed, "seconds_per_token", 1.0)
    monkeypatch.setattr(batching._Speed, "batch_tokens", 100)


# ---- load


def test_a_server_with_too_much_to_do_says_so(serve, stuck, threads, monkeypatch):
    slow(monkeypatch)
    client = serve([Served("stuck", embedder=stuck)], max_wait_s=3.0)
    running = threads.submit(client.post, "/v1/embeddings", input="a")
    assert stuck.has_begun.wait(20)
    waiting = []
    for count in (1, 2):  # 2 s each
        waiting.append(threads.submit(client.post, "/v1/embeddings", input="a"))
        wait_until(lambda count=count: client.waiting() == count)
    status, said, headers = client.ask("/v1/embeddings", {"input": "a"})
    assert (status, said["error"]["code"], said["error"]["type"]) == (429, "overloaded", "rate_limit_error")
    assert headers["Retry-After"] == "4"
    assert client.ask("/health")[0] == 200
    stuck.is_let.set()
    assert [one.result()[0] for one in (running, *waiting)] == [200, 200, 200]


@pytest.fixture
def overloaded(serve, stuck, threads, monkeypatch):
    """A server with a second of work that waits, of which 0.05 s are allowed; makes it anew with other options."""

    def made(**options):
        monkeypatch.setattr(batching._Speed, "seconds_per_token", 0.01)
        monkeypatch.setattr(batching._Speed, "batch_tokens", 100)
        client = serve([Served("stuck", embedder=stuck)], max_wait_s=0.05, **options)
        key = {"Authorization": f"Bearer {options['api_key']}"} if "api_key" in options else {}
        for waiting in (0, 1):
            threads.submit(client.ask, "/v1/embeddings", {"input": "a" * 4000}, **key)
            assert stuck.has_begun.wait(20)
            wait_until(lambda waiting=waiting: client.waiting() == waiting)
        return client

    yield made
    stuck.is_let.set()  # before the threads are waited for


def test_under_overload_a_request_is_refused_before_its_body_is_parsed(overloaded, monkeypatch):
    client = overloaded()
    monkeypatch.setattr(protocol.H11Protocol, "data_received", lambda *_: pytest.fail("it was parsed"))
    # in one piece: http.client sends body and headers apart, and a busy server may read the headers first
    with client.connect(b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: 7\r\n\r\nno JSON") as connection:
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        status, said, headers = answer.status, json.loads(answer.read()), answer.headers
    assert (status, said["error"]["code"], headers["Retry-After"]) == (429, "overloaded", "1")


def test_under_overload_a_body_that_comes_in_pieces_is_not_waited_for(overloaded):
    with overloaded().connect(b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: 12\r\n\r\n{") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 429 ")


def test_a_connection_whose_request_was_refused_early_goes_on(overloaded, stuck):
    client = overloaded()
    refused = request_of({"input": "a"})
    with client.connect() as connection:
        for _ in range(3):
            connection.sendall(refused)
            answer = b""
            while not answer.endswith(b"}}"):
                answer += connection.recv(4096)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"close" not in answer
        stuck.is_let.set()
        wait_until(lambda: client.waiting() == 0)
        connection.sendall(request_of({"input": "a"}, "Connection: close"))
        assert answer_of(connection).startswith(b"HTTP/1.1 200 ")
    with client.connect(refused) as connection:
        wait_until(client.connections)
    wait_until(lambda: not client.connections())


def test_under_overload_answers_that_are_not_read_do_not_pile_up(overloaded):
    client = overloaded()
    with client.connect() as connection:
        connection.setblocking(False)
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s:
            try:
                connection.sendall(request_of({"input": "a"}))
            except BlockingIOError:
                break
        assert all(each.transport.get_write_buffer_size() < 2**20 for each in client.connections())


def test_under_overload_the_key_is_asked_for_first(overloaded):
    client = overloaded(api_key="right")
    assert client.ask("/v1/embeddings", {"input": "a"})[0] == 401
    assert client.ask("/v1/embeddings", {"input": "a"}, Authorization="Bearer wrong")[0] == 401
    assert client.ask("/v1/embeddings", {"input": "a"}, Authorization="Bearer right")[0] == 429


def test_under_overload_pages_of_other_origins_can_read_the_refusal(overloaded):
    client = overloaded(cors_origins=["https://example.org"])
    status, _, headers = client.ask("/v1/embeddings", {"input": "a"}, Origin="https://example.org")
    assert (status, headers["Access-Control-Allow-Origin"]) == (429, "https://example.org")


def test_under_overload_what_costs_no_work_is_answered(overloaded):
    client = overloaded()
    assert client.ask("/health")[0] == 200
    assert client.ask("/v1/models")[0] == 200
    assert client.ask("/v1/nothing", {"input": "a"})[0] == 404


def test_a_request_that_takes_longer_than_it_would_wait_is_accepted(overloaded, threads):
    client = overloaded()
    threads.submit(client.post, "/v1/embeddings", input="a" * 8000)  # its own 20 s against 1 s for each of its rounds
    wait_until(lambda: client.waiting() == 2)


@pytest.mark.parametrize("texts", [[""], [""] * 2048, ["a"] * 100, ["é"] * 100, ["漢字" * 50], ["a" * 10_000, "é" * 10_000]])
def test_a_body_has_more_bytes_than_its_texts_have_tokens(texts, free):
    for content in (json.dumps(texts), json.dumps(texts, ensure_ascii=False, separators=(",", ":"))):
        assert sum(Served("free", embedder=free).estimate_tokens(texts)) < len(content.encode()) + len('{"input":}')


PLAIN = b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\n\r\n{}"


def test_a_plain_request_is_taken_apart():
    assert protocol.whole_request(PLAIN) == ("/v1/embeddings", {"host": "here", "content-length": "2"})


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        PLAIN[:-1],
        PLAIN + b"GET / HTTP/1.1",
        PLAIN.replace(b"POST", b"GET"),
        PLAIN.replace(b"1.1", b"1.0"),
        PLAIN.replace(b"embeddings", b"%65mbeddings"),
        PLAIN.replace(b"Host: here\r\n", b""),
        PLAIN.replace(b"Host", b"Host "),
        PLAIN.replace(b"Host: here", b"Host: here\r\n folded"),
        PLAIN.replace(b"Host: here", b"Host: here\r\nContent-Length: 2"),
        PLAIN.replace(b"Host: here", b"Host: here\r\nTransfer-Encoding: chunked"),
        PLAIN.replace(b"Host: here", b"Host: here\r\nExpect: 100-continue"),
        PLAIN.replace(b"Length: 2", b"Length: +2"),
        PLAIN.replace(b"here", b"he\x00re"),
        PLAIN.replace(b"here", b"h" * 5000),
    ],
)
def test_anything_else_is_left_to_the_parser(request_bytes):
    assert protocol.whole_request(request_bytes) is None


def test_documents_to_rank_count_as_work(serve, stuck, threads, monkeypatch):
    slow(monkeypatch)
    client = serve([Served("stuck", embedder=stuck)], max_wait_s=5.0)
    running = threads.submit(client.post, "/v1/rerank", query="a", documents=["b"])
    assert stuck.has_begun.wait(20)
    waiting = threads.submit(client.post, "/v1/rerank", query="a", documents=["b", "c"])  # 6 s
    wait_until(lambda: client.waiting(use="rerank") == 1)
    assert client.post("/v1/rerank", query="a", documents=["b"])[0] == 429
    stuck.is_let.set()
    assert (running.result()[0], waiting.result()[0]) == (200, 200)


def test_a_request_of_too_many_tokens_is_refused(serve, free):
    client = serve([Served("free", embedder=free)], max_request_tokens=100)
    error = client.refusal("/v1/embeddings", 400, input=["a" * 200, "b" * 200])
    assert error["message"] == "the request has about 104 tokens, but the limit is 100: send fewer or shorter texts at a time"
    assert (error["code"], error["param"]) == ("max_tokens_per_request", "input")
    assert client.refusal("/v1/rerank", 400, query="a", documents=["b" * 400])["param"] == "documents"
    assert client.post("/v1/embeddings", input=["a" * 200])[0] == 200


def test_texts_beyond_what_a_model_reads_do_not_count(free):
    free.max_tokens = 50
    served = Served("free", embedder=free)
    assert served.estimate_tokens(["a" * 40, "a" * 10**6, "ä" * 40]) == [12, 50, 22]
    assert served.estimate_pair_tokens("a" * 40, ["a" * 8, "a" * 10**6]) == [12 + 4, 50]
    assert Served("labels", labeller=free).estimate_tokens(["a" * 4000]) == [1002]  # split whole


def test_a_request_whose_client_went_away_is_not_computed(serve, stuck, threads):
    client = serve([Served("stuck", embedder=stuck)])
    running = threads.submit(client.post, "/v1/embeddings", input="a")
    assert stuck.has_begun.wait(20)
    gone = client.connect(request_of({"input": "gone"}))
    wait_until(lambda: client.waiting() == 1)
    gone.close()
    wait_until(lambda: client.waiting() == 0)
    kept = threads.submit(client.post, "/v1/embeddings", input="kept")
    wait_until(lambda: client.waiting() == 1)
    stuck.is_let.set()
    assert (running.result()[0], kept.result()[0]) == (200, 200)
    assert stuck.encoded == [["a"], ["kept"]]


@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_a_client_that_closes_its_sending_side_gets_its_answer(serve, stuck, version):
    client = serve([Served("stuck", embedder=stuck)])
    with client.connect(request_of({"input": "a"}).replace(b"HTTP/1.1", version)) as connection:
        assert stuck.has_begun.wait(20)
        connection.shutdown(socket.SHUT_WR)
        if version == b"HTTP/1.1":  # the end has been seen
            assert connection.recv(25, socket.MSG_WAITALL) == b"HTTP/1.1 100 Continue\r\n\r\n"
        stuck.is_let.set()
        answer = answer_of(connection)
    interim, _, rest = answer.rpartition(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert set(interim.split(b"HTTP/1.1 100 Continue\r\n\r\n")) <= {b""}
    assert rest.startswith(b"HTTP/1.1 200 OK\r\n") and rest.endswith(b"}")


# ---- errors


def test_what_a_model_refuses_is_the_requests_fault_and_others_go_on(serve, free):
    client = serve([Served("free", embedder=free)])
    assert client.refusal("/v1/embeddings", 400, input=["a", "refused"])["message"] == "no tokens: remove it"
    assert client.post("/v1/embeddings", input=["a"])[0] == 200


@pytest.mark.parametrize(("text", "named"), [("bug", "ZeroDivisionError"), ("panic", "PanicError"), ("nan", "not finite")])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_an_error_of_ours_is_told_as_one_and_the_server_goes_on(serve, free, text, named, encoding):
    client = serve([Served("free", embedder=free)])
    status, said = client.post("/v1/embeddings", input=text, encoding_format=encoding)
    assert (status, said["error"]["type"]) == (500, "server_error")
    assert named in said["error"]["message"]
    assert client.post("/v1/embeddings", input="a")[0] == 200
    assert client.ask("/health")[:2] == (200, {"status": "ok"})


def test_health_tells_of_a_model_that_fails_and_when_it_works_again(serve, free, monkeypatch):
    monkeypatch.setattr(batching, "_PROBE_S", 0.01)
    client = serve([Served("free", embedder=free)])
    free.is_broken = True
    assert client.post("/v1/embeddings", input="a")[0] == 500
    assert client.ask("/health")[:2] == (503, {"status": "failing"})
    free.is_broken = False
    wait_until(lambda: client.ask("/health")[0] == 200)


def test_health_tells_of_a_batch_that_does_not_end(serve, stuck, threads, monkeypatch):
    client = serve([Served("stuck", embedder=stuck)])
    assert client.ask("/health")[0] == 200
    running = threads.submit(client.post, "/v1/embeddings", input="a")
    assert stuck.has_begun.wait(20)
    assert client.ask("/health")[0] == 200
    monkeypatch.setattr(service_module, "STUCK_S", 0.0)
    assert client.ask("/health")[:2] == (503, {"status": "stuck"})
    stuck.is_let.set()
    assert running.result()[0] == 200
    wait_until(lambda: client.ask("/health")[0] == 200)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_health_tells_of_a_thread_that_ended(serve, free, monkeypatch):
    client = serve([Served("free", embedder=free)])
    monkeypatch.setattr(free, "encode", lambda texts, normalize=None: (_ for _ in ()).throw(SystemExit(1)))
    status, said = client.post("/v1/embeddings", input="a")
    assert (status, said["error"]["code"]) == (503, "stopping")
    wait_until(lambda: not client.service.scheduler.is_alive)
    assert client.ask("/health")[:2] == (503, {"status": "stopped"})


# ---- connections


@pytest.fixture
def client(serve, free):
    return serve([Served("free", embedder=free)])


@pytest.mark.parametrize("begun", [b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nHost: here\r\nX: "])
def test_headers_that_do_not_come_end_the_connection(client, monkeypatch, begun):
    monkeypatch.setattr(protocol, "HEADER_S", 0.2)
    with client.connect(begun) as connection:
        assert answer_of(connection) == b""


def test_headers_that_drip_end_the_connection(client, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_S", 0.3)
    with client.connect(b"GET /health HTTP/1.1\r\nX: ") as connection, pytest.raises(OSError):
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s:
            connection.sendall(b"x")
            time.sleep(0.05)


def test_the_second_request_of_a_connection_has_the_same_time(client, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_S", 0.3)
    with client.connect(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n") as connection:
        answer = b""
        while b'{"status":"ok"}' not in answer:  # head and body may come apart; a closed connection gives b"" and fails below
            answer += (part := connection.recv(4096))
            assert part
        connection.sendall(b"GET /health HT")
        assert answer_of(connection) == b""


def test_a_body_that_drips_is_refused_after_its_time(client, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_S", 0.3)
    with client.connect(request_of({"input": "a"}).replace(b"Content-Length: 14", b"Content-Length: 1400")) as connection:
        answer = b""
        connection.settimeout(0.05)
        until_s = time.monotonic() + 20
        while b"took longer than 0.3 seconds" not in answer and time.monotonic() < until_s:  # head and body may come in two pieces
            try:
                if not answer:
                    connection.sendall(b" ")
                answer += connection.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"took longer than 0.3 seconds" in answer


def test_the_rest_of_a_body_that_was_answered_early_is_not_waited_for(client, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_S", 0.3)
    with client.connect(b"POST /nowhere HTTP/1.1\r\nHost: here\r\nContent-Length: 1000\r\n\r\n{") as connection:
        assert connection.recv(4096).startswith(b"HTTP/1.1 404 ")
        with pytest.raises(OSError):
            until_s = time.monotonic() + 20
            while time.monotonic() < until_s:
                connection.sendall(b"x")
                time.sleep(0.05)


def test_an_answer_that_is_not_read_is_dropped(serve, monkeypatch):
    monkeypatch.setattr(protocol, "UNREAD_S", 0.2)
    free = Stuck()
    free.is_let.set()
    client = serve([Served("free" * 10_000_000, embedder=free)])  # its name is in each answer
    connection = client.connect(b"GET /v1/models HTTP/1.1\r\nHost: here\r\n\r\n")
    try:
        wait_until(client.connections)
        wait_until(lambda: not client.connections())
    finally:
        connection.close()


def test_more_connections_than_the_limit_are_told_so(client, monkeypatch):
    wait_until(lambda: not client.connections())
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 2)
    held = [client.connect(b"GET /health HTTP/1.1\r\nHost") for _ in range(2)]
    wait_until(lambda: len(client.connections()) == 2)
    with client.connect() as third:
        answer = answer_of(third)
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n") and b"Retry-After: 1\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "overloaded"
    for one in held:
        one.close()
    wait_until(lambda: not client.connections())
    assert client.ask("/health")[0] == 200


def test_all_bodies_together_have_a_limit(serve, stuck, threads, monkeypatch):
    monkeypatch.setattr(bodies, "MAX_HELD_BYTES", 100_000)
    client = serve([Served("stuck", embedder=stuck)])
    running = threads.submit(client.post, "/v1/embeddings", input="a" * 90_000)
    assert stuck.has_begun.wait(20)
    status, said = client.post("/v1/embeddings", input="a" * 20_000)
    assert (status, said["error"]["code"]) == (429, "overloaded")
    stuck.is_let.set()
    assert running.result()[0] == 200
    wait_until(lambda: client.service.bodies.held_bytes == 0)
    assert client.post("/v1/embeddings", input="a" * 20_000)[0] == 200


CHUNKED = b"POST %s HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [b"nonsense\r\n\r\n"],
        [CHUNKED % b"/v1/embeddings", b"zz\r\n"],  # in the middle of a request that is being read
        [CHUNKED % b"/nowhere", b"zz\r\n"],  # behind one that has been answered
        [CHUNKED % b"/v1/embeddings" + b"zz\r\n"],
        [CHUNKED % b"/nowhere" + b"zz\r\n"],
        [b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n", b"nonsense\r\n\r\n"],
        [b"GET /health HTTP/1.1\r\nHost: here\r\n\r\nnonsense\r\n\r\n"],
        [b"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: 1, 2\r\n\r\n{}"],
        [b"HEAD /health HTTP/1.1\r\nHost: here\r\n\r\n", b"\x00\x01"],
        [b"GET /nowhere HTTP/1.1\r\nHost: [\r\nConnection: close\r\n\r\n"],
        [b"GET /health/ HTTP/1.0\r\n\r\n"],
    ],
)
def test_what_is_no_http_leaves_no_traceback(client, caplog, pieces, monkeypatch):
    monkeypatch.setattr(protocol, "HEADER_S", 0.5)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    with caplog.at_level(logging.WARNING), client.connect() as connection:
        for index, piece in enumerate(pieces):
            connection.sendall(piece)
            if index + 1 < len(pieces) and b"embeddings" not in piece:
                assert connection.recv(4096).startswith(b"HTTP/1.1 ")
        try:
            answer = answer_of(connection)
        except ConnectionResetError:
            answer = b""
    if answer and len(pieces) == 1:
        assert re.match(rb"HTTP/1.1 [24]\d\d ", answer)
    wait_until(lambda: not client.connections())
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []
    assert client.ask("/health")[0] == 200


# ---- requests


def test_a_slash_at_the_end_changes_nothing_and_the_key_comes_first(serve, free):
    client = serve([Served("free", embedder=free)], api_key="secret")
    for path in ("/v1/embeddings", "/v1/embeddings/", "/nowhere", "/nowhere/", "/v1/docs"):
        assert client.ask(path, {"input": "a"})[0] == 401
        status, _, headers = client.ask(path, {"input": "a"}, Authorization="Bearer secret")
        assert status == (200 if "embeddings" in path else 404)
        assert headers["Location"] is None
    assert client.ask("/health")[0] == 200


@pytest.mark.parametrize(("path", "status"), [("/health", 200), ("/v1/models", 200), ("/", 200), ("/v1/embeddings", 405)])
def test_head_gives_the_headers_of_get(client, path, status):
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
    answers = {}
    for method in ("GET", "HEAD", "GET"):  # on one connection: a body that is left over would be taken for the next answer
        connection.request(method, path)
        answer = connection.getresponse()
        answers[method] = (answer.status, answer.headers["Content-Length"], len(answer.read()))
    connection.close()
    assert answers["HEAD"][0] == answers["GET"][0] == status
    assert answers["GET"][1] == str(answers["GET"][2])
    assert answers["HEAD"][2] == 0


def test_null_means_left_out_for_every_field(client):
    fields = {"model": None, "encoding_format": None, "dimensions": None, "user": None}
    assert client.post("/v1/embeddings", input="a", **fields)[0] == 200
    fields = {"model": None, "top_n": None, "return_documents": None, "max_chunks_per_doc": None}
    status, said = client.post("/v1/rerank", query="a", documents=["b"], **fields)
    assert (status, "document" in said["results"][0]) == (200, False)
    assert client.refusal("/v1/embeddings", 400, input=None)["message"] == "input: Field required"
    assert client.refusal("/v1/rerank", 400, query=None, documents=["a"])["param"] == "query"


@pytest.mark.parametrize(("normalize", "length", "is_told"), [(True, 1.0, True), (None, 5.0, False)])
def test_vectors_have_length_one_unless_told_otherwise(serve, free, normalize, length, is_told):
    client = serve([Served("free", embedder=free, normalize=normalize)])
    _, said = client.post("/v1/embeddings", input="a")
    assert math.hypot(*said["data"][0]["embedding"]) == pytest.approx(length)
    _, said, _ = client.ask("/v1/models")
    assert said["data"][0]["normalized"] is is_told


def test_one_model_is_described_under_its_name(serve, free):
    client = serve([Served("org/free", embedder=free), Served("labels", labeller=free)])
    _, listed, _ = client.ask("/v1/models")
    for about in listed["data"]:
        assert client.ask(f"/v1/models/{about['id']}")[:2] == (200, about)
        assert about["object"] == "model"
        assert abs(about["created"] - time.time()) < 3600
    status, said, _ = client.ask("/v1/models/other")
    assert (status, said["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "identity"])
def test_bodies_may_be_compressed(client, encoding):
    body = json.dumps({"input": ["a", "b"]}).encode()
    packed = body if encoding == "identity" else gzip.compress(body[:5]) + gzip.compress(body[5:])
    status, said, _ = client.ask("/v1/embeddings", raw=packed, **{"Content-Encoding": encoding})
    assert (status, len(said["data"])) == (200, 2)


def test_compressed_bodies_that_cannot_be_read_are_refused(client, monkeypatch):
    packed = gzip.compress(json.dumps({"input": "a"}).encode())

    def refused(raw, encoding="gzip"):
        status, said, _ = client.ask("/v1/embeddings", raw=raw, **{"Content-Encoding": encoding})
        return status, said["error"]["message"]

    assert refused(packed[:-9]) == (400, "the request's body is incomplete: its gzip data is cut off")
    assert refused(b"{}")[0] == 400
    assert refused(packed, "br") == (415, "the request's body is encoded as 'br': send it plain or as gzip")
    monkeypatch.setattr(bodies, "MAX_BYTES", 2**20)
    assert refused(gzip.compress(bytes(2**28)))[0] == 413  # 256 MB in 260 kB
    assert client.service.bodies.held_bytes == 0


def test_web_pages_may_ask_where_their_origin_is_allowed(serve, free):
    def asked(client, origin):
        request = urllib.request.Request(f"http://127.0.0.1:{client.port}/v1/embeddings", method="OPTIONS")
        request.add_header("Origin", origin)
        request.add_header("Access-Control-Request-Method", "POST")
        request.add_header("Access-Control-Request-Headers", "authorization,content-type")
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers["Access-Control-Allow-Origin"]
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Access-Control-Allow-Origin"]

    page = "https://page.example"
    client = serve([Served("free", embedder=free)], cors_origins=[page], api_key="secret")
    assert asked(client, page) == (200, page)
    assert asked(client, "https://other.example") == (400, None)
    headers = {"Origin": page, "Authorization": "Bearer secret"}
    assert client.ask("/v1/embeddings", {"input": "a"}, **headers)[2]["Access-Control-Allow-Origin"] == page
    assert client.ask("/v1/embeddings", {"input": "a"}, Origin=page)[2]["Access-Control-Allow-Origin"] == page  # so that it may see why
    closed = serve([Served("free", embedder=free)])
    assert asked(closed, page)[1] is None


# ---- stopping


def test_what_waits_is_refused_when_the_server_stops_and_what_has_begun_is_finished(serve, stuck, threads, monkeypatch):
    monkeypatch.setattr(bodies, "STOP_S", 0.1)
    client = serve([Served("stuck", embedder=stuck)])
    begun = threads.submit(client.post, "/v1/embeddings", input="a")
    assert stuck.has_begun.wait(20)
    waiting = threads.submit(client.ask, "/v1/embeddings", {"input": "b"})
    half = client.connect(request_of({"input": "a"})[:-3])
    wait_until(lambda: client.waiting() == 1 and client.service.bodies._timeouts)
    client.server.should_exit = True
    status, said, headers = waiting.result()
    assert (status, said["error"]["code"], headers["Retry-After"]) == (503, "stopping", "1")
    assert answer_of(half).startswith(b"HTTP/1.1 503 ")
    half.close()
    assert not begun.done()
    stuck.is_let.set()
    assert begun.result()[0] == 200
    assert stuck.encoded == [["a"]]


def test_a_client_that_reads_nothing_keeps_no_server_from_stopping(serve, free):
    client = serve([Served("free" * 10_000_000, embedder=free)], grace_s=-0.9)  # connections are dropped a second later
    connection = client.connect(b"GET /v1/models HTTP/1.1\r\nHost: here\r\n\r\n")
    wait_until(lambda: any(one.cycle is not None and one.cycle.response_started for one in client.connections()))
    client.server.should_exit = True
    wait_until(lambda: not client.connections())
    connection.close()
