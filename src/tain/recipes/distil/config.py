"""Settings of distillation. Light to import: the command line reads its help from here."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated, Literal, get_args

from tain.foundation.choices import Dtype, Split, refuse_wrong_kinds
from tain.foundation.errors import UserError, refuse_all

NONE = "none"  # the name that stands for no teacher

Task = Literal["embed", "classify", "tag"]
StudentKind = Literal["pqrnn", "static"]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes and lengths for one kind of task."""

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
    # 3.6 MB with 384 outputs: words take most of it, for the layers take most of the time
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
    # the bytes of the "2M, 8-bit" shape (1,024 features, 4 layers; the paper's as far as we know), more of them for words
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
    # a tag belongs to what stands between blanks, so nothing is parted further
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


# settings that say nothing to a task or a kind of student
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
_OF_TEACHERS = ("logit_scale", "label_weight", "word_replacement")  # without one nobody says anything of texts but what is given
_IDLE: dict[str, tuple[str, ...]] = {
    "pqrnn": ("static_dim",),
    "static": _OF_PQRNN,
    "embed": ("augmented_copies", "word_replacement", "logit_scale", "label_weight"),
    "classify": ("temperature", "similarity_weight", "vector_weight"),
    "tag": ("temperature", "similarity_weight", "vector_weight"),
}


