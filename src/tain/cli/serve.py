"""``tain serve``: serve models over HTTP."""

import errno
import os
import re
import socket
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tain.cli import flags
from tain.foundation.errors import UserError

_KEY = "TAIN_API_KEY"
_LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(
    *models: str,
    host: Annotated[str, Parameter(help="address to listen at; 0.0.0.0 lets other machines in")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="port to listen at; 0 takes a free one")] = 8000,
    device: flags.Device = None,
    dtype: flags.ComputeDtype = "auto",
    backend: flags.Backend = "auto",
    normalize: Annotated[bool, Parameter(help="scale embeddings to length 1; --no-normalize gives them as the model does")] = True,
    max_wait_s: Annotated[float, Parameter(help="seconds of work that may wait before a request; more are refused with status 429")] = 5.0,
    max_request_tokens: Annotated[int, Parameter(help="tokens of one request, estimated from its length")] = 300_000,
    cors_origin: Annotated[
        list[str] | None,
        Parameter(
            help="origin of web pages that may send requests, for example https://example.org; * allows all; may be repeated", negative=()
        ),
    ] = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    json: Annotated[flags.Json, Parameter(help="notes and warnings as JSON")] = False,
    quiet: Annotated[flags.Quiet, Parameter(help="print only warnings")] = False,
) -> None:
    """Answer embedding, rerank and classification requests over HTTP.

    tain serve encoder ranker

    POST /v1/embeddings (as in OpenAI's API), /v1/rerank (as in Cohere's), /v1/classify; GET /v1/models, /health. If TAIN_API_KEY is
    set, requests must carry it. Ctrl-C or SIGTERM finishes running requests and stops; a second one stops at once.

    Parameters
    ----------
    models
        encoders, rankers, students, classifiers or taggers: folders, hub names, or tain-mini; NAME=MODEL sets the name in requests,
        which defaults to the folder's name
    """
    _refuse_settings(models, port=port, max_wait_s=max_wait_s, max_request_tokens=max_request_tokens, cors_origins=cors_origin or [])
    api_key = _api_key()
    named = _named(models)
    listener = _listener(host, port)
    with listener:
        from tain.foundation.progress import Progress
        from tain.serving import server
        from tain.serving.app import build_app
        from tain.serving.served import load_served

        progress = Progress.for_terminal(json=json, quiet=quiet)
        if host not in _LOCAL and api_key is None:
            progress.warn(f"everyone who can reach {host} can send requests: set {_KEY} to require a key")
        options = {
            "device": device,
            "dtype": dtype,
            "backend": backend,
            "trust_remote_code": trust_remote_code,
            "normalize": normalize or None,
        }
        served = [load_served(name, model, progress=progress, **options) for name, model in named.items()]
        app = build_app(
            served,
            api_key=api_key,
            max_wait_s=max_wait_s,
            max_request_tokens=max_request_tokens,
            cors_origins=cors_origin or (),
        )
        listener.listen()  # readers of the line below may connect at once
        shown = f"[{host}]" if ":" in host else host
        overview = ", ".join(f"{one.name} ({', '.join(one.uses)})" for one in served)
        progress.note(f"serving {overview} at http://{shown}:{listener.getsockname()[1]}/v1")
        is_ended = server.run(app, listener, on_stop=lambda: progress.note("stopping; repeat to stop at once"))
        progress.note("stopped")
        if not is_ended:  # a batch does not end
            server.leave(0)


def _refuse_settings(models: tuple[str, ...], *, port: int, max_wait_s: float, max_request_tokens: int, cors_origins: list[str]) -> None:
    if not models:
        raise UserError("no model is given: give one or more, tain serve encoder")
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}: give 1 to 65535, or 0 for a free one")
    if not max_wait_s > 0:
        raise UserError(f"max_wait_s is {max_wait_s}: give a number of seconds above 0")
    if max_request_tokens < 1:
        raise UserError(f"max_request_tokens is {max_request_tokens}: give 1 or more")
    for origin in cors_origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise UserError(
                f"cors_origin is {origin!r}, which is no origin: give one without a path, for example https://example.org, or *"
            )


def _api_key() -> str | None:
    """The key that requests must carry, without the line end that secret files often have; None if no key is required."""
    given = os.environ.get(_KEY, "")
    key = given.strip()
    if given and not key:
        raise UserError(f"{_KEY} holds only whitespace: set it to a key, or unset it to require none")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{_KEY} holds characters that HTTP headers cannot carry: use printable ASCII without spaces")
    return key or None


def _named(models: tuple[str, ...]) -> dict[str, str]:
    """Map the names used in requests to models."""
    from tain.cli.models import find_encoder

    found: dict[str, str] = {}
    for given in models:
        name, mark, model = given.partition("=")
        if not mark or Path(given).exists():
            name, model = Path(given).name or given, given
        if not name or not model:
            raise UserError(f"model is {given!r}: give MODEL, or NAME=MODEL")
        if name in found:
            raise UserError(f"two models are called {name!r}, {found[name]!r} and {model!r}: rename one with NAME=MODEL")
        find_encoder(model)
        found[name] = model
    return found


def _listener(host: str, port: int) -> socket.socket:
    """Bind the port before anything is loaded."""
    no_address = UserError(f"host is {host!r}, which is no address of this machine: give 127.0.0.1 or 0.0.0.0")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):  # UnicodeError if a part of the name is empty or too long
        raise no_address from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise no_address from None
        raise UserError(f"cannot listen at {host}:{port} ({error.strerror}): give another --port, or 0 for a free one") from None
    return listener
