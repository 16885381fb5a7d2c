"""What the tests of the server share: a client, and a model that waits."""

import http.client
import json
import socket
import threading
import time

import numpy as np

from tain.foundation.errors import UserError


class Client:
    """Sends requests to a port of this machine."""

    def __init__(self, port, server):
        self.port, self.server, self.service = port, server, server._service

    def connections(self):
        """Those that are open on the server's side."""
        return set(self.server.server_state.connections)

    def waiting(self, name="stuck", use="embeddings"):
        """How many requests wait in a queue."""
        return len(self.service._queues[name, use]._jobs)

    def connect(self, sent=b""):
        """A bare connection, on which something has been sent."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        connection.sendall(sent)
        return connection

    def ask(self, path, content=None, *, raw=None, **headers):
        """Status, what the JSON says, and the headers; POST where there is content."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = raw if raw is not None else None if content is None else json.dumps(content)
        connection.request("GET" if body is None else "POST", path, body=body, headers=headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        connection.close()
        return answer.status, said, answer.headers

    def post(self, path, **content):
        status, said, _ = self.ask(path, content)
        return status, said

    def refusal(self, path, status, **content):
        """The error's fields."""
        given, said = self.post(path, **content)
        assert given == status, said
        assert said["error"]["type"] == "invalid_request_error"
        return said["error"]


class PanicError(BaseException):
    """As pyo3's PanicException: no Exception."""


class Stuck:
    """An embedder that waits to be let."""

    dim = 2

    def __init__(self):
        self.has_begun, self.is_let, self.encoded = threading.Event(), threading.Event(), []
        self.is_broken = False

    def encode(self, texts, normalize=None):
        self.has_begun.set()
        self.is_let.wait(20)
        self.encoded.append(list(texts))
        if "refused" in texts:
            raise UserError("no tokens: remove it")
        if "panic" in texts or self.is_broken:
            raise PanicError("called `Option::unwrap()` on a `None` value")
        if "bug" in texts:
            raise ZeroDivisionError
        if "nan" in texts:
            return np.full((len(texts), 2), np.nan, dtype=np.float32)
        vectors = np.tile(np.array([3.0, 4.0], dtype=np.float32), (len(texts), 1))
        return vectors / 5 if normalize else vectors

    def count_tokens(self, texts):
        return [1] * len(texts)


def wait_until(is_so):
    """Wait for something that will come; fails after 20 seconds."""
    until_s = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < until_s, "it did not come"
        time.sleep(0.005)


def answer_of(connection):
    """All that comes until the server closes."""
    found = b""
    while piece := connection.recv(65536):
        found += piece
    return found


def request_of(content, *headers, path="/v1/embeddings"):
    """The bytes of a request."""
    body = json.dumps(content).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: here", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
