"""Training and held-out texts of a student: teacher outputs, given labels and tags, augmented copies."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.distil.augmentation import augmented
from tain.recipes.distil.config import NONE, DistilConfig, ResolvedDistilConfig
from tain.recipes.distil.near_words import near_words
from tain.recipes.distil.teacher import Teacher, TeacherOutputs
from tain.text.cleaning import same_text_key
from tain.text.records import Example
from tain.text.tags import tokens_of
from tain.training import distributed


@dataclass(frozen=True)
class LabelledTexts:
    """Texts with teacher outputs and given labels.

    Attributes:
        examples: The texts.
        taught: The teacher's outputs.
        labels: Index of each text's given class; -1 without one.
        tags: Indices of each text's given tags; None without tags.
    """

    examples: list[Example]
    taught: TeacherOutputs
    labels: np.ndarray
    tags: list[np.ndarray | None]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class DistillationData:
    """Training and held-out texts of a run.

    Attributes:
        train: Training texts, augmented copies at the end.
        held: Held-out texts to measure on.
        labels: Names of the classes; may be empty.
        tags: Names of the tags; may be empty.
        counts: given, repeated (dropped duplicates), held_out, left_over, augmented.
    """

    train: LabelledTexts
    held: LabelledTexts
    labels: tuple[str, ...]
    tags: tuple[str, ...]
    counts: dict[str, int]

    def digest(self, *, with_teacher: bool) -> str:
        """Hash of texts, labels and tags, and optionally of the teacher's outputs: sixteen hexadecimal digits."""
        parts = (self.train, self.held)
        content = [self.labels, self.tags, [[(one.text, one.label, one.tags) for one in part.examples] for part in parts]]
        digest = hashlib.blake2b(json.dumps(content).encode(), digest_size=8)
        for taught in (part.taught for part in parts if with_teacher):
            for values in ([] if taught.text is None else [taught.text], taught.tokens or []):
                for each in values:
                    digest.update(np.ascontiguousarray(each).tobytes())
        return digest.hexdigest()

    @property
    def text_outputs(self) -> int:
        """Number of outputs per text: classes or dimensions; 0 if the student only tags."""
        taught = self.train.taught.text
        return len(self.labels) or (taught.shape[1] if taught is not None else 0)


def gather(
    examples: Sequence[Example], teacher: Teacher, config: ResolvedDistilConfig, progress: Progress, encoder: Embedder | None = None
) -> DistillationData:
    """Sample training and held-out texts and label them with the teacher; the encoder finds similar words for copies.

    Raises:
        UserError: Texts, labels or tags are invalid.
    """
    _refuse_unlabelled(examples, teacher)
    labels = _classes(teacher.labels, [example.label for example in examples], "label", teacher) if config.task != "embed" else ()
    tags = (
        _classes(teacher.tags, [tag for example in examples for tag in example.tags or ()], "tag", teacher) if config.task == "tag" else ()
    )
    order, held = _drawn(examples, config)
    rest = order[held:]
    if config.task != "embed" and config.max_texts and len(rest) > config.max_texts:
        # labelled texts are few, so none are left out in favour of unlabelled ones
        has_word = np.array([bool(examples[index].label or examples[index].tags) for index in rest])
        chosen = np.sort(np.argsort(~has_word, kind="stable")[: config.max_texts])
        rest = rest[chosen]
    trained = rest[: config.max_texts or None]
    if len(trained) < config.batch_texts:
        raise UserError(
            f"there are {len(trained):,} different texts to train on, fewer than a batch of {config.batch_texts}: "
            + (f"give more texts, or --batch-texts {max(2, len(trained) // 2)}" if len(trained) > 1 else "give more texts")
        )
    counts = {
        "given": len(examples),
        "repeated": len(examples) - len(order),
        "held_out": held,
        "left_over": len(order) - held - len(trained),
    }
    both = np.concatenate([trained, order[:held]])
    taught = _taught(teacher, [examples[index].text for index in both], indices=both, progress=progress)
    if config.task != "embed" and taught.text is not None and teacher.labels is None:
        raise UserError(f"teacher {teacher.name!r} gives logits of texts without class names: give labels")
    if config.task == "classify" and len(labels) == 1:
        raise UserError(f"all texts have one label, {labels[0]!r}, so there is nothing to learn: give texts with two or more labels")
    is_labelled = taught.text is not None or any(example.label for example in examples)
    if config.task == "classify" and not is_labelled:
        raise UserError(
            "no text has a label and the teacher gives none: name the column of the labels with --label-column, or give a classifier"
        )
    if config.task == "tag" and taught.tokens is None and not any(example.tags for example in examples):
        raise UserError("no text has tags and the teacher gives none: name the column of the tags with --tags-column, or give a tagger")
    labels = labels if is_labelled else ()  # without labelled texts, names are of no use
    train = _labelled([examples[index] for index in trained], _part(taught, slice(0, len(trained))), labels, tags)
    measured = _labelled([examples[index] for index in order[:held]], _part(taught, slice(len(trained), None)), labels, tags)
    copies = _copies(train.examples, measured.examples, teacher, config, progress, encoder)
    if copies.examples:
        # a copy keeps the given labels of its text only if no teacher labelled it, and loses its label if words were replaced
        has_labels, has_tags = copies.taught.text is None and not copies.has_other_words, copies.taught.tokens is None
        more = _labelled(copies.examples, copies.taught, labels, tags, has_labels=has_labels, has_tags=has_tags)
        train = _joined(train, more)
    counts["augmented"] = len(copies.examples)
    return DistillationData(train, measured, labels, tags, counts)


