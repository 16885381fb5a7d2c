"""Command-line argument types for sources of texts."""

import os
from typing import Annotated, Any

from cyclopts import Parameter

from tain.foundation.errors import UserError


def _refuse_flags(_: Any, value: Any) -> None:
    # a lone - is standard input; the parser that accepts it would also take a misspelled flag for a file
    for token in [value] if isinstance(value, str) else value or ():
        if token.startswith("-") and token != "-":
            raise UserError(f"unknown option {token}: see --help, and write a file of that name as ./{token}")


_KINDS = "txt (one text per line), csv, tsv, jsonl or parquet, also .gz and .xz"
_HELP = f"{_KINDS}; - reads standard input; hf:NAME is a hub data set"

TextSource = Annotated[str, Parameter(help=_HELP, allow_leading_hyphen=True, validator=_refuse_flags)]
TextSources = Annotated[list[str], Parameter(help=_HELP, allow_leading_hyphen=True, validator=_refuse_flags)]
# read more than once, so not from standard input
TextFiles = Annotated[list[str], Parameter(help=f"{_KINDS}; hf:NAME is a hub data set", allow_leading_hyphen=True, validator=_refuse_flags)]


def refuse_two_documents(documents: list[str] | None, document_column: str | None) -> None:
    """Refuse a column of documents beside files of documents: only the files would be used.

    Raises:
        UserError: Both are given.
    """
    if documents and document_column is not None:
        raise UserError(
            f"document_column is {document_column!r}, a column of TEXTS, but the documents are read from --documents, with an empty line"
            " between them: leave out one of the two"
        )


def refuse_shared_input(source: str) -> None:
    """Refuse standard input under ``torchrun`` with several processes: each would read only a part of it.

    Raises:
        UserError: It is standard input, and there are several processes.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if source == "-" and processes > 1:
        raise UserError(f"standard input would be split among {processes} processes: save it in a file and give the file")
