"""Settings of ranker training. Light to import: the command line reads its help from here."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal, get_args

from tain.foundation.choices import Dtype, Pooling, RankerType, refuse_wrong_kinds
from tain.foundation.errors import UserError, refuse_all

Codes = Literal["learned", "first", "last", "last-and-first"]
Optimizing = Literal["adamax", "adamw"]
Frozen = Literal["nothing", "embeddings", "encoder"]
Schedule = Literal["plateau", "linear"]
Similarity = Literal["cosine", "dot"]

PAPER_BATCH: dict[str, int] = {"bi": 512, "poly": 256, "cross": 16}
PAPER_WARMUP: dict[str, int] = {"bi": 100, "poly": 100, "cross": 1000}
CROSS_NEGATIVES = 15
_CHOICES: dict[str, tuple[str | None, ...]] = {
    "type": get_args(RankerType),
    "code_kind": get_args(Codes),
    "pooling": (None, "cls", "mean"),  # no saved encoder can have mean-with-padding
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
    """A bi-, poly- or cross-encoder (Humeau et al. 2020, section 4). What is None is filled from type and data."""

    type: Annotated[RankerType, "bi: one vector a context, fastest; poly: some vectors; cross: every pair together, slowest"] = "poly"
    codes: Annotated[int | None, "poly: vectors a context; 1 is close to bi (64; the paper: 16, 64, 360)"] = None
    code_kind: Annotated[Codes, "poly: learned codes, or a context's first or last outputs as they are"] = "learned"
    shared_towers: Annotated[bool, "bi, poly: one encoder for contexts and candidates; default: two, trained apart"] = False
    similarity: Annotated[
        Similarity, "bi, poly: of a candidate and a context's vectors; cosine: lengths don't count, times a learned temperature"
    ] = "dot"
    paper_scaling: Annotated[
        bool, "outputs times 0.06 and codes drawn from 0 to 1, as released; default: a learned temperature, codes fitted to the outputs"
    ] = False
    pooling: Annotated[Pooling | None, "how a candidate's (bi: a text's) tokens become one vector; default: the model's, else mean"] = None
    context_tokens: Annotated[int | None, "longer contexts lose their beginning (360, or what the model reads)"] = None
    candidate_tokens: Annotated[int | None, "longer candidates lose their end (72)"] = None
    freeze: Annotated[Frozen, "embeddings stay as they are; encoder: only learned codes and scale are trained, in minutes"] = "nothing"
    batch_contexts: Annotated[int | None, "contexts a step (bi 512, poly 256, cross 16; at most an eighth of the pairs)"] = None
    negatives: Annotated[
        int | None, "wrong candidates a context, from its own list, else drawn from all (cross 15; bi, poly 0: the batch's other answers)"
    ] = None
    mine_with: Annotated[str | None, "bi- or poly-encoder that finds hard negatives among all candidates"] = None
    mining_pool: Annotated[int, "hard negatives are drawn from so many of its best wrong ones; small is harder, and oftener not wrong"] = 50
    teacher: Annotated[str | None, "bi, poly: ranker whose order of each list is learned too, best a cross-encoder"] = None
    teacher_weight: Annotated[float, "weight of the teacher beside the right answers, 0 to 1"] = 0.5
    teacher_temperature: Annotated[float, "divides the teacher's scores, above 0"] = 1.0
    epochs: Annotated[int, "passes over the pairs, 1 or more (the released commands: up to 8 poly, 10 bi, 12 cross)"] = 3
    optimizer: Annotated[Optimizing, "adamax (the released commands) or adamw"] = "adamax"
    learning_rate: Annotated[float | None, "of the encoders (what the model's folder suggests, else 5e-5)"] = None
    head_learning_rate: Annotated[float, "of codes, scale and the cross-encoder's score, which start from nothing"] = 1e-3
    weight_decay: Annotated[float, "of the encoders"] = 0.0
    warmup_steps: Annotated[int | None, "the rate rises over so many steps (100, cross 1000; at most a tenth of all)"] = None
    schedule: Annotated[
        Schedule | None,
        "plateau: times 0.4 whenever the held-out contexts show no gain; linear: down to 0 (plateau, without held-out contexts linear)",
    ] = None
    validations_per_epoch: Annotated[int, "measurements on held-out contexts an epoch; the best one's weights are kept"] = 2
    validation_candidates: Annotated[int, "candidates a held-out context, where it lists none"] = 20
    held_out: Annotated[int, "contexts kept from training to measure on, at most a tenth of all; 0 measures nothing"] = 200
    dropout: Annotated[
        float | None, "dropout everywhere but on attention weights; 0 to below 1 (what the model's folder suggests, else 0.1)"
    ] = None
    attention_dropout: Annotated[float | None, "dropout on attention weights; default: as --dropout"] = None
    seeds: Annotated[int, "train this many runs and keep the best by the held-out contexts"] = 1
    seed: Annotated[int, "fixes data order, negatives, codes and dropout of the first run"] = 13
    micro_batch_tokens: Annotated[int, "tokens in memory at once; less memory, same gradient, about a third more time"] = 32_768
    checkpoint_every_s: Annotated[float, "seconds between checkpoints of a long run"] = 120.0
    resume: Annotated[bool, "go on from the checkpoint beside the output folder"] = False
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU where there is one"] = None
    dtype: Annotated[Dtype, "what the encoders compute in: float32, bfloat16, or auto, which measures"] = "auto"
    trust_remote_code: Annotated[bool, "let the model's folder bring Python code of its own"] = False

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
        if self.batch_contexts is not None and self.batch_contexts < (1 if self.type == "cross" else 2):
            problems.append(f"batch_contexts is {self.batch_contexts}, but an answer needs others to be told from: give 2 or more")
        if self.negatives is not None and self.negatives < (1 if self.type == "cross" else 0):
            problems.append(f"negatives is {self.negatives}: give {'1' if self.type == 'cross' else '0'} or more (cross: 15)")
        for name in ("mining_pool", "epochs", "validations_per_epoch", "seeds", "micro_batch_tokens"):
            if getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}: give 1 or more")
        if self.validation_candidates < 2:
            problems.append(f"validation_candidates is {self.validation_candidates}: give 2 or more (the paper: 20)")
        if self.held_out < 0:
            problems.append(f"held_out is {self.held_out}, but it counts contexts: give 0 or more")
        for name in ("learning_rate", "head_learning_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                problems.append(f"{name} is {value}: give a number between 0 and 1")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}: give 0 or more")
        for name in ("seed", "warmup_steps", "checkpoint_every_s"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                problems.append(f"{name} is {value}: give 0 or more")
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                problems.append(f"{name} is {value}, but it is a probability and 1 would drop everything: give 0 to below 1 (dropout: 0.1)")
        if not 0 <= self.teacher_weight <= 1:
            problems.append(f"teacher_weight is {self.teacher_weight}, but it is a share: give 0 to 1")
        if self.seed >= 2**63:
            problems.append(f"seed is {self.seed}: give less than 2 to the power 63")
        if not 0 < self.teacher_temperature < math.inf:
            problems.append(f"teacher_temperature is {self.teacher_temperature}, but scores are divided by it: give a number above 0")
        refuse_all(problems + self._contradictions())

    def _contradictions(self) -> list[str]:
        """Settings that do not go together."""
        problems = []
        if self.type == "cross" and self.teacher is not None:
            problems.append("a cross-encoder is the teacher, not taught: leave out --teacher, or give --type bi or poly")
        if self.type == "cross" and self.shared_towers:
            problems.append("a cross-encoder has one encoder anyway: leave out --shared-towers")
        if self.type == "cross" and (self.pooling is not None or self.similarity != "dot" or self.paper_scaling):
            problems.append("a cross-encoder scores by its first token: leave out --pooling, --similarity and --paper-scaling")
        if self.type != "poly" and (self.codes is not None or self.code_kind != "learned"):
            problems.append(f"a {self.type}-encoder has no codes: leave out --codes and --code-kind, or give --type poly")
        if self.paper_scaling and self.similarity == "cosine":
            problems.append(
                "--paper-scaling scales dot products, and cosines times 0.06 twice would all score alike: give --similarity dot"
            )
        if self.freeze == "encoder" and not (self.type == "poly" and self.code_kind == "learned"):
            problems.append(
                "--freeze encoder trains the learned codes alone, and this ranker has none: give --type poly --code-kind learned"
            )
        if self.teacher is not None and self.negatives == 0:
            problems.append("a teacher orders lists, and without negatives there are none: give --negatives 7 or more")
        defaults = RankConfig.teacher_weight, RankConfig.teacher_temperature
        if self.teacher is None and (self.teacher_weight, self.teacher_temperature) != defaults:
            problems.append(
                "--teacher-share and --teacher-temperature are a teacher's, and there is none: give --teacher, or leave them out"
            )
        if self.mine_with is None and self.mining_pool != RankConfig.mining_pool:
            problems.append("--mined-from says where mined negatives are drawn from, and none are mined: give --mine-with, or leave it out")
        if self.mine_with is not None and self.negatives == 0:
            problems.append("hard negatives are mined, but none are used: give --negatives 1 or more, or leave out --mine-with")
        return problems

    def resolved(self, *, pairs: int, has_held_out: bool, suggested: Mapping[str, float | int] | None = None) -> "RankConfig":
        """Fill what is None from the type, the number of training pairs and the model.

        Args:
            pairs: Training pairs.
            has_held_out: Some contexts are kept to measure on.
            suggested: ``learning_rate`` and ``dropout`` as the model's own folder wants them; either may be missing.

        Raises:
            UserError: The schedule or the choice of a seed goes by held-out contexts, and there are none.
        """
        if self.seeds > 1 and not has_held_out:
            raise UserError(
                f"{self.seeds} seeds are trained to keep the best by held-out contexts, and there are none: give --validation FILE, "
                "--held-out 200 with 10 contexts or more, or --seeds 1"
            )
        if self.schedule == "plateau" and not has_held_out:
            raise UserError(
                "the schedule plateau goes by held-out contexts, and there are none: give --validation FILE, --held-out 200 with 10 "
                "contexts or more, or --schedule linear"
            )
        batch = self.batch_contexts or min(PAPER_BATCH[self.type], max(2, pairs // 8))
        steps = max(1, pairs // batch) * self.epochs
        needs_lists = self.type == "cross" or self.teacher is not None or self.mine_with is not None
        tuned = {name: getattr(self, name) for name in _PAPERS if getattr(self, name) is not None}
        own = {name: value for name, value in (suggested or {}).items() if name in _PAPERS}
        tuned = {**_PAPERS, **own, **tuned}
        filled = {
            **tuned,
            "codes": 64 if self.codes is None and self.type == "poly" else self.codes,
            "batch_contexts": batch,
            "negatives": (CROSS_NEGATIVES if needs_lists else 0) if self.negatives is None else self.negatives,
            "warmup_steps": min(PAPER_WARMUP[self.type], steps // 10) if self.warmup_steps is None else self.warmup_steps,
            "schedule": self.schedule or ("plateau" if has_held_out else "linear"),
            "attention_dropout": tuned["dropout"] if self.attention_dropout is None else self.attention_dropout,
        }
        return replace(self, **filled)


def plateau_factor(misses: int) -> float:
    """Factor on the learning rate after so many validations without a gain."""
    return _PLATEAU_FACTOR**misses
