"""A server on this machine."""

import socket
import threading

import pytest
from http_client import Client

from tain.serving.app import build_app
from tain.serving.server import GRACE_S, Server
from tain.serving.service import Limits


@pytest.fixture(scope="module")
def serve():
    """Start a server around models; stops with the module."""
    running = []

    def start(served, *, api_key=None, cors_origins=(), log=None, grace_s=GRACE_S, **limits):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        keys = [api_key] if isinstance(api_key, str) else api_key or []
        app = build_app(served, api_keys=keys, limits=Limits(**limits), cors_origins=cors_origins, log=log)
        server = Server(app, grace_s=grace_s, log_level="critical")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread, listener))
        return Client(listener.getsockname()[1], server)

    yield start
    for server, thread, listener in running:
        server.should_exit = True
        thread.join(20)
        listener.close()
        assert not thread.is_alive()
