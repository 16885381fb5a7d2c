"""Settings of distillation, with the help texts of the command line; light to import."""

import math
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Literal, get_args

from tain.foundation.choices import FILLED, Dtype, Split, filled_in, refuse_wrong_kinds, wrong_seed
from tain.foundation.errors import UserError, refuse_all

NONE = "none"  # in place of a teacher's name

Task = Literal["embed", "classify", "tag"]
StudentKind = Literal["pqrnn", "static"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Default sizes and training lengths of one task."""

    features: int
    ngram_features: int
    bottleneck: int
    state: int
    layers: int
    separate: bool
    distortion: float
    zoneout: float
    batch_texts: int
    epochs: int


PRESETS: dict[str, Preset] = {
    # 3.6 MB with 384 outputs; most of it are word features, because layers cost time
    "embed": Preset(
        features=10240,
        ngram_features=5120,
        bottleneck=256,
        state=128,
        layers=2,
        separate=True,
        distortion=0.0,
        zoneout=0.0,
        batch_texts=256,
        epochs=3,
    ),
    # as large as the "2M, 8-bit" shape (1,024 features, 4 layers; the paper's as far as we know), with more features
    "classify": Preset(
        features=4096,
        ngram_features=2048,
        bottleneck=256,
        state=128,
        layers=2,
        separate=True,
        distortion=0.1,
        zoneout=0.1,
        batch_texts=128,
        epochs=30,
    ),
    # tags belong to whitespace-separated tokens, so tokens are not split further
    "tag": Preset(
        features=4096,
        ngram_features=2048,
        bottleneck=256,
        state=128,
        layers=2,
        separate=False,
        distortion=0.1,
        zoneout=0.1,
        batch_texts=128,
        epochs=30,
    ),
}


# settings that have no effect on a task or a kind of student
_OF_PQRNN = (
    "features",
    "ngram_features",
    "bottleneck",
    "state",
    "layers",
    "mean_skip",
    "kernel_width",
    "forward_only",
    "separate",
    "split",
    "max_tokens",
    "init_from",
    "keep_weights",
    "init_words",
    "distortion",
    "zoneout",
)
_OF_TEACHERS = ("logit_scale", "label_weight", "word_replacement")  # without a teacher there are only the given labels
_IDLE: dict[str, tuple[str, ...]] = {
    "pqrnn": ("static_dim",),
    "static": _OF_PQRNN,
    "embed": ("augmented_copies", "word_replacement", "logit_scale", "label_weight"),
    "classify": ("temperature", "similarity_weight", "vector_weight"),
    "tag": ("temperature", "similarity_weight", "vector_weight"),
}


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """Settings of distillation into a tiny student (Kaliamoorthi et al. 2021). None is filled in from the task's preset."""

    task: Annotated[Task, "embed: vectors from raw texts; classify: one label per text; tag: one tag per token, and a label"] = "embed"
    student: Annotated[StudentKind, "pqrnn: uses word order, needs no vocabulary; static: mean of token vectors, fastest"] = "pqrnn"
    features: Annotated[int | None, "hashed features per token (embed 10240, else 4096)"] = None
    ngram_features: Annotated[int | None, "how many of the features come from character n-grams; 0 as in the paper (half of them)"] = None
    bottleneck: Annotated[int | None, "width of the bottleneck after the features (256)"] = None
    state: Annotated[int | None, "width of a layer's state per direction (128)"] = None
    layers: Annotated[int | None, "quasi-recurrent layers (2)"] = None
    mean_skip: Annotated[bool, "skip connection: the text head also sees the attention-weighted mean of the bottleneck outputs"] = True
    kernel_width: Annotated[int | None, "tokens that a gate sees (2)"] = None
    forward_only: Annotated[bool | None, "read left to right only, for text that is still being typed (no)"] = None
    separate: Annotated[bool | None, "split punctuation marks off as tokens (yes; tag never)"] = None
    split: Annotated[Split, "how texts are split into tokens; code-point makes each character a token, for writing without spaces"] = (
        "space"
    )
    max_tokens: Annotated[int, "longer texts are cut"] = 128
    init_from: Annotated[str | None, "student to start from, distilled with keep_weights; also sets the shape"] = None
    keep_weights: Annotated[bool, "also save the float32 training weights, so that other students can start from them"] = False
    static_dim: Annotated[int, "width of a static student's token vectors, one byte per number"] = 64
    token_vectors: Annotated[str | None, "encoder that provides the initial token or word vectors; default: the teacher"] = None
    init_words: Annotated[
        int, "fit the bottleneck to an encoder's vectors of this many frequent words before training; 0 starts at random"
    ] = 20_000
    temperature: Annotated[float, "embed: divides the cosines to the teacher's vectors, above 0"] = 0.05
    similarity_weight: Annotated[float, "embed: weight of matching the teacher's cosines between texts; 0 turns it off"] = 10.0
    vector_weight: Annotated[float, "embed: weight of matching the teacher's vectors; 0 turns it off"] = 1.0
    logit_scale: Annotated[float, "labels: multiplies the teacher's logits; above 1 makes its predictions more confident"] = 1.0
    label_weight: Annotated[float, "labels: weight of the given label, if there is one; 0 uses only the teacher, 1 only the label"] = 0.3
    augmented_copies: Annotated[
        int | None, "labels: augmented copies per text, labelled by the teacher (2; 0 without a model as teacher)"
    ] = None
    word_replacement: Annotated[
        float,
        "labels: probability of replacing a word of a copy by one with a similar vector in the encoder (the teacher's, or token_vectors)",
    ] = 0.2
    distortion: Annotated[float | None, "probability of misspelling a token in training (embed 0, else 0.1)"] = None
    zoneout: Annotated[
        float | None, "probability p of keeping the previous state, p squared in the second layer, ... (embed 0, else 0.1)"
    ] = None
    batch_texts: Annotated[int | None, "texts per step, 2 or more (embed 256, else 128)"] = None
    epochs: Annotated[int | None, "passes over the texts; 0 keeps a static student as initialised (embed 3, else 30)"] = None
    learning_rate: Annotated[float, "AdamW's peak learning rate; it decays to 0"] = 2e-3
    weight_decay: Annotated[float, "AdamW's weight decay"] = 0.01
    max_texts: Annotated[int, "train on at most this many texts, sampled at random; 0 takes all"] = 200_000
    held_out: Annotated[int, "held-out texts to measure on, at most a tenth of all; 0 measures nothing"] = 500
    seed: Annotated[int, "seed of weights, data order, misspellings and zoneout"] = 13
    checkpoint_every_s: Annotated[float, "seconds between checkpoints of a long run"] = 120.0
    resume: Annotated[bool, "continue from the checkpoint next to the output folder"] = False
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU if there is one"] = None
    dtype: Annotated[
        Dtype, "data type of a pqrnn's matrix products in training: float32, bfloat16, or auto, which measures the faster one"
    ] = "auto"
    trust_remote_code: Annotated[bool, "allow the teacher to run Python code from its folder"] = False

    def __post_init__(self) -> None:
        refuse_wrong_kinds(self)
        problems = []
        if self.task not in get_args(Task):
            problems.append(f"task is {self.task!r}: give {', '.join(get_args(Task))}")
        if self.student not in get_args(StudentKind):
            problems.append(f"student is {self.student!r}: give {' or '.join(get_args(StudentKind))}")
        if self.student == "static" and self.task == "tag":
            problems.append("a static student sees each token alone, so it cannot tag: give --student pqrnn")
        changed = [entry.name for entry in fields(self) if getattr(self, entry.name) != entry.default]
        for flag, chosen in (("student", self.student), ("task", self.task)):
            if idle := [name for name in changed if name in _IDLE.get(chosen, ())]:
                problems.append(f"{', '.join(idle)} has no effect with --{flag} {chosen}: remove it")
        if self.student == "pqrnn" and self.token_vectors is not None and not self.init_words:
            problems.append("token_vectors initialise a pqrnn only through init_words, which is 0: leave them out")
        if self.init_from is not None and (self.init_words != type(self).init_words or (self.token_vectors and self.task == "embed")):
            problems.append(
                "init_words and token_vectors only apply to students that start from random weights: leave them out, or init_from"
            )
        if self.task == "tag" and (self.separate or self.split != "space"):
            problems.append("separate and split would split tokens further than their tags: leave them out with --task tag")
        if self.augmented_copies == 0 and self.word_replacement != type(self).word_replacement:
            problems.append("word_replacement changes copies, but augmented_copies 0 makes none: leave out one of the two")
        if self.split not in get_args(Split):
            problems.append(f"split is {self.split!r}: give {' or '.join(get_args(Split))}")
        if self.student == "static" and self.dtype not in ("auto", "float32"):
            problems.append(f"dtype is {self.dtype}, but a static student is trained in float32: leave it out")
        if self.dtype not in get_args(Dtype):
            problems.append(f"dtype is {self.dtype!r}: give {', '.join(get_args(Dtype))}")
        for name in ("features", "bottleneck", "state", "layers", "kernel_width", "max_tokens", "static_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} is {value}: give 1 or more")
        features = self.features or (PRESETS[self.task].features if self.task in PRESETS else math.inf)
        if self.ngram_features is not None and self.ngram_features > features:
            problems.append(f"ngram_features is {self.ngram_features}: give 0 to all {features} features")
        for name in (
            "ngram_features",
            "augmented_copies",
            "epochs",
            "max_texts",
            "held_out",
            "similarity_weight",
            "vector_weight",
            "weight_decay",
            "init_words",
        ):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                problems.append(f"{name} is {value}: give 0 or more")
        for name in ("label_weight", "word_replacement", "distortion", "zoneout"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                problems.append(f"{name} is {value}, but it is a share: give 0 to 1")
        for name in ("temperature", "logit_scale", "learning_rate"):
            if not getattr(self, name) > 0:
                problems.append(f"{name} is {getattr(self, name)}: give a number above 0")
        for name in ("similarity_weight", "vector_weight", "weight_decay", "temperature", "logit_scale", "learning_rate"):
            if getattr(self, name) == math.inf:
                problems.append(f"{name} is infinite: give a number")
        if not self.checkpoint_every_s >= 0:
            problems.append(f"checkpoint_every_s is {self.checkpoint_every_s}: give 0 seconds or more")
        problems += wrong_seed(self.seed)
        if self.batch_texts is not None and self.batch_texts < 2:
            problems.append(f"batch_texts is {self.batch_texts}, but a text needs others to be compared with: give 2 or more")
        if self.epochs == 0 and (self.student == "pqrnn" or self.task != "embed"):
            problems.append(
                "epochs is 0, but this student starts from random weights (only a static student of vectors does not): give 1 or more"
            )
        refuse_all(problems)

    def resolved(self) -> "ResolvedDistilConfig":
        """Fill in None from the task's preset; the number of copies is set later, from the teacher.

        Returns:
            A ``PqrnnConfig`` for a pQRNN.
        """
        preset = asdict(PRESETS[self.task])
        if self.student == "static":
            preset = {name: value for name, value in preset.items() if name not in _OF_PQRNN}
        else:
            preset |= {"kernel_width": 2, "forward_only": False}
        if self.features is not None:
            preset["ngram_features"] = self.features // 2
        kind = PqrnnConfig if self.student == "pqrnn" else ResolvedDistilConfig
        return kind(**filled_in(self, preset))

    def refuse_teachers_settings(self) -> None:
        """Refuse settings that have no effect without a teacher.

        Raises:
            UserError: Such a setting is not at its default.
        """
        defaults = {entry.name: entry.default for entry in fields(self)}
        if idle := [name for name in _OF_TEACHERS if getattr(self, name) != defaults[name]]:
            raise UserError(f"{', '.join(idle)} has no effect without a teacher: remove it, or give a teacher")


@dataclass(frozen=True, kw_only=True)
class ResolvedDistilConfig(DistilConfig):
    """Settings of distillation with the task's defaults filled in, as they are saved; settings of a pQRNN may be None."""

    batch_texts: int = FILLED
    epochs: int = FILLED


@dataclass(frozen=True, kw_only=True)
class PqrnnConfig(ResolvedDistilConfig):
    """Settings of the distillation of a pQRNN, with its shape filled in."""

    features: int = FILLED
    ngram_features: int = FILLED
    bottleneck: int = FILLED
    state: int = FILLED
    layers: int = FILLED
    kernel_width: int = FILLED
    forward_only: bool = FILLED
    separate: bool = FILLED
    distortion: float = FILLED
    zoneout: float = FILLED
