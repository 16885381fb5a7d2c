"""HTTP application of ``tain serve``: embeddings as in OpenAI's API, rerank as in Cohere's, classify."""

import asyncio
import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tain.foundation.errors import NotFiniteError, UserError
from tain.serving.batching import MAX_WAIT_S, ComputeError, Queue, Scheduler, StoppingError, TooBusyError
from tain.serving.bodies import GONE, Bodies
from tain.serving.schemas import ClassifyRequest, EmbeddingRequest, RequestError, RerankRequest
from tain.serving.served import Query, Served

MAX_REQUEST_TOKENS = 300_000  # the limit of OpenAI's API
STUCK_S = 60.0  # a batch takes a quarter of a second; one that runs this long is stuck
_BOUNDED = ("/v1/embeddings", "/v1/classify")  # a text of n bytes has no more than n tokens
_VECTORS_AT_ONCE = 64  # vectors written as JSON per turn of the event loop


def build_app(
    served: Sequence[Served],
    *,
    api_key: str | None = None,
    max_wait_s: float = MAX_WAIT_S,
    max_request_tokens: int = MAX_REQUEST_TOKENS,
    cors_origins: Sequence[str] = (),
) -> Starlette:
    """Build the Starlette application; ``app.state.service`` holds its ``Service``.

    Args:
        served: The models, with distinct names. A request without a model name goes to the first model that can answer it.
        api_key: Key required in ``Authorization: Bearer``; None requires no key.
        max_wait_s: Maximum seconds of work queued before a request; see ``Scheduler``. Beyond it, status 429.
        max_request_tokens: Maximum tokens per request, estimated from the lengths of its texts. Beyond it, status 400.
        cors_origins: Origins of web pages that may send requests; ``*`` allows all.
    """
    service = Service(served, api_key=api_key, max_wait_s=max_wait_s, max_request_tokens=max_request_tokens)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        service.scheduler.abandon()
        await asyncio.to_thread(service.scheduler.join, 1.0)

    posts = {"/v1/embeddings": service.embeddings, "/v1/rerank": service.rerank, "/v1/classify": service.classify}
    gets = {"/v1/models": service.models, "/v1/models/{name:path}": service.model, "/health": service.health}
    routes = [Route(path, handler, methods=["POST"]) for path, handler in posts.items()]
    routes += [Route(path, handler, methods=["GET"]) for path, handler in gets.items()]
    # outermost first: a browser's preflight request (OPTIONS) carries no key
    middleware = [Middleware(CORSMiddleware, allow_origins=cors_origins, allow_methods=["GET", "POST"], allow_headers=["*"])]
    middleware = [*(middleware if cors_origins else ()), Middleware(_Doorkeeper, api_key=api_key)]
    handlers: dict[Any, Any] = {RequestError: _refused, HTTPException: _not_found, Exception: _our_bug}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers, lifespan=lifespan)
    app.router.redirect_slashes = False  # a redirect would repeat the Host header that the client sent
    app.state.service = service
    return app


class _Doorkeeper:
    """Middleware that checks the API key, except for ``/health``, and strips a trailing slash from the path."""

    def __init__(self, app: ASGIApp, *, api_key: str | None) -> None:
        self._app, self._api_key = app, api_key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": scope["path"].rstrip("/") or "/"}
        if scope["path"] != "/health" and not has_key(self._api_key, Request(scope).headers):
            message = "the API key is missing or wrong: send Authorization: Bearer KEY"
            await _error(401, message, code="invalid_api_key")(scope, receive, send)
            return
        await self._app(scope, receive, send)


def has_key(api_key: str | None, headers: Mapping[str, str]) -> bool:
    """Whether a request carries the server's key; always True for a server without one.

    Args:
        api_key: The server's key.
        headers: The request's headers; names in lower case.
    """
    if api_key is None:
        return True
    kind, _, given = headers.get("authorization", "").partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), api_key.encode())


