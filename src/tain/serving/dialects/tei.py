"""API of text-embeddings-inference: embed, predict, similarity, tokenize and info."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response

import tain
from tain.serving.answers import as_numbers, away, joined, vectors_of
from tain.serving.dialects.openai import refuse_dims
from tain.serving.dialects.rerank import scores_of
from tain.serving.endpoints import Endpoints
from tain.serving.forms import json_response
from tain.serving.prompts import prompt_called
from tain.serving.schemas import MOST_TEXTS, Dimensions, RequestBody, RequestError, TextList, Texts
from tain.serving.served import Cut, Embedded, Query, Served, Text
from tain.serving.service import Service, count_cut, cut_header

MOST_TOKENIZED_CHARACTERS = 200_000  # whole texts are tokenized, so their length must be bounded

_PromptName = Annotated[str | None, Field(description="one of the model's prompts; default: its default prompt")]
_Truncate = Annotated[bool, Field(description="cut texts that are too long; false refuses them with status 413")]


class EmbedRequest(RequestBody):
    """Body of POST /embed."""

    inputs: Texts
    normalize: bool = True
    truncate: _Truncate = True
    truncation_direction: Literal["Left", "Right", "left", "right"] = "Right"
    prompt_name: _PromptName = None
    dimensions: Dimensions = None


def _sequences(given: Any) -> Any:
    if isinstance(given, str):
        return given
    is_pair = isinstance(given, list) and all(isinstance(each, str) for each in given)
    rows = [given] if is_pair else given
    if not isinstance(rows, list) or not all(isinstance(row, list) and all(isinstance(each, str) for each in row) for row in rows):
        raise ValueError("give a text, a pair of texts, or a list of [text] and [text, text]")
    if not 1 <= len(rows) <= MOST_TEXTS or not all(len(row) in (1, 2) for row in rows):
        raise ValueError(f"give 1 to {MOST_TEXTS} rows, each of a text or a pair of texts")
    return given


class PredictRequest(RequestBody):
    """Body of POST /predict."""

    inputs: Annotated[
        Any,
        BeforeValidator(_sequences, json_schema_input_type=str | list[str] | list[list[str]]),
        Field(description="a text, a pair of texts, or a list of [text] or [text, text]"),
    ]
    raw_scores: Annotated[bool, Field(description="for pairs: scores as the model gives them")] = False
    truncate: _Truncate = True

    @property
    def is_single(self) -> bool:
        """Whether the answer is that of one text or pair, and not a list of such."""
        return isinstance(self.inputs, str) or isinstance(self.inputs[0], str)

    @property
    def rows(self) -> list[list[str]]:
        """Texts (one in a row), and pairs (two)."""
        if isinstance(self.inputs, str):
            return [[self.inputs]]
        return [self.inputs] if self.is_single else self.inputs


class SimilarityInputs(BaseModel):
    """One text, and those that it is compared with."""

    model_config = ConfigDict(strict=True, extra="ignore")

    source_sentence: str
    sentences: TextList


class SimilarityParameters(BaseModel):
    """Options of POST /similarity."""

    model_config = ConfigDict(strict=True, extra="ignore")

    truncate: bool | None = None
    prompt_name: _PromptName = None


class SimilarityRequest(RequestBody):
    """Body of POST /similarity."""

    inputs: SimilarityInputs
    parameters: SimilarityParameters = SimilarityParameters()


class TokenizeRequest(RequestBody):
    """Body of POST /tokenize."""

    inputs: Texts
    add_special_tokens: bool = True


class Prediction(BaseModel):
    """A class with its probability; of a pair, its score."""

    label: str
    score: float


class SimpleToken(BaseModel):
    """A token: its id, its text, and the characters that it covers."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class Info(BaseModel):
    """Answer of GET /info: the first model, or the one named by ``?model=``."""

    model_id: str
    model_dtype: str
    model_type: dict[str, Any]
    max_input_length: int | None
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    version: str


