"""Declare the endpoints of a dialect, and describe them for ``/openapi.json``."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

import tain
from tain.serving.schemas import RequestBody

Handler = TypeVar("Handler", bound=Callable[[Request], Awaitable[Response]])

_NAME = re.compile(r"\{(\w+)[^}]*\}")
_SCHEMAS = "#/components/schemas/"
_ERROR = {"application/json": {"schema": {"type": "object", "description": "A message; its form follows the API of the path."}}}


def _refusals(meanings: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": meaning, "content": _ERROR} for status, meaning in meanings.items()}


_OF_ALL = {401: "no valid API key, if the server asks for one", 503: "the server is starting or stopping"}
REFUSALS_OF_GET = _refusals(_OF_ALL)
_REFUSALS_OF_NAMES = _refusals({404: "nothing of this name"})
_REFUSALS_OF_POST = _refusals(
    {
        400: "the request cannot be answered; the message says why",
        404: "no model of this name or kind",
        408: "the body took too long",
        413: "the body, or a text, is too large",
        415: "the body is encoded otherwise than as gzip",
        429: "too much work waits; Retry-After says when to come back",
        504: "the answer took too long",
        **_OF_ALL,
    }
)


class Endpoints(APIRouter):
    """Router of one dialect.

    Handlers read their body themselves, because the server limits its size, its time and its memory, refuses before reading it under
    overload, and accepts gzip. The schemas serve to check and to describe it.

    Attributes:
        bodies: Schemas of the request bodies.
    """

    def __init__(self, tag: str) -> None:
        super().__init__(tags=[tag])
        self.bodies: list[type[RequestBody]] = []

    def answers_post(self, *paths: str, asks: type[RequestBody], gives: Any) -> Callable[[Handler], Handler]:
        """Let a handler answer POST requests.

        Args:
            paths: Where.
            asks: Schema of the body.
            gives: Type of the answer.
        """
        self.bodies.append(asks)
        body = {"required": True, "content": {"application/json": {"schema": {"$ref": _SCHEMAS + asks.__name__}}}}

        def add(handler: Handler) -> Handler:
            for path in paths:
                self.add_api_route(
                    path,
                    handler,
                    methods=["POST"],
                    response_model=None,
                    responses={200: {"model": gives}, **_REFUSALS_OF_POST},
                    openapi_extra={"requestBody": body},
                )
            return handler

        return add

    def answers_get(self, path: str, *, gives: Any) -> Callable[[Handler], Handler]:
        """Let a handler answer GET requests; it reads the names in braces of its path itself."""
        names = _NAME.findall(path)
        parameters = [{"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names]
        refusals = REFUSALS_OF_GET | (_REFUSALS_OF_NAMES if names else {})
        extra = {"parameters": parameters} if parameters else None
        return self.get(path, response_model=None, responses={200: {"model": gives}, **refusals}, openapi_extra=extra)


def describe(app: FastAPI, bodies: list[type[RequestBody]]) -> dict[str, Any]:
    """The OpenAPI description of an application."""
    schema = get_openapi(title="tain", version=tain.__version__, description="Embeddings, rerank and classes.", routes=app.routes)
    kinds: list[tuple[type[BaseModel], Any]] = [(each, "validation") for each in dict.fromkeys(bodies)]
    _, own = models_json_schema(kinds, ref_template=_SCHEMAS + "{model}")
    schema.setdefault("components", {}).setdefault("schemas", {}).update(own["$defs"])
    return schema
