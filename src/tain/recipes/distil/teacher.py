"""Teachers for distillation: encoders, classifiers, taggers, or their outputs on disk."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.foundation.tensors import read_arrays
from tain.models.correction import LanguageCorrection
from tain.models.embedder import Embedder
from tain.models.labeller import Labeller, checked_names
from tain.models.unknown_tokens import check_known
from tain.recipes.distil.config import NONE
from tain.students.student import is_student
from tain.training import distributed

MATRIX_ENDINGS = (".npy", ".safetensors")


@dataclass(frozen=True)
class TeacherOutputs:
    """A teacher's outputs for some texts.

    Attributes:
        text: Vectors or logits, float32 (texts, outputs); None if the teacher has no outputs for whole texts.
        tokens: Logits of each text's tokens, float32 (tokens, tags), nan beyond the teacher's length limit; None without tags.
    """

    text: np.ndarray | None = None
    tokens: list[np.ndarray] | None = None


@runtime_checkable
class Teacher(Protocol):
    """Protocol of a teacher, which labels texts. Any object with these members can be given to ``distil``."""

    @property
    def name(self) -> str:
        """The name that the user gave."""
        ...

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of its classes, in the order of its logits; None without classes."""
        ...

    @property
    def tags(self) -> tuple[str, ...] | None:
        """Names of its tags; None without tags."""
        ...

    @property
    def reads(self) -> bool:
        """Whether it can label any text, not only those with outputs on disk."""
        ...

    @property
    def size_bytes(self) -> int | None:
        """Size of its weights in float32; None if unknown."""
        ...

    @property
    def embedder(self) -> Embedder | None:
        """The encoder for initial token or word vectors and for similar words."""
        ...

    def teach(self, texts: Sequence[str], *, indices: np.ndarray | None, progress: Progress) -> TeacherOutputs:
        """Label texts; ``indices`` are their positions among the user's texts, None for other texts."""
        ...


def load_teacher(
    name: str | Path,
    *,
    task: str,
    given: int,
    token_counts: Sequence[int] = (),
    classifier: str | Path | None = None,
    labels: Sequence[str] | None,
    tags: Sequence[str] | None,
    device: torch.device,
    trust_remote_code: bool,
) -> Teacher:
    """Load the teacher that labels the texts.

    Args:
        name: A model's folder or hub name, a matrix (.npy, .safetensors), or ``none``.
        task: The student's task.
        given: Number of the user's texts, which is the number of rows that a matrix must have.
        token_counts: For tagging, tokens per text; their sum is the number of rows that a matrix of tags must have.
        classifier: Model for the labels of whole texts, if ``name`` is a tagger.
        labels: Names of the classes, in the order of the logits; default: those in a model's config.
        tags: Names of the tags, in the same way.
        device: Device of a model.
        trust_remote_code: Allow a model to run Python code from its folder.

    Raises:
        UserError: It does not exist, lacks the outputs that the task needs, or has another number of outputs than names.
    """
    is_model = str(name) != NONE and not str(name).endswith(MATRIX_ENDINGS)
    if classifier is not None and not (is_model and task == "tag"):
        raise UserError(
            f"classifier is {str(classifier)!r}, but it only applies with a tagger as teacher: leave it out, or give a tagger and --task tag"
        )
    if str(name) == NONE:
        if task == "embed":
            raise UserError("teacher is none, but vectors can only be learnt from a teacher: give an encoder, or a matrix of vectors")
        return _NoTeacher(labels, tags)
    if not is_model:
        return _MatrixTeacher(Path(name), task=task, given=given, token_counts=token_counts, labels=labels, tags=tags)
    if task == "embed" and is_student(name):
        raise UserError(
            f"teacher {str(name)!r} is itself a student: run tain encode {name} TEXTS -o vectors.npy and give vectors.npy as teacher"
        )
    if task == "embed":
        embedder = Embedder.load(name, device=str(device), dtype="float32", trust_remote_code=trust_remote_code)
        if isinstance(embedder.correction, LanguageCorrection):
            raise UserError(
                f"teacher {str(name)!r} has a correction per language, but training texts have no language: give the encoder that it was"
                f" made from, or a matrix of vectors from tain encode {name} TEXTS --language ... -o vectors.npy"
            )
        return _EncoderTeacher(embedder)
    whole = name if task == "classify" else classifier
    for each in (name, classifier):
        if each is not None and is_student(each):
            raise UserError(
                f"teacher {str(each)!r} is itself a student: give the model that it was distilled from, or a matrix of its logits"
            )
    options = {"device": str(device), "trust_remote_code": trust_remote_code}
    return _LabellerTeacher(
        str(name),
        tagger=Labeller.load(name, kind="tag", names=tags, **options) if task == "tag" else None,
        classifier=Labeller.load(whole, kind="classify", names=labels, **options) if whole is not None else None,
        labels=labels,
        embedder=partial(Embedder.load, whole if whole is not None else name, dtype="float32", below_head=True, **options),
    )


