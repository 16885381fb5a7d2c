"""The HTTP side of ``tain serve``: endpoints shaped like OpenAI's embeddings and like the rerank of Cohere and others."""

import asyncio
import base64
import hmac
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tain.foundation.errors import NotFiniteError, UserError
from tain.serving.batching import Batcher, TooBusyError
from tain.serving.schemas import ClassifyRequest, EmbeddingRequest, RequestError, RerankRequest
from tain.serving.served import Served

MOST_BYTES = 32 * 2**20  # of a request's body
PATIENCE_S = 30  # for the next piece of a request's body
_GONE = 499  # nobody reads it

_Handler = Callable[[Request], Awaitable[JSONResponse]]


def build_app(served: Sequence[Served], *, api_key: str | None = None, most_waiting: int = 8192) -> Starlette:
    """Build the server's application.

    Args:
        served: The models; their names differ. A request that names none goes to the first that can answer it.
        api_key: What ``Authorization: Bearer`` must say; None lets everybody in.
        most_waiting: Texts that may wait for one model; what comes beyond them is refused with status 503.
    """
    service = _Service(served, most_waiting=most_waiting)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    def guarded(handler: _Handler) -> _Handler:
        async def answer(request: Request) -> JSONResponse:
            if api_key is not None:
                kind, _, given = request.headers.get("authorization", "").partition(" ")
                if kind.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("latin-1"), api_key.encode()):
                    raise RequestError(
                        "the API key is missing or wrong: send Authorization: Bearer KEY", status=401, code="invalid_api_key"
                    )
            return await handler(request)

        return answer

    posts = {"/v1/embeddings": service.embeddings, "/v1/rerank": service.rerank, "/v1/classify": service.classify}
    routes = [Route(path, guarded(handler), methods=["POST"]) for path, handler in posts.items()]
    routes += [Route("/v1/models", guarded(service.models), methods=["GET"]), Route("/health", _health, methods=["GET"])]
    handlers: dict[Any, Any] = {RequestError: _refused, HTTPException: _not_found, Exception: _our_bug}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


