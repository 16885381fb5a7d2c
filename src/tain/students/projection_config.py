"""Projection settings of a student (tokenization and hashing), and the file that stores them."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, get_args

from tain.foundation.choices import Split
from tain.foundation.errors import UserError, refuse_all
from tain.foundation.json_files import read_object

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class ProjectionConfig:
    """Settings that map texts to features; saved with every student, since it only works with its own projection."""

    features: Annotated[int, "features per token, including n-gram features"] = 512
    ngram_features: Annotated[int, "number of features taken from the token's character n-grams; 0 for none, as in the paper"] = 0
    shortest_ngram: Annotated[int, "characters of the shortest n-gram, including the marks of the token's ends"] = 3
    longest_ngram: Annotated[int, "characters of the longest n-gram"] = 5
    split: Annotated[Split, "split at ASCII spaces, or after every code point"] = "space"
    separate: Annotated[
        bool, "split off each ASCII punctuation mark as a token, and treat tabs, line ends and no-break spaces as blanks"
    ] = False
    lowercase: Annotated[bool, "lower-case by code point"] = True
    alphabet: Annotated[str, "code points to keep in tokens, all others are dropped; empty keeps all"] = ""
    max_tokens: Annotated[int, "tokens read per text, excluding begin and end tokens"] = 128
    begin: Annotated[bool, "add a begin token to each text"] = False
    end: Annotated[bool, "add an end token to each text, as the released operation does"] = True

    def __post_init__(self) -> None:
        problems = []
        if self.features < 1:
            problems.append(f"features is {self.features}, but a token needs at least one: give 1 or more (the paper's range: 512 to 1024)")
        if not 0 <= self.ngram_features <= self.features:
            problems.append(f"ngram_features is {self.ngram_features}: give 0 to all {self.features} features")
        if not 1 <= self.shortest_ngram <= self.longest_ngram:
            problems.append(f"n-grams of {self.shortest_ngram} to {self.longest_ngram} characters do not exist: give for example 3 to 5")
        if self.split not in get_args(Split):
            problems.append(f"split is {self.split!r}: give {' or '.join(get_args(Split))}")
        if self.max_tokens < 1:
            problems.append(f"max_tokens is {self.max_tokens}: give 1 or more")
        refuse_all(problems)

    @property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that differ between projections with different features."""
        content = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=8).hexdigest()

    def save(self, path: Path) -> None:
        content = {"kind": "tain projection", "format": FORMAT, **asdict(self)}
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "ProjectionConfig":
        """Load a file written by ``save``.

        Raises:
            UserError: The file is missing, not a projection, or of another version.
        """
        try:
            content = read_object(path, {}, damaged=f"projection file {str(path)!r} is damaged", advice="distil the student again")
        except FileNotFoundError:
            raise UserError(f"projection file {str(path)!r} does not exist: give the whole folder that tain distil wrote") from None
        except OSError as error:
            raise UserError(f"projection file {str(path)!r} cannot be read ({error.strerror}): distil the student again") from None
        if content.pop("kind", None) != "tain projection":
            raise UserError(f"{str(path)!r} is not a projection file: give the whole folder that tain distil wrote")
        if (version := content.pop("format", None)) != FORMAT:
            raise UserError(
                f"projection file {str(path)!r} has version {version}, but this tain reads {FORMAT}:"
                " its features would differ from those in training; use the tain that wrote it, or distil again"
            )
        if unknown := sorted(set(content) - {entry.name for entry in fields(cls)}):
            raise UserError(f"projection file {str(path)!r} has unknown settings {', '.join(unknown)}: distil the student again")
        wrong = sorted(entry.name for entry in fields(cls) if type(content.get(entry.name)) is not type(entry.default))
        if wrong:
            raise UserError(f"projection file {str(path)!r} lacks {', '.join(wrong)}, or has another type: distil the student again")
        return cls(**content)
