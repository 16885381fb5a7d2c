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
from typing import Any

import uvicorn
from fastapi import FastAPI

from tain.serving import protocol
from tain.serving.service import Service

GRACE_S = 8.0  # for running requests; process managers kill after ten seconds or more
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """A uvicorn server that stops within seconds.

    The first SIGINT or SIGTERM lets running requests finish, for at most ``grace_s``, and answers all others with status 503. The second
    one ends the process at once.

    Args:
        app: Application from ``build_app``.
        grace_s: Seconds for running requests when the server stops.
        on_stop: Called after the first signal.
        log_level: Of uvicorn.
        has_own_log: Leave logging as it is set up; else uvicorn sets its own up.
        load: Called in a thread once the server listens, to load the models. If it fails, the server stops.

    Attributes:
        failure: What ``load`` raised; None if it succeeded or runs.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        grace_s: float = GRACE_S,
        on_stop: Callable[[], None] = lambda: None,
        log_level: str = "warning",
        has_own_log: bool = False,
        load: Callable[[], None] | None = None,
    ) -> None:
        self._service: Service = app.state.service
        # our own connections, even if httptools is installed; no websockets
        connection = protocol.refusing_early(self._service)
        log: dict[str, Any] = {"log_config": None} if has_own_log else {}
        super().__init__(uvicorn.Config(app, http=connection, ws="none", log_level=log_level, access_log=False, **log))
        self._on_stop, self._grace_s, self._load = on_stop, grace_s, load
        self.failure: BaseException | None = None
        self._loader = threading.Thread(target=self._load_models, name="tain-loading", daemon=True)

    @property
    def is_loading(self) -> bool:
        """Whether models are being loaded."""
        return self._loader.is_alive()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._load is not None and not self.should_exit:
            self._loader.start()

    def _load_models(self) -> None:
        assert self._load is not None
        try:
            self._load()
        except BaseException as error:  # raised again by run, in the main thread
            self.failure = error
            self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.failure is None:
            self._on_stop()
        self._service.stop()
        loop = asyncio.get_running_loop()
        timers = [
            loop.call_later(self._grace_s, self._service.scheduler.abandon),
            loop.call_later(self._grace_s + 1, self._drop_connections),
        ]
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


def run(
    app: FastAPI,
    listener: socket.socket,
    *,
    grace_s: float = GRACE_S,
    on_stop: Callable[[], None] = lambda: None,
    has_own_log: bool = False,
    load: Callable[[], None] | None = None,
) -> bool:
    """Answer requests until the process gets a stop signal; arguments as in ``Server``.

    Returns:
        Whether the threads that compute and load have ended. If not, the caller must end the process with ``leave``.

    Raises:
        UserError: ``load`` raised it; so with any other error.
    """
    server = Server(app, grace_s=grace_s, on_stop=on_stop, has_own_log=has_own_log, load=load)
    with suppress(KeyboardInterrupt):  # a second signal right after the first was handled
        server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure
    return app.state.service.scheduler.join(1.0) and not server.is_loading


def leave(status: int) -> None:
    """End the process without finalising the interpreter, which would crash native code in another thread."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # in a signal handler the stream may be in the middle of a write
            stream.flush()
    os._exit(status)