@dataclass(frozen=True)
class _Copies:
    examples: list[Example]
    taught: TeacherOutputs
    has_other_words: bool = False


def _copies(
    examples: list[Example], held: list[Example], teacher: Teacher, config: DistilConfig, progress: Progress, encoder: Embedder | None
) -> _Copies:
    """Augmented copies with the teacher's outputs, or else with the labels and tags of their texts; held-out texts get no copies."""
    wanted = config.augmented_copies
    if config.task != "embed" and not teacher.reads and config.word_replacement != DistilConfig.word_replacement:
        raise UserError(
            f"word_replacement is {config.word_replacement}, but only a teacher that labels new texts can label the changed copies: leave it out"
        )
    if config.task == "embed" or (wanted is None and not teacher.reads) or wanted == 0:
        return _Copies([], TeacherOutputs())
    if not teacher.reads and teacher.name != "none":
        raise UserError(
            f"augmented_copies is {wanted}, but teacher {teacher.name!r} is a matrix, which cannot label new texts: "
            "leave it out, or add the changed texts and their rows to the matrix"
        )
    # the original label may be wrong once words are replaced
    near = None
    if encoder is not None and teacher.reads and config.word_replacement:
        near = distributed.from_first(lambda: near_words(encoder, examples))
    copies, rng = 2 if wanted is None else wanted, np.random.default_rng([config.seed, 2])
    made = augmented(examples, copies=copies, rng=rng, near=near, exchange=config.word_replacement)
    is_held = {same_text_key(example.text) for example in held}
    made = [example for example in made if same_text_key(example.text) not in is_held]
    taught = _taught(teacher, [example.text for example in made], indices=None, progress=progress) if made else TeacherOutputs()
    return _Copies(made, taught, has_other_words=bool(near))


def _taught(teacher: Teacher, texts: list[str], *, indices: np.ndarray | None, progress: Progress) -> TeacherOutputs:
    """Label texts with the teacher; each of several processes labels a share, and all get all outputs.

    Raises:
        UserError: The teacher is a custom object, and its outputs do not match the texts or its names.
    """
    if distributed.world_size() == 1 or not teacher.reads or len(texts) < distributed.world_size():
        return _checked_outputs(teacher, texts, indices=indices, progress=progress)
    share = distributed.share_of(len(texts))
    own = _checked_outputs(teacher, texts[share], indices=None if indices is None else indices[share], progress=progress)
    lengths = [len(tokens_of(text)) for text in texts] if own.tokens is not None else []
    return TeacherOutputs(
        text=None if own.text is None else distributed.gathered(torch.from_numpy(own.text), total=len(texts)).numpy(),
        tokens=None if own.tokens is None else _gathered_tokens(own.tokens, lengths),
    )


def _gathered_tokens(own: list[np.ndarray], lengths: list[int]) -> list[np.ndarray]:
    """Logits of the tokens of all processes' texts; ``lengths`` are the tokens of all texts."""
    rows = distributed.gathered_lists(torch.from_numpy(np.concatenate(own).astype(np.float32)), lengths=lengths).numpy()
    return np.split(rows, np.cumsum(lengths)[:-1])


def _checked_outputs(teacher: Teacher, texts: list[str], *, indices: np.ndarray | None, progress: Progress) -> TeacherOutputs:
    """The teacher's outputs; refuses those that do not match the texts or its names."""
    taught = teacher.teach(texts, indices=indices, progress=progress)
    if taught.text is not None:
        width = None if teacher.labels is None else len(teacher.labels)
        _refuse_misfits(teacher, "numbers for texts", taught.text, rows=len(texts), width=width)
        is_finite = np.isfinite(taught.text).all(axis=1)
        if not is_finite.all():
            text = texts[int(is_finite.argmin())]
            raise UserError(
                f"teacher {teacher.name!r} gave {int((~is_finite).sum()):,} of {len(texts):,} texts nan or infinity, for example {text[:40]!r}: check its weights"
            )
        taught = replace(taught, text=np.asarray(taught.text, dtype=np.float32))
    if taught.tokens is not None:
        if len(taught.tokens) != len(texts):
            raise UserError(
                f"teacher {teacher.name!r} gave logits of tokens for {len(taught.tokens):,} of {len(texts):,} texts: give one matrix per text"
            )
        for text, logits in zip(texts, taught.tokens, strict=True):
            _refuse_misfits(
                teacher, f"logits for the tokens of {text[:40]!r}", logits, rows=len(tokens_of(text)), width=len(teacher.tags or ())
            )
    return taught