class _NoTeacher:
    name, reads, size_bytes, embedder = NONE, False, None, None

    def __init__(self, labels: Sequence[str] | None, tags: Sequence[str] | None) -> None:
        self.labels, self.tags = _as_given(labels), _as_given(tags)

    def teach(self, texts: Sequence[str], *, indices: np.ndarray | None, progress: Progress) -> TeacherOutputs:
        return TeacherOutputs()


class _EncoderTeacher:
    reads, labels, tags = True, None, None

    def __init__(self, embedder: Embedder) -> None:
        self.embedder, self.name = embedder, embedder.name
        self.size_bytes = 4 * sum(parameter.numel() for parameter in embedder.encoder.parameters())

    def fingerprint(self) -> str:
        return self.embedder.fingerprint()

    def teach(self, texts: Sequence[str], *, indices: np.ndarray | None, progress: Progress) -> TeacherOutputs:
        check_known(self.embedder, texts, progress=progress, is_training=True)
        vectors = self.embedder.encode(texts, progress=progress)
        _tell_of_cuts(self.embedder, texts, progress)
        return TeacherOutputs(text=vectors)


class _LabellerTeacher:
    """A classifier, a tagger, or both together."""

    reads = True

    def __init__(
        self,
        name: str,
        *,
        tagger: Labeller | None,
        classifier: Labeller | None,
        labels: Sequence[str] | None,
        embedder: Callable[[], Embedder],
    ) -> None:
        self.name, self._tagger, self._classifier = name, tagger, classifier
        self._load_embedder, self._embedder = embedder, None
        self.labels = classifier.labels if classifier is not None else _as_given(labels)
        self.tags = tagger.tags if tagger is not None else None
        self.size_bytes = sum(labeller.size_bytes for labeller in (tagger, classifier) if labeller is not None)

    @property
    def embedder(self) -> Embedder:
        """The model without its head, loaded on first use."""
        if self._embedder is None:
            self._embedder = self._load_embedder()
        return self._embedder

    def fingerprint(self) -> str:
        each = [labeller.fingerprint() for labeller in (self._tagger, self._classifier) if labeller is not None]
        return hashlib.sha256(" ".join(each).encode()).hexdigest()

    def teach(self, texts: Sequence[str], *, indices: np.ndarray | None, progress: Progress) -> TeacherOutputs:
        outputs: list[list[np.ndarray] | None] = []
        for labeller in (self._classifier, self._tagger):
            if labeller is not None:
                check_known(labeller, texts, progress=Progress.mute(), is_training=True)  # logits warns
            outputs.append(None if labeller is None else labeller.logits(texts, progress=progress))
            if labeller is not None:
                _tell_of_cuts(labeller, texts, progress)
        return TeacherOutputs(text=np.stack(outputs[0]) if outputs[0] else None, tokens=outputs[1])


def _tell_of_cuts(model: Embedder | Labeller, texts: Sequence[str], progress: Progress) -> None:
    cut, given = (round(distributed.summed(count)) for count in (model.truncated, len(texts)))  # over the shares of all processes
    if cut:
        progress.warn(f"the teacher cut {cut:,} of {given:,} texts at {model.max_tokens} tokens")