@dataclass(frozen=True, kw_only=True)
class DistilConfig:
    """Distillation into a tiny student (Kaliamoorthi et al. 2021). What is None is filled from the task's preset."""

    task: Annotated[Task, "embed: vectors from raw texts; classify: a label a text; tag: a tag a token, and a label"] = "embed"
    student: Annotated[StudentKind, "pqrnn: reads in order, no vocabulary; static: a mean of token vectors, fastest"] = "pqrnn"
    features: Annotated[int | None, "hashed features a token (embed 10240, else 4096)"] = None
    ngram_features: Annotated[int | None, "how many of these come from character n-grams; 0 as in the paper (half of them)"] = None
    bottleneck: Annotated[int | None, "width behind the features (256)"] = None
    state: Annotated[int | None, "width of a layer's state, each direction (128)"] = None
    layers: Annotated[int | None, "quasi-recurrent layers (2)"] = None
    mean_skip: Annotated[bool, "what is said of whole texts also reads the mean of the narrow layer, past the others"] = True
    kernel_width: Annotated[int | None, "tokens that a gate sees (2)"] = None
    forward_only: Annotated[bool | None, "read forwards only, for text that is still being typed (no)"] = None
    separate: Annotated[bool | None, "make punctuation marks tokens of their own (yes; tag never)"] = None
    split: Annotated[Split, "where tokens end; code-point makes each character one, for writing without blanks"] = "space"
    max_tokens: Annotated[int, "longer texts are cut"] = 128
    init_from: Annotated[str | None, "student to begin with, which was distilled with keep_weights; gives the shape, too"] = None
    keep_weights: Annotated[bool, "keep the weights as they were trained beside the student, four bytes each, for others to begin with"] = (
        False
    )
    static_dim: Annotated[int, "width of a static student's token vectors, a byte each"] = 64
    token_vectors: Annotated[str | None, "encoder whose vectors of tokens or words a student starts from; default: the teacher"] = None
    init_words: Annotated[
        int, "frequent words whose vectors, by an encoder, the narrow layer is fitted to before training; 0 leaves it random"
    ] = 20_000
    temperature: Annotated[float, "embed: divides the cosines to the teacher's vectors, above 0"] = 0.05
    similarity_weight: Annotated[float, "embed: weight of matching the teacher's cosines between texts; 0 leaves it out"] = 10.0
    vector_weight: Annotated[float, "embed: weight of matching the teacher's vectors themselves; 0 leaves it out"] = 1.0
    logit_scale: Annotated[float, "labels: multiplies the teacher's logits; above 1 makes it surer of itself"] = 1.0
    label_weight: Annotated[float, "labels: share of the given label where there is one; 0 trusts the teacher alone, 1 the label"] = 0.3
    augmented_copies: Annotated[
        int | None, "labels: changed copies of each text, which the teacher labels (2; without a teacher that can read, 0)"
    ] = None
    word_replacement: Annotated[
        float, "labels: chance of a copy's word to give way to one that an encoder (the teacher's, or token_vectors) finds near it"
    ] = 0.2
    distortion: Annotated[float | None, "chance of a token to be misspelt in training (embed 0, else 0.1)"] = None
    zoneout: Annotated[float | None, "chance p of a state to stay as it is, p squared in the second layer, ... (embed 0, else 0.1)"] = None
    batch_texts: Annotated[int | None, "texts a step, 2 or more (embed 256, else 128)"] = None
    epochs: Annotated[int | None, "passes over the texts; 0 leaves a static student as it starts (embed 3, else 30)"] = None
    learning_rate: Annotated[float, "AdamW's step at its height; it falls to 0"] = 2e-3
    weight_decay: Annotated[float, "AdamW's decay"] = 0.01
    max_texts: Annotated[int, "train on at most this many texts, drawn at random; 0 takes all"] = 200_000
    held_out: Annotated[int, "texts kept from training to measure on, at most a tenth of all; 0 measures nothing"] = 500
    seed: Annotated[int, "fixes weights, data order, misspellings and zoneout"] = 13
    checkpoint_every_s: Annotated[float, "seconds between checkpoints of a long run"] = 120.0
    resume: Annotated[bool, "go on from the checkpoint beside the output folder"] = False
    device: Annotated[str | None, "cpu, cuda or cuda:N; default: a GPU where there is one"] = None
    dtype: Annotated[Dtype, "what a pqrnn multiplies in while it is trained: float32, bfloat16, or auto, which measures"] = "auto"
    trust_remote_code: Annotated[bool, "let the teacher's folder bring Python code of its own"] = False

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
                problems.append(f"{', '.join(idle)} says nothing to --{flag} {chosen}: leave it out")
        if self.student == "pqrnn" and self.token_vectors is not None and not self.init_words:
            problems.append("token_vectors are what a pqrnn starts from, by init_words: leave them out")
        if self.init_from is not None and (self.init_words != type(self).init_words or (self.token_vectors and self.task == "embed")):
            problems.append("init_words and token_vectors are for students that begin with random weights: leave them out, or init_from")
        if self.task == "tag" and (self.separate or self.split != "space"):
            problems.append("separate and split part tokens further than their tags: leave them out with --task tag")
        if self.augmented_copies == 0 and self.word_replacement != type(self).word_replacement:
            problems.append("word_replacement changes copies, and augmented_copies 0 makes none: leave one of the two out")
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
            "seed",
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
        if self.seed >= 2**63:
            problems.append(f"seed is {self.seed}: give less than 2 to the power 63")
        if self.batch_texts is not None and self.batch_texts < 2:
            problems.append(f"batch_texts is {self.batch_texts}, but a text needs others to be told from: give 2 or more")
        if self.epochs == 0 and (self.student == "pqrnn" or self.task != "embed"):
            problems.append("epochs is 0, but this student begins with random weights (a static one of vectors does not): give 1 or more")
        refuse_all(problems)

    def resolved(self) -> "DistilConfig":
        """Fill what is None from the task's preset; the number of copies waits for the teacher."""
        preset = asdict(PRESETS[self.task])
        if self.student == "static":
            preset = {name: value for name, value in preset.items() if name not in _OF_PQRNN}
        else:
            preset |= {"kernel_width": 2, "forward_only": False}
        if self.features is not None:
            preset["ngram_features"] = self.features // 2
        return replace(self, **{name: value for name, value in preset.items() if getattr(self, name) is None})

    def refuse_teachers_settings(self) -> None:
        """Refuse what says nothing where there is no teacher.

        Raises:
            UserError: Such a setting was changed.
        """
        defaults = {entry.name: entry.default for entry in fields(self)}
        if idle := [name for name in _OF_TEACHERS if getattr(self, name) != defaults[name]]:
            raise UserError(f"{', '.join(idle)} says nothing without a teacher: leave it out, or give one")
