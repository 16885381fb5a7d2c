"""Run the server: listen, answer requests, and stop on Ctrl-C or SIGTERM."""

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from tain.serving import protocol
from tain.serving.app import Service

FINISH_S = 8.0  # for running requests; process managers kill after ten seconds or more
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """A uvicorn server that stops within seconds.

    The first SIGINT or SIGTERM lets running requests finish, for at most ``FINISH_S``, and answers all others with status 503. The second
    one ends the process at once.

    Args:
        app: Application from ``build_app``.
        on_stop: Called after the first signal.
    """

    def __init__(self, app: Starlette, *, on_stop: Callable[[], None] = lambda: None, log_level: str = "warning") -> None:
        self._service: Service = app.state.service
        # our own connections, even if httptools is installed; no websockets
        connection = protocol.refusing_early(self._service)
        super().__init__(uvicorn.Config(app, http=connection, ws="none", log_level=log_level, access_log=False))
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stop()
        self._service.stop()
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(FINISH_S, self._service.scheduler.abandon), loop.call_later(FINISH_S + 1, self._drop_connections)]
        await super().shutdown(sockets)
        for timer in timers:
            timer.cancel()

    def _drop_connections(self) -> None:
        """Drop connections of clients that do not read their responses."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # The interpreter must not be finalised while the other thread runs native code: that ends in "terminate called without an
            # active exception".
            leave(128 + sig)
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As in uvicorn, without raising the signal again at the end: a server that stops on a signal exits normally."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.signal(one, self.handle_exit) for one in _SIGNALS}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)


def run(app: Starlette, listener: socket.socket, *, on_stop: Callable[[], None] = lambda: None) -> bool:
    """Answer requests until the process gets a stop signal.

    Returns:
        Whether the computing thread has ended. If not, the caller must end the process with ``leave``.
    """
    with suppress(KeyboardInterrupt):  # a second signal right after the first was handled
        Server(app, on_stop=on_stop).run(sockets=[listener])
    return app.state.service.scheduler.join(1.0)


def leave(status: int) -> None:
    """End the process without finalising the interpreter, which would crash native code in another thread."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # in a signal handler the stream may be in the middle of a write
            stream.flush()
    os._exit(status)
