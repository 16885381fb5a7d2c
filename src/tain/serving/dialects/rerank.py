"""Rerank as Cohere, Jina, vLLM and text-embeddings-inference do; and scores of pairs as vLLM does."""

import time
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, BeforeValidator, Field, model_validator
from starlette.requests import Request
from starlette.responses import Response

from tain.serving.endpoints import Endpoints
from tain.serving.forms import json_response
from tain.serving.schemas import MOST_TEXTS, Documents, RequestBody, RequestError, TextList
from tain.serving.served import Query, Scored, Served
from tain.serving.service import Service, count_cut, count_tokens, cut_header

_TopN = Annotated[int | None, Field(ge=1, description="number of documents to return, best first")]


class RerankRequest(RequestBody):
    """Body of POST /v1/rerank and /v2/rerank."""

    query: str
    documents: Documents
    top_n: _TopN = None
    return_documents: bool = False
    truncation: Annotated[bool, Field(description="cut texts that are too long; false refuses them (Jina's)")] = True


class AnyRerankRequest(RequestBody):
    """Body of POST /rerank: ``documents`` as in vLLM and Jina, or ``texts`` as in text-embeddings-inference."""

    query: str
    documents: Documents | None = None
    texts: TextList | None = None
    top_n: _TopN = None
    return_documents: Annotated[bool, Field(description="with documents")] = True
    return_text: Annotated[bool, Field(description="with texts")] = False
    raw_scores: Annotated[bool, Field(description="with texts: scores as the model gives them, not between 0 and 1")] = False
    truncate: Annotated[bool, Field(description="with texts: cut texts that are too long; false refuses them")] = True
    truncation: Annotated[bool, Field(description="with documents: the same")] = True

    @model_validator(mode="after")
    def _one_of_two(self) -> "AnyRerankRequest":
        if (self.documents is None) == (self.texts is None):
            raise ValueError("give either documents or texts")
        return self


class Document(BaseModel):
    """A document that was sent."""

    text: str


class Result(BaseModel):
    """A document's place in the request, and its score."""

    index: int
    relevance_score: float
    document: Document | None = None


class RerankUsage(BaseModel):
    """Tokens read, and how many texts were cut."""

    prompt_tokens: int
    total_tokens: int
    truncated_texts: int


class RerankResponse(BaseModel):
    """Answer of POST /v1/rerank, /v2/rerank, and /rerank with ``documents``: best document first."""

    id: str
    object: Literal["list"]
    model: str
    results: list[Result]
    usage: RerankUsage
    meta: dict[str, Any]


class Rank(BaseModel):
    """A text's place in the request, and its score."""

    index: int
    score: float
    text: str | None = None


def _one_or_many(given: Any) -> Any:
    return [given] if isinstance(given, str) else given


_Side = Annotated[
    Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)],
    BeforeValidator(_one_or_many, json_schema_input_type=str | list[str]),
]


class ScoreRequest(RequestBody):
    """Body of POST /score: one text against one or many, or pairs of two lists of one length."""

    text_1: _Side
    text_2: _Side

    @model_validator(mode="after")
    def _match(self) -> "ScoreRequest":
        if len(self.text_1) not in (1, len(self.text_2)):
            raise ValueError(f"text_1 has {len(self.text_1)} texts and text_2 has {len(self.text_2)}: give one, or as many as in text_2")
        return self


class Score(BaseModel):
    """The score of one pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreResponse(BaseModel):
    """Answer of POST /score."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Score]
    usage: RerankUsage


