"""Which tokens make two texts similar: an endpoint of tain's own, for the page at ``/``."""

from typing import Literal

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from tain.serving.answers import away
from tain.serving.endpoints import Endpoints
from tain.serving.reading import Token
from tain.serving.schemas import RequestBody, RequestError
from tain.serving.served import Served, TokenPairs
from tain.serving.service import Service

MOST_CHARACTERS = 1000  # of a text: the answer has a number for each pair of tokens


class TokenPairsRequest(RequestBody):
    """Body of POST /v1/token-pairs."""

    left: str
    right: str


class PairedToken(BaseModel):
    """A token of a text."""

    text: str
    special: bool


class TokenPairsResponse(BaseModel):
    """Answer of POST /v1/token-pairs.

    ``contributions`` are parts of the cosine, which is their sum. ``cosines`` are those of the token vectors; they do not add up, because
    the vector of a text is not the mean of its token vectors.
    """

    object: Literal["token_pairs"]
    model: str
    cosine: float
    kind: Literal["contributions", "cosines"]
    left: list[PairedToken]
    right: list[PairedToken]
    parts: list[list[float]]


def pairs(service: Service) -> Endpoints:
    """The endpoint."""
    endpoints = Endpoints("tain")

    @endpoints.answers_post("/v1/token-pairs", asks=TokenPairsRequest, gives=TokenPairsResponse)
    async def token_pairs(request: Request) -> Response:
        """Show which pairs of tokens make two texts similar."""
        async with service.reading(request, TokenPairsRequest) as asked:
            one = service.chosen(asked.model, "token-pairs")
            for param, text in (("left", asked.left), ("right", asked.right)):
                if len(text) > MOST_CHARACTERS:
                    raise RequestError(
                        f"{param} has {len(text):,} characters, but the limit is {MOST_CHARACTERS:,}: shorten it", status=413, param=param
                    )
            tokens = [sum(one.estimate_tokens([asked.left, asked.right]))]
            (found,) = await service.computed(request, one, "token-pairs", [(asked.left, asked.right)], tokens, param="left")
            body = await away(found.parts.size, lambda: _written(one, found))
        return Response(body, media_type="application/json")

    return endpoints


def _written(one: Served, found: TokenPairs) -> bytes:
    content = {
        "object": "token_pairs",
        "model": one.name,
        "cosine": found.cosine,
        "kind": "contributions" if found.is_sum else "cosines",
        "left": _shown(found.left),
        "right": _shown(found.right),
        "parts": found.parts.astype("float32"),
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _shown(tokens: list[Token]) -> list[dict[str, str | bool]]:
    return [{"text": token.text, "special": token.is_special} for token in tokens]
