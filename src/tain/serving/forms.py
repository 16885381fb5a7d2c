"""Errors and other JSON answers in the form that each dialect's clients read."""

from typing import Any, Literal

import orjson
from starlette.responses import Response

from tain.serving.schemas import RequestError

Form = Literal["openai", "cohere", "tei"]

_TEI = {"/embed", "/predict", "/similarity", "/tokenize", "/info"}
_COHERE = {"/v2/embed", "/v1/rerank", "/v2/rerank", "/rerank"}
_TEI_KINDS = {429: "Overloaded", 413: "Validation", 500: "Backend", 503: "Unhealthy", 504: "Backend"}


def json_response(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Make a JSON response of plain Python values."""
    return Response(orjson.dumps(content), status_code=status, headers=headers, media_type="application/json")


def form_of(path: str) -> Form:
    """The form in which clients of a path read errors."""
    return "tei" if path in _TEI else "cohere" if path in _COHERE else "openai"


def error_response(error: RequestError, *, form: Form = "openai", headers: dict[str, str] | None = None) -> Response:
    """The response to a refused request.

    ``openai``: an object ``error`` with message, type, param and code. ``cohere``: the same, with ``message`` beside it.
    ``tei``: ``error`` is the message, and ``error_type`` its kind.
    """
    headers = dict(headers or {})
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.retry_after_s:
        headers["Retry-After"] = str(error.retry_after_s)
    return json_response(_content(error, form), status=error.status, headers=headers)


def _content(error: RequestError, form: Form) -> dict[str, Any]:
    message = str(error)
    if form == "tei":
        return {"error": message, "error_type": _TEI_KINDS.get(error.status, "Validation")}
    kind = "rate_limit_error" if error.status == 429 else "invalid_request_error" if error.status < 500 else "server_error"
    content = {"error": {"message": message, "type": kind, "param": error.param, "code": error.code}}
    return {"message": message, **content} if form == "cohere" else content
