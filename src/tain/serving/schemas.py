"""What requests may say. Shapes of OpenAI's embeddings endpoint and of the rerank endpoint that Cohere, Jina and others share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MOST_TEXTS = 2048  # of one request, as OpenAI's

_Texts = Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]


class RequestError(Exception):
    """A request that cannot work: an HTTP status, one line, the field it is about, and when to try again."""

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
        """Clients send ``null`` for what they leave out."""
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @classmethod
    def read(cls, body: bytes) -> Any:
        """Parse a request's body.

        Raises:
            RequestError: It is not JSON, or says what cannot be.
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
    """One text becomes a list of one; the numbers of OpenAI's tokens mean something else for every model."""
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given and isinstance(given[0], int | list):
        raise ValueError("token numbers mean something else for every model: send texts")
    return given


class EmbeddingRequest(_Request):
    """POST /v1/embeddings."""

    input: _Texts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    _one_or_many = field_validator("input", mode="before")(_texts)


class ClassifyRequest(_Request):
    """POST /v1/classify."""

    input: _Texts

    _one_or_many = field_validator("input", mode="before")(_texts)


class RerankRequest(_Request):
    """POST /v1/rerank."""

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