class _Service:
    """The handlers, and a queue for each model and use."""

    def __init__(self, served: Sequence[Served], *, most_waiting: int) -> None:
        self.served = {one.name: one for one in served}
        turn = threading.Lock()
        functions = {"embeddings": Served.embed, "rerank": Served.rerank, "classify": Served.classify}
        self.batchers: dict[tuple[str, str], Batcher[Any, Any]] = {
            (one.name, use): Batcher(functions[use].__get__(one), turn=turn, most_waiting=most_waiting)
            for one in served
            for use in one.uses
        }

    def close(self) -> None:
        for batcher in self.batchers.values():
            batcher.close()

    async def models(self, _: Request) -> JSONResponse:
        models = [{"id": one.name, "object": "model", "owned_by": "tain", "uses": list(one.uses)} for one in self.served.values()]
        return JSONResponse({"object": "list", "data": models})

    async def embeddings(self, request: Request) -> JSONResponse:
        asked: EmbeddingRequest = EmbeddingRequest.read(await _body(request))
        one = self._chosen(asked.model, "embeddings")
        assert one.embedder is not None
        if asked.dimensions not in (None, one.embedder.dim):
            raise RequestError(
                f"dimensions is {asked.dimensions}, but vectors of {one.name!r} have {one.embedder.dim}: leave it out", param="dimensions"
            )
        found = await self._computed(request, one, "embeddings", asked.input)
        tokens = sum(count for _, count in found)
        data = [
            {"object": "embedding", "index": place, "embedding": _as_json(vector, asked.encoding_format)}
            for place, (vector, _) in enumerate(found)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return JSONResponse({"object": "list", "model": one.name, "data": data, "usage": usage})

    async def rerank(self, request: Request) -> JSONResponse:
        asked: RerankRequest = RerankRequest.read(await _body(request))
        one = self._chosen(asked.model, "rerank")
        ((scores, tokens),) = await self._computed(request, one, "rerank", [(asked.query, asked.documents)], texts=1 + len(asked.documents))
        best = np.argsort(-scores, kind="stable")[: asked.top_n]
        results: list[dict[str, Any]] = [{"index": int(place), "relevance_score": float(scores[place])} for place in best]
        if asked.return_documents:
            results = [{**result, "document": {"text": asked.documents[result["index"]]}} for result in results]
        return JSONResponse({"object": "list", "model": one.name, "results": results, "usage": {"total_tokens": tokens}})

    async def classify(self, request: Request) -> JSONResponse:
        asked: ClassifyRequest = ClassifyRequest.read(await _body(request))
        one = self._chosen(asked.model, "classify")
        found = await self._computed(request, one, "classify", asked.input)
        data = []
        for place, said in enumerate(found):
            told = {"label": said.label, "probability": said.chance, "tags": said.tags}
            data.append({"index": place, **{name: value for name, value in told.items() if value is not None}})
        return JSONResponse({"object": "list", "model": one.name, "data": data})

    def _chosen(self, name: str | None, use: str) -> Served:
        able = [one for one in self.served.values() if use in one.uses]
        if name is None:
            if able:
                return able[0]
            raise RequestError(f"no model here answers {use}: {self._overview()}", status=404, code="model_not_found")
        one = self.served.get(name)
        if one is None:
            raise RequestError(f"there is no model {name!r} here: {self._overview()}", status=404, param="model", code="model_not_found")
        if one not in able:
            raise RequestError(f"model {name!r} does not answer {use}: {self._overview()}", param="model")
        return one

    def _overview(self) -> str:
        return "; ".join(f"{one.name} ({', '.join(one.uses)})" for one in self.served.values())

    async def _computed(self, request: Request, one: Served, use: str, items: list[Any], *, texts: int | None = None) -> list[Any]:
        """Wait for results, or for the client to go away: then nobody needs them, and what has not begun is not computed."""
        try:
            found = asyncio.wrap_future(self.batchers[one.name, use].submit(items, texts=texts))
        except TooBusyError:
            raise RequestError("too many texts are waiting: try again in a moment", status=503, code="overloaded") from None
        gone = asyncio.ensure_future(_gone(request))
        try:
            await asyncio.wait({found, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not found.done():
                raise RequestError("the client went away", status=_GONE)
            return found.result()
        except NotFiniteError as error:  # the model's fault, not the request's
            raise RequestError(str(error), status=500, code="not_finite") from None
        except UserError as error:
            raise RequestError(str(error)) from None
        finally:
            gone.cancel()
            found.cancel()  # does nothing to what is done


async def _gone(request: Request) -> None:
    """Wait until the client closes the connection; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request) -> bytes:
    body, loop = bytearray(), asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE_S) as patience:
            async for piece in request.stream():
                body += piece
                if len(body) > MOST_BYTES:
                    raise RequestError(f"the request is larger than {MOST_BYTES // 2**20} MB: send fewer texts at a time", status=413)
                patience.reschedule(loop.time() + PATIENCE_S)
    except TimeoutError:
        raise RequestError(f"nothing more of the request's body came in {PATIENCE_S} seconds", status=408) from None
    except ClientDisconnect:
        raise RequestError("the client went away", status=_GONE) from None
    return bytes(body)


def _as_json(vector: np.ndarray, encoding: str) -> str | list[float]:
    """A vector as numbers, or as base64 of little-endian float32, which OpenAI's clients ask for."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.astype(np.float64).tolist()


async def _health(_: Request) -> JSONResponse:
    return JSONResponse({"status": "ok"})


def _error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> JSONResponse:
    kind = "invalid_request_error" if status < 500 else "server_error"
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "1"} if status == 503 else None
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": code}}, status_code=status, headers=headers)


async def _refused(_: Request, error: RequestError) -> JSONResponse:
    return _error(error.status, str(error), param=error.param, code=error.code)


async def _not_found(request: Request, error: HTTPException) -> JSONResponse:
    wanted = "POST /v1/embeddings, /v1/rerank, /v1/classify or GET /v1/models, /health"
    return _error(error.status_code, f"{request.method} {request.url.path} is nothing here: {wanted}")


async def _our_bug(_: Request, error: Exception) -> JSONResponse:
    """Tell the client; Starlette then raises it again, so that the traceback shows."""
    return _error(500, f"an error of the server's ({type(error).__name__}); its log has the details")
