"""Settings of ``tain export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tain.foundation.choices import Pooling, refuse_wrong_kinds, wrong_choices, wrong_seed
from tain.foundation.errors import refuse_all


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """How a model is exported and checked.

    Raises:
        UserError: A value cannot work.
    """

    int8: Annotated[bool, "also write an int8 graph, a quarter of the size and faster; --no-int8 writes float32 alone"] = True
    min_cosine: Annotated[float, "refuse an int8 graph whose vectors have a lower mean cosine to float32, 0 to 1"] = 0.99
    language: Annotated[str | None, "language whose correction goes into the graph, for a model corrected by language (tain correct)"] = (
        None
    )
    pooling: Annotated[Pooling | None, "how token vectors become one; default: what the model says, else mean"] = None
    max_tokens: Annotated[int | None, "length limit in tokens; default: the model's limit (512 if it has none)"] = None
    sts: Annotated[Path | None, "folder of the evaluation data, with sts/: also measure STS with each graph, and the points int8 loses"] = (
        None
    )
    seed: Annotated[int, "fixes the random token ids of the check"] = 13

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = wrong_choices(self)
        if not 0.0 <= self.min_cosine <= 1.0:
            problems.append(f"min_cosine is {self.min_cosine}, but a mean cosine lies between 0 and 1: give a number such as 0.99")
        if self.pooling == "mean-with-padding":
            problems.append("pooling is 'mean-with-padding', which no saved folder can hold: give mean or cls")
        problems += wrong_seed(self.seed)
        refuse_all(problems)
