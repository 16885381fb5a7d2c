"""What a student learns from: an encoder, a classifier, a tagger, or their outputs on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tain.batches.augmentation import tokens_of
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder, load_with_missing, max_length
from tain.models.saved import locate, refuse_pickles

NONE = "none"  # the name that stands for no teacher
MATRIX_ENDINGS = (".npy", ".safetensors")

_BATCH_TEXTS = 64


@dataclass(frozen=True)
class Lessons:
    """A teacher's outputs for some texts.

    Attributes:
        text: Vectors or logits, float32 (texts, outputs); None where the teacher says nothing of whole texts.
        tokens: Logits of each text's tokens, float32 (tokens, tags), nan where the teacher did not read so far; None without tags.
    """

    text: np.ndarray | None = None
    tokens: list[np.ndarray] | None = None


@runtime_checkable
class Teacher(Protocol):
    """Labels texts.

    Attributes:
        name: What the user called it.
        labels: Names of its classes, in the order of its logits; None where it has none.
        tags: Names of its tags.
        reads: It can label any text, not only those whose outputs are on disk.
        size_bytes: Its weights; None where they are not known.
    """

    name: str
    labels: tuple[str, ...] | None
    tags: tuple[str, ...] | None
    reads: bool
    size_bytes: int | None

    def teach(self, texts: Sequence[str], *, places: np.ndarray | None, progress: Progress) -> Lessons:
        """Label texts; ``places`` are theirs among those the user gave, None where nobody gave them."""
        ...


def load_teacher(
    name: str | Path,
    *,
    task: str,
    given: int,
    labels: Sequence[str] | None,
    tags: Sequence[str] | None,
    device: torch.device,
    trust_remote_code: bool,
) -> Teacher:
    """Load what labels the texts.

    Args:
        name: A model's folder or hub name, a matrix (.npy, .safetensors), or ``none``.
        task: What the student shall do.
        given: Texts that the user gave: as many rows a matrix must have.
        labels: Names of the classes, in the order of the logits; default: what a model's config says.
        tags: The same for tags.
        device: Where a model runs.
        trust_remote_code: Let a model's folder bring Python code of its own.

    Raises:
        UserError: It is not there, gives other outputs than the task needs, or as many as the names do not match.
    """
    if str(name) == NONE:
        if task == "embed":
            raise UserError("teacher is none, but vectors are learnt from a teacher alone: give an encoder, or a matrix of vectors")
        return _NoTeacher(labels, tags)
    if str(name).endswith(MATRIX_ENDINGS):
        return _MatrixTeacher(Path(name), task=task, given=given, labels=labels, tags=tags)
    if task == "embed":
        return _EncoderTeacher(Embedder.load(name, device=str(device), dtype="float32", trust_remote_code=trust_remote_code))
    return _LogitsTeacher(str(name), task=task, labels=labels, tags=tags, device=device, trust_remote_code=trust_remote_code)


class _NoTeacher:
    def __init__(self, labels: Sequence[str] | None, tags: Sequence[str] | None) -> None:
        self.name, self.reads, self.size_bytes = NONE, False, None
        self.labels = tuple(labels) if labels else None
        self.tags = tuple(tags) if tags else None

    def teach(self, texts: Sequence[str], *, places: np.ndarray | None, progress: Progress) -> Lessons:
        return Lessons()


class _EncoderTeacher:
    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder
        self.name, self.reads, self.labels, self.tags = embedder.name, True, None, None
        self.size_bytes = 4 * sum(parameter.numel() for parameter in embedder.encoder.parameters())

    def teach(self, texts: Sequence[str], *, places: np.ndarray | None, progress: Progress) -> Lessons:
        vectors = self.embedder.encode(texts, progress=progress)
        if self.embedder.truncated:
            progress.warn(f"the teacher cut {self.embedder.truncated:,} of {len(texts):,} texts at {self.embedder.max_tokens} tokens")
        return Lessons(text=vectors)


class _MatrixTeacher:
    """Outputs on disk: row i belongs to the i-th text. A .npy file holds one matrix, a .safetensors file ``vectors``, ``intents`` or ``slots``.

    ``slots`` has one row a token, all texts end to end.
    """

    def __init__(self, path: Path, *, task: str, given: int, labels: Sequence[str] | None, tags: Sequence[str] | None) -> None:
        self.name, self.reads, self.size_bytes = str(path), False, None
        found = _read_matrices(path, "vectors" if task == "embed" else "intents")
        self._text = found.get("vectors" if task == "embed" else "intents")
        self._slots = found.get("slots") if task == "tag" else None
        if self._text is None and self._slots is None:
            wanted = {"embed": "vectors", "classify": "intents", "tag": "slots (and intents)"}[task]
            raise UserError(f"teacher file {str(path)!r} has {', '.join(found) or 'nothing'}, but --task {task} needs {wanted}: name it so")
        if self._text is not None and len(self._text) != given:
            raise UserError(f"teacher file {str(path)!r} has {len(self._text):,} rows, but there are {given:,} texts: give a row a text")
        is_labelled = task != "embed" and self._text is not None
        self.labels = _named(labels, self._text.shape[1], "labels", str(path)) if is_labelled and self._text is not None else None
        self.tags = _named(tags, self._slots.shape[1], "tags", str(path)) if self._slots is not None else None
        self._starts: np.ndarray | None = None

    def split_by(self, lengths: Sequence[int]) -> None:
        """Tell how many tokens each given text has, so that rows of ``slots`` find their texts.

        Raises:
            UserError: They come to another number than there are rows.
        """
        if self._slots is None:
            return
        if (total := sum(lengths)) != len(self._slots):
            raise UserError(
                f"teacher file {self.name!r} has {len(self._slots):,} rows of slots, but the texts have {total:,} tokens"
                " (what stands between blanks): give a row a token"
            )
        self._starts = np.concatenate([[0], np.cumsum(lengths)])

    def teach(self, texts: Sequence[str], *, places: np.ndarray | None, progress: Progress) -> Lessons:
        assert places is not None, "a matrix labels no other texts"
        tokens = None
        if self._slots is not None and self._starts is not None:
            tokens = [self._slots[self._starts[place] : self._starts[place + 1]] for place in places]
        return Lessons(text=self._text[places] if self._text is not None else None, tokens=tokens)


class _LogitsTeacher:
    """A transformers model with a head for whole texts, or one for tokens."""

    def __init__(
        self,
        name: str,
        *,
        task: str,
        labels: Sequence[str] | None,
        tags: Sequence[str] | None,
        device: torch.device,
        trust_remote_code: bool,
    ) -> None:
        path = locate(name)
        refuse_pickles(path)
        kind = "TokenClassification" if task == "tag" else "SequenceClassification"
        model, tokenizer, missing = load_with_missing(f"AutoModelFor{kind}", path, trust_remote_code=trust_remote_code)
        heads = [weight for weight in missing if "pooler" not in weight]
        if heads:
            raise UserError(
                f"teacher {name!r} has no trained head for --task {task} ({heads[0]} is not in its weights): give a fine-tuned model, or a"
                " matrix of its logits"
            )
        self.name, self.reads = name, True
        self.size_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
        self._model, self._tokenizer, self._limit = model.to(device), tokenizer, max_length(model, tokenizer)
        own = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
        self.labels = _named(labels, len(own), "labels", name, own) if task == "classify" else None
        self.tags = _named(tags, len(own), "tags", name, own) if task == "tag" else None
        if self.tags is not None and not getattr(tokenizer, "is_fast", False):
            raise UserError(f"teacher {name!r} has a tokenizer that does not tell which word a token is of: give a matrix of its logits")

    @torch.inference_mode()
    def teach(self, texts: Sequence[str], *, places: np.ndarray | None, progress: Progress) -> Lessons:
        found: list[Any] = [None] * len(texts)
        order = np.argsort([len(text) for text in texts], kind="stable")
        with progress.task("teacher", len(texts)) as task:
            for start in range(0, len(order), _BATCH_TEXTS):
                batch = order[start : start + _BATCH_TEXTS]
                for place, logits in zip(batch, self._logits([texts[place] for place in batch]), strict=True):
                    found[place] = logits
                task.advance(len(batch))
        return Lessons(tokens=found) if self.tags is not None else Lessons(text=np.stack(found) if found else np.empty((0, 0), np.float32))

    def _logits(self, texts: list[str]) -> list[np.ndarray]:
        words = [tokens_of(text) for text in texts]
        encoded = self._tokenizer(
            words if self.tags is not None else texts,
            is_split_into_words=self.tags is not None,
            padding=True,
            truncation=True,
            max_length=self._limit,
            return_tensors="pt",
        )
        logits = self._model(**encoded.to(self._model.device)).logits.float().cpu().numpy()
        if self.tags is None:
            return list(logits)
        return [_first_pieces(row, encoded.word_ids(place), len(words[place])) for place, row in enumerate(logits)]


def _first_pieces(logits: np.ndarray, owners: Sequence[int | None], words: int) -> np.ndarray:
    """A word's logits are those of its first piece, as taggers are trained; nan where it was cut off."""
    found = np.full((words, logits.shape[1]), np.nan, dtype=np.float32)
    for place in range(len(owners) - 1, -1, -1):
        owner = owners[place]
        if owner is not None:
            found[owner] = logits[place]
    return found