class _MatrixTeacher:
    """Outputs on disk, one row per text. A .npy file holds one matrix, a .safetensors file ``vectors``, ``intents`` or ``slots``.

    ``slots`` has one row per token, with all texts concatenated.
    """

    reads, size_bytes, embedder = False, None, None

    def __init__(
        self,
        path: Path,
        *,
        task: str,
        given: int,
        token_counts: Sequence[int],
        labels: Sequence[str] | None,
        tags: Sequence[str] | None,
    ) -> None:
        self.name = str(path)
        whole = "vectors" if task == "embed" else "intents"
        found = _read_matrices(path, whole)
        self._text = found.get(whole)
        self._slots = found.get("slots") if task == "tag" else None
        if self._text is None and self._slots is None:
            wanted = {"embed": "vectors", "classify": "intents", "tag": "slots (and intents)"}[task]
            raise UserError(
                f"teacher file {self.name!r} has {', '.join(found) or 'nothing'}, but --task {task} needs {wanted}: use that name"
            )
        if self._text is not None and len(self._text) != given:
            raise UserError(
                f"teacher file {self.name!r} has {len(self._text):,} rows, but there are {given:,} texts: give one row per text"
            )
        if self._slots is not None and sum(token_counts) != len(self._slots):
            raise UserError(
                f"teacher file {self.name!r} has {len(self._slots):,} rows of slots, but the texts have {sum(token_counts):,} tokens"
                " (separated by whitespace): give one row per token"
            )
        self._starts = np.concatenate([[0], np.cumsum(token_counts)]).astype(np.int64)
        self.labels = _as_given(labels)
        if task != "embed" and self._text is not None:
            self.labels = _matrix_names(labels, self._text, "labels", self.name)
        self.tags = _matrix_names(tags, self._slots, "tags", self.name) if self._slots is not None else _as_given(tags)

    def teach(self, texts: Sequence[str], *, indices: np.ndarray | None, progress: Progress) -> TeacherOutputs:
        assert indices is not None, "a matrix cannot label other texts"
        tokens = None
        if self._slots is not None:
            tokens = [self._slots[self._starts[index] : self._starts[index + 1]] for index in indices]
        return TeacherOutputs(text=self._text[indices] if self._text is not None else None, tokens=tokens)


def _as_given(names: Sequence[str] | None) -> tuple[str, ...] | None:
    if names and len(set(names)) < len(names):
        raise UserError(f"names of classes or tags contain {next(name for name in names if names.count(name) > 1)!r} twice: give each once")
    return tuple(names) if names else None


def _matrix_names(names: Sequence[str] | None, logits: np.ndarray, what: str, path: str) -> tuple[str, ...]:
    if not names:
        raise UserError(f"teacher {path!r} has {logits.shape[1]} {what} without names: give a file with --{what}, one name per line")
    return checked_names(names, outputs=logits.shape[1], what=what, model=path)


def _read_matrices(path: Path, only: str) -> dict[str, np.ndarray]:
    try:
        found = {only: np.load(path, allow_pickle=False)} if path.suffix == ".npy" else read_arrays(path)
    except (OSError, EOFError, ValueError) as error:
        raise UserError(
            f"teacher file {str(path)!r} cannot be read ({' '.join(str(error).split())[:200]}): give .npy or .safetensors"
        ) from None
    needed = {name: values for name, values in found.items() if name in (only, "slots")}
    for name, values in needed.items():
        if not isinstance(values, np.ndarray):
            raise UserError(f"teacher file {str(path)!r} is an archive of several arrays: give one matrix in .npy, or .safetensors")
        is_matrix = values.ndim == 2 and values.shape[1] and values.dtype.kind == "f"
        with np.errstate(over="ignore"):
            needed[name] = values.astype(np.float32) if is_matrix else values
        if not is_matrix or not np.isfinite(needed[name]).all():
            raise UserError(
                f"teacher file {str(path)!r} holds {name} of shape {values.shape} and type {values.dtype}: give a matrix of finite"
                " floating-point numbers (float16, 32 or 64, within the range of float32), one row per text (or token)"
            )
    return needed or {name: np.empty((0, 0)) for name in found}
