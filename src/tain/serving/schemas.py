"""What the request schemas of all dialects share: reading a body, lists of texts, and the error of a refused request."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

Body = TypeVar("Body", bound="RequestBody")

MOST_TEXTS = 2048  # per request, the limit of OpenAI's API


class RequestError(Exception):
    """An invalid or refused request.

    Attributes:
        status: HTTP status.
        param: Field at fault.
        code: Short name of the reason, for programs.
        retry_after_s: Seconds until the next attempt.
    """

    def __init__(
        self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.retry_after_s = status, param, code, retry_after_s


class RequestBody(BaseModel):
    """Base class of request bodies. Unknown fields are ignored, because clients send fields of their own; ``null`` means left out."""

    model_config = ConfigDict(strict=True, extra="ignore")

    refused: ClassVar[Mapping[str, str]] = {}  # fields that cannot be ignored, and why

    model: str | None = Field(default=None, description="name of a model; default: the first that can answer")

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, given: Any) -> Any:
        return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given

    @classmethod
    def read(cls: type[Body], body: bytes) -> Body:
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
            if first["type"] == "model_type" and not first["loc"]:
                raise RequestError("the request's body is JSON, but no object: send a JSON object") from None
            index = [str(part) for part in first["loc"]]
            param = index[0] if index else None
            named = f"{'.'.join(index)}: " if index else ""
            raise RequestError(named + first["msg"].removeprefix("Value error, "), param=param) from None


def _texts(given: Any) -> Any:
    """Turn one text into a list, and refuse token ids, which differ between models."""
    if isinstance(given, str):
        return [given]
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first[0] if isinstance(first, list) and first else first, int):
        raise ValueError("token ids differ between models: send texts (in LangChain, set check_embedding_ctx_length=False)")
    return given


def _texts_of_objects(given: Any) -> Any:
    """Take the texts out of ``{"text": ...}`` objects."""
    if isinstance(given, list):
        return [one["text"] if isinstance(one, dict) and set(one) == {"text"} else one for one in given]
    return given


TextList = Annotated[list[str], Field(min_length=1, max_length=MOST_TEXTS)]
Texts = Annotated[TextList, BeforeValidator(_texts, json_schema_input_type=str | list[str])]
Documents = Annotated[TextList, BeforeValidator(_texts_of_objects, json_schema_input_type=list[str | dict[str, str]])]
Dimensions = Annotated[int | None, Field(ge=1, description="number of dimensions to keep; shortened vectors are normalised to length 1")]