def _refuse_misfits(teacher: Teacher, what: str, values: np.ndarray, *, rows: int, width: int | None) -> None:
    if values.ndim != 2 or len(values) != rows or width not in (None, values.shape[1]):
        wanted = f"{rows:,} rows" + ("" if width is None else f" of {width}")
        raise UserError(
            f"teacher {teacher.name!r} gave {what} of shape {values.shape}, which should be {wanted}: give one row per item and one number per name"
        )


def _labelled(
    examples: list[Example],
    taught: TeacherOutputs,
    labels: tuple[str, ...],
    tags: tuple[str, ...],
    *,
    has_labels: bool = True,
    has_tags: bool = True,
) -> LabelledTexts:
    """Turn given labels and tags into indices, or drop them."""
    number_of_label = {label: number for number, label in enumerate(labels)}
    number_of_tag = {tag: number for number, tag in enumerate(tags)}
    numbers = [number_of_label.get(example.label or "", -1) if has_labels else -1 for example in examples]
    tagged = [
        np.array([number_of_tag[tag] for tag in example.tags], dtype=np.int64) if example.tags and tags and has_tags else None
        for example in examples
    ]
    return LabelledTexts(examples, taught, np.array(numbers, dtype=np.int64), tagged)


def _part(taught: TeacherOutputs, part: slice) -> TeacherOutputs:
    return TeacherOutputs(
        text=taught.text[part] if taught.text is not None else None, tokens=taught.tokens[part] if taught.tokens is not None else None
    )


def _joined(one: LabelledTexts, other: LabelledTexts) -> LabelledTexts:
    left, right = one.taught, other.taught
    taught = TeacherOutputs(
        text=np.concatenate([left.text, right.text]) if left.text is not None and right.text is not None else None,
        tokens=[*left.tokens, *right.tokens] if left.tokens is not None and right.tokens is not None else None,
    )
    return LabelledTexts([*one.examples, *other.examples], taught, np.concatenate([one.labels, other.labels]), [*one.tags, *other.tags])


def check_texts(examples: Sequence[Example], config: DistilConfig) -> list[int]:
    """Check the texts before any model is loaded, and return the number of tokens of each.

    Raises:
        UserError: There are no texts, a text has no tokens, or its tokens and tags differ in number.
    """
    if not examples:
        raise UserError("there are no texts: give at least one")
    counts = []
    for index, example in enumerate(examples):
        if not isinstance(example.text, str):
            raise UserError(f"text number {index + 1} is {type(example.text).__name__}, not text: give strings")
        if not example.text or example.text.isspace():
            raise UserError(f"text number {index + 1} has no tokens ({example.text!r}): leave such texts out")
        counts.append(count := len(tokens_of(example.text)))
        if example.label is not None and not isinstance(example.label, str):
            raise UserError(f"text number {index + 1} has a label that is {type(example.label).__name__}, not text: give names")
        if config.task == "tag" and example.tags is not None and len(example.tags) != count:
            raise UserError(
                f"text number {index + 1} has {count} tokens (separated by whitespace) and {len(example.tags)} tags: give one tag per token"
            )
    return counts


def _refuse_unlabelled(examples: Sequence[Example], teacher: Teacher) -> None:
    if teacher.name != NONE:
        return
    bare = [index for index, example in enumerate(examples) if not example.label and not example.tags]
    if bare and len(bare) < len(examples):  # if no text has a label, another message applies
        raise UserError(
            f"{len(bare):,} of {len(examples):,} texts have no label (text number {bare[0] + 1} first), and there is no teacher to label them:"
            " give a teacher, or drop these texts"
        )


def _classes(names: tuple[str, ...] | None, given: Sequence[str | None], what: str, teacher: Teacher) -> tuple[str, ...]:
    seen = {name for name in given if name}
    if names is None:
        return tuple(sorted(seen))
    if unknown := sorted(seen - set(names)):
        raise UserError(
            f"the texts have {what}s that teacher {teacher.name!r} does not know ({', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}): "
            f"drop these texts, or give a teacher with the same {what}s"
        )
    return names


def _drawn(examples: Sequence[Example], config: DistilConfig) -> tuple[np.ndarray, int]:
    """Shuffle the texts so that the held-out ones come first; returns the order and their number.

    If some texts are labelled, only these are held out, because errors can be counted on no others. No held-out text is trained on, even
    if it was given several times. For vectors, repeated texts are dropped; with labels they are kept, because the frequency of a label
    is information.
    """
    keys = [same_text_key(example.text) for example in examples]
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        first.setdefault(key, index)
    rng = np.random.default_rng([config.seed, 1])
    different = rng.permutation(np.fromiter(first.values(), np.int64, len(first)))
    if config.task == "embed":
        return different, min(config.held_out, len(different) // 10)
    is_labelled = np.array([bool(examples[index].label or examples[index].tags) for index in different])
    different = np.concatenate([different[is_labelled], different[~is_labelled]])
    held = min(config.held_out, (int(is_labelled.sum()) or len(different)) // 10)
    is_held = {keys[index] for index in different[:held]}
    rest = [index for index, key in enumerate(keys) if key not in is_held]
    return np.concatenate([different[:held], rng.permutation(np.array(rest, dtype=np.int64))]), held
