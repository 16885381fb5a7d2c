"""What every dialect asks of the server: read a body, choose a model, compute within limits, and say how it went."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from tain.foundation.errors import NotFiniteError, UserError
from tain.foundation.machine import thread_limit, usable_cores
from tain.serving.batching import MAX_WAIT_S, Queue, Scheduler, StoppingError, TooBusyError
from tain.serving.bodies import GONE, Bodies
from tain.serving.forms import error_response, form_of
from tain.serving.keys import ApiKeys
from tain.serving.logs import RequestLog
from tain.serving.metrics import Metrics
from tain.serving.schemas import RequestBody, RequestError
from tain.serving.served import Query, Scored, Served, Text, TooLongError

MAX_REQUEST_TOKENS = 300_000  # the limit of OpenAI's API
REQUEST_TIMEOUT_S = 300.0
LOADING_RETRY_S = 2  # a model takes seconds to load
STUCK_S = 60.0  # a batch takes a quarter of a second; one that runs this long is stuck

# a text of n bytes has no more than n tokens, and each is read once
_BOUNDED = {"/v1/embeddings", "/v1/classify", "/v2/embed", "/embed", "/predict", "/similarity", "/tokenize", "/v1/token-pairs"}
_MOST_HEADER_LENGTH = 20  # digits of a Content-Length that are converted

# what a model can be used for: items that a working model can compute, and the function
_USES: dict[str, tuple[Any, Any]] = {
    "embeddings": (Text("a"), Served.embed),
    "rerank": ((Query("a"), "a"), Served.rerank),
    "classify": ("a", Served.classify),
    "chances": ("a", Served.chances),
    "tokenize": (("a", True), Served.tokenize),
    "token-pairs": (("a", "a"), Served.token_pairs),
}

Asked = TypeVar("Asked", bound=RequestBody)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a server.

    Attributes:
        max_wait_s: Seconds of work queued before a request; see ``Scheduler``. Beyond it, status 429.
        max_request_tokens: Tokens per request, estimated from the lengths of its texts. Beyond it, status 400.
        request_timeout_s: Seconds from the end of a request's body to its answer. Beyond it, status 504.
    """

    max_wait_s: float = MAX_WAIT_S
    max_request_tokens: int = MAX_REQUEST_TOKENS
    request_timeout_s: float = REQUEST_TIMEOUT_S


