"""What a ranker's ``tain.json`` must say so that it can be loaded."""

from pathlib import Path
from typing import Any, get_args

from tain.foundation.choices import CodeKind, RankerType
from tain.foundation.json_files import Field, checked_object

_CROSS = {
    "type": Field(kind=str, among=get_args(RankerType)),
    "context_tokens": Field(kind=int, least=1),
    "candidate_tokens": Field(kind=int, least=1),
}
_DUAL = _CROSS | {
    "kind": Field(kind=str, among=get_args(CodeKind)),
    "codes": Field(kind=int, least=0, most=2**16),
    "learned_scale": Field(kind=bool),
    "shared": Field(kind=bool),
    "normalise": Field(kind=bool, is_needed=False),
}

_FIELDS = {"bi": _DUAL, "poly": _DUAL, "cross": _CROSS}


def described(record: dict[str, Any], name: str | Path) -> dict[str, Any]:
    """Settings of a ranker, after a check that everything loading needs is there.

    Args:
        record: Content of its ``tain.json``.
        name: The ranker's name, for messages.

    Raises:
        UserError: Something is missing or has a wrong type.
    """
    about = record.get("ranker")
    known = _FIELDS.get(str(about.get("type")), _DUAL) if isinstance(about, dict) else _DUAL
    damaged, advice = f"ranker {str(name)!r} has a damaged tain.json", "train it again, or copy the folder again"
    return checked_object(about, known, damaged=damaged, advice=advice)
