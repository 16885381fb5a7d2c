"""Read and decompress request bodies within limits of size, time and memory."""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect, Request

from tain.serving.schemas import RequestError

MAX_BYTES = 32 * 2**20  # per body, after decompression
MAX_HELD_BYTES = 512 * 2**20  # for all bodies in memory
IDLE_S = 30.0  # for the next piece of a body
BODY_S = 120.0  # for the whole body
STOP_S = 2.0  # for the rest of a body when the server stops
GONE = 499  # the client has disconnected, so nothing reads this status


class Bodies:
    """Reads the bodies of one server's requests.

    Attributes:
        held_bytes: Bytes of all bodies in memory.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._timeouts: set[asyncio.Timeout] = set()
        self._is_stopping = False

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """Read a body; it counts as held in memory until the block ends.

        Raises:
            RequestError: It is too large or too slow, cannot be decompressed, or the client disconnected.
        """
        held = _Held(self)
        try:
            yield await self._read(request, held)
        finally:
            held.release()

    def stop(self) -> None:
        """Wait at most ``STOP_S`` more for incomplete bodies. Call it in the event loop."""
        self._is_stopping = True
        for timeout in self._timeouts:
            timeout.reschedule(min(timeout.when() or 0.0, asyncio.get_running_loop().time() + STOP_S))

    async def _read(self, request: Request, held: "_Held") -> bytes:
        if _announced(request) > MAX_BYTES:
            raise _too_large()
        body, loop = bytearray(), asyncio.get_running_loop()
        decompress = _decompressor(request)
        last_s = loop.time() + BODY_S
        timeout = asyncio.timeout(IDLE_S)
        try:
            async with timeout:
                self._timeouts.add(timeout)
                async for piece in request.stream():
                    added = decompress.add(piece, most=MAX_BYTES + 1 - len(body))
                    held.add(len(added))
                    body += added
                    if len(body) > MAX_BYTES:
                        raise _too_large()
                    if not self._is_stopping:
                        timeout.reschedule(min(loop.time() + IDLE_S, last_s))
        except TimeoutError:
            if self._is_stopping:
                raise RequestError("the server is stopping", status=503, code="stopping") from None
            if loop.time() >= last_s:
                raise RequestError(f"the request's body took longer than {BODY_S:g} seconds", status=408) from None
            raise RequestError(f"the request's body was idle for {IDLE_S:g} seconds", status=408) from None
        except ClientDisconnect:
            raise RequestError("the client disconnected", status=GONE) from None
        finally:
            self._timeouts.discard(timeout)
        if not decompress.is_complete:
            raise RequestError("the request's body is incomplete: its gzip data is cut off")
        return bytes(body)


class _Held:
    """One body's share of the memory for bodies."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self._bytes = bodies, 0

    def add(self, count: int) -> None:
        if self._bodies.held_bytes + count > MAX_HELD_BYTES:
            raise RequestError("too many large requests at once: try again in a moment", status=429, code="overloaded", retry_after_s=1)
        self._bytes += count
        self._bodies.held_bytes += count

    def release(self) -> None:
        self._bodies.held_bytes -= self._bytes


class _Plain:
    is_complete = True

    def add(self, piece: bytes, *, most: int) -> bytes:
        return piece


class _Gzip:
    """Decompresses gzip incrementally and never beyond a limit, because a few bytes can expand to gigabytes."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._has_begun = False

    @property
    def is_complete(self) -> bool:
        return self._member.eof or not self._has_begun

    def add(self, piece: bytes, *, most: int) -> bytes:
        added = bytearray()
        while piece and len(added) < most:
            if self._member.eof:  # gzip data may consist of several members
                self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            self._has_begun = True
            try:
                added += self._member.decompress(piece, most - len(added))
            except zlib.error as error:
                raise RequestError(f"the request's body is not gzip ({error}), but its Content-Encoding is gzip") from None
            piece = self._member.unused_data or self._member.unconsumed_tail
        return bytes(added)


def _decompressor(request: Request) -> _Plain | _Gzip:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("", "identity"):
        return _Plain()
    if encoding in ("gzip", "x-gzip"):
        return _Gzip()
    raise RequestError(f"the request's body is encoded as {encoding[:40]!r}: send it plain or as gzip", status=415)


def _announced(request: Request) -> int:
    """The Content-Length of the body; 0 without one. The HTTP parser has checked that it is a number."""
    return int(request.headers.get("content-length") or 0)


def _too_large() -> RequestError:
    return RequestError(f"the request is larger than {MAX_BYTES // 2**20} MB: send fewer texts at a time", status=413)