class Service:
    """Request handlers, with a queue for each model and use."""

    def __init__(self, served: Sequence[Served], *, api_key: str | None, max_wait_s: float, max_request_tokens: int) -> None:
        self._api_key = api_key
        self.served = {one.name: one for one in served}
        self.created = int(time.time())
        self.scheduler = Scheduler(max_wait_s=max_wait_s)
        self.bodies = Bodies()
        self._max_request_tokens = max_request_tokens
        probes: dict[str, list[Any]] = {"embeddings": ["a"], "rerank": [(Query("a"), "a")], "classify": ["a"]}
        functions = {"embeddings": Served.embed, "rerank": Served.rerank, "classify": Served.classify}
        self._queues: dict[tuple[str, str], Queue[Any, Any]] = {
            (one.name, use): self.scheduler.queue(f"{one.name} ({use})", functions[use].__get__(one), probe=probes[use])
            for one in served
            for use in one.uses
        }

    @property
    def is_overloaded(self) -> bool:
        """Whether even the smallest request would be refused."""
        return self.scheduler.refusal_s(0) is not None

    def early_answer(self, path: str, headers: Mapping[str, str]) -> Response | None:
        """The response of ``early_refusal``, for connections that send it without running the application, which costs far more.

        Also None if the application must do more: check a key, or add CORS headers.
        """
        if "origin" in headers or not has_key(self._api_key, headers):
            return None
        refusal = self.early_refusal(path, headers)
        return None if refusal is None else error_response(refusal)

    def early_refusal(self, path: str, headers: Mapping[str, str]) -> RequestError | None:
        """Under overload, refuse a request by its path and headers, before its body is read or parsed.

        Only requests that would be refused with their bodies, too, are refused: the length of a body bounds its tokens. There is no such
        bound for compressed bodies, bodies of unknown length, and rerank (a cross-encoder reads the query with each document).

        Args:
            path: Path of the request.
            headers: Headers of the request; names in lower case.
        """
        length = headers.get("content-length", "")
        if path not in _BOUNDED or not length.isdigit() or headers.get("content-encoding", "identity").lower() != "identity":
            return None
        wait_s = self.scheduler.refusal_s(int(length))
        return None if wait_s is None else _too_busy(TooBusyError(wait_s))

    def stop(self) -> None:
        """Finish running requests and answer all others with status 503. Call it in the event loop."""
        self.scheduler.stop()
        self.bodies.stop()

    async def models(self, _: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [self._described(one) for one in self.served.values()]})

    async def model(self, request: Request) -> JSONResponse:
        return JSONResponse(self._described(self._named(request.path_params["name"])))

    async def health(self, _: Request) -> JSONResponse:
        """Report whether requests can be answered. It needs no key, so it does not reveal the models."""
        if not self.scheduler.is_alive:
            status = "stopped"
        elif self.scheduler.is_stopping:
            status = "stopping"
        elif self.scheduler.busy_s > STUCK_S:
            status = "stuck"
        else:
            status = "failing" if self.scheduler.failing else "ok"
        return JSONResponse({"status": status}, status_code=200 if status == "ok" else 503)

    async def embeddings(self, request: Request) -> Response:
        self._refuse_early(request)
        async with self.bodies.read(request) as body:
            asked: EmbeddingRequest = EmbeddingRequest.read(body)
            one = self._chosen(asked.model, "embeddings")
            assert one.embedder is not None
            if asked.dimensions not in (None, one.embedder.dim):
                raise RequestError(
                    f"dimensions is {asked.dimensions}, but vectors of {one.name!r} have {one.embedder.dim}: leave it out",
                    param="dimensions",
                )
            tokens = self._bounded(one.estimate_tokens(asked.input), "input")
            found = await self._computed(request, one, "embeddings", asked.input, tokens)
            return Response(await _embeddings_json(one.name, found, asked.encoding_format), media_type="application/json")

    async def rerank(self, request: Request) -> JSONResponse:
        async with self.bodies.read(request) as body:
            asked: RerankRequest = RerankRequest.read(body)
            one = self._chosen(asked.model, "rerank")
            tokens = self._bounded(one.estimate_pair_tokens(asked.query, asked.documents), "documents")
            query = Query(asked.query)
            found = await self._computed(request, one, "rerank", [(query, document) for document in asked.documents], tokens)
        scores = np.array([scored.score for scored in found])
        best = np.argsort(-scores, kind="stable")[: asked.top_n]
        results: list[dict[str, Any]] = [{"index": int(index), "relevance_score": float(scores[index])} for index in best]
        if asked.return_documents:
            results = [{**result, "document": {"text": asked.documents[result["index"]]}} for result in results]
        total = found[0].query_tokens + sum(scored.document_tokens for scored in found)
        return JSONResponse({"object": "list", "model": one.name, "results": results, "usage": {"total_tokens": total}})

    async def classify(self, request: Request) -> JSONResponse:
        self._refuse_early(request)
        async with self.bodies.read(request) as body:
            asked: ClassifyRequest = ClassifyRequest.read(body)
            one = self._chosen(asked.model, "classify")
            tokens = self._bounded(one.estimate_tokens(asked.input), "input")
            found = await self._computed(request, one, "classify", asked.input, tokens)
        data = []
        for index, prediction in enumerate(found):
            fields = {"label": prediction.label, "probability": prediction.chance, "tags": prediction.tags}
            data.append({"index": index, **{name: value for name, value in fields.items() if value is not None}})
        return JSONResponse({"object": "list", "model": one.name, "data": data})

    def _refuse_early(self, request: Request) -> None:
        if (refusal := self.early_refusal(request.scope["path"], request.headers)) is not None:
            raise refusal

    def _described(self, one: Served) -> dict[str, Any]:
        about = {"id": one.name, "object": "model", "created": self.created, "owned_by": "tain", "uses": list(one.uses)}
        return {**about, "normalized": one.is_normalised} if "embeddings" in one.uses else about

    def _bounded(self, tokens: list[int], param: str) -> list[int]:
        if (total := sum(tokens)) > self._max_request_tokens:
            raise RequestError(
                f"the request has about {total:,} tokens, but the limit is {self._max_request_tokens:,}: send fewer or shorter texts at a time",
                param=param,
                code="max_tokens_per_request",
            )
        return tokens

    def _chosen(self, name: str | None, use: str) -> Served:
        able = [one for one in self.served.values() if use in one.uses]
        if name is None:
            if able:
                return able[0]
            raise RequestError(f"no model here answers {use}: {self._overview()}", status=404, code="model_not_found")
        one = self._named(name)
        if one not in able:
            raise RequestError(f"model {name!r} does not answer {use}: {self._overview()}", param="model")
        return one

    def _named(self, name: str) -> Served:
        if name not in self.served:
            raise RequestError(f"there is no model {name!r} here: {self._overview()}", status=404, param="model", code="model_not_found")
        return self.served[name]

    def _overview(self) -> str:
        return "; ".join(f"{one.name} ({', '.join(one.uses)})" for one in self.served.values())

    async def _computed(self, request: Request, one: Served, use: str, items: list[Any], tokens: list[int]) -> list[Any]:
        """Wait for results; if the client disconnects, cancel what has not been computed."""
        try:
            found = asyncio.wrap_future(self._queues[one.name, use].submit(items, tokens=tokens))
        except TooBusyError as busy:
            raise _too_busy(busy) from None
        except StoppingError:
            raise _stopping() from None
        disconnected = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({found, disconnected}, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                raise RequestError("the client disconnected", status=GONE)
            return found.result()
        except StoppingError:
            raise _stopping() from None
        except NotFiniteError as error:  # caused by the model, not by the request
            raise RequestError(str(error), status=500, code="not_finite") from None
        except UserError as error:
            raise RequestError(str(error)) from None
        finally:
            disconnected.cancel()
            found.cancel()  # has no effect on a finished future


def _too_busy(busy: TooBusyError) -> RequestError:
    message = f"the server is overloaded: try again in {busy.retry_after_s} s"
    return RequestError(message, status=429, code="overloaded", retry_after_s=busy.retry_after_s)


def _stopping() -> RequestError:
    return RequestError("the server is stopping", status=503, code="stopping", retry_after_s=1)


async def _disconnected(request: Request) -> None:
    """Wait until the client disconnects; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _embeddings_json(name: str, found: Sequence[tuple[np.ndarray, int]], encoding: str) -> bytes:
    """Write the JSON in pieces and let other requests run in between; a large response takes a second."""
    rows = []
    for index, (vector, _) in enumerate(found):
        rows.append(json.dumps({"object": "embedding", "index": index, "embedding": _as_json(vector, encoding)}, separators=(",", ":")))
        if index % _VECTORS_AT_ONCE == _VECTORS_AT_ONCE - 1:
            await asyncio.sleep(0)
    tokens = sum(count for _, count in found)
    usage = json.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    return f'{{"object":"list","model":{json.dumps(name)},"data":[{",".join(rows)}],"usage":{usage}}}'.encode()


def _as_json(vector: np.ndarray, encoding: str) -> str | list[float]:
    """A vector as numbers, or as base64 of little-endian float32, which OpenAI's clients request."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.astype(np.float64).tolist()


def _error(
    status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
) -> JSONResponse:
    kind = "rate_limit_error" if status == 429 else "invalid_request_error" if status < 500 else "server_error"
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status_code=status, headers=headers)


def error_response(error: RequestError) -> JSONResponse:
    """The response to a refused request."""
    return _error(error.status, str(error), param=error.param, code=error.code, retry_after_s=error.retry_after_s)


async def _refused(_: Request, error: RequestError) -> JSONResponse:
    return error_response(error)


async def _not_found(request: Request, error: HTTPException) -> JSONResponse:
    wanted = "POST /v1/embeddings, /v1/rerank, /v1/classify or GET /v1/models, /v1/models/NAME, /health"
    # request.url depends on the Host header, which may be anything
    return _error(error.status_code, f"{request.method} {request.scope['path']} is not an endpoint of this server: send {wanted}")


async def _our_bug(_: Request, error: Exception) -> JSONResponse:
    """Answer with status 500; Starlette raises the error again, so that the traceback is logged."""
    found = error.__cause__ if isinstance(error, ComputeError) else error
    return _error(500, f"internal server error ({type(found).__name__}): see the server's log")
