"""``tain serve``: serve models over HTTP."""

import errno
import inspect
import os
import re
import socket
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tain.cli import flags
from tain.foundation.errors import UserError

_KEY = "TAIN_API_KEY"
_MODELS = "TAIN_SERVE_MODELS"
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
    request_timeout_s: Annotated[float, Parameter(help="seconds to answer a request, from the end of its body; then status 504")] = 300.0,
    grace_s: Annotated[float, Parameter(help="seconds to finish running requests after SIGTERM or Ctrl-C")] = 8.0,
    cors_origin: Annotated[
        list[str] | None,
        Parameter(
            help="origin of web pages that may send requests, for example https://example.org; * allows all; may be repeated", negative=()
        ),
    ] = None,
    api_keys: Annotated[Path | None, Parameter(help="file of API keys, one per line; requests must carry one of them")] = None,
    log_json: Annotated[
        bool, Parameter(help="one JSON line per request on standard error, without its texts; also all other messages", negative=())
    ] = False,
    opentelemetry: Annotated[
        bool, Parameter(help="send a trace of each request by OpenTelemetry, as its OTEL_... variables say; never with texts", negative=())
    ] = False,
    trust_remote_code: flags.TrustRemoteCode = False,
    json: Annotated[flags.Json, Parameter(help="notes and warnings as JSON")] = False,
    quiet: Annotated[flags.Quiet, Parameter(help="print only warnings")] = False,
) -> None:
    """Answer embedding, rerank and classification requests over HTTP.

    tain serve encoder ranker

    The APIs of OpenAI, Cohere, Jina, vLLM and text-embeddings-inference: POST /v1/embeddings, /v1/rerank, /v2/embed, /embed, /rerank,
    /score and others; GET /docs lists all, GET / is a page to try them. With --api-keys or TAIN_API_KEY, requests must carry a key.
    Environment variables such as TAIN_SERVE_PORT set the options; TAIN_SERVE_MODELS lists the models. Ctrl-C or SIGTERM finishes
    running requests and stops; a second one stops at once. The server listens while it loads the models; GET /ready says when they are.

    Parameters
    ----------
    models
        encoders, rankers, students, classifiers or taggers: folders, hub names, or tain-mini; NAME=MODEL sets the name in requests,
        which defaults to the folder's name
    """
    models = models or tuple(os.environ.get(_MODELS, "").split())
    _refuse_settings(models, port=port, cors_origins=cors_origin or [])
    _refuse_limits(max_wait_s=max_wait_s, request_timeout_s=request_timeout_s, grace_s=grace_s, max_request_tokens=max_request_tokens)
    keys = _keys(api_keys)
    named = _named(models)
    listener = _listener(host, port)
    with listener:
        from tain.foundation.progress import Progress
        from tain.serving import server
        from tain.serving.app import build_app
        from tain.serving.logs import RequestLog, log_as_json
        from tain.serving.served import load_served
        from tain.serving.service import Limits

        progress = Progress.for_terminal(json=json or log_json, quiet=quiet)
        if host not in _LOCAL and not keys:
            progress.warn(f"everyone who can reach {host} can send requests: set {_KEY} or --api-keys to require a key")
        for name in _unknown_variables():
            progress.warn(f"{name} is the name of no option and is ignored: see tain serve --help")
        if log_json:
            log_as_json()
        options = {
            "device": device,
            "dtype": dtype,
            "backend": backend,
            "trust_remote_code": trust_remote_code,
            "normalize": normalize or None,
        }
        app = build_app(
            [],
            api_keys=keys,
            limits=Limits(max_wait_s=max_wait_s, max_request_tokens=max_request_tokens, request_timeout_s=request_timeout_s),
            cors_origins=cors_origin or (),
            log=RequestLog() if log_json else None,
            loading=list(named),
        )
        traces = None
        if opentelemetry:
            from tain.serving.tracing import trace_requests

            traces = trace_requests(app)
        listener.listen()
        shown, own_port = f"[{host}]" if ":" in host else host, listener.getsockname()[1]
        progress.note(f"listening on port {own_port}, loading {', '.join(named)}")

        def load_models() -> None:
            served = [load_served(name, model, progress=progress, **options) for name, model in named.items()]
            app.state.service.finish_loading(served)
            overview = ", ".join(f"{one.name} ({', '.join(one.uses)})" for one in served)
            progress.note(f"serving {overview} at http://{shown}:{own_port}/v1")

        on_stop = lambda: progress.note("stopping; repeat to stop at once")  # noqa: E731
        try:
            is_ended = server.run(app, listener, grace_s=grace_s, on_stop=on_stop, has_own_log=log_json, load=load_models)
        finally:
            if traces is not None:
                traces.shutdown()
        progress.note("stopped")
        if not is_ended:  # a batch does not end, or a model is being loaded
            server.leave(0)


def _refuse_settings(models: tuple[str, ...], *, port: int, cors_origins: list[str]) -> None:
    if not models:
        raise UserError("no model is given: give one or more, tain serve encoder")
    if not 0 <= port <= 65535:
        raise UserError(f"port is {port}: give 1 to 65535, or 0 for a free one")
    for origin in cors_origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s]+", origin):
            raise UserError(
                f"cors_origin is {origin!r}, which is no origin: give one without a path, for example https://example.org, or *"
            )


def _refuse_limits(*, max_wait_s: float, request_timeout_s: float, grace_s: float, max_request_tokens: int) -> None:
    for name, seconds in (("max_wait_s", max_wait_s), ("request_timeout_s", request_timeout_s), ("grace_s", grace_s)):
        if not seconds > 0:
            raise UserError(f"{name} is {seconds}: give a number of seconds above 0")
    if max_request_tokens < 1:
        raise UserError(f"max_request_tokens is {max_request_tokens}: give 1 or more")


def _unknown_variables() -> list[str]:
    """Variables that look like options and are none; those that Kubernetes sets for a service are left out."""
    known = {f"TAIN_SERVE_{name.upper()}" for name in inspect.signature(serve).parameters}
    found = (name for name in os.environ if name.startswith("TAIN_SERVE_") and name not in known)
    return sorted(name for name in found if not re.search(r"_SERVICE_|_PORT(_|$)", name))


def _keys(file: Path | None) -> list[str]:
    """The keys of a file and of the environment; none if no key is required."""
    given = os.environ.get(_KEY, "")
    key = given.strip()  # secret files often end with a line end
    if given and not key:
        raise UserError(f"{_KEY} holds only whitespace: set it to a key, or unset it to require none")
    from tain.serving.keys import read_keys, refuse_unsendable

    refuse_unsendable(key, _KEY)
    return [*([key] if key else []), *(read_keys(file) if file is not None else [])]


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
