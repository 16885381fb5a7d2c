"""Request schemas: OpenAI's embeddings endpoint, the rerank endpoint of Cohere and Jina, and classify."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MOST_TEXTS = 2048  # per request, the limit of OpenAI's API

_Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]


class RequestError(Exception):
    """An invalid or refused request: HTTP status, message, field at fault, and when to retry."""

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after_s = status, param, code, retry_after_s


class _Request(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    model: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, given: Any) -> Any:
        """Treat ``null`` as missing, because some clients send it for fields that are not set."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @classmethod
    def read(cls, body: bytes) -> Any:
        """Parse a request's body.

        Raises:
            RequestError: It is not JSON, or not a valid request.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] == "json_invalid":
                raise RequestError(f"the request's body is not JSON ({first.get('ctx', {}).get('error')}): send a JSON object") from None
            index = [str(part) for part in first["loc"]]
            param = index[0] if index else None
            named = f"{'.'.join(index)}: " if index else ""
            raise RequestError(named + first["msg"].removeprefix("Value error, "), param=param) from None


def _texts(given: Any) -> Any:
    """Turn one text into a list, and refuse token ids, which differ between models."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and isinstance(given[0], int | list):
        raise ValueError("token ids differ between models: send texts")
    return given


class EmbeddingRequest(_Request):
    """Body of POST /v1/embeddings."""

    input: _Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    _one_or_many = field_validator("input", mode="before")(_texts)


class ClassifyRequest(_Request):
    """Body of POST /v1/classify."""

    input: _Texts

    _one_or_many = field_validator("input", mode="before")(_texts)


class RerankRequest(_Request):
    """Body of POST /v1/rerank."""

    query: str
    documents: _Texts
    top_n: Annotated[int | None, Field(ge=1)] = None
    return_documents: bool = False

    @field_validator("documents", mode="before")
    @classmethod
    def _texts_of_objects(cls, given: Any) -> Any:
        if isinstance(given, list):
            return [one["text"] if isinstance(one, dict) and set(one) == {"text"} else one for one in given]
        return given
