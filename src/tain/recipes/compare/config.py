"""Settings of the comparison of recipes, with the help texts of the command line; light to import."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tain.foundation.choices import Dtype, refuse_wrong_kinds, wrong_seed
from tain.foundation.errors import refuse_all
from tain.recipes.mirror.config import Level

# in the order in which they are tried: cheap ones first
CANDIDATES: dict[str, str] = {
    "lexical": "word overlap, no model",
    "characters": "TF-IDF of character n-grams, no model",
    "static": "whitened mean of the input embeddings, no layers",
    "raw": "the untouched model",
    "whitened": "the untouched model, vectors whitened",
    "fast": "mirror --recipe fast",
    "joined": "mirror --recipe fast --join",
    "mirror": "mirror, default recipe",
    "neighbours": "mirror --positives neighbours",
    "continued": "continued pretraining on the texts, then mirror",
    "best": "mirror --recipe best",
}
BASELINES = ("lexical", "characters", "static")  # measured only: they are no encoders that a folder could hold
MIRRORED = ("fast", "joined", "mirror", "neighbours", "continued", "best")
FEWEST_HELD_OUT = 20


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Settings of the comparison of label-free recipes on the user's own texts."""

    candidates: Annotated[
        str | None,
        "which to try, joined by +: lexical, characters, static, raw, whitened, fast, joined, mirror, neighbours, continued, best (all; neighbours only with documents, joined not for words)",
    ] = None
    level: Annotated[Level, "kind of text; word, phrase or sentence, as in tain mirror"] = "sentence"
    held_out: Annotated[int, "texts that no recipe sees, to measure on; at most a fifth of all"] = 1000
    resamples: Annotated[int, "bootstrap resamples behind each interval; below 200 its ends are rough"] = 1000
    budget_s: Annotated[float | None, "wall-clock time for the whole comparison in seconds; recipes that do not fit are not tried"] = None
    suite: Annotated[
        tuple[str, ...],
        "labelled sets that decide instead, as in tain evaluate: sts, stsb_dev, or a tsv of your own; with several suites, the mean over them",
    ] = ()
    split: Annotated[Literal["test", "dev"], "split of the labelled sets; choose on dev, and keep test for the final figure"] = "dev"
    max_texts: Annotated[int, "train on at most this many texts; 0 takes all"] = 10_000
    max_tokens: Annotated[int | None, "trained recipes cut texts at this many tokens (50; words and phrases 25)"] = None
    seed: Annotated[int, "seed of the held-out texts, the training and the resamples"] = 13
    resume: Annotated[bool, "continue an interrupted comparison; finished candidates are kept"] = False
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU if there is one"] = None
    dtype: Annotated[Dtype, "data type of the computation: float32, bfloat16, or auto, which measures the faster one"] = "auto"
    trust_remote_code: Annotated[bool, "allow the model to run Python code from its folder"] = False

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = []
        if self.candidates is not None and (unknown := [name for name in self.names if name not in CANDIDATES]):
            problems.append(f"candidates is {self.candidates!r}, and {', '.join(map(repr, unknown))} is none: give {', '.join(CANDIDATES)}")
        elif self.candidates is not None and len(set(self.names)) < 2:
            problems.append(f"candidates is {self.candidates!r}, but a comparison needs at least 2: join several by +")
        elif self.candidates is not None and not set(self.names) - set(BASELINES):
            problems.append(f"candidates is {self.candidates!r}, but baselines leave no encoder: add raw or a recipe")
        if self.max_tokens is not None and self.max_tokens < 3:
            problems.append(f"max_tokens is {self.max_tokens}, but special tokens take 2 of them: give 3 or more")
        elif self.max_tokens is not None and self.candidates is not None and not set(self.names) & set(MIRRORED):
            problems.append(f"max_tokens is {self.max_tokens}, but none of the candidates {self.candidates} is trained: leave it out")
        if self.level not in get_args(Level):
            problems.append(f"level is {self.level!r}: give word, phrase or sentence")
        if self.held_out < FEWEST_HELD_OUT:
            problems.append(f"held_out is {self.held_out}, too few to compare on: give {FEWEST_HELD_OUT} or more (1000)")
        if self.resamples < 1:
            problems.append(f"resamples is {self.resamples}, but an interval needs at least 1: give 1000")
        if self.budget_s is not None and not 0 < self.budget_s < math.inf:
            problems.append(f"budget is {self.budget_s} s: give a time above 0")
        if self.max_texts < 0:
            problems.append(f"max_texts is {self.max_texts}, but it is a count: give 0 or more")
        if self.split not in ("test", "dev"):
            problems.append(f"split is {self.split!r}: give test or dev")
        problems += wrong_seed(self.seed)
        if self.dtype not in get_args(Dtype):
            problems.append(f"dtype is {self.dtype!r}: give {', '.join(get_args(Dtype))}")
        refuse_all(problems)

    @property
    def names(self) -> tuple[str, ...]:
        """The candidates to try, in the order of ``CANDIDATES``."""
        if self.candidates is None:
            return tuple(CANDIDATES)
        given = [name.strip() for name in self.candidates.split("+")]
        return tuple(sorted(given, key=lambda name: list(CANDIDATES).index(name) if name in CANDIDATES else -1))
