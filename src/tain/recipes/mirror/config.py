"""Settings of mirroring, with the help texts of the command line; light to import."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal, get_args

from tain.foundation.choices import FILLED, Dtype, Pooling, filled_in, refuse_wrong_kinds, wrong_seed
from tain.foundation.errors import UserError, refuse_all

Level = Literal["word", "phrase", "sentence"]
Recipe = Literal["default", "paper", "fast", "best"]
TokenWeighting = Literal["none", "sif"]
MirrorOptimizer = Literal["adamw", "muon"]
Head = Literal["none", "mlp"]

POSITIVES = ("identity", "neighbours", "crops")


@dataclass(frozen=True, kw_only=True)
class Preset:
    """The paper's values for one level of text (table in section 3 and appendix)."""

    temperature: float
    erased_chars: int
    erase_min_chars: int
    epochs: int
    max_tokens: int
    pooling: Pooling


PRESETS: dict[str, Preset] = {
    "word": Preset(temperature=0.2, erased_chars=0, erase_min_chars=30, epochs=2, max_tokens=25, pooling="cls"),
    # with the released code's minimum of 30 characters, nearly no name would be erased
    "phrase": Preset(temperature=0.04, erased_chars=2, erase_min_chars=6, epochs=2, max_tokens=25, pooling="cls"),
    "sentence": Preset(temperature=0.04, erased_chars=5, erase_min_chars=30, epochs=1, max_tokens=50, pooling="mean"),
}


