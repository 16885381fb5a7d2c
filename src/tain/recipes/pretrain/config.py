"""Settings of pretraining, with the help texts of the command line; light to import."""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

from tain.foundation.choices import Dtype, refuse_wrong_kinds, wrong_choices, wrong_seed
from tain.foundation.errors import refuse_all

MaskUnit = Literal["text", "batch"]
Lowercase = Literal["auto", "yes", "no"]

# shape settings of a new model; not allowed when a model is continued
NEW_MODEL = (
    "architecture",
    "layers",
    "hidden_size",
    "heads",
    "intermediate_size",
    "vocab_size",
    "lowercase",
    "tokenizer",
    "dropout",
    "cooccurrence_init",
)


_OF_BITEXT = ("bitext_pairs", "bitext_weight", "bitext_margin", "bitext_scale")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Settings of masked language model pretraining."""

    tokens: Annotated[float, "total training tokens, counted once per pass; 1e6 for a first test, 1e8 for a small model"] = 2e7
    block_tokens: Annotated[int, "length of a block of text, special tokens included"] = 128
    batch_blocks: Annotated[int, "blocks per step"] = 32
    masking_rate: Annotated[float, "share of tokens to predict; BERT uses 0.15, small models learn faster with 0.3"] = 0.3
    objective: Annotated[
        Literal["random", "whole-word", "span", "fully-explored", "cmlm"],
        "what is masked: single tokens, whole words or spans, with one mask per text; fully-explored: several masks per text that never overlap; "
        "cmlm: sentences, predicted with the help of their neighbours' vectors (patented in the US: see docs/cmlm.md)",
    ] = "random"
    explored_parts: Annotated[
        int | None, "fully-explored: masks per text, each of masking_rate; default: the most that fit, floor(1 / masking_rate)"
    ] = None
    masked_units: Annotated[Literal["token", "word", "span"], "fully-explored: unit of masking"] = "token"
    spread_over_epochs: Annotated[
        bool, "fully-explored: use one mask per epoch, at no extra cost, instead of all masks in one step, with one pass per mask"
    ] = False
    mask_unit: Annotated[
        MaskUnit | None,
        "unit that a mask's size is a share of: text (each block or sentence has its own share, at least one token per sentence) or batch (a "
        "fixed number over all texts of a step); default: text for fully-explored and cmlm, batch for the others",
    ] = None
    span_tokens: Annotated[int, "length of a masked span"] = 3
    neighbour: Annotated[
        Literal["left", "right", "both"], "cmlm: which neighbour's vector is used: of the sentence before, after, or both"
    ] = "left"
    pseudo_tokens: Annotated[int, "cmlm: pseudo-tokens made from a neighbour's vector; 0 uses no neighbour"] = 15
    skip_connection: Annotated[bool, "cmlm: also feed the vector to the prediction head"] = False
    split_sentences: Annotated[bool, "cmlm: cut lines into sentences; otherwise each line is a sentence"] = True
    min_tokens: Annotated[int, "cmlm: shorter sentences are joined with the next one"] = 8
    max_overlap: Annotated[
        float, "cmlm: drop neighbours with a larger token overlap (shared tokens over all tokens of both); 1 drops none"
    ] = 0.7
    bitext: Annotated[Path | None, "cmlm: table of translations, two columns; each step also ranks translations within its pairs"] = None
    bitext_pairs: Annotated[int, "cmlm: pairs of translations per step, in addition to its sentences"] = 32
    bitext_weight: Annotated[float, "cmlm: weight of the translation loss"] = 0.2
    bitext_margin: Annotated[float, "cmlm: margin in cosine by which a translation must beat the others"] = 0.3
    bitext_scale: Annotated[float, "cmlm: multiplies the cosines of translations"] = 20.0
    optimizer: Annotated[
        Literal["muon", "adamw"], "muon: Muon on matrices, AdamW on the rest; adamw: AdamW on all (to continue a model)"
    ] = "muon"
    matrix_learning_rate: Annotated[float, "Muon's learning rate"] = 0.02
    embedding_learning_rate: Annotated[float, "AdamW's learning rate on token embeddings, with muon"] = 1e-3
    learning_rate: Annotated[float, "AdamW's learning rate: with muon on norms and biases, else on everything"] = 3e-3
    weight_decay: Annotated[float, "weight decay; with adamw of all weights, with muon of the matrices"] = 0.01
    max_grad_norm: Annotated[float, "maximum gradient norm; larger gradients are scaled down"] = 1.0
    warmup_steps: Annotated[int, "steps over which learning rates rise from 0"] = 50
    decay_share: Annotated[float, "final share of the run in which learning rates fall to 0; 0 keeps them constant"] = 0.3
    dropout: Annotated[float, "dropout of new models; 0 learns fastest if there is plenty of text"] = 0.0
    seed: Annotated[int, "seed of weights, blocks, order and masks"] = 13
    validation: Annotated[tuple[Path, ...], "held-out text files to measure the loss on"] = ()
    validate_every_tokens: Annotated[float, "tokens between measurements"] = 1e6
    snapshots: Annotated[bool, "save the model at 1, 2, 4, ... million tokens, next to the output folder"] = False
    cooccurrence_init: Annotated[bool, "initialise a new model's embeddings from co-occurrence counts"] = True
    architecture: Annotated[Literal["modernbert", "bert"], "architecture of a new model"] = "modernbert"
    layers: Annotated[int, "a new model's layers"] = 5
    hidden_size: Annotated[int, "a new model's width"] = 256
    heads: Annotated[int, "a new model's attention heads; must divide the width"] = 4
    intermediate_size: Annotated[int, "inner width of a new model's feed-forward layers"] = 384
    vocab_size: Annotated[int, "word pieces of a new model's tokenizer"] = 16_384
    lowercase: Annotated[
        Lowercase,
        "a new tokenizer's capitals: yes makes them small letters, by Turkish rules for Turkish texts, and removes accents only where they are "
        "rare, as in English; no keeps capitals and accents; auto: yes if the script of the texts has capitals",
    ] = "auto"
    tokenizer: Annotated[str | None, "folder of a tokenizer for a new model; default: train one on the texts"] = None
    add_words: Annotated[
        int, "add up to this many words to a continued model's tokenizer: the most frequent ones that it splits into 3 or more pieces"
    ] = 0
    words: Annotated[Path | None, "file of words to add to the tokenizer, one per line"] = None
    shards: Annotated[Path | None, "folder to store or reuse the tokenised texts; default: next to the output"] = None
    compile: Annotated[
        bool,
        "compile the training step: takes a minute, then 1.2 times faster with ModernBERT's layout on a CPU, slower with BERT's; needs a C++ compiler",
    ] = False
    minutes: Annotated[float | None, "stop after this many minutes with a checkpoint; continue with --resume"] = None
    checkpoint_every_s: Annotated[float, "seconds between checkpoints"] = 300.0
    resume: Annotated[bool, "continue from the checkpoint next to the output folder"] = False
    save_dtype: Annotated[Literal["float32", "float16"], "data type of the saved weights"] = "float32"
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU if there is one"] = None
    dtype: Annotated[Dtype, "data type of the computation: float32, bfloat16, or auto, which measures the faster one"] = "auto"
    trust_remote_code: Annotated[bool, "allow the model to run Python code from its folder"] = False

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = wrong_choices(self)
        problems += wrong_seed(self.seed)
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
            problems.append(f"block_tokens is {self.block_tokens}, too little context for predictions: give 8 or more (128)")
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
            problems.append(f"hidden_size {self.hidden_size} cannot be divided among {self.heads} heads: give a multiple")
        if self.vocab_size < 300:
            problems.append(f"vocab_size is {self.vocab_size}, hardly more than the letters: give 300 or more (16384)")
        if self.add_words < 0:
            problems.append(f"add_words is {self.add_words}: give 0 or more")
        refuse_all([*problems, *self._idle(), *self._problems_of_exploring(), *self._problems_of_conditioning()])

    def changed(self, *names: str) -> list[str]:
        """Those of the named settings that differ from their defaults."""
        return [entry.name for entry in fields(self) if entry.name in names and getattr(self, entry.name) != entry.default]

    def refuse_shape(self, model: str) -> None:
        """Refuse shape settings when a model is continued.

        Raises:
            UserError: Such a setting is not at its default.
        """
        if idle := self.changed(*NEW_MODEL):
            refuse_all([f"{', '.join(idle)} shape a new model, but {model!r} is continued: leave them out, or give scratch"])

    def _idle(self) -> list[str]:
        problems = []
        if self.changed("span_tokens") and self.units != "span":
            problems.append(f"span_tokens is {self.span_tokens}, but no spans are masked: leave it out, or give --objective span")
        if self.changed("lowercase") and self.tokenizer is not None:
            problems.append(
                f"lowercase is {self.lowercase!r}, but the given tokenizer has its own rule: leave out --lowercase or --tokenizer"
            )
        if self.optimizer == "adamw" and (rates := self.changed("matrix_learning_rate", "embedding_learning_rate")):
            problems.append(f"{', '.join(rates)} only applies to optimizer muon, but optimizer is 'adamw': give --learning-rate")
        return problems

    @property
    def parts(self) -> int:
        """Masks per text: K for fully-explored masking, else 1."""
        if self.objective != "fully-explored":
            return 1
        return self.explored_parts or _max_parts(self.masking_rate)

    @property
    def units(self) -> str:
        """Unit of masking: token, word or span."""
        if self.objective == "fully-explored":
            return self.masked_units
        return {"whole-word": "word", "span": "span"}.get(self.objective, "token")

    @property
    def masked_by(self) -> MaskUnit:
        """Unit that a mask's size is a share of: ``mask_unit``, or the objective's default."""
        return self.mask_unit or ("text" if self.objective in ("fully-explored", "cmlm") else "batch")

    def _problems_of_exploring(self) -> list[str]:
        explores = self.objective == "fully-explored"
        problems = [
            f"{name} only applies to objective fully-explored, but objective is {self.objective!r}: leave it out, or give --objective fully-explored"
            for name in self.changed("explored_parts", "spread_over_epochs", "masked_units")
            if not explores
        ]
        if explores and self.spread_over_epochs and self.mask_unit == "batch":
            problems.append(
                "mask_unit is 'batch', but with spread_over_epochs each text has its own order of masks: leave out one of the two"
            )
        if explores and self.explored_parts is not None and 0 < self.masking_rate < 1:
            most = _max_parts(self.masking_rate)
            if self.explored_parts < 1:
                problems.append(f"explored_parts is {self.explored_parts}: give 1 or more")
            elif self.explored_parts > most:
                problems.append(
                    f"explored_parts is {self.explored_parts} at masking_rate {self.masking_rate}, which would mask"
                    f" {self.explored_parts * self.masking_rate:.0%} of the tokens: give at most {most}, or a rate of at most"
                    f" {math.floor(1e4 / self.explored_parts) / 1e4:g}"
                )
        return problems

    def _problems_of_conditioning(self) -> list[str]:
        problems = []
        if self.objective != "cmlm":
            return [
                f"{name} only applies to objective cmlm, but objective is {self.objective!r}: leave it out, or give --objective cmlm"
                for name in self.changed("neighbour", "pseudo_tokens", "skip_connection", "split_sentences", "min_tokens", "max_overlap")
                + self.changed("bitext", *_OF_BITEXT)
            ]
        if self.bitext is None and (idle := self.changed(*_OF_BITEXT)):
            problems.append(f"{', '.join(idle)} only applies to translations, but there are none: leave it out, or give --bitext TABLE")
        if self.bitext_pairs < 2:
            problems.append(f"bitext_pairs is {self.bitext_pairs}, but a translation needs others as negatives: give 2 or more (32)")
        if not 0 < self.bitext_weight < math.inf:
            problems.append(f"bitext_weight is {self.bitext_weight}: give a number above 0 (0.2)")
        if not 0 <= self.bitext_margin <= 2:
            problems.append(f"bitext_margin is {self.bitext_margin}, but it is subtracted from a cosine: give 0 to 2 (0.3)")
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
