"""HTTP application of ``tain serve``, in the dialects of OpenAI, Cohere, Jina, vLLM and text-embeddings-inference."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import orjson
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import tain
from tain.serving.batching import ComputeError
from tain.serving.bodies import GONE
from tain.serving.dialects.classify import classify
from tain.serving.dialects.cohere import cohere
from tain.serving.dialects.openai import openai
from tain.serving.dialects.pairs import pairs
from tain.serving.dialects.rerank import rerank
from tain.serving.dialects.tei import tei
from tain.serving.endpoints import REFUSALS_OF_GET, describe
from tain.serving.forms import error_response, form_of, json_response
from tain.serving.keys import ApiKeys
from tain.serving.logs import RequestLog
from tain.serving.metrics import CONTENT_TYPE
from tain.serving.pages import page_response
from tain.serving.schemas import RequestError
from tain.serving.served import Served
from tain.serving.service import LOADING_RETRY_S, Limits, Service

OPEN_PATHS = ("/", "/docs", "/openapi.json", "/health", "/ready")  # without a key: they do not reveal the models

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")


def build_app(
    served: Sequence[Served],
    *,
    api_keys: Sequence[str] = (),
    limits: Limits | None = None,
    cors_origins: Sequence[str] = (),
    log: RequestLog | None = None,
    loading: Sequence[str] = (),
) -> FastAPI:
    """Build the application; ``app.state.service`` holds its ``Service``.

    Args:
        served: The models, with distinct names. A request without a model name goes to the first model that can answer it.
        api_keys: Keys, one of which is required in ``Authorization: Bearer``; none requires no key.
        limits: Limits of requests.
        cors_origins: Origins of web pages that may send requests; ``*`` allows all.
        log: Receives one line per request.
        loading: Names of models that are still being loaded; see ``Service.finish_loading``.
    """
    service = Service(served, keys=ApiKeys(api_keys), limits=limits or Limits(), log=log, loading=loading)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.scheduler.abandon()
        await asyncio.to_thread(service.scheduler.join, 1.0)

    # outermost first: a browser's preflight request (OPTIONS) carries no key
    cors = Middleware(
        CORSMiddleware,
        allow_origins=cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["X-Tain-Truncated", "X-Request-ID", "Retry-After"],
    )
    handlers: dict[Any, Any] = {RequestError: _refused, HTTPException: _not_found, Exception: _our_bug}
    app = FastAPI(
        title="tain",
        version=tain.__version__,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would repeat the Host header that the client sent
        middleware=[*([cors] if cors_origins else []), Middleware(_Doorkeeper, service=service)],
        exception_handlers=handlers,
        lifespan=lifespan,
    )
    dialects = [dialect(service) for dialect in (openai, rerank, classify, pairs, cohere, tei)]
    for each in dialects:
        app.include_router(each)
    _add_state(app, service)
    description = orjson.dumps(describe(app, [body for each in dialects for body in each.bodies]))
    app.add_api_route("/openapi.json", _constant(description, "application/json"), methods=["GET"], include_in_schema=False)
    app.add_api_route("/", _page("home.html"), methods=["GET"], include_in_schema=False)
    app.add_api_route("/docs", _page("docs.html"), methods=["GET"], include_in_schema=False)
    app.state.service = service
    return app


def _add_state(app: FastAPI, service: Service) -> None:
    """Add the endpoints that describe the server itself."""

    async def health(_: Request) -> Response:
        """Say whether the server works; it does while it loads its models."""
        status = service.status
        return json_response({"status": status}, status=200 if status in ("ok", "loading") else 503)

    async def ready(_: Request) -> Response:
        """Say whether the models are loaded and requests can be answered."""
        status = service.status
        content = {"status": status, "models": len(service.served)}
        if status == "loading":
            reason = {"reason": "the models are being loaded"}
            return json_response({**content, **reason}, status=503, headers={"Retry-After": str(LOADING_RETRY_S)})
        return json_response(content, status=200 if status == "ok" else 503)

    async def metrics(_: Request) -> Response:
        """Give figures for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    for handler in (health, ready, metrics):
        app.add_api_route(f"/{handler.__name__}", handler, methods=["GET"], response_model=None, tags=["Server"], responses=REFUSALS_OF_GET)


def _constant(body: bytes, media_type: str) -> Any:
    async def answer(_: Request) -> Response:
        return Response(body, media_type=media_type)

    return answer


def _page(name: str) -> Any:
    response = page_response(name)

    async def answer(_: Request) -> Response:
        return response

    return answer


def _request_id(headers: Mapping[str, str]) -> str:
    """The client's number of a request, if it can stand in a header and a log; else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


class _Doorkeeper:
    """Middleware that strips a trailing slash from the path, answers HEAD, and numbers, counts and logs answers.

    It checks the API key, and refuses requests for models while these are loaded.
    """

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began_s = time.perf_counter()
        path = scope["path"].rstrip("/") or "/"
        # HEAD is answered as GET; the connection leaves the body out
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        scope = {**scope, "path": path, "method": method, "state": {**scope.get("state", {})}}
        request_id = _request_id(Request(scope).headers)
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            refusal = None if path in OPEN_PATHS else self._refusal(Request(scope).headers, path)
            if refusal is None:
                await self._app(scope, receive, watched)
            else:
                await error_response(refusal, form=form_of(path))(scope, receive, watched)
                self._service.metrics.refusal(refusal.code or "")
        finally:
            route = scope.get("route")
            # a path that is no endpoint may be anything, also a text
            known = getattr(route, "path", "other") if route is not None else "other"
            about = scope["state"].get("about", {})
            self._service.answered(known, status, time.perf_counter() - began_s, method=scope["method"], request_id=request_id, **about)

    def _refusal(self, headers: Mapping[str, str], path: str) -> RequestError | None:
        if not self._service.keys.opens(headers):
            message = "the API key is missing or wrong: send Authorization: Bearer KEY"
            return RequestError(message, status=401, code="invalid_api_key")
        return None if path == "/metrics" else self._service.loading_refusal()


async def _refused(request: Request, error: RequestError) -> Response:
    service: Service = request.app.state.service
    service.metrics.refusal("disconnected" if error.status == GONE else error.code or f"status_{error.status}")
    return error_response(error, form=getattr(request.state, "form", form_of(request.scope["path"])))


async def _not_found(request: Request, error: HTTPException) -> Response:
    # request.url depends on the Host header, which may be anything
    method, path = request.method, request.scope["path"]
    allowed = (error.headers or {}).get("Allow")
    if error.status_code == 405 and allowed is not None:
        refusal = RequestError(f"{path} does not answer {method}: use {allowed}", status=405)
        return error_response(refusal, form=form_of(path), headers={"Allow": allowed})
    wanted = "one of those that GET /openapi.json lists, such as POST /v1/embeddings or GET /v1/models"
    message = f"{method} {path} is not an endpoint of this server: send {wanted}"
    return error_response(RequestError(message, status=error.status_code), form=form_of(path))


async def _our_bug(request: Request, error: Exception) -> Response:
    """Answer with status 500; Starlette raises the error again, so that the traceback is logged."""
    found = error.__cause__ if isinstance(error, ComputeError) else error
    message = f"internal server error ({type(found).__name__}): see the server's log"
    return error_response(RequestError(message, status=500), form=form_of(request.scope["path"]))
