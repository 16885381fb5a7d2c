"""Settings of ranker training, with the help texts of the command line; light to import."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

from tain.foundation.choices import FILLED, Dtype, Pooling, RankerType, filled_in, refuse_wrong_kinds, wrong_seed
from tain.foundation.errors import UserError, refuse_all

Codes = Literal["learned", "first", "last", "last-and-first"]
Optimizing = Literal["adamax", "adamw"]
Frozen = Literal["nothing", "embeddings", "encoder"]
Schedule = Literal["plateau", "linear"]
Similarity = Literal["cosine", "dot"]

CONTEXT_TOKENS, CANDIDATE_TOKENS = 360, 72  # the paper's limits
LISTED_NEGATIVES = 15  # where each context has its own list of candidates


@dataclass(frozen=True, kw_only=True)
class KindSettings:
    """Settings of one type of ranker: the paper's values, and what applies to it.

    Attributes:
        batch_contexts: The paper's contexts per step.
        warmup_steps: The paper's steps over which the learning rate rises.
        fewest_contexts: Contexts that a step needs; 2 if the batch's answers are the negatives.
        codes: Default number of codes; None if it has none.
        reads_pairs: It reads context and candidate together, and has no vectors of either.
        is_in_sentence_transformers: sentence-transformers can load it.
        about: Description for the model card.
    """

    batch_contexts: int
    warmup_steps: int
    fewest_contexts: int = 2
    codes: int | None = None
    reads_pairs: bool = False
    is_in_sentence_transformers: bool = False
    about: str


KINDS: dict[str, KindSettings] = {
    "bi": KindSettings(
        batch_contexts=512,
        warmup_steps=100,
        is_in_sentence_transformers=True,
        about="A bi-encoder: contexts and candidates have one vector each, and their dot product is the score.",
    ),
    "poly": KindSettings(
        batch_contexts=256,
        warmup_steps=100,
        codes=64,
        about="A poly-encoder: a context has several vectors and a candidate one, which attends over the context's vectors.",
    ),
    "cross": KindSettings(
        batch_contexts=16,
        warmup_steps=1000,
        fewest_contexts=1,
        reads_pairs=True,
        about="A cross-encoder: context and candidate pass through the encoder together. The most accurate kind, and the slowest.",
    ),
}
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "type": get_args(RankerType),
    "code_kind": get_args(Codes),
    "pooling": (None, "cls", "mean"),  # saved encoders do not support mean-with-padding
    "similarity": get_args(Similarity),
    "freeze": get_args(Frozen),
    "optimizer": get_args(Optimizing),
    "schedule": (None, *get_args(Schedule)),
    "dtype": get_args(Dtype),
}
_PAPERS = {"learning_rate": 5e-5, "dropout": 0.1}
_PLATEAU_FACTOR = 0.4


@dataclass(frozen=True, kw_only=True)
class RankConfig:
    """Settings of a bi-, poly- or cross-encoder (Humeau et al. 2020, section 4). None is filled in from type and data."""

    type: Annotated[
        RankerType, "bi: one vector per context, fastest; poly: several vectors; cross: encodes every pair together, slowest"
    ] = "poly"
    codes: Annotated[int | None, "poly: vectors per context; 1 is close to bi (64; the paper: 16, 64, 360)"] = None
    code_kind: Annotated[Codes, "poly: learned codes, or a context's first or last token outputs"] = "learned"
    shared_towers: Annotated[bool, "bi, poly: one encoder for contexts and candidates; default: two, trained separately"] = False
    similarity: Annotated[
        Similarity, "bi, poly: similarity of a candidate and a context's vectors; cosine is multiplied by a learned scale"
    ] = "dot"
    paper_scaling: Annotated[
        bool,
        "multiply outputs by 0.06 and draw codes from 0 to 1, as in the released code; default: learned scale, codes fitted to the outputs",
    ] = False
    pooling: Annotated[
        Pooling | None, "how a candidate's (bi: a text's) tokens become one vector; default: the model's own setting, else mean"
    ] = None
    context_tokens: Annotated[int | None, "longer contexts are cut at the start (360, or the model's limit)"] = None
    candidate_tokens: Annotated[int | None, "longer candidates are cut at the end (72)"] = None
    freeze: Annotated[
        Frozen, "embeddings: freeze the input embeddings; encoder: train only the learned codes and the scale, in minutes"
    ] = "nothing"
    batch_contexts: Annotated[int | None, "contexts per step (bi 512, poly 256, cross 16; at most an eighth of the pairs)"] = None
    negatives: Annotated[
        int | None, "wrong candidates per context, from its own list, else sampled from all (cross 15; bi, poly 0: in-batch negatives only)"
    ] = None
    mine_with: Annotated[str | None, "bi- or poly-encoder that mines hard negatives among all candidates"] = None
    mining_pool: Annotated[
        int, "sample hard negatives from this many best wrong candidates; a smaller pool gives harder negatives but more false negatives"
    ] = 50
    teacher: Annotated[str | None, "bi, poly: ranker whose scores are distilled, usually a cross-encoder"] = None
    teacher_weight: Annotated[float, "weight of the teacher's loss against that of the correct answers, 0 to 1"] = 0.5
    teacher_temperature: Annotated[float, "divides the teacher's scores, above 0"] = 1.0
    epochs: Annotated[int, "passes over the pairs, 1 or more (the released commands: up to 8 poly, 10 bi, 12 cross)"] = 3
    optimizer: Annotated[Optimizing, "adamax (the released commands) or adamw"] = "adamax"
    learning_rate: Annotated[float | None, "learning rate of the encoders (what the model's folder suggests, else 5e-5)"] = None
    head_learning_rate: Annotated[float, "learning rate of codes, scale and the cross-encoder's score, which are new"] = 1e-3
    weight_decay: Annotated[float, "weight decay of the encoders"] = 0.0
    warmup_steps: Annotated[int | None, "steps over which the learning rate rises (100, cross 1000; at most a tenth of all)"] = None
    schedule: Annotated[
        Schedule | None,
        "plateau: multiply by 0.4 when held-out contexts show no gain; linear: decay to 0 (plateau; linear without held-out contexts)",
    ] = None
    validations_per_epoch: Annotated[int, "measurements on held-out contexts per epoch; the best weights are kept"] = 2
    validation_candidates: Annotated[int, "candidates per held-out context without its own list"] = 20
    held_out: Annotated[int, "held-out contexts to measure on, at most a tenth of all; 0 measures nothing"] = 200
    dropout: Annotated[
        float | None, "dropout everywhere but on attention weights; 0 to below 1 (what the model's folder suggests, else 0.1)"
    ] = None
    attention_dropout: Annotated[float | None, "dropout on attention weights; default: same as --dropout"] = None
    seeds: Annotated[int, "train this many runs and keep the best by the held-out contexts"] = 1
    seed: Annotated[int, "seed of data order, negatives, codes and dropout of the first run"] = 13
    micro_batch_tokens: Annotated[int, "tokens per micro-batch; saves memory with the same gradient, but takes about a third more time"] = (
        32_768
    )
    checkpoint_every_s: Annotated[float, "seconds between checkpoints of a long run"] = 120.0
    resume: Annotated[bool, "continue from the checkpoint next to the output folder"] = False
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU if there is one"] = None
    dtype: Annotated[Dtype, "data type of the computation: float32, bfloat16, or auto, which measures the faster one"] = "auto"
    trust_remote_code: Annotated[bool, "allow the model to run Python code from its folder"] = False

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = []
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                named = [choice for choice in choices if choice is not None]
                problems.append(f"{name} is {getattr(self, name)!r}: give {', '.join(named[:-1])} or {named[-1]}")
        if self.codes is not None and self.codes < 1:
            problems.append(f"codes is {self.codes}, but a context needs a vector: give 1 or more (the paper: 16, 64, 360)")
        for name in ("context_tokens", "candidate_tokens"):
            value = getattr(self, name)
            if value is not None and value < 3:
                problems.append(f"{name} is {value}, but special tokens take 2 of them: give 3 or more")
        kind = self.kind
        if self.batch_contexts is not None and self.batch_contexts < kind.fewest_contexts:
            problems.append(f"batch_contexts is {self.batch_contexts}, but an answer needs others as negatives: give 2 or more")
        fewest = 1 if kind.reads_pairs else 0
        if self.negatives is not None and self.negatives < fewest:
            problems.append(f"negatives is {self.negatives}: give {fewest} or more (cross: 15)")
        for name in ("mining_pool", "epochs", "validations_per_epoch", "seeds", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.validation_candidates < 2:
            problems.append(f"validation_candidates is {self.validation_candidates}: give 2 or more (the paper: 20)")
        if self.held_out < 0:
            problems.append(f"held_out is {self.held_out}, but it is a count of contexts: give 0 or more")
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                problems.append(f"{name} is {value}: give a number between 0 and 1")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}: give 0 or more")
        for name in ("warmup_steps", "checkpoint_every_s"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                problems.append(f"{name} is {value}: give 0 or more")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                problems.append(f"{name} is {value}, but it is a probability and 1 would drop everything: give 0 to below 1 (dropout: 0.1)")
        if not 0 <= self.teacher_weight <= 1:
            problems.append(f"teacher_weight is {self.teacher_weight}, but it is a share: give 0 to 1")
        problems += wrong_seed(self.seed)
        if not 0 < self.teacher_temperature < math.inf:
            problems.append(f"teacher_temperature is {self.teacher_temperature}, but scores are divided by it: give a number above 0")
        refuse_all(problems + self._contradictions())

    def _contradictions(self) -> list[str]:
        """Describe settings that contradict each other."""
        problems = []
        kind = self.kind
        if kind.reads_pairs and self.teacher is not None:
            problems.append("a cross-encoder can be the teacher, but cannot be taught: leave out --teacher, or give --type bi or poly")
        if kind.reads_pairs and self.shared_towers:
            problems.append("a cross-encoder always has one encoder: leave out --shared-towers")
        if kind.reads_pairs and (self.pooling is not None or self.similarity != "dot" or self.paper_scaling):
            problems.append("a cross-encoder scores by its first token: leave out --pooling, --similarity and --paper-scaling")
        if kind.codes is None and (self.codes is not None or self.code_kind != "learned"):
            problems.append(f"a {self.type}-encoder has no codes: leave out --codes and --code-kind, or give --type poly")
        if self.paper_scaling and self.similarity == "cosine":
            problems.append(
                "--paper-scaling scales dot products; cosines scaled by 0.06 twice would all be nearly equal: give --similarity dot"
            )
        if self.freeze == "encoder" and not (kind.codes is not None and self.code_kind == "learned"):
            problems.append("--freeze encoder trains only learned codes, and this ranker has none: give --type poly --code-kind learned")
        if self.teacher is not None and self.negatives == 0:
            problems.append("a teacher scores lists of candidates, but without negatives there are none: give --negatives 7 or more")
        defaults = RankConfig.teacher_weight, RankConfig.teacher_temperature
        if self.teacher is None and (self.teacher_weight, self.teacher_temperature) != defaults:
            problems.append(
                "--teacher-weight and --teacher-temperature only apply with a teacher, and there is none: give --teacher, or leave them out"
            )
        if self.mine_with is None and self.mining_pool != RankConfig.mining_pool:
            problems.append("--mining-pool only applies to mined negatives, and none are mined: give --mine-with, or leave it out")
        if self.mine_with is not None and self.negatives == 0:
            problems.append("hard negatives are mined, but none are used: give --negatives 1 or more, or leave out --mine-with")
        return problems

    @property
    def kind(self) -> KindSettings:
        """What the type of ranker implies."""
        return KINDS.get(self.type, KINDS["poly"])  # an unknown type is refused with all other problems

    def for_pairs(self, *, pairs: int, has_held_out: bool, suggested: Mapping[str, float | int] | None = None) -> "RankPairsConfig":
        """Fill what depends on the type, the number of training pairs and the model's suggestions.

        Args:
            pairs: Training pairs.
            has_held_out: Whether some contexts are held out.
            suggested: ``learning_rate`` and ``dropout`` as the model's folder suggests them; either may be missing.

        Raises:
            UserError: The schedule or the choice of a seed needs held-out contexts, and there are none.
        """
        if self.seeds > 1 and not has_held_out:
            raise UserError(
                f"the best of {self.seeds} seeds is chosen by held-out contexts, and there are none: give --validation FILE, "
                "--held-out 200 with 10 contexts or more, or --seeds 1"
            )
        if self.schedule == "plateau" and not has_held_out:
            raise UserError(
                "the schedule plateau needs held-out contexts, and there are none: give --validation FILE, --held-out 200 with 10 "
                "contexts or more, or --schedule linear"
            )
        batch = self.batch_contexts or min(self.kind.batch_contexts, max(2, pairs // 8))
        steps = max(1, pairs // batch) * self.epochs
        needs_lists = self.kind.reads_pairs or self.teacher is not None or self.mine_with is not None
        tuned = _PAPERS | {name: value for name, value in (suggested or {}).items() if name in _PAPERS}
        dropout = tuned["dropout"] if self.dropout is None else self.dropout
        filled = {
            **tuned,
            "codes": self.kind.codes,
            "batch_contexts": batch,
            "negatives": LISTED_NEGATIVES if needs_lists else 0,
            "warmup_steps": min(self.kind.warmup_steps, steps // 10),
            "schedule": "plateau" if has_held_out else "linear",
            "attention_dropout": dropout,
        }
        return RankPairsConfig(**filled_in(self, filled))


@dataclass(frozen=True, kw_only=True)
class RankPairsConfig(RankConfig):
    """Settings of ranker training for given pairs; only length limits and pooling still depend on the model."""

    batch_contexts: int = FILLED
    negatives: int = FILLED
    learning_rate: float = FILLED
    warmup_steps: int = FILLED
    schedule: Schedule = FILLED
    dropout: float = FILLED
    attention_dropout: float = FILLED

    def refuse_long(self, longest: int) -> None:
        """Refuse length limits beyond the model's.

        Args:
            longest: The model's limit in tokens.

        Raises:
            UserError: A limit is beyond it.
        """
        is_cross, candidate, room = self.kind.reads_pairs, self._candidate_limit(longest), self._room(longest)
        if candidate > longest - (3 if is_cross else 0):
            beside = " with room for a context" if is_cross else ""
            raise UserError(f"candidate_tokens is {candidate}, but the model reads {longest} at most{beside}: give fewer")
        context = self.context_tokens or min(CONTEXT_TOKENS, room)
        if context > room:
            together = " together, as a cross-encoder reads them" if is_cross else ""
            raise UserError(
                f"context_tokens is {context} and candidate_tokens {candidate}, but the model reads {longest} at most{together}: give fewer"
            )

    def resolved(self, *, longest: int, pooling: str) -> "ResolvedRankConfig":
        """Fill in what depends on the model.

        Args:
            longest: The model's length limit in tokens, not below the limits that are set (see ``refuse_long``).
            pooling: Its pooling; without effect on a ranker that reads pairs.
        """
        lengths = {"context_tokens": min(CONTEXT_TOKENS, self._room(longest)), "candidate_tokens": self._candidate_limit(longest)}
        filled = filled_in(self, lengths)
        filled["pooling"] = None if self.kind.reads_pairs else pooling
        return ResolvedRankConfig(**filled)

    def _candidate_limit(self, longest: int) -> int:
        return self.candidate_tokens or min(CANDIDATE_TOKENS, longest // 2 if self.kind.reads_pairs else longest)

    def _room(self, longest: int) -> int:
        """Tokens for a context; in a pair, the candidate's first special token is dropped or replaced by a separator."""
        return longest - self._candidate_limit(longest) if self.kind.reads_pairs else longest


@dataclass(frozen=True, kw_only=True)
class ResolvedRankConfig(RankPairsConfig):
    """Settings of ranker training with every default filled in, as they are saved.

    Still None if they do not apply: ``codes``, ``pooling``, ``mine_with``, ``teacher`` and ``device``.
    """

    context_tokens: int = FILLED
    candidate_tokens: int = FILLED


def plateau_factor(misses: int) -> float:
    """Factor on the learning rate after this many validations without a gain."""
    return _PLATEAU_FACTOR**misses
