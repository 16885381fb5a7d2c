"""OpenAI's API: embeddings, and the list of models."""

from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from tain.foundation.errors import UserError
from tain.serving.answers import as_base64, as_numbers, away, joined, vectors_of
from tain.serving.endpoints import Endpoints
from tain.serving.forms import json_response
from tain.serving.prompts import prompt_called, prompt_for_use
from tain.serving.schemas import Dimensions, RequestBody, RequestError, Texts
from tain.serving.served import Cut, Embedded, Served, Text
from tain.serving.service import Service, count_cut, count_tokens, cut_header

_CUTS: dict[str, Cut] = {"cut": "end", "error": "refuse", "mean-of-chunks": "chunks"}


class EmbeddingRequest(RequestBody):
    """Body of POST /v1/embeddings."""

    input: Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Dimensions = None
    user: Annotated[str | None, Field(description="ignored")] = None
    prompt_name: Annotated[str | None, Field(description="one of the model's prompts; not in OpenAI's API")] = None
    task: Annotated[
        Literal["retrieval.query", "retrieval.passage", "text-matching", "classification", "separation", "clustering"] | None,
        Field(description="selects the model's prompt for this use, if it has one (Jina's)"),
    ] = None
    truncation: Annotated[
        Literal["cut", "error", "mean-of-chunks"],
        Field(description="cut texts that are too long, refuse them, or average the vectors of their chunks; not in OpenAI's API"),
    ] = "cut"

    @model_validator(mode="after")
    def _one_of_two(self) -> "EmbeddingRequest":
        if self.prompt_name is not None and self.task is not None:
            raise ValueError("prompt_name and task are given, which both select a prompt: give one of them")
        return self


class EmbeddingUsage(BaseModel):
    """Tokens read, and how many texts were cut."""

    prompt_tokens: int
    total_tokens: int
    truncated_texts: int


class Embedding(BaseModel):
    """One text's vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingResponse(BaseModel):
    """Answer of POST /v1/embeddings."""

    object: Literal["list"]
    model: str
    data: list[Embedding]
    usage: EmbeddingUsage


class Model(BaseModel):
    """A model, and what it answers."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    uses: list[str]
    max_tokens: int | None = None
    dimensions: int | None = None
    normalized: bool | None = None
    prompts: list[str] | None = None


class ModelList(BaseModel):
    """Answer of GET /v1/models."""

    object: Literal["list"]
    data: list[Model]


def openai(service: Service) -> Endpoints:
    """The endpoints."""
    endpoints = Endpoints("OpenAI")

    @endpoints.answers_post("/v1/embeddings", asks=EmbeddingRequest, gives=EmbeddingResponse)
    async def embeddings(request: Request) -> Response:
        """Encode texts."""
        async with service.reading(request, EmbeddingRequest) as asked:
            one = service.chosen(asked.model, "embeddings")
            refuse_dims(asked.dimensions, one, "dimensions")
            cut = _CUTS[asked.truncation]
            prompt = prompt_called(one.prompts, asked.prompt_name, model=one.name, param="prompt_name")
            prompt = prompt_for_use(one.prompts, asked.task) if prompt is None else prompt
            items = [Text(text, cut, prompt) for text in asked.input]
            tokens = one.estimate_tokens(asked.input, is_whole=cut == "chunks", prompt=prompt)
            found = await service.computed(request, one, "embeddings", items, tokens, param="input")
            body = await away(len(found) * len(found[0].vector), lambda: _embeddings(asked, one, found))
        return Response(body, media_type="application/json", headers=cut_header(found))

    @endpoints.answers_get("/v1/models", gives=ModelList)
    async def models(request: Request) -> Response:
        """List the models."""
        return json_response({"object": "list", "data": [_described(service, one) for one in service.served.values()]})

    @endpoints.answers_get("/v1/models/{name:path}", gives=Model)
    async def model(request: Request) -> Response:
        """Describe one model."""
        return json_response(_described(service, service.named(request.path_params["name"])))

    return endpoints


def refuse_dims(dims: int | None, one: Served, param: str) -> None:
    """Refuse a number of dimensions that a model's vectors do not have, before they are computed.

    Raises:
        RequestError: There are fewer.
    """
    assert one.embedder is not None
    if dims is not None and dims > one.embedder.dim:
        raise RequestError(f"{param} is {dims}, but vectors of {one.name!r} have {one.embedder.dim}: ask for no more", param=param)


def _embeddings(asked: EmbeddingRequest, one: Served, found: list[Embedded]) -> bytes:
    try:
        vectors = vectors_of(found, dims=asked.dimensions, normalize=one.is_normalised)
    except UserError as error:
        raise RequestError(str(error), param="dimensions") from None
    written = as_base64(vectors) if asked.encoding_format == "base64" else as_numbers(vectors)
    rows = [b'{"object":"embedding","index":%d,"embedding":%b}' % row for row in enumerate(written)]
    tokens = count_tokens(found)
    usage = orjson.dumps({"prompt_tokens": tokens, "total_tokens": tokens, "truncated_texts": count_cut(found)})
    return b'{"object":"list","model":%b,"data":%b,"usage":%b}' % (orjson.dumps(one.name), joined(rows), usage)


def _described(service: Service, one: Served) -> dict[str, Any]:
    about: dict[str, Any] = {"id": one.name, "object": "model", "created": service.created, "owned_by": "tain", "uses": list(one.uses)}
    about["max_tokens"] = one.max_tokens
    if one.embedder is not None:
        about |= {"dimensions": one.embedder.dim, "normalized": one.is_normalised, "prompts": sorted(one.prompts)}
    return about
