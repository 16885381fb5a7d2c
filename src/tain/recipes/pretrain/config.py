"""Settings of pretraining. Light to import: the command line reads its help from here."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tain.foundation.choices import Dtype, refuse_wrong_kinds, wrong_choices
from tain.foundation.errors import refuse_all

MaskUnit = Literal["text", "batch"]

# what shapes a new model; a continued one is what it is
NEW_MODEL = (
    "architecture",
    "layers",
    "hidden_size",
    "heads",
    "intermediate_size",
    "vocab_size",
    "tokenizer",
    "dropout",
    "cooccurrence_init",
)


_OF_BITEXT = ("bitext_pairs", "bitext_weight", "bitext_margin", "bitext_scale")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Masked language modelling on blocks of running text."""

    tokens: Annotated[float, "tokens to train on in all, repeated passes counted again; 1e6 is a try, 1e8 a small model"] = 2e7
    block_tokens: Annotated[int, "length of a block of text, special tokens included"] = 128
    batch_blocks: Annotated[int, "blocks a step"] = 32
    masking_rate: Annotated[float, "share of tokens to predict; 0.15 is BERT's, small models learn faster from 0.3"] = 0.3
    objective: Annotated[
        Literal["random", "whole-word", "span", "fully-explored", "cmlm"],
        "what is masked: single tokens, whole words or spans, once a text; fully-explored: several masks of one text that never overlap; "
        "cmlm: sentences, restored with the help of their neighbours' vectors (patented in the US: see docs/cmlm.md)",
    ] = "random"
    explored_parts: Annotated[
        int | None, "fully-explored: masks of a text, each of masking_rate; default: as many as there is room for, floor(1 / masking_rate)"
    ] = None
    masked_units: Annotated[Literal["token", "word", "span"], "fully-explored: what is masked as a whole"] = "token"
    spread_over_epochs: Annotated[
        bool, "fully-explored: one mask an epoch, at no extra cost, instead of all in one step, which takes as many passes"
    ] = False
    mask_unit: Annotated[
        MaskUnit | None,
        "what a mask's size is a share of: text (each block or sentence has its own share, a sentence one token at least) or batch (a fixed "
        "number over all texts of a step); default: text for fully-explored and cmlm, batch for the others",
    ] = None
    span_tokens: Annotated[int, "length of a span, where spans are masked"] = 3
    neighbour: Annotated[Literal["left", "right", "both"], "cmlm: which neighbour's vector helps: the sentence before, behind, or both"] = (
        "left"
    )
    pseudo_tokens: Annotated[int, "cmlm: pseudo-tokens that a neighbour's vector is spread over; 0 leaves the neighbour out"] = 15
    skip_connection: Annotated[bool, "cmlm: show the vector to the prediction head too"] = False
    split_sentences: Annotated[bool, "cmlm: cut lines into sentences; without it each line is one"] = True
    min_tokens: Annotated[int, "cmlm: shorter sentences are joined to the next one"] = 8
    max_overlap: Annotated[
        float, "cmlm: neighbours with a larger share of tokens in common (of those in either) are dropped; 1 drops none"
    ] = 0.7
    bitext: Annotated[Path | None, "cmlm: table of translations, two columns; each step also finds translations among its pairs"] = None
    bitext_pairs: Annotated[int, "cmlm: pairs of translations a step, beside its sentences"] = 32
    bitext_weight: Annotated[float, "cmlm: weight of finding translations, beside restoring sentences"] = 0.2
    bitext_margin: Annotated[float, "cmlm: by how much of a cosine a translation must beat the others"] = 0.3
    bitext_scale: Annotated[float, "cmlm: multiplies the cosines of translations"] = 20.0
    optimizer: Annotated[
        Literal["muon", "adamw"], "muon: Muon on matrices, AdamW on the rest; adamw: AdamW on all (to continue a model)"
    ] = "muon"
    matrix_learning_rate: Annotated[float, "Muon's learning rate"] = 0.02
    embedding_learning_rate: Annotated[float, "AdamW's learning rate on token embeddings, under muon"] = 1e-3
    learning_rate: Annotated[float, "AdamW's learning rate: on norms and biases under muon, else on everything"] = 3e-3
    weight_decay: Annotated[float, "decay of all weights under adamw, of the matrices under muon"] = 0.01
    max_grad_norm: Annotated[float, "longest gradient that a step takes; longer ones are scaled down"] = 1.0
    warmup_steps: Annotated[int, "steps over which learning rates rise from 0"] = 50
    decay_share: Annotated[float, "last share of the run over which learning rates fall to 0; 0 keeps them level"] = 0.3
    dropout: Annotated[float, "dropout everywhere, for new models; 0 learns fastest while text is plenty"] = 0.0
    seed: Annotated[int, "fixes weights, blocks, order and masks"] = 13
    validation: Annotated[tuple[Path, ...], "text files to measure the loss on"] = ()
    validate_every_tokens: Annotated[float, "tokens between measurements"] = 1e6
    snapshots: Annotated[bool, "keep the model at 1, 2, 4, ... million tokens, beside the output folder"] = False
    cooccurrence_init: Annotated[bool, "start a new model's embeddings from counted co-occurrences"] = True
    architecture: Annotated[Literal["modernbert", "bert"], "a new model's layout"] = "modernbert"
    layers: Annotated[int, "a new model's layers"] = 5
    hidden_size: Annotated[int, "a new model's width"] = 256
    heads: Annotated[int, "a new model's attention heads; must divide the width"] = 4
    intermediate_size: Annotated[int, "inner width of a new model's feed-forward parts"] = 384
    vocab_size: Annotated[int, "word pieces of a new model's tokenizer"] = 16_384
    tokenizer: Annotated[str | None, "folder of a tokenizer for a new model; default: one is trained on the texts"] = None
    add_words: Annotated[
        int, "teach a continued model's tokenizer this many words of the texts that it cuts into 3 pieces or more, frequent ones first"
    ] = 0
    words: Annotated[Path | None, "file of words to teach the tokenizer, one a line"] = None
    shards: Annotated[Path | None, "folder to keep the tokenised texts in, or to take them from; default: beside the output"] = None
    compile: Annotated[
        bool,
        "compile the step first: a minute's wait, then 1.2 times faster with ModernBERT's layout on a CPU, slower with BERT's; needs a C++ compiler",
    ] = False
    minutes: Annotated[float | None, "stop after this many minutes, checkpoint kept; --resume goes on"] = None
    checkpoint_every_s: Annotated[float, "seconds between checkpoints"] = 300.0
    resume: Annotated[bool, "go on from the checkpoint beside the output folder"] = False
    save_dtype: Annotated[Literal["float32", "float16"], "number type of the saved weights"] = "float32"
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU where there is one"] = None
    dtype: Annotated[Dtype, "what the model computes in: float32, bfloat16, or auto, which measures"] = "auto"
    trust_remote_code: Annotated[bool, "let the model's folder bring Python code of its own"] = False

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = wrong_choices(self)
        if not 0 <= self.seed < 2**63:
            problems.append(f"seed is {self.seed}: give 0 or more, and less than 2 to the power 63")
        for name in (
            "tokens",
            "batch_blocks",
            "layers",
            "hidden_size",
            "heads",
            "intermediate_size",
            "validate_every_tokens",
            "span_tokens",
        ):
            if not getattr(self, name) >= 1:
                problems.append(f"{name} is {getattr(self, name)}: give 1 or more")
        for name in ("tokens", "validate_every_tokens"):
            if getattr(self, name) == math.inf:
                problems.append(f"{name} is infinite: give a number")
        if not self.checkpoint_every_s >= 0:
            problems.append(f"checkpoint_every_s is {self.checkpoint_every_s}: give 0 seconds or more")
        if self.minutes is not None and not self.minutes > 0:
            problems.append(f"minutes is {self.minutes}: give more than 0")
        if self.warmup_steps < 0:
            problems.append(f"warmup_steps is {self.warmup_steps}: give 0 or more")
        if self.block_tokens < 8:
            problems.append(f"block_tokens is {self.block_tokens}, too little context to predict from: give 8 or more (128)")
        if not 0 < self.masking_rate < 1:
            problems.append(f"masking_rate is {self.masking_rate}: give a share above 0 and below 1 (0.15 to 0.4)")
        for name in ("matrix_learning_rate", "embedding_learning_rate", "learning_rate"):
            if not 0 < getattr(self, name) < 1:
                problems.append(f"{name} is {getattr(self, name)}: give a number between 0 and 1")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}: give 0 or more (0.01)")
        if not self.max_grad_norm > 0:
            problems.append(
                f"max_grad_norm is {self.max_grad_norm}, which would leave no gradient: give a number above 0 (1.0; inf clips nothing)"
            )
        if not 0 <= self.decay_share <= 1:
            problems.append(f"decay_share is {self.decay_share}: give a share of the run, 0 to 1 (0.3)")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}: give 0 to below 1")
        if self.heads >= 1 and self.hidden_size % self.heads:
            problems.append(f"hidden_size {self.hidden_size} cannot be shared by {self.heads} heads: give a multiple")
        if self.vocab_size < 300:
            problems.append(f"vocab_size is {self.vocab_size}, hardly more than the letters: give 300 or more (16384)")
        if self.add_words < 0:
            problems.append(f"add_words is {self.add_words}: give 0 or more")
        refuse_all([*problems, *self._idle(), *self._problems_of_exploring(), *self._problems_of_conditioning()])

    def changed(self, *names: str) -> list[str]:
        """Which of these settings are not what they are by default."""
        return [entry.name for entry in fields(self) if entry.name in names and getattr(self, entry.name) != entry.default]

    def refuse_shape(self, model: str) -> None:
        """Refuse what shapes a new model where one is continued.

        Raises:
            UserError: Such a setting was changed.
        """
        if idle := self.changed(*NEW_MODEL):
            refuse_all([f"{', '.join(idle)} shape a new model, but {model!r} is continued: leave them out, or give scratch"])

    def _idle(self) -> list[str]:
        problems = []
        if self.changed("span_tokens") and self.units != "span":
            problems.append(f"span_tokens is {self.span_tokens}, but no spans are masked: leave it out, or give --objective span")
        if self.optimizer == "adamw" and (rates := self.changed("matrix_learning_rate", "embedding_learning_rate")):
            problems.append(f"{', '.join(rates)} is for optimizer muon, but optimizer is 'adamw': give --learning-rate")
        return problems

    @property
    def parts(self) -> int:
        """Masks of one text: K of fully-explored masking, 1 elsewhere."""
        if self.objective != "fully-explored":
            return 1
        return self.explored_parts or _max_parts(self.masking_rate)

    @property
    def units(self) -> str:
        """What is masked as a whole: token, word or span."""
        if self.objective == "fully-explored":
            return self.masked_units
        return {"whole-word": "word", "span": "span"}.get(self.objective, "token")

    @property
    def masked_by(self) -> MaskUnit:
        """What a mask's size is a share of: ``mask_unit``, or the objective's default."""
        return self.mask_unit or ("text" if self.objective in ("fully-explored", "cmlm") else "batch")

    def _problems_of_exploring(self) -> list[str]:
        explores = self.objective == "fully-explored"
        problems = [
            f"{name} is for objective fully-explored, but objective is {self.objective!r}: leave it out, or give --objective fully-explored"
            for name in self.changed("explored_parts", "spread_over_epochs", "masked_units")
            if not explores
        ]
        if explores and self.spread_over_epochs and self.mask_unit == "batch":
            problems.append("mask_unit is 'batch', but spread over epochs each text keeps its own order of masks: leave one of the two out")
        if explores and self.explored_parts is not None and 0 < self.masking_rate < 1:
            most = _max_parts(self.masking_rate)
            if self.explored_parts < 1:
                problems.append(f"explored_parts is {self.explored_parts}: give 1 or more")
            elif self.explored_parts > most:
                problems.append(
                    f"explored_parts is {self.explored_parts} at masking_rate {self.masking_rate}, which asks for"
                    f" {self.explored_parts * self.masking_rate:.0%} of the tokens: give at most {most}, or a rate of at most"
                    f" {math.floor(1e4 / self.explored_parts) / 1e4:g}"
                )
        return problems

    def _problems_of_conditioning(self) -> list[str]:
        problems = []
        if self.objective != "cmlm":
            return [
                f"{name} is for objective cmlm, but objective is {self.objective!r}: leave it out, or give --objective cmlm"
                for name in self.changed("neighbour", "pseudo_tokens", "skip_connection", "split_sentences", "min_tokens", "max_overlap")
                + self.changed("bitext", *_OF_BITEXT)
            ]
        if self.bitext is None and (idle := self.changed(*_OF_BITEXT)):
            problems.append(f"{', '.join(idle)} is for translations, but there are none: leave it out, or give --bitext TABLE")
        if self.bitext_pairs < 2:
            problems.append(f"bitext_pairs is {self.bitext_pairs}, but a translation needs others to be told from: give 2 or more (32)")
        if not 0 < self.bitext_weight < math.inf:
            problems.append(f"bitext_weight is {self.bitext_weight}: give a number above 0 (0.2)")
        if not 0 <= self.bitext_margin <= 2:
            problems.append(f"bitext_margin is {self.bitext_margin}, but it is taken off a cosine: give 0 to 2 (0.3)")
        if not 0 < self.bitext_scale < math.inf:
            problems.append(f"bitext_scale is {self.bitext_scale}: give a number above 0 (20)")
        if self.pseudo_tokens < 0:
            problems.append(f"pseudo_tokens is {self.pseudo_tokens}: give 0 (no neighbour) or more (15)")
        if self.min_tokens < 1:
            problems.append(f"min_tokens is {self.min_tokens}: give 1 or more (8)")
        if not 0 < self.max_overlap <= 1:
            problems.append(f"max_overlap is {self.max_overlap}: give a share above 0, up to 1 (0.7)")
        if self.compile:
            problems.append("compile needs batches of one shape, but sentences differ in length: leave it out with objective cmlm")
        return problems


def _max_parts(rate: float) -> int:
    return math.floor(1 / rate + 1e-9)
