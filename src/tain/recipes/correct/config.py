"""Settings of corrections, with the help texts of the command line; light to import."""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from tain.foundation.choices import refuse_wrong_kinds, wrong_choices
from tain.foundation.errors import refuse_all

_CODE = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class CorrectConfig:
    """Settings of a correction that is fitted to an encoder's vectors without labels."""

    method: Annotated[Literal["languages", "whiten", "remove-top"], "kind of correction"]
    components: Annotated[int, "directions removed, for remove-top and, per language, for languages"] = 1
    dimensions: Annotated[int | None, "number of components a whitening keeps; default: all"] = None
    power: Annotated[
        float | None, "exponent of a whitening: 1 gives every component variance 1, 0.5 is half of the way; above 0 to 1; default: 1"
    ] = None
    max_texts: Annotated[int | None, "read only the first N texts of each source; default: all (the paper: 10,000)"] = None
    batch_tokens: Annotated[int | None, "tokens encoded at a time; changes speed and memory only"] = None

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = wrong_choices(self)
        for name in ("components", "dimensions", "max_texts", "batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}: give 1 or more")
        if self.dimensions is not None and self.method != "whiten":
            problems.append(
                f"dimensions is {self.dimensions}, but {self.method} keeps all dimensions: leave it out, or give the method whiten"
            )
        if self.power is not None and not 0 < self.power <= 1:
            problems.append(f"power is {self.power}: give a number above 0, at most 1")
        if self.power is not None and self.method != "whiten":
            problems.append(f"power is {self.power}, but {self.method} scales nothing: leave it out, or give the method whiten")
        refuse_all(problems)


def language_code(given: str) -> str:
    """Check a language code: lower-case letters, digits and hyphens, for example ``en`` or ``zh-hant``.

    Raises:
        UserError: It is not a language code.
    """
    code = given.strip().lower()
    if not _CODE.fullmatch(code):
        refuse_all([f"language is {given!r}, which is not a language code: give letters and digits, for example en, de or zh-hant"])
    return code
