"""Settings of corrections. Light to import: the command line reads its help from here."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from tain.foundation.choices import refuse_wrong_kinds, wrong_choices
from tain.foundation.errors import refuse_all

_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class CorrectConfig:
    """A correction of an encoder's vectors, fitted on texts without labels."""

    method: Annotated[Literal["languages", "whiten", "remove-top"], "what is fitted"]
    components: Annotated[int, "directions removed, for languages (of each) and remove-top"] = 1
    dimensions: Annotated[int | None, "components that a whitening keeps; default: all"] = None
    max_texts: Annotated[int | None, "texts read of each source, the first ones; default: all (the paper: 10,000)"] = None
    batch_tokens: Annotated[int | None, "tokens encoded at a time; changes speed and memory only"] = None

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = wrong_choices(self)
        for name in ("components", "dimensions", "max_texts", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}: give 1 or more")
        if self.dimensions is not None and self.method != "whiten":
            problems.append(f"dimensions is {self.dimensions}, but {self.method} keeps them all: leave it out, or whiten")
        refuse_all(problems)


def language_code(given: str) -> str:
    """Check a language's code: small letters, digits and hyphens, such as ``en`` or ``zh-hant``.

    Raises:
        UserError: It is none.
    """
    code = given.strip().lower()
    if not _CODE.fullmatch(code):
        refuse_all([f"language is {given!r}, which is no code: give letters and digits such as en, de or zh-hant"])
    return code
