"""The server's process: it listens, answers, and stops on Ctrl-C or SIGTERM."""

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

FINISH_S = 8.0  # for requests that have begun; process managers kill after ten seconds or more
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn's server, which stops within seconds.

    The first SIGINT or SIGTERM lets requests that have begun finish, for ``FINISH_S`` at most, and answers all others with status 503. The
    second ends the process at once.

    Args:
        app: Of ``build_app``.
        on_stop: Called after the first signal.
    """

    def __init__(self, app: Starlette, *, on_stop: Callable[[], None] = lambda: None, log_level: str = "warning") -> None:
        self._service: Service = app.state.service
        # our own connections, also where httptools is installed; and no websockets
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
        """Those whose clients do not read their answers."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            # The interpreter must not be finalised while the other thread computes in native code: that ends in
            # "terminate called without an active exception".
            leave(128 + sig)
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """As uvicorn, but for raising the signal again in the end: a server that was told to stop has done what it should."""
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
    """Answer requests until the process is told to stop.

    Returns:
        Whether the computing thread has ended. Where it has not, the caller must end the process by ``leave``.
    """
    with suppress(KeyboardInterrupt):  # a second signal just when the first has been served
        Server(app, on_stop=on_stop).run(sockets=[listener])
    return app.state.service.scheduler.join(1.0)


def leave(status: int) -> None:
    """End the process without the interpreter's finalisation, which native code of another thread does not survive."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # in a signal's handler the stream may be in the middle of a write
            stream.flush()
    os._exit(status)