class Service:
    """The models of a server, with a queue for each model and use.

    Args:
        served: The models, with distinct names.
        keys: Keys, of which requests must carry one.
        limits: Limits of requests.
        log: Receives one line per request; None: no lines.
        loading: Names of models that ``finish_loading`` brings; until then requests for models are refused with status 503.
    """

    def __init__(
        self, served: Sequence[Served], *, keys: ApiKeys, limits: Limits, log: RequestLog | None = None, loading: Sequence[str] = ()
    ) -> None:
        self.served: dict[str, Served] = {}
        self.keys, self.limits, self.log = keys, limits, log
        self.created = int(time.time())
        self.scheduler = Scheduler(max_wait_s=limits.max_wait_s, workers=thread_limit() or usable_cores())
        self.bodies = Bodies()
        self.metrics = Metrics(waiting_s=lambda: self.scheduler.wait_s, held_bytes=lambda: self.bodies.held_bytes)
        self._queues: dict[tuple[str, str], Queue[Any, Any]] = {}
        self._loading = tuple(loading)
        for one in served:
            self._add(one)

    def finish_loading(self, served: Sequence[Served]) -> None:
        """Take over the models that were announced as ``loading``; from now on requests are answered. May be called in any thread."""
        for one in served:
            self._add(one)
        self._loading = ()

    def _add(self, one: Served) -> None:
        for use in (*one.uses, *_more_uses(one)):
            probe, function = _USES[use]
            compute = _Measured(one, use, function, self.metrics)
            on_one_core = compute.on_one_core if one.runs_on_one_core(use) else None
            self._queues[one.name, use] = self.scheduler.queue(f"{one.name} ({use})", compute, probe=[probe], on_one_core=on_one_core)
        self.served[one.name] = one

    # ---- state

    @property
    def status(self) -> str:
        """``ok``, or why requests cannot be answered: ``stopped``, ``stopping``, ``loading``, ``stuck`` or ``failing``."""
        if not self.scheduler.is_alive:
            return "stopped"
        if self.scheduler.is_stopping:
            return "stopping"
        if self._loading:
            return "loading"
        if self.scheduler.busy_s > STUCK_S:
            return "stuck"
        return "failing" if self.scheduler.failing else "ok"

    @property
    def is_overloaded(self) -> bool:
        """Whether even the smallest request would be refused."""
        return self.scheduler.refusal_s(0) is not None

    def stop(self) -> None:
        """Finish running requests and answer all others with status 503. Call it in the event loop."""
        self.scheduler.stop()
        self.bodies.stop()

    def loading_refusal(self) -> RequestError | None:
        """What a request for a model gets while models are loaded; None once they are."""
        if not self._loading:
            return None
        message = f"the server is loading its models ({', '.join(self._loading)}): try again in a moment"
        return RequestError(message, status=503, code="loading", retry_after_s=LOADING_RETRY_S)

    # ---- refusals under overload

    def early_answer(self, path: str, headers: Mapping[str, str]) -> Response | None:
        """The response of ``early_refusal``, for connections that send it without running the application, which costs far more.

        Also None if the application must do more: check a key, or add CORS headers.
        """
        if "origin" in headers or not self.keys.opens(headers):
            return None
        refusal = self.early_refusal(path, headers)
        if refusal is None:
            return None
        self.answered(path, refusal.status, 0.0)
        self.metrics.refusal("overloaded")
        return error_response(refusal, form=form_of(path))

    def early_refusal(self, path: str, headers: Mapping[str, str]) -> RequestError | None:
        """Under overload, refuse a request by its path and headers, before its body is read or parsed.

        Only requests that would be refused with their bodies, too, are refused: the length of a body bounds its tokens. There is no such
        bound for compressed bodies, bodies of unknown length, and rerank (a cross-encoder reads the query with each document).

        Args:
            path: Path of the request.
            headers: Headers of the request; names in lower case.
        """
        length = headers.get("content-length", "")
        if path not in _BOUNDED or not length.isdigit() or len(length) > _MOST_HEADER_LENGTH:
            return None
        if headers.get("content-encoding", "identity").lower() != "identity":
            return None
        wait_s = self.scheduler.refusal_s(int(length))
        return None if wait_s is None else _too_busy(TooBusyError(wait_s))

    def answered(self, path: str, status: int, seconds: float, **fields: Any) -> None:
        """Count and log an answer."""
        self.metrics.request(path, status, seconds)
        if self.log is not None:
            self.log.write(path=path, status=status, seconds=round(seconds, 4), **fields)

    # ---- requests

    @asynccontextmanager
    async def reading(self, request: Request, kind: type[Asked]) -> AsyncIterator[Asked]:
        """Read and check a request's body; it counts as held in memory until the block ends.

        Raises:
            RequestError: It cannot be read or is not valid; or the server is overloaded.
        """
        if (refusal := self.early_refusal(request.scope["path"], request.headers)) is not None:
            raise refusal
        async with self.bodies.read(request) as body:
            yield kind.read(body)

    def chosen(self, name: str | None, use: str) -> Served:
        """The model that a request names, or the first that can answer.

        Raises:
            RequestError: There is none.
        """
        able = [one for one in self.served.values() if (one.name, use) in self._queues]
        if name is None:
            if able:
                return able[0]
            raise RequestError(f"no model here answers {use}: {self._overview()}", status=404, code="model_not_found")
        one = self.named(name)
        if one not in able:
            raise RequestError(f"model {name!r} does not answer {use}: {self._overview()}", param="model")
        return one

    def named(self, name: str) -> Served:
        """The model of a name.

        Raises:
            RequestError: There is none.
        """
        if name not in self.served:
            raise RequestError(f"there is no model {name!r} here: {self._overview()}", status=404, param="model", code="model_not_found")
        return self.served[name]

    async def computed(self, request: Request, one: Served, use: str, items: Sequence[Any], tokens: list[int], *, param: str) -> list[Any]:
        """Wait for results; if the client disconnects, cancel what has not been computed.

        Args:
            request: The request, whose body has been read.
            one: The model.
            use: What to compute.
            items: The texts or pairs.
            tokens: About how many tokens each has.
            param: The field that holds the texts.

        Raises:
            RequestError: There are too many tokens, the server is overloaded or stops, it takes too long, or a text cannot be used.
        """
        if (total := sum(tokens)) > self.limits.max_request_tokens:
            raise RequestError(
                f"the request has about {total:,} tokens, but the limit is {self.limits.max_request_tokens:,}: "
                "send fewer or shorter texts at a time",
                param=param,
                code="max_tokens_per_request",
            )
        try:
            job = self._queues[one.name, use].submit(items, tokens=tokens)
        except TooBusyError as busy:
            raise _too_busy(busy) from None
        except StoppingError:
            raise _stopping() from None
        future = asyncio.wrap_future(job)
        disconnected = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({future, disconnected}, timeout=self.limits.request_timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if not future.done():
                if disconnected.done():
                    raise RequestError("the client disconnected", status=GONE)
                raise RequestError(
                    f"the request took longer than {self.limits.request_timeout_s:g} seconds: send fewer texts at a time",
                    status=504,
                    code="timeout",
                )
            found = future.result()
        except StoppingError:
            raise _stopping() from None
        except NotFiniteError as error:  # caused by the model, not by the request
            raise RequestError(str(error), status=500, code="not_finite") from None
        except TooLongError as error:
            status = 413 if form_of(request.scope["path"]) == "tei" else 400
            raise RequestError(str(error), status=status, param=param, code="text_too_long") from None
        except UserError as error:
            raise RequestError(str(error)) from None
        finally:
            disconnected.cancel()
            future.cancel()  # has no effect on a finished future
        truncated, read = count_cut(found), count_tokens(found)
        self.metrics.computed(one.name, use, texts=len(items), tokens=read, truncated=truncated, waited_s=job.waited_s)
        request.state.about = {
            "model": one.name,
            "use": use,
            "texts": len(items),
            "tokens": read,
            "truncated": truncated,
            "waited_s": round(job.waited_s, 4),
        }
        return found

    def _overview(self) -> str:
        return "; ".join(f"{one.name} ({', '.join(one.uses)})" for one in self.served.values())


def _more_uses(one: Served) -> list[str]:
    """What a model can answer beside ``uses``."""
    able = {"chances": one.has_chances, "tokenize": one.has_tokens, "token-pairs": one.has_token_pairs}
    return [use for use, is_able in able.items() if is_able]


class _Measured:
    """A function of a model, with the time of each batch recorded."""

    def __init__(self, one: Served, use: str, function: Any, metrics: Metrics) -> None:
        self._one, self._use, self._function, self._metrics = one, use, function, metrics

    def __call__(self, items: list[Any]) -> Sequence[Any]:
        return self._computed(self._one, items)

    def on_one_core(self, items: list[Any]) -> Sequence[Any]:
        """The same on one core; several threads may call it at once."""
        return self._computed(self._one.on_one_core(), items)

    def _computed(self, one: Served, items: list[Any]) -> Sequence[Any]:
        one.tokenizing_s = 0.0
        began_s = time.perf_counter()
        found = self._function(one, items)
        seconds = time.perf_counter() - began_s
        self._metrics.batch(one.name, self._use, texts=len(items), seconds=seconds, tokenizing_s=one.tokenizing_s)
        return found


def count_tokens(found: Sequence[Any]) -> int:
    """Tokens read for a request; a query that many documents share counts once, except by a cross-encoder, which reads it each time."""
    total, last = 0, None
    for one in found:
        if isinstance(one, Scored):
            total += one.document_tokens + (one.query_tokens if one.query is not last else 0)
            last = one.query
        else:
            total += getattr(one, "tokens", 0)
    return total


def count_cut(found: Sequence[Any]) -> int:
    """How many texts of a request were cut: documents, and the query once."""
    cut = sum(bool(getattr(one, "is_cut", False)) for one in found)
    return cut + any(isinstance(one, Scored) and one.is_query_cut for one in found)


def cut_header(found: Sequence[Any]) -> dict[str, str]:
    """The header that says how many texts of a request were cut."""
    return {"X-Tain-Truncated": str(count_cut(found))}


def _too_busy(busy: TooBusyError) -> RequestError:
    message = f"the server is overloaded: try again in {busy.retry_after_s} s"
    return RequestError(message, status=429, code="overloaded", retry_after_s=busy.retry_after_s)


def _stopping() -> RequestError:
    return RequestError("the server is stopping", status=503, code="stopping", retry_after_s=1)


async def _disconnected(request: Request) -> None:
    """Wait until the client disconnects; the body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
