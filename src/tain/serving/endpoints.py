"""Declare the endpoints of a dialect, and describe them for ``/openapi.json``."""

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

_SCHEMAS = "#/components/schemas/"


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
                    responses={200: {"model": gives}},
                    openapi_extra={"requestBody": body},
                )
            return handler

        return add

    def answers_get(self, path: str, *, gives: Any) -> Callable[[Handler], Handler]:
        """Let a handler answer GET requests."""
        return self.get(path, response_model=None, responses={200: {"model": gives}})


def describe(app: FastAPI, bodies: list[type[RequestBody]]) -> dict[str, Any]:
    """The OpenAPI description of an application."""
    schema = get_openapi(title="tain", version=tain.__version__, description="Embeddings, rerank and classes.", routes=app.routes)
    kinds: list[tuple[type[BaseModel], Any]] = [(each, "validation") for each in dict.fromkeys(bodies)]
    _, own = models_json_schema(kinds, ref_template=_SCHEMAS + "{model}")
    schema.setdefault("components", {}).setdefault("schemas", {}).update(own["$defs"])
    return schema
