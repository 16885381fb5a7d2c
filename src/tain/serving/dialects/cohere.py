"""Cohere's embed endpoint, version 2: vectors as float, int8, uint8, binary and ubinary."""

from typing import Annotated, Any, Literal
from uuid import uuid4

import numpy as np
import orjson
from pydantic import BaseModel, BeforeValidator, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from tain.models.vector_forms import stored_as
from tain.serving.answers import as_base64, as_numbers, away, joined, vectors_of
from tain.serving.dialects.openai import refuse_dims
from tain.serving.endpoints import Endpoints
from tain.serving.prompts import prompt_for_use
from tain.serving.schemas import Dimensions, RequestBody, RequestError, TextList
from tain.serving.served import Cut, Embedded, Served, Text
from tain.serving.service import Service, count_cut, count_tokens, cut_header

EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]

_CUT: dict[str, Cut] = {"NONE": "refuse", "START": "start", "END": "end"}


def _texts_of_contents(given: Any) -> Any:
    """Take the texts out of ``{"content": [{"type": "text", "text": ...}]}``."""
    if not isinstance(given, list):
        return given
    found = []
    for one in given:
        parts = one.get("content") if isinstance(one, dict) else None
        if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], dict) or parts[0].get("type") != "text":
            raise ValueError("each input must hold one text: the models here read no images")
        found.append(parts[0].get("text"))
    return found


class EmbedV2Request(RequestBody):
    """Body of POST /v2/embed: ``texts``, or ``inputs`` that hold one text each."""

    texts: TextList | None = None
    inputs: Annotated[TextList | None, BeforeValidator(_texts_of_contents, json_schema_input_type=list[dict[str, Any]] | None)] = None
    images: Annotated[list[Any] | None, Field(description="refused")] = None
    input_type: Annotated[
        Literal["search_query", "search_document", "classification", "clustering"] | None,
        Field(description="selects the model's prompt for this use, if it has one"),
    ] = None
    embedding_types: Annotated[list[EmbeddingType], Field(min_length=1)] = ["float"]  # noqa: RUF012 pydantic copies it
    output_dimension: Dimensions = None
    truncate: Annotated[
        Literal["NONE", "START", "END"], Field(description="what is cut off texts that are too long; NONE refuses them")
    ] = "END"

    @model_validator(mode="after")
    def _has_texts(self) -> "EmbedV2Request":
        if self.images is not None:
            raise ValueError("images are given, but the models here read texts")
        if (self.texts is None) == (self.inputs is None):
            raise ValueError("give either texts or inputs")
        return self


class EmbedV2Response(BaseModel):
    """Answer of POST /v2/embed."""

    id: str
    embeddings: dict[str, list[list[float]] | list[list[int]] | list[str]]
    texts: list[str]
    meta: dict[str, Any]
    response_type: Literal["embeddings_by_type"]


def cohere(service: Service) -> Endpoints:
    """The endpoint."""
    endpoints = Endpoints("Cohere")

    @endpoints.answers_post("/v2/embed", asks=EmbedV2Request, gives=EmbedV2Response)
    async def embed(request: Request) -> Response:
        """Encode texts."""
        async with service.reading(request, EmbedV2Request) as asked:
            one = service.chosen(asked.model, "embeddings")
            refuse_dims(asked.output_dimension, one, "output_dimension")
            _refuse_uncalibrated(asked, one)
            texts = asked.texts if asked.texts is not None else asked.inputs
            assert texts is not None
            prompt = prompt_for_use(one.prompts, asked.input_type)
            items = [Text(text, _CUT[asked.truncate], prompt) for text in texts]
            param = "texts" if asked.texts is not None else "inputs"
            found = await service.computed(request, one, "embeddings", items, one.estimate_tokens(texts, prompt=prompt), param=param)
            body = await away(len(found) * len(found[0].vector), lambda: _embeddings(asked, texts, one, found))
        return Response(body, media_type="application/json", headers=cut_header(found))

    return endpoints


def _refuse_uncalibrated(asked: EmbedV2Request, one: Served) -> None:
    """Refuse eight bits a number where it is not known which range each dimension has."""
    wanted = next((each for each in asked.embedding_types if each in ("int8", "uint8")), None)
    assert one.embedder is not None
    if wanted is None:
        return
    if one.int8_ranges is None:
        raise RequestError(
            f"embedding_types has {wanted!r}, but no ranges are recorded for model {one.name!r}: export it with tain export, or ask for float or ubinary",
            param="embedding_types",
        )
    if asked.output_dimension not in (None, one.embedder.dim):
        raise RequestError(
            f"embedding_types has {wanted!r}, but the ranges recorded for model {one.name!r} are those of whole vectors: leave output_dimension out",
            param="embedding_types",
        )


def _embeddings(asked: EmbedV2Request, texts: list[str], one: Served, found: list[Embedded]) -> bytes:
    rows = [b'"%b":%b' % (kind.encode(), joined(_written(kind, asked, one, found))) for kind in dict.fromkeys(asked.embedding_types)]
    tokens = count_tokens(found)
    meta = {
        "api_version": {"version": "2"},
        "billed_units": {"input_tokens": tokens},
        "tokens": {"input_tokens": tokens},
        "truncated_texts": count_cut(found),
    }
    return b'{"id":"%b","embeddings":{%b},"texts":%b,"meta":%b,"response_type":"embeddings_by_type"}' % (
        uuid4().hex.encode(),
        b",".join(rows),
        orjson.dumps(texts),
        orjson.dumps(meta),
    )


def _written(kind: EmbeddingType, asked: EmbedV2Request, one: Served, found: list[Embedded]) -> list[bytes]:
    if kind in ("int8", "uint8"):  # the ranges are those of the model's own vectors
        stored = stored_as(vectors_of(found, dims=None, normalize=False), "int8", ranges=one.int8_ranges)
        return as_numbers(stored if kind == "int8" else (stored.astype(np.int16) + 128).astype(np.uint8))
    vectors = vectors_of(found, dims=asked.output_dimension, normalize=one.is_normalised)
    if kind == "base64":
        return as_base64(vectors)
    if kind == "float":
        return as_numbers(vectors)
    packed = stored_as(vectors, "binary")
    return as_numbers(packed if kind == "ubinary" else (packed.astype(np.int16) - 128).astype(np.int8))