def rerank(service: Service) -> Endpoints:
    """The endpoints."""
    endpoints = Endpoints("Rerank")

    async def scored(
        request: Request, model: str | None, query: str, documents: list[str], *, may_cut: bool, param: str
    ) -> tuple[Served, list[Scored]]:
        one = service.chosen(model, "rerank")
        asked = Query(query)
        tokens = one.estimate_pair_tokens(query, documents)
        found = await service.computed(request, one, "rerank", [(asked, each) for each in documents], tokens, param=param)
        if not may_cut:
            _refuse_cut(found, one, request, param)
        return one, found

    @endpoints.answers_post("/v1/rerank", "/v2/rerank", asks=RerankRequest, gives=RerankResponse)
    async def rerank_documents(request: Request) -> Response:
        """Sort documents by their relevance to a query."""
        async with service.reading(request, RerankRequest) as asked:
            one, found = await scored(request, asked.model, asked.query, asked.documents, may_cut=asked.truncation, param="documents")
            return _reranked(
                one, found, asked.documents, top_n=asked.top_n, has_documents=asked.return_documents, path=request.scope["path"]
            )

    @endpoints.answers_post("/rerank", asks=AnyRerankRequest, gives=RerankResponse | list[Rank])
    async def rerank_any(request: Request) -> Response:
        """Sort documents by their relevance to a query, as vLLM, Jina or text-embeddings-inference do."""
        async with service.reading(request, AnyRerankRequest) as asked:
            if asked.documents is not None:
                one, found = await scored(request, asked.model, asked.query, asked.documents, may_cut=asked.truncation, param="documents")
                return _reranked(one, found, asked.documents, top_n=asked.top_n, has_documents=asked.return_documents, path="/rerank")
            assert asked.texts is not None
            request.state.form = "tei"
            one, found = await scored(request, asked.model, asked.query, asked.texts, may_cut=asked.truncate, param="texts")
            scores = scores_of(found) if asked.raw_scores else one.probable(scores_of(found))
            ranks: list[dict[str, Any]] = [{"index": int(row), "score": float(scores[row])} for row in _best(scores, asked.top_n)]
            if asked.return_text:
                ranks = [{**each, "text": asked.texts[each["index"]]} for each in ranks]
            return json_response(ranks, headers=cut_header(found))

    @endpoints.answers_post("/score", "/v1/score", asks=ScoreRequest, gives=ScoreResponse)
    async def score(request: Request) -> Response:
        """Score pairs of texts."""
        async with service.reading(request, ScoreRequest) as asked:
            one = service.chosen(asked.model, "rerank")
            if len(asked.text_1) == 1:
                query = Query(asked.text_1[0])
                pairs, tokens = [(query, text) for text in asked.text_2], one.estimate_pair_tokens(query.text, asked.text_2)
            else:
                pairs = [(Query(left), right) for left, right in zip(asked.text_1, asked.text_2, strict=True)]
                tokens = [one.estimate_pair_tokens(query.text, [text])[0] for query, text in pairs]
            found = await service.computed(request, one, "rerank", pairs, tokens, param="text_2")
        total = count_tokens(found)
        data = [{"index": index, "object": "score", "score": each.score} for index, each in enumerate(found)]
        about = {"id": _id(), "object": "list", "created": int(time.time()), "model": one.name}
        return json_response({**about, "data": data, "usage": _usage(total, found)}, headers=cut_header(found))

    return endpoints


def scores_of(found: Sequence[Scored]) -> np.ndarray:
    """Scores, float64 (documents,)."""
    return np.array([each.score for each in found])


def _reranked(one: Served, found: list[Scored], documents: list[str], *, top_n: int | None, has_documents: bool, path: str) -> Response:
    scores = scores_of(found)
    results: list[dict[str, Any]] = [{"index": int(row), "relevance_score": float(scores[row])} for row in _best(scores, top_n)]
    if has_documents:
        results = [{**result, "document": {"text": documents[result["index"]]}} for result in results]
    total = count_tokens(found)
    meta = {
        "api_version": {"version": "2" if path == "/v2/rerank" else "1"},
        "billed_units": {"search_units": 1},
        "tokens": {"input_tokens": total},
    }
    about = {"id": _id(), "object": "list", "model": one.name}
    return json_response({**about, "results": results, "usage": _usage(total, found), "meta": meta}, headers=cut_header(found))


def _best(scores: np.ndarray, top_n: int | None) -> np.ndarray:
    return np.argsort(-scores, kind="stable")[:top_n]


def _usage(total: int, found: Sequence[Scored]) -> dict[str, int]:
    return {"prompt_tokens": total, "total_tokens": total, "truncated_texts": count_cut(found)}


def _id() -> str:
    return uuid4().hex


def _refuse_cut(found: Sequence[Scored], one: Served, request: Request, param: str) -> None:
    if not count_cut(found):
        return
    which = next((f"document {row}" for row, each in enumerate(found) if each.is_cut), "the query")
    raise RequestError(
        f"{which} is longer than model {one.name!r} reads: shorten it, or let it be cut",
        status=413 if getattr(request.state, "form", "") == "tei" else 400,
        param=param,
        code="text_too_long",
    )