@dataclass(frozen=True, kw_only=True)
class MirrorConfig:
    """Settings of mirroring (identity fine-tuning, Liu et al. 2021, section 2). None is filled in from recipe, level and model."""

    recipe: Annotated[
        Recipe,
        "default; paper (the released Mirror-BERT recipe, unchanged); fast (whitened input embeddings, seconds; with documents, trained token vectors); "
        "best (token weights, neighbouring sentences if there are documents, whitening; words: joined with token vectors)",
    ] = "default"
    level: Annotated[Level, "kind of text; sets the paper's values for the settings below"] = "sentence"
    positives: Annotated[
        str | None,
        "which texts form a positive pair: identity (a text and itself), neighbours (consecutive sentences of a document), crops (two random "
        "spans of a text), or several joined by + (identity; best: neighbours if there are documents)",
    ] = None
    max_pairs: Annotated[
        int | None,
        "train on at most this many pairs of neighbours, drawn at random; 0 takes all (what the model's folder says, else 20,000)",
    ] = None
    token_weights: Annotated[
        TokenWeighting | None,
        "token weights in the mean: none, or sif (a / (a + frequency in your texts)) (none; best, fast: sif)",
    ] = None
    sif_smoothing: Annotated[float | None, "the a of sif: relative frequency of a token with weight one half (0.001; fast: 0.01)"] = None
    whiten: Annotated[
        float | None,
        "whitening exponent of the finished vectors, 0 (none) to 1 (all variances 1) (0; best, fast: 0.5; words: only joined, or fast without documents)",
    ] = None
    anchor: Annotated[
        float | None,
        "weight of a loss that keeps cosines between texts close to those of trained token vectors, which ignore word order; 0 turns it off (0; best: 20)",
    ] = None
    anchor_pairs: Annotated[int, "pairs that the token vectors are trained on, a text up to four times; cheap"] = 2_000_000
    static_share: Annotated[
        float | None,
        "share of the token vectors in the similarity of a joined encoder, 0 to 1; default: 0.5, or more if at least 100 held-out pairs "
        "(neighbours, your own, or copies of texts) then find each other clearly better; words: 0.7",
    ] = None
    join: Annotated[
        bool | None,
        "join the encoder with the anchor's (words: the documents'; fast: its own) token vectors into one model of twice the width; needs ModernBERT's layout and "
        "--whiten (no; best: yes if the model has that layout)",
    ] = None
    residual_scale: Annotated[
        float, "scales each layer's residual contribution before training; small values keep more of the input embeddings, for few texts"
    ] = 1.0
    temperature: Annotated[
        float | None, "divides the cosines, above 0; small values weight the hardest negatives more (0.04; words 0.2)"
    ] = None
    erased_chars: Annotated[int | None, "characters erased in one view; 0 erases nothing (5; phrases 2; words 0)"] = None
    erase_min_chars: Annotated[int | None, "texts with fewer characters are never erased (30; phrases 6)"] = None
    repeat_share: Annotated[
        float, "repeat up to this share of the tokens of one view in place, the number drawn for each text; 0 repeats none (0.3)"
    ] = 0.0
    queue_texts: Annotated[
        int, "also push away this many texts of earlier batches, as a slowly following copy of the encoder reads them; 0 keeps none (500)"
    ] = 0
    momentum: Annotated[
        float | None, "share of the old weights that the copy for --queue-texts keeps in each step, 0 to below 1 (0.995)"
    ] = None
    noise_negatives: Annotated[int, "also push away this many random normal vectors, drawn for each step; 0 draws none (200)"] = 0
    head: Annotated[
        Head, "mlp trains through a dense layer with tanh on the pooled vector, which is dropped afterwards; none trains the vector itself"
    ] = "none"
    mlm_weight: Annotated[
        float, "weight of an added masked language modelling loss on the same texts, by the model's own prediction head; 0 adds none (0.1)"
    ] = 0.0
    decoder_weight: Annotated[
        float,
        "weight of an added loss: a one-layer decoder, which is dropped afterwards, restores half of a text's tokens from its vector; 0 adds none (0.1)",
    ] = 0.0
    prompt: Annotated[
        str | None, "put this before each text, in training and in the saved encoder (its default prompt); a mean leaves its tokens out"
    ] = None
    dropout: Annotated[
        float | None, "dropout everywhere but on attention weights; 0 to below 1 (0.1, unless the model's folder suggests another)"
    ] = None
    attention_dropout: Annotated[float | None, "dropout on attention weights; default: same as --dropout"] = None
    drophead: Annotated[float, "instead, drop whole attention heads with this probability (BERT 0.2, RoBERTa 0.05)"] = 0.0
    pooling: Annotated[Pooling | None, "how token vectors become one: cls or mean (sentences mean, else cls)"] = None
    max_tokens: Annotated[int | None, "longer texts are cut, special tokens included (50, words and phrases 25, or the model's limit)"] = (
        None
    )
    batch_texts: Annotated[int, "texts per step, 2 or more; each is encoded twice"] = 200
    epochs: Annotated[int | None, "passes over the texts (1; words and phrases 2)"] = None
    optimizer: Annotated[
        MirrorOptimizer | None, "adamw, or muon (on the layers' matrices, with AdamW for the rest; needs torch 2.9) (adamw; best: muon)"
    ] = None
    matrix_learning_rate: Annotated[float | None, "Muon's learning rate; default: scaled to the model's width and weights"] = None
    learning_rate: Annotated[
        float | None, "AdamW's learning rate; default: what the model's folder suggests, else the paper's 2e-5, scaled to width and weights"
    ] = None
    weight_decay: Annotated[float, "AdamW's weight decay, on every parameter"] = 0.01
    max_texts: Annotated[int, "train on at most this many texts, sampled at random; 0 takes all (the paper: best at 10k to 20k)"] = 10_000
    keep_duplicates: Annotated[bool | None, "also train on repeated texts, which are not each other's negatives (no; paper: yes)"] = None
    held_out: Annotated[
        int | None,
        "held-out texts to measure on, at most a tenth of all or the rest beyond max_texts; 0 measures nothing (500; paper: 0)",
    ] = None
    dims: Annotated[
        str | None,
        "also train prefixes of the vectors of these lengths, joined by commas: 64,128,256 (Matryoshka); vectors can be cut there later",
    ] = None
    curve_steps: Annotated[
        int | None,
        "steps between measurements of self-retrieval on the held-out texts; 0 measures only before and after (a twentieth of the run, 10 or more)",
    ] = None
    stop_early: Annotated[bool, "end the training when self-retrieval on the held-out texts no longer rises, and keep the best weights"] = (
        False
    )
    patience: Annotated[int, "measurements without a rise after which --stop-early ends the training"] = 3
    keep_best: Annotated[
        bool | None,
        "keep the weights with the highest self-retrieval on the held-out texts, not the last ones (no; with --stop-early: yes)",
    ] = None
    refuse_worse: Annotated[bool, "save nothing if the encoder is worse than the untouched model by the figures on the held-out texts"] = (
        False
    )
    budget_s: Annotated[
        float | None, "wall-clock budget in seconds, including loading and saving; the training length is chosen to fit"
    ] = None
    seeds: Annotated[int, "train this many runs and keep the best by the label-free figures"] = 1
    seed: Annotated[int, "seed of data order, erased spans and dropout of the first run"] = 13
    micro_batch_tokens: Annotated[int, "tokens per micro-batch; saves memory with the same gradient, but takes about a third more time"] = (
        32_768
    )
    allow_identical_views: Annotated[bool, "train even if the two views of a text are identical (an ablation of the paper)"] = False
    checkpoint_every_s: Annotated[float, "seconds between checkpoints of a long run"] = 120.0
    resume: Annotated[bool, "continue from the checkpoint next to the output folder"] = False
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU if there is one"] = None
    dtype: Annotated[Dtype, "data type of the computation: float32, bfloat16, or auto, which measures the faster one"] = "auto"
    trust_remote_code: Annotated[bool, "allow the model to run Python code from its folder"] = False

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = []
        if self.level not in PRESETS:
            problems.append(f"level is {self.level!r}: give word, phrase or sentence")
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            problems.append(
                f"temperature is {self.temperature}, but similarities are divided by it: give a number above 0 (sentences: 0.04, words: 0.2)"
            )
        if self.recipe not in get_args(Recipe):
            problems.append(f"recipe is {self.recipe!r}: give {', '.join(get_args(Recipe))}")
        if self.positives is not None and (set(self.positive_kinds) - set(POSITIVES) or not self.positives):
            problems.append(
                f"positives is {self.positives!r}: give {', '.join(POSITIVES)}, or several joined by +, for example neighbours+identity"
            )
        if self.token_weights not in (None, *get_args(TokenWeighting)):
            problems.append(f"token_weights is {self.token_weights!r}: give none or sif")
        if self.join and self.recipe == "fast" and self.level == "word":
            problems.append("recipe fast joins vectors of sentences, not of words: leave out --join, or give --recipe best")
        elif self.join and self.recipe == "fast" and self.whiten == 0:
            problems.append("recipe fast joins whitened vectors, but whiten is 0: leave out --join, or give --whiten 0.5")
        elif self.join and self.recipe != "fast" and not self.is_best_for_words and (self.anchor == 0 or self.whiten == 0):
            problems.append(
                "join needs an anchor, to provide token vectors, and whitening, to weight both parts: give --anchor 20 --whiten 0.5"
            )
        if self.static_share is not None and not 0 <= self.static_share <= 1:
            problems.append(f"static_share is {self.static_share}, but it is a share: give 0 to 1 (0.5)")
        if self.static_share is not None and not self.may_join:
            problems.append("static_share only applies to a joined encoder: give --recipe best or --join, or leave it out")
        if not 0 < self.residual_scale <= 1:
            problems.append(f"residual_scale is {self.residual_scale}: give a number above 0 and at most 1 (0.1 for a few thousand texts)")
        if self.anchor is not None and not 0 <= self.anchor < math.inf:
            problems.append(f"anchor is {self.anchor}, but it is a weight: give 0 or more (20)")
        if self.sif_smoothing is not None and not 0 < self.sif_smoothing < math.inf:
            problems.append(f"sif_smoothing is {self.sif_smoothing}, but it is a relative frequency: give a number above 0 (0.01)")
        if self.whiten is not None and not 0 <= self.whiten <= 1:
            problems.append(f"whiten is {self.whiten}, but it is an exponent of the variances: give 0 (none) to 1 (all variances 1)")
        problems += self._problems_of_recipe()
        problems += self._problems_of_curve()
        problems += self._problems_of_switches()
        for name in ("erased_chars", "erase_min_chars", "max_texts", "max_pairs", "anchor_pairs", "held_out", "curve_steps", *_COUNTED):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                problems.append(f"{name} is {value}, but it is a count: give 0 or more")
        for name in ("dropout", "attention_dropout", "drophead"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                problems.append(f"{name} is {value}, but it is a probability and 1 would drop everything: give 0 to below 1 (dropout: 0.1)")
        if self.batch_texts < 2:
            problems.append(f"batch_texts is {self.batch_texts}, but a text needs others as negatives: give 2 or more (the paper: 200)")
        problems += wrong_seed(self.seed)
        if not self.checkpoint_every_s >= 0:
            problems.append(f"checkpoint_every_s is {self.checkpoint_every_s}: give 0 seconds or more")
        if 0 < self.max_texts < (self.batch_texts if self.budget_s is None else 2):
            problems.append(f"max_texts is {self.max_texts}, fewer than a batch of {self.batch_texts}: give more, or a smaller batch_texts")
        if self.dtype not in get_args(Dtype):
            problems.append(f"dtype is {self.dtype!r}: give {', '.join(get_args(Dtype))}")
        if self.drophead > 0 and self.pooling == "mean-with-padding":
            problems.append("drophead needs packed attention, but pooling mean-with-padding needs padding: leave one of them out")
        for name in ("epochs", "seeds", "micro_batch_tokens", "patience"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}: give 1 or more")
        if self.max_tokens is not None and self.max_tokens < 3:
            problems.append(f"max_tokens is {self.max_tokens}, but special tokens take 2 of them: give 3 or more")
        if self.optimizer not in (None, *get_args(MirrorOptimizer)):
            problems.append(f"optimizer is {self.optimizer!r}: give adamw or muon")
        if self.matrix_learning_rate is not None and not 0 < self.matrix_learning_rate < 1:
            problems.append(f"matrix_learning_rate is {self.matrix_learning_rate}: give a number between 0 and 1 (tain-mini: 0.006)")
        if self.matrix_learning_rate is not None and (self.optimizer or ("muon" if self.recipe == "best" else "adamw")) != "muon":
            problems.append("matrix_learning_rate only applies to Muon: give --optimizer muon, or leave it out")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            problems.append(f"learning_rate is {self.learning_rate}: give a number between 0 and 1 (the paper: 2e-5)")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay is {self.weight_decay}: give 0 or more (the paper: 0.01)")
        if self.budget_s is not None and not 0 < self.budget_s < math.inf:
            problems.append(f"budget is {self.budget_s} s: give a time above 0")
        if self.budget_s is not None and (self.seeds > 1 or self.resume):
            problems.append("a budget only works with a single new run: leave out --seeds and --resume, or --budget")
        refuse_all(problems)

    def refuse_without_effect(self) -> None:
        """Refuse settings that have no effect in a recipe without training. Call it on the user's settings, before defaults are filled in.

        Raises:
            UserError: There are such settings.
        """
        of_training = (
            "positives",
            "anchor",
            "temperature",
            "epochs",
            "dropout",
            "attention_dropout",
            "optimizer",
            "learning_rate",
            "budget_s",
            "dims",
            "curve_steps",
            "stop_early",
            "keep_best",
            "momentum",
            "prompt",
        )
        if self.recipe == "fast" and (
            named := [name for name in of_training if getattr(self, name) not in (None, False)] + list(self.switches)
        ):
            raise UserError(
                f"recipe fast takes no training step, so {', '.join(named)} would have no effect: remove it, or give --recipe best"
            )

    @property
    def switches(self) -> tuple[str, ...]:
        """Names of the parts that only training has, as far as they are on."""
        return tuple(name for name in _SWITCHES if getattr(self, name) not in (0, "none"))

    @property
    def positive_kinds(self) -> tuple[str, ...]:
        """The kinds of positive pairs, in order; identity by default."""
        return tuple(part.strip() for part in (self.positives or "identity").split("+"))

    @property
    def trains(self) -> bool:
        """Whether the encoder is trained."""
        return self.recipe != "fast"

    @property
    def is_best_for_words(self) -> bool:
        """Whether this is the recipe ``best`` for single words: each paired with itself, and the encoder joined with token vectors."""
        return self.recipe == "best" and self.level == "word" and not self.anchor and self.positive_kinds == ("identity",)

    @property
    def trains_token_vectors(self) -> bool:
        """Whether there are token vectors, trained on pairs of neighbours if there are any: as an anchor, as the result, or to be joined."""
        is_result = self.recipe == "fast" and ("neighbours" in self.positive_kinds or bool(self.join))
        return bool(self.anchor) or is_result or (self.is_best_for_words and self.join is not False)

    @property
    def may_join(self) -> bool:
        """Whether the encoder is joined with token vectors, if the model and the other settings allow it."""
        return self.recipe == "best" if self.join is None else self.join

    @property
    def chooses_static_share(self) -> bool:
        """Whether the share of the token vectors is chosen by held-out pairs, if the encoder is joined."""
        return self.may_join and self.static_share is None and self.budget_s is None and self.level != "word"

    def for_texts(self, *, has_documents: bool, suggested: Mapping[str, float | int] | None = None) -> "MirrorTextsConfig":
        """Fill what decides which texts are read: positives, their number, duplicates and held-out texts.

        Args:
            has_documents: Whether there are documents to take neighbouring sentences from.
            suggested: What the model's own folder wants; ``max_pairs`` may be among it.
        """
        is_paper = self.recipe == "paper"
        is_for_words = self.recipe == "best" and self.level == "word" and not self.anchor
        by_recipe = "neighbours" if self.recipe in ("fast", "best") and has_documents and not is_for_words else "identity"
        filled = {"positives": by_recipe, "keep_duplicates": is_paper, "held_out": 0 if is_paper else 500}
        filled["max_pairs"] = int((suggested or {}).get("max_pairs", 20_000))
        is_anchored = self.recipe == "best" and not (is_for_words and self.positives in (None, "identity"))
        filled |= {"anchor": 20.0 if is_anchored else 0.0}  # fast trains token vectors without an encoder to anchor
        kind = ResolvedMirrorConfig if isinstance(self, ResolvedMirrorConfig) else MirrorTextsConfig
        return kind(**filled_in(self, filled))

    @property
    def prefix_dims(self) -> tuple[int, ...]:
        """Lengths of the trained prefixes, besides the whole vector; empty for none."""
        return () if self.dims is None else tuple(int(part) for part in self.dims.split(","))

    def _problems_of_curve(self) -> list[str]:
        problems = []
        if self.dims is not None:
            parts = [part.strip() for part in self.dims.split(",")]
            lengths = [int(part) if part.isdecimal() else 0 for part in parts]
            if min(lengths) < 2 or lengths != sorted(set(lengths)):
                problems.append(f"dims is {self.dims!r}: give lengths of 2 or more, ascending and joined by commas, for example 64,128,256")
            if self.join or self.whiten:
                problems.append("dims trains the first numbers of each vector, but joining and whitening mix all of them: leave them out")
        asked = [name for name in ("stop_early", "keep_best", "refuse_worse") if getattr(self, name)]
        is_unmeasured = self.held_out == 0 or (self.held_out is None and self.recipe == "paper")
        if asked and is_unmeasured:
            problems.append(f"{', '.join(asked)} needs held-out texts, and there are none: give --held-out 500")
        if (self.stop_early or self.keep_best) and self.curve_steps == 0:
            problems.append("stop_early and keep_best need measurements, but curve_steps is 0: leave it out, or give 10")
        return problems

    def _problems_of_switches(self) -> list[str]:
        problems = []
        if not 0 <= self.repeat_share <= 1:
            problems.append(f"repeat_share is {self.repeat_share}, but it is a share of the tokens: give 0 to 1 (0.3)")
        if self.momentum is not None and not 0 <= self.momentum < 1:
            problems.append(f"momentum is {self.momentum}, but with 1 the copy would never follow: give 0 to below 1 (0.995)")
        if self.momentum is not None and not self.queue_texts:
            problems.append("momentum only applies to the encoder of a queue: give --queue-texts 500, or leave it out")
        if self.prompt is not None and not self.prompt.strip():
            problems.append(f"prompt is {self.prompt!r}: give text, or leave it out")
        if self.prompt is not None and (self.pooling or ("mean-with-padding" if self.recipe == "paper" else "mean")) == "mean-with-padding":
            problems.append("prompt needs pooling cls or mean, but this mean includes padding: give --pooling mean, or --recipe default")
        for name in ("mlm_weight", "decoder_weight"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                problems.append(f"{name} is {value}, but it is a weight: give 0 or more (0.1)")
        if self.head not in get_args(Head):
            problems.append(f"head is {self.head!r}: give {' or '.join(get_args(Head))}")
        elif self.head != "none":
            if self.anchor or (self.anchor is None and self.recipe == "best"):
                problems.append(
                    "head trains other vectors than the saved ones, but an anchor compares the saved ones: give --anchor 0, or --head none"
                )
            if self.dims is not None:
                problems.append(f"dims is {self.dims!r}, but a head mixes all numbers of a vector: leave one of them out")
        return problems

    def _problems_of_recipe(self) -> list[str]:
        problems = []
        if self.recipe == "fast" and (self.seeds > 1 or self.resume):
            problems.append("recipe fast takes no training step, so it has one result: remove --seeds and --resume")
        if self.recipe == "paper" and self.positives not in (None, "identity"):
            problems.append(
                f"positives is {self.positives!r}, but the paper's recipe only has identity: leave it out, or give --recipe default"
            )
        if self.token_weights == "sif" and self.pooling not in (None, "mean"):
            problems.append(f"token_weights is sif and pooling is {self.pooling!r}, but only a mean can be weighted: give --pooling mean")
        return problems

    def resolved(
        self,
        *,
        width: int,
        weight_rms: float,
        suggested: Mapping[str, float | int] | None = None,
        model_type: str = "",
        longest: int | None = None,
    ) -> "ResolvedMirrorConfig":
        """Fill in None from the recipe and the level's preset; learning rate and dropout from the model.

        Texts without ``for_texts`` count as texts without documents.

        Args:
            width: Width of the hidden states.
            weight_rms: Root mean square of the hidden layers' matrices.
            suggested: ``learning_rate``, ``matrix_learning_rate`` and ``dropout`` as the model's own folder wants them; any may be missing.
            model_type: The model's family as its ``config.json`` names it; the paper's recipe pools by it.
            longest: Tokens that the model reads; None: more than any preset.
        """
        if not isinstance(self, MirrorTextsConfig):
            texts = self.for_texts(has_documents=False, suggested=suggested)
            return texts.resolved(width=width, weight_rms=weight_rms, suggested=suggested, model_type=model_type, longest=longest)
        filled: dict[str, Any] = {**asdict(PRESETS[self.level]), "dropout": _PAPERS_DROPOUT}
        filled["learning_rate"] = float(f"{default_learning_rate(width, weight_rms):.2g}")
        filled |= {name: value for name, value in (suggested or {}).items() if name in ("learning_rate", "dropout")}
        filled |= {"token_weights": "none", "whiten": 0.0, "optimizer": "muon" if self.recipe == "best" else "adamw"}
        if self.recipe == "paper":
            filled |= papers_values(self.level, model_type)
            if self.drophead > 0 and filled["pooling"] == "mean-with-padding":
                filled["pooling"] = "mean"  # drophead needs packed batches, which have no padding
        elif self.recipe in ("fast", "best"):
            filled |= {"pooling": "mean"} | ({} if self.level == "word" else {"token_weights": "sif", "whiten": 0.5})
            if self.recipe == "fast" and "neighbours" not in self.positive_kinds:
                filled["whiten"] = 0.5  # input embeddings share a large mean, which trained token vectors of words have lost
        filled["keep_best"] = self.stop_early
        filled["max_tokens"] = min(filled["max_tokens"], longest or filled["max_tokens"])
        if self.dims is not None:
            filled["whiten"] = 0.0  # whitening and joining mix the numbers of a vector
        whiten = filled["whiten"] if self.whiten is None else self.whiten
        has_vectors = ((bool(self.anchor) or self.recipe == "fast") and whiten > 0) or (self.is_best_for_words and self.dims is None)
        can_join = has_vectors and model_type == "modernbert" and self.pooling in (None, "mean")
        filled["join"] = self.recipe == "best" and can_join
        joins = filled["join"] if self.join is None else self.join
        if joins and self.is_best_for_words:
            filled["whiten"] = _JOINED_WORDS_WHITENING
        if self.static_share is not None and not joins:
            raise UserError(
                f"static_share is {self.static_share:g}, but the encoder is not joined with token vectors, which needs ModernBERT's layout"
                f" (the model's is {model_type!r}), an anchor, whitening, a mean as pooling and no --dims: leave it out"
            )
        filled["sif_smoothing"] = 1e-2 if self.recipe == "fast" else 1e-3
        if self.is_best_for_words:
            filled["optimizer"] = "adamw"  # few short steps: as in the default recipe
        elif self.recipe == "best":
            filled |= {"temperature": 0.05, "learning_rate": 2 * filled["learning_rate"]}
            if "identity" not in self.positive_kinds:
                filled["dropout"] = 0.0  # two different texts need no dropout, and a step is faster
        if self.pooling not in (None, "mean") or (self.recipe == "fast" and self.join):
            filled["token_weights"] = "none"  # untrained layers lose by weights (docs/LOG.md, 2026-11-30)
        if (self.optimizer or filled["optimizer"]) == "muon":
            scaled = float(f"{default_matrix_rate(width, weight_rms):.2g}")
            filled["matrix_learning_rate"] = (suggested or {}).get("matrix_learning_rate", scaled)
        filled = {name: value for name, value in filled.items() if getattr(self, name) is None}
        if self.drophead > 0 and self.dropout is None:
            filled["dropout"] = 0.0  # the paper's drophead variant replaces dropout
        if self.queue_texts and self.momentum is None:
            filled["momentum"] = _MOMENTUM
        if self.attention_dropout is None:
            filled["attention_dropout"] = 0.0 if self.drophead > 0 else filled.get("dropout", self.dropout)
        return ResolvedMirrorConfig(**filled_in(self, filled))


@dataclass(frozen=True, kw_only=True)
class MirrorTextsConfig(MirrorConfig):
    """Settings of mirroring that decide which texts are read, none of them None."""

    positives: str = FILLED
    max_pairs: int = FILLED
    anchor: float = FILLED
    keep_duplicates: bool = FILLED
    held_out: int = FILLED


@dataclass(frozen=True, kw_only=True)
class ResolvedMirrorConfig(MirrorTextsConfig):
    """Settings of mirroring with every default filled in, as they are saved.

    Still None if they do not apply: ``matrix_learning_rate`` (set for Muon only), ``momentum``, ``dims``, ``budget_s`` and ``device``. ``curve_steps``
    is None if it follows from the length of the run.
    """

    token_weights: TokenWeighting = FILLED
    sif_smoothing: float = FILLED
    whiten: float = FILLED
    join: bool = FILLED
    temperature: float = FILLED
    erased_chars: int = FILLED
    erase_min_chars: int = FILLED
    dropout: float = FILLED
    attention_dropout: float = FILLED
    pooling: Pooling = FILLED
    max_tokens: int = FILLED
    epochs: int = FILLED
    optimizer: MirrorOptimizer = FILLED
    learning_rate: float = FILLED
    keep_best: bool = FILLED


def default_learning_rate(width: int, weight_rms: float) -> float:
    """Scale the paper's learning rate, 2e-5 for BERT-base, to other widths and weight magnitudes.

    AdamW moves every weight by about the learning rate per step, so the step relative to the weights matters: 2e-5 to 0.043 for
    BERT-base. Narrow models need larger relative steps; the exponent is fitted to our own searches (``docs/LOG.md``).

    Args:
        width: Width of the hidden states.
        weight_rms: Root mean square of the hidden layers' matrices.
    """
    return _PAPERS_RELATIVE_STEP * weight_rms * max(1.0, 768 / width) ** 2.1


def default_matrix_rate(width: int, weight_rms: float) -> float:
    """Scale Muon's learning rate to a model. An update is an orthogonal matrix with entries of about 1 / sqrt(width).

    As with AdamW, the step relative to the weights matters; the factor gives 0.006 for tain-mini (``docs/LOG.md``).

    Args:
        width: Width of the hidden states.
        weight_rms: Root mean square of the hidden layers' matrices.
    """
    return _MUON_RELATIVE_STEP * weight_rms * width**0.5


_MUON_RELATIVE_STEP = 2e-3
_JOINED_WORDS_WHITENING = 0.5  # chosen on SimLex-999
_MOMENTUM = 0.995
_COUNTED = ("queue_texts", "noise_negatives")
_SWITCHES = ("repeat_share", "queue_texts", "noise_negatives", "head", "mlm_weight", "decoder_weight")


def papers_values(level: Level, model_type: str) -> dict[str, Any]:
    """Return the values of the released Mirror-BERT recipe that depend on level and model (Liu et al. 2021, and the released code).

    For sentences, BERT uses mean pooling, including padding as in the released code; RoBERTa uses the first token. For words and
    phrases, both use the first token.

    Args:
        level: Kind of text.
        model_type: The model's family as its ``config.json`` names it; families that the paper does not cover count as BERT.
    """
    is_mean = level == "sentence" and model_type not in _ROBERTAS
    return {
        "pooling": "mean-with-padding" if is_mean else "cls",
        "learning_rate": 2e-5,
        "dropout": _PAPERS_DROPOUT,
        "erase_min_chars": 30,
    }


_ROBERTAS = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm")
_PAPERS_DROPOUT = 0.1
_PAPERS_RELATIVE_STEP = 2e-5 / 0.043
