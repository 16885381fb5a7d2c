"""``tain serve``."""

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
    dtype: flags.Dtype = "auto",
    normalize: Annotated[bool, Parameter(help="scale embeddings to length 1; --no-normalize gives them as the model does")] = True,
    max_wait_s: Annotated[float, Parameter(help="seconds of work that may wait before a request; more are refused with status 429")] = 5.0,
    max_request_tokens: Annotated[int, Parameter(help="tokens of one request, estimated from its length")] = 300_000,
    cors_origin: Annotated[
        list[str] | None,
        Parameter(help="web pages of this origin, such as https://example.org, may ask; * lets all. May be repeated", negative=()),
    ] = None,
    trust_remote_code: flags.TrustRemoteCode = False,
    json: Annotated[flags.Json, Parameter(help="progress as JSON")] = False,
    quiet: Annotated[flags.Quiet, Parameter(help="print only warnings")] = False,
) -> None:
    """Answer embedding, rerank and classification requests over HTTP.

    tain serve encoder ranker

    POST /v1/embeddings (as OpenAI's), /v1/rerank (as Cohere's), /v1/classify; GET /v1/models, /health. Where TAIN_API_KEY is set,
    requests must carry it. Ctrl-C or SIGTERM finishes what has begun and stops; a second one stops at once.

    Parameters
    ----------
    models
        encoders, rankers, students, classifiers or taggers: folders, hub names, or tain-mini; NAME=MODEL gives one another name,
        else it is called by its folder's
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
            progress.warn(f"whoever reaches {host} can send requests: set {_KEY} to ask for a key")
        options = {"device": device, "dtype": dtype, "trust_remote_code": trust_remote_code}
        options["normalize"] = True if normalize else None
        served = [load_served(name, model, progress=progress, **options) for name, model in named.items()]
        app = build_app(
            served,
            api_key=api_key,
            max_wait_s=max_wait_s,
            max_request_tokens=max_request_tokens,
            cors_origins=cors_origin or (),
        )
        listener.listen()  # who reads the line below may connect at once
        shown = f"[{host}]" if ":" in host else host
        overview = ", ".join(f"{one.name} ({', '.join(one.uses)})" for one in served)
        progress.note(f"serving {overview} at http://{shown}:{listener.getsockname()[1]}/v1")
        is_ended = server.run(app, listener, on_stop=lambda: progress.note("stopping; once more stops at once"))
        progress.note("stopped")
        if not is_ended:  # a batch that never ends
            server.leave(0)


def _refuse_settings(models: tuple[str, ...], *, port: int, max_wait_s: float, max_request_tokens: int, cors_origins: list[str]) -> None:
    if not models:
        raise UserError("no model is given: give one or more, tain serve encoder")
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}: give 1 to 65535, or 0 for a free one")
    if not max_wait_s > 0:
        raise UserError(f"max_wait_s is {max_wait_s}: give seconds, above 0")
    if max_request_tokens < 1:
        raise UserError(f"max_request_tokens is {max_request_tokens}: give 1 or more")
    for origin in cors_origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise UserError(f"cors_origin is {origin!r}, which is no origin: give such as https://example.org, without a path, or *")


def _api_key() -> str | None:
    """The key that requests must carry, without the line end that a file of secrets leaves; None lets everybody in."""
    given = os.environ.get(_KEY, "")
    key = given.strip()
    if given and not key:
        raise UserError(f"{_KEY} holds nothing but blanks: give it a key, or unset it to let everybody in")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{_KEY} holds characters that no header of a request can: give it letters, digits and signs of ASCII")
    return key or None


def _named(models: tuple[str, ...]) -> dict[str, str]:
    """Models by what requests call them."""
    from tain.cli.models import find_encoder

    found: dict[str, str] = {}
    for given in models:
        name, mark, model = given.partition("=")
        if not mark or Path(given).exists():
            name, model = Path(given).name or given, given
        if not name or not model:
            raise UserError(f"model is {given!r}: give MODEL, or NAME=MODEL")
        if name in found:
            raise UserError(f"two models are called {name!r}, {found[name]!r} and {model!r}: give one another name, NAME=MODEL")
        find_encoder(model)
        found[name] = model
    return found


def _listener(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded."""
    no_address = UserError(f"host is {host!r}, which is no address of this machine: give 127.0.0.1 or 0.0.0.0")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError):  # the latter where a part of the name is empty, or too long
        raise no_address from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRNOTAVAIL:
            raise no_address from None
        raise UserError(f"nothing can listen at {host}:{port} ({error.strerror}): give another --port, or 0 for a free one") from None
    return listener