def _read_matrices(path: Path, only: str) -> dict[str, np.ndarray]:
    try:
        found = {only: np.load(path, allow_pickle=False)} if path.suffix == ".npy" else load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"teacher file {str(path)!r} cannot be read ({' '.join(str(error).split())[:200]}): give .npy or .safetensors"
        ) from None
    for name, values in found.items():
        if values.ndim != 2 or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise UserError(
                f"teacher file {str(path)!r} holds {name} of shape {values.shape} and type {values.dtype}: give a matrix of finite"
                " floating-point numbers, a row a text (or a token)"
            )
    return {name: values.astype(np.float32) for name, values in found.items()}


def _named(given: Sequence[str] | None, outputs: int, what: str, teacher: str, own: Sequence[str] | None = None) -> tuple[str, ...]:
    names = given or own
    if names is None:
        raise UserError(f"teacher {teacher!r} has {outputs} {what}, and nobody tells their names: give a file with --{what}, a name a line")
    if len(names) != outputs:
        raise UserError(
            f"teacher {teacher!r} has logits of {outputs} {what}, but {len(names)} names are given: give the file that belongs to it"
        )
    if len(set(names)) != len(names):
        raise UserError(f"the {what} of teacher {teacher!r} name one twice: give each once")
    return tuple(names)
