"""HTTP connections with limits that uvicorn lacks: time for headers, time for unread responses, number of connections."""

import asyncio
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, ClassVar, Protocol, runtime_checkable

import h11
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 1024
HEADER_S = 10.0  # for all headers of a request, and for the rest of a body after an early response
UNREAD_S = 30.0  # for the client to read some of its response
PROBE_S = 1.0  # between checks whether a silent client is still connected


_REQUEST_LINE = re.compile(rb"POST (/[A-Za-z0-9/_-]*) HTTP/1\.1")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?)[ \t]*")
_NOT_PLAIN = {"transfer-encoding", "expect", "upgrade"}  # headers that need the full parser
_MOST_HEADER_BYTES = 4096


@runtime_checkable
class EarlyRefusals(Protocol):
    """Protocol of a service that refuses requests before the application sees them, under overload."""

    @property
    def is_overloaded(self) -> bool: ...
    def early_answer(self, path: str, headers: Mapping[str, str], /) -> Response | None: ...


def refusing_early(refusals: EarlyRefusals) -> "type[LimitedConnection]":
    """Make a connection class that consults ``refusals`` first."""
    return type("RefusingConnection", (LimitedConnection,), {"refusals": refusals})


def whole_request(data: bytes) -> tuple[str, dict[str, str]] | None:
    """Parse a plain request that arrived complete, including its body.

    Returns:
        Path, and headers by lower-case name. None for anything else, valid or not, which is left to the full parser.
    """
    end = data.find(b"\r\n\r\n", 0, _MOST_HEADER_BYTES)
    request_line, *lines = data[: max(end, 0)].split(b"\r\n")
    asked = _REQUEST_LINE.fullmatch(request_line)
    found = [_HEADER.fullmatch(line) for line in lines]
    if asked is None or not all(found):
        return None
    headers = {one[1].decode().lower(): one[2].decode() for one in found if one is not None}
    length = headers.get("content-length", "")
    is_whole = length.isdigit() and len(data) == end + 4 + int(length)
    if not is_whole or len(headers) < len(lines) or "host" not in headers or _NOT_PLAIN & headers.keys():
        return None
    return asked[1].decode(), headers


class LimitedConnection(H11Protocol):
    """HTTP connection with time limits and early refusals.

    - The headers of a request must be complete within ``HEADER_S``, however slowly they arrive.
    - A response that is not read for ``UNREAD_S`` is dropped.
    - Beyond ``MAX_CONNECTIONS`` a new connection gets status 503 and is closed.
    - A client that closes its sending side after a request still gets its response.
    - Invalid HTTP gets status 400 if a response can still be sent, else the connection is closed.
    - Under overload a request is refused before it is parsed, if it came in one piece.

    Attributes:
        refusals: See ``refusing_early``; None refuses nothing.
    """

    refusals: ClassVar[EarlyRefusals | None] = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._header_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        self._probe_timer: asyncio.TimerHandle | None = None
        self._unread_bytes = 0

    # ---- called by asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._answer_and_close(503, "too many connections: try again in a moment", code="overloaded")
            return
        self._header_timer = self.loop.call_later(HEADER_S, self._close)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._header_timer, self._unread_timer, self._probe_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if not self._is_refused_early(data):
            super().data_received(data)
            self._time_headers()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keep the connection if a response is pending. True keeps it, None closes it."""
        if not self._is_answering or self.cycle.more_body:
            return None
        self.cycle.keep_alive = False
        self._probe()
        return True

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_reading()

    # ---- called by uvicorn

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_answering or self.conn.their_state is not h11.IDLE:  # an idle connection has uvicorn's timer
            self._time_headers()
        self._watch_reading()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def shutdown(self) -> None:
        if self._is_answering:
            self.cycle.keep_alive = False
        else:
            self._close()

    def send_400_response(self, msg: str) -> None:
        # The parser can fail while a request is being answered, or after it was answered without its whole body. A second response would
        # be a LocalProtocolError, and so would the handler's response after this one.
        is_answered = self._is_answering and self.cycle.response_started
        if self._is_answering:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if is_answered or self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self._close()
        else:
            self._answer_and_close(400, "this is not valid HTTP")

    # ---- our own

    @property
    def _is_answering(self) -> bool:
        """Whether a request has arrived, at least its headers, and its response is incomplete."""
        return self.cycle is not None and not self.cycle.response_complete

    def _is_refused_early(self, data: bytes) -> bool:
        """Refuse a request under overload, without the parser; returns False if it must be parsed."""
        if self.refusals is None or not self._is_between_requests or not self.refusals.is_overloaded:
            return False
        request = whole_request(data)
        answer = None if request is None else self.refusals.early_answer(*request)
        if request is None or answer is None:
            return False
        kept = request[1].get("connection", "").lower() in ("", "keep-alive")
        head = b"".join(b"%b: %b\r\n" % header for header in answer.raw_headers)
        status = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}\r\n".encode()
        self.transport.write(status + head + (b"\r\n" if kept else b"Connection: close\r\n\r\n") + bytes(answer.body))
        if not kept:
            self._close()
            return True
        self._watch_reading()
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        return True

    @property
    def _is_between_requests(self) -> bool:
        """Whether all input has been parsed and answered, and the client has read the responses."""
        is_idle = self.conn.our_state is h11.IDLE and self.conn.their_state is h11.IDLE and not self._is_answering
        return is_idle and not self.conn.trailing_data[0] and not self.transport.get_write_buffer_size()

    def _time_headers(self) -> None:
        """Start the timer for the headers of the next request; while a request is answered, its handler keeps the time."""
        if self._is_answering:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None
        elif self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_S, self._close)

    def _probe(self) -> None:
        """Test whether a client only closed its sending side or disconnected; both look the same until something is sent.

        An interim status (100) has no meaning for a client that waits for its response. If the client has disconnected, sending fails and
        ends the connection. HTTP/1.0 has no interim status; there the response is always computed.
        """
        if not self._is_answering or self.cycle.response_started or self.cycle.disconnected or self.transport.is_closing():
            return
        if self.scope["http_version"] == "1.1":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._probe_timer = self.loop.call_later(PROBE_S if self._probe_timer else PROBE_S / 10, self._probe)

    def _close(self) -> None:
        """Close once all written data is sent; drop the connection if the client does not read it."""
        if not self.transport.is_closing():
            self.transport.close()
        self._watch_reading()

    def _watch_reading(self) -> None:
        if self._unread_timer is None and (unread := self.transport.get_write_buffer_size()):
            self._unread_bytes = unread
            self._unread_timer = self.loop.call_later(UNREAD_S, self._check_reading)

    def _check_reading(self) -> None:
        self._unread_timer = None
        if self.transport.get_write_buffer_size() >= self._unread_bytes:
            self.transport.abort()
        else:
            self._watch_reading()

    def _answer_and_close(self, status: int, message: str, *, code: str | None = None) -> None:
        kind = "invalid_request_error" if status < 500 else "server_error"
        body = json.dumps({"error": {"message": message, "type": kind, "param": None, "code": code}}).encode()
        head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        head += "Retry-After: 1\r\n" if status == 503 else ""
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self._close()