def tei(service: Service) -> Endpoints:
    """The endpoints."""
    endpoints = Endpoints("text-embeddings-inference")

    async def embedded(request: Request, one: Served, texts: list[str], cut: Cut, prompt_name: str | None) -> list[Embedded]:
        prompt = prompt_called(one.prompts, prompt_name, model=one.name, param="prompt_name")
        items = [Text(text, cut, prompt) for text in texts]
        return await service.computed(request, one, "embeddings", items, one.estimate_tokens(texts, prompt=prompt), param="inputs")

    @endpoints.answers_post("/embed", asks=EmbedRequest, gives=list[list[float]])
    async def embed(request: Request) -> Response:
        """Encode texts."""
        async with service.reading(request, EmbedRequest) as asked:
            one = service.chosen(asked.model, "embeddings")
            refuse_dims(asked.dimensions, one, "dimensions")
            cut = _cut(asked.truncate, asked.truncation_direction)
            found = await embedded(request, one, asked.inputs, cut, asked.prompt_name)
            body = await away(
                len(found) * len(found[0].vector),
                lambda: joined(as_numbers(vectors_of(found, dims=asked.dimensions, normalize=asked.normalize))),
            )
        return Response(body, media_type="application/json", headers=cut_header(found))

    @endpoints.answers_post("/similarity", asks=SimilarityRequest, gives=list[float])
    async def similarity(request: Request) -> Response:
        """Compare a text with others by cosine."""
        async with service.reading(request, SimilarityRequest) as asked:
            one = service.chosen(asked.model, "embeddings")
            texts = [asked.inputs.source_sentence, *asked.inputs.sentences]
            cut: Cut = "refuse" if asked.parameters.truncate is False else "end"
            found = await embedded(request, one, texts, cut, asked.parameters.prompt_name)
            vectors = vectors_of(found, dims=None, normalize=True)
        return json_response([float(each) for each in vectors[1:] @ vectors[0]], headers=cut_header(found))

    @endpoints.answers_post("/predict", asks=PredictRequest, gives=list[Prediction] | list[list[Prediction]])
    async def predict(request: Request) -> Response:
        """Give the probability of each class of texts, best first; or the score of pairs."""
        async with service.reading(request, PredictRequest) as asked:
            is_pair = {len(each) == 2 for each in asked.rows}
            if len(is_pair) > 1:
                raise RequestError("inputs mix texts and pairs of texts: send them apart", param="inputs")
            if is_pair.pop():
                one = service.chosen(asked.model, "rerank")
                pairs = [(Query(left), right) for left, right in asked.rows]
                tokens = [one.estimate_pair_tokens(query.text, [text])[0] for query, text in pairs]
                found = await service.computed(request, one, "rerank", pairs, tokens, param="inputs")
                scores = scores_of(found) if asked.raw_scores else one.probable(scores_of(found))
                rows = [[{"label": "LABEL_0", "score": float(score)}] for score in scores]
            else:
                one = service.chosen(asked.model, "chances")
                texts = [each[0] for each in asked.rows]
                found = await service.computed(request, one, "chances", texts, one.estimate_tokens(texts), param="inputs")
                rows = [_by_chance(each.by_label) for each in found]
            if not asked.truncate and count_cut(found):
                raise RequestError(
                    f"a text is longer than model {one.name!r} reads: shorten it, or let it be cut",
                    status=413,
                    param="inputs",
                    code="text_too_long",
                )
        return json_response(rows[0] if asked.is_single else rows, headers=cut_header(found))

    @endpoints.answers_post("/tokenize", asks=TokenizeRequest, gives=list[list[SimpleToken]])
    async def tokenize(request: Request) -> Response:
        """Show the tokens of whole texts."""
        async with service.reading(request, TokenizeRequest) as asked:
            one = service.chosen(asked.model, "tokenize")
            if (characters := sum(map(len, asked.inputs))) > MOST_TOKENIZED_CHARACTERS:
                raise RequestError(
                    f"the texts have {characters:,} characters, but the limit is {MOST_TOKENIZED_CHARACTERS:,}: send fewer",
                    status=413,
                    param="inputs",
                )
            items = [(text, asked.add_special_tokens) for text in asked.inputs]
            found = await service.computed(request, one, "tokenize", items, one.estimate_tokens(asked.inputs), param="inputs")
        rows = [
            [{"id": each.id, "text": each.text, "special": each.is_special, "start": each.start, "stop": each.end} for each in tokens]
            for tokens in found
        ]
        return json_response(rows)

    @endpoints.answers_get("/info", gives=Info)
    async def info(request: Request) -> Response:
        """Describe the first model, or the one that ``?model=`` names."""
        named = request.query_params.get("model")
        return json_response(_info(service, service.named(named) if named else next(iter(service.served.values()))))

    return endpoints


def _cut(truncate: bool, direction: str) -> Cut:
    if not truncate:
        return "refuse"
    return "start" if direction.lower() == "left" else "end"


def _by_chance(by_label: dict[str, float]) -> list[dict[str, Any]]:
    return [{"score": chance, "label": label} for label, chance in sorted(by_label.items(), key=lambda each: -each[1])]


def _info(service: Service, one: Served) -> dict[str, Any]:
    labels = list(getattr(one.labeller, "labels", ()) or getattr(one.labeller, "tags", ()))
    by_number = {
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    if one.embedder is not None:
        about = getattr(one.embedder, "export", one.embedder)
        kind: dict[str, Any] = {"embedding": {"pooling": getattr(about, "pooling", None)}}
    else:
        kind = (
            {"classifier": by_number}
            if one.labeller is not None
            else {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
        )
    return {
        "model_id": one.name,
        "model_dtype": one.dtype,
        "model_type": kind,
        "max_input_length": one.max_tokens,
        "max_batch_tokens": service.limits.max_request_tokens,
        "max_client_batch_size": MOST_TEXTS,
        "auto_truncate": True,
        "version": tain.__version__,
    }
