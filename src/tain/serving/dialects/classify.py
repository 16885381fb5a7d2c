"""Classes and tags of texts, in the form of OpenAI's lists."""

from typing import Any, Literal

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tain.serving.endpoints import Endpoints
from tain.serving.forms import json_response
from tain.serving.schemas import RequestBody, Texts
from tain.serving.service import Service, count_cut, count_tokens, cut_header


class ClassifyRequest(RequestBody):
    """Body of POST /v1/classify."""

    input: Texts


class Class(BaseModel):
    """A text's class with its probability, the tags of its tokens, or both."""

    index: int
    label: str | None = None
    probability: float | None = None
    tags: list[str] | None = None


class ClassifyUsage(BaseModel):
    """Tokens read, and how many texts were cut."""

    total_tokens: int
    truncated_texts: int


class ClassifyResponse(BaseModel):
    """Answer of POST /v1/classify."""

    object: Literal["list"]
    model: str
    data: list[Class]
    usage: ClassifyUsage


def classify(service: Service) -> Endpoints:
    """The endpoint."""
    endpoints = Endpoints("tain")

    @endpoints.answers_post("/v1/classify", asks=ClassifyRequest, gives=ClassifyResponse)
    async def classes(request: Request) -> Response:
        """Predict the class of each text, or the tags of its tokens."""
        async with service.reading(request, ClassifyRequest) as asked:
            one = service.chosen(asked.model, "classify")
            found = await service.computed(request, one, "classify", asked.input, one.estimate_tokens(asked.input), param="input")
        data: list[dict[str, Any]] = []
        for index, each in enumerate(found):
            fields = {"label": each.prediction.label, "probability": each.prediction.chance, "tags": each.prediction.tags}
            data.append({"index": index, **{name: value for name, value in fields.items() if value is not None}})
        usage = {"total_tokens": count_tokens(found), "truncated_texts": count_cut(found)}
        return json_response({"object": "list", "model": one.name, "data": data, "usage": usage}, headers=cut_header(found))

    return endpoints
