"""Settings of identity fine-tuning. Light to import: the command line reads its help from here."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal, get_args

from tain.foundation.choices import Dtype, Pooling, refuse_wrong_kinds
from tain.foundation.errors import refuse_all

Level = Literal["word", "phrase", "sentence"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The paper's values for one kind of text (table in section 3 and appendix)."""

    temperature: float
    erased_chars: int
    erase_floor: int
    epochs: int
    max_tokens: int
    pooling: Pooling


PRESETS: dict[str, Preset] = {
    "word": Preset(temperature=0.2, erased_chars=0, erase_floor=30, epochs=2, max_tokens=25, pooling="cls"),
    # the released code's floor of 30 characters would leave nearly every name whole
    "phrase": Preset(temperature=0.04, erased_chars=2, erase_floor=6, epochs=2, max_tokens=25, pooling="cls"),
    "sentence": Preset(temperature=0.04, erased_chars=5, erase_floor=30, epochs=1, max_tokens=50, pooling="mean"),
}


@dataclass(frozen=True, kw_only=True)
class MirrorConfig:
    """Identity fine-tuning of a masked LM (Liu et al. 2021, section 2). What is None is filled from the level's preset."""

    level: Annotated[Level, "what a text is; sets the paper's values for all that follow"] = "sentence"
    temperature: Annotated[float | None, "divides the cosines, above 0; small makes near texts matter most (0.04; words 0.2)"] = None
    erased_chars: Annotated[int | None, "characters erased in one view; 0 keeps both whole (5; phrases 2; words 0)"] = None
    erase_floor: Annotated[int | None, "texts with fewer characters are never erased (30; phrases 6)"] = None
    dropout: Annotated[
        float | None, "dropout everywhere but on attention weights; 0 to below 1 (0.1, unless the model's folder says otherwise)"
    ] = None
    attention_dropout: Annotated[float | None, "dropout on attention weights; default: as --dropout"] = None
    drophead: Annotated[float, "drop whole attention heads instead, with this probability (BERT 0.2, RoBERTa 0.05)"] = 0.0
    pooling: Annotated[Pooling | None, "how token vectors become one: cls or mean (sentences mean, else cls)"] = None
    max_tokens: Annotated[int | None, "longer texts are cut, special tokens included (50; words and phrases 25)"] = None
    batch_texts: Annotated[int, "texts a step, 2 or more; each is encoded twice"] = 200
    epochs: Annotated[int | None, "passes over the texts (1; words and phrases 2)"] = None
    learning_rate: Annotated[
        float | None, "AdamW's step; default: what the model's folder says, else the paper's 2e-5, scaled to width and weights"
    ] = None
    weight_decay: Annotated[float, "AdamW's decay, on every parameter"] = 0.01
    max_texts: Annotated[int, "train on at most this many texts, drawn at random; 0 takes all (the paper: best at 10k to 20k)"] = 10_000
    keep_repeats: Annotated[bool, "train on repeated texts too; they never push each other away"] = False
    held_out: Annotated[
        int, "texts kept from training to measure on, at most a tenth of all or what max_texts leaves; 0 measures nothing"
    ] = 500
    budget_s: Annotated[
        float | None, "seconds from the call (on the command line: from process start) to the saved folder; picks texts and steps that fit"
    ] = None
    seeds: Annotated[int, "train this many runs and keep the best by the label-free figures"] = 1
    seed: Annotated[int, "fixes data order, erased spans and dropout of the first run"] = 13
    micro_tokens: Annotated[int, "tokens in memory at once; less memory, the gradient of the whole batch, about a third more time"] = 32_768
    allow_identical_views: Annotated[bool, "train even if the two views of a text are the same (an ablation of the paper)"] = False
    checkpoint_every_s: Annotated[float, "seconds between checkpoints of a long run"] = 120.0
    resume: Annotated[bool, "go on from the checkpoint beside the output folder"] = False
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU where there is one"] = None
    dtype: Annotated[Dtype, "what the model computes in: float32, bfloat16, or auto, which measures"] = "auto"
    trust_remote_code: Annotated[bool, "let the model's folder bring Python code of its own"] = False

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = []
        if self.level not in PRESETS:
            problems.append(f"level is {self.level!r}: give word, phrase or sentence")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            problems.append(
                f"temperature is {self.temperature}, but similarities are divided by it: give a number above 0 (sentences: 0.04, words: 0.2)"
            )
        for name in ("erased_chars", "erase_floor", "max_texts", "held_out"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                problems.append(f"{name} is {value}, but it counts something: give 0 or more")
        for name in ("dropout", "attention_dropout", "drophead"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                problems.append(f"{name} is {value}, but it is a probability and 1 would drop everything: give 0 to below 1 (dropout: 0.1)")
        if self.batch_texts < 2:
            problems.append(f"batch_texts is {self.batch_texts}, but a text needs others to be told from: give 2 or more (the paper: 200)")
        if not 0 <= self.seed < 2**63:
            problems.append(f"seed is {self.seed}: give 0 or more, and less than 2 to the power 63")
        if not self.checkpoint_every_s >= 0:
            problems.append(f"checkpoint_every_s is {self.checkpoint_every_s}: give 0 seconds or more")
        if 0 < self.max_texts < (self.batch_texts if self.budget_s is None else 2):
            problems.append(f"max_texts is {self.max_texts}, fewer than a batch of {self.batch_texts}: give more, or a smaller batch_texts")
        if self.dtype not in get_args(Dtype):
            problems.append(f"dtype is {self.dtype!r}: give {', '.join(get_args(Dtype))}")
        if self.drophead > 0 and self.pooling == "mean-with-padding":
            problems.append("drophead needs packed attention, and pooling mean-with-padding runs padded: leave one of them out")
        for name in ("epochs", "seeds", "micro_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}: give 1 or more")
        if self.max_tokens is not None and self.max_tokens < 3:
            problems.append(f"max_tokens is {self.max_tokens}, but special tokens take 2 of them: give 3 or more")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            problems.append(f"learning_rate is {self.learning_rate}: give a number between 0 and 1 (the paper: 2e-5)")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}: give 0 or more (the paper: 0.01)")
        if self.budget_s is not None and not 0 < self.budget_s < math.inf:
            problems.append(f"budget is {self.budget_s} s: give a time above 0")
        if self.budget_s is not None and (self.seeds > 1 or self.resume):
            problems.append("a budget goes with one run from its beginning: leave out --seeds and --resume, or --budget")
        refuse_all(problems)

    def resolved(self, *, width: int, weight_rms: float, suggested: Mapping[str, float] | None = None) -> "MirrorConfig":
        """Fill what is None from the level's preset, and learning rate and dropout from the model.

        Args:
            width: Width of the hidden states.
            weight_rms: Root mean square of the hidden layers' matrices.
            suggested: ``learning_rate`` and ``dropout`` as the model's own folder wants them; either may be missing.
        """
        filled: dict[str, Any] = {**asdict(PRESETS[self.level]), "dropout": _PAPERS_DROPOUT}
        filled["learning_rate"] = float(f"{default_learning_rate(width, weight_rms):.2g}")
        filled |= suggested or {}
        filled = {name: value for name, value in filled.items() if getattr(self, name) is None}
        if self.drophead > 0 and self.dropout is None:
            filled["dropout"] = 0.0  # the paper's drophead variant replaces dropout
        if self.attention_dropout is None:
            filled["attention_dropout"] = 0.0 if self.drophead > 0 else filled.get("dropout", self.dropout)
        return replace(self, **filled)


def default_learning_rate(width: int, weight_rms: float) -> float:
    """Scale the paper's 2e-5, found on BERT-base, to other widths and sizes of weights.

    AdamW moves every weight by about the learning rate a step, so what matters is that step over the weights' own size: 2e-5 over
    0.043 for BERT-base. Narrow models want larger relative steps; the exponent is fitted to our own searches (``docs/LOG.md``).

    Args:
        width: Width of the hidden states.
        weight_rms: Root mean square of the hidden layers' matrices.
    """
    return _PAPERS_RELATIVE_STEP * weight_rms * max(1.0, 768 / width) ** 2.1


_PAPERS_DROPOUT = 0.1
_PAPERS_RELATIVE_STEP = 2e-5 / 0.043
