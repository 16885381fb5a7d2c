"""The models that a verb compares: embedders, word vectors in a file, one of these a language, and baselines."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tain.foundation.choices import LEXICAL, STATIC, is_baseline
from tain.foundation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from tain.evaluation.baselines import Lexical, Static, Weighting
    from tain.evaluation.tagging import LabelPredictor
    from tain.foundation.progress import Progress
    from tain.models.embedder import Embedder
    from tain.models.text_encoder import TextEncoder
    from tain.students.student import Student

_TWO_HEADS = re.compile(r"intents=(.+),slots=(.+)")
_ONE_A_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)?=")


def find_model(given: str) -> None:
    """Refuse a model that is not there, before anything is loaded.

    Raises:
        UserError: As ``saved.locate``; a vector file is missing, or a language is named twice or without a model.
    """
    from tain.models.word_vectors import is_word_vectors
    from tain.text.lines import refuse_unreadable

    for language, name in _parts(given):
        if is_baseline(name):
            if language is not None:
                raise UserError(f"model is {given!r}, but a baseline treats all languages alike: give {name} by itself")
            find_baseline(name)
        elif is_word_vectors(name):
            refuse_unreadable(name)
        else:
            find_encoder(name)


def find_baseline(name: str) -> None:
    """Refuse a baseline that cannot be made, before anything is loaded.

    Raises:
        UserError: There is a folder called ``lexical`` too; ``static:`` names no model, or one without input embeddings.
    """
    from tain.models.saved import locate
    from tain.models.word_vectors import is_word_vectors
    from tain.students.student import is_student

    if name == LEXICAL:
        if Path(name).exists():
            raise UserError(
                f"model is {name!r}, the baseline, but there is a folder of that name here: give ./{name} for the folder, or run in another"
                " folder for the baseline"
            )
        return
    model = name.removeprefix(STATIC)
    if not model:
        raise UserError(
            f"model is {name!r}, which names no model to take the input embeddings of: give {STATIC}tain-mini, or {STATIC}FOLDER"
        )
    if is_word_vectors(model):
        raise UserError(f"model is {name!r}, but word vectors are static by themselves: give {model}")
    if is_student(model):
        raise UserError(f"model is {name!r}, but a student has no input embeddings: give it as {model}, or {STATIC} with its teacher")
    locate(model)


def load_baseline(
    name: str, *, texts: Sequence[str] | None = None, weighting: "Weighting" = "sif", trust_remote_code: bool = False
) -> "Lexical | Static":
    """Make a baseline out of its name, ``lexical`` or ``static:MODEL``; neither needs torch for most models.

    Args:
        name: See ``is_baseline``.
        texts: What it is fitted on; default: the texts at hand.
        weighting: Of ``lexical``.
        trust_remote_code: Run Python code from the folder of ``static:MODEL``.

    Raises:
        UserError: As ``find_baseline``, or the model cannot be read.
    """
    from tain.evaluation.baselines import Lexical, Static

    find_baseline(name)
    if name == LEXICAL:
        return Lexical(texts, weighting=weighting)
    return Static.load(name.removeprefix(STATIC), texts, trust_remote_code=trust_remote_code)


def find_encoder(name: str) -> None:
    """Refuse an encoder that is not there, before anything is loaded.

    Raises:
        UserError: As ``saved.locate``.
    """
    from tain.models.saved import locate
    from tain.students.student import is_student

    if not is_student(name):
        locate(name)


def load_model(
    given: str, *, batch_tokens: int | None, progress: "Progress", fit_texts: Sequence[str] | None = None, **options: Any
) -> "TextEncoder":
    """Load what ``given`` names; ``options`` are those of ``Embedder.load`` and mean nothing to word vectors and baselines.

    ``fit_texts`` is what baselines are fitted on; default: the texts at hand.
    """
    from tain.evaluation.encoding import OnePerLanguage

    if is_baseline(given):
        return load_baseline(given, texts=fit_texts, trust_remote_code=options.get("trust_remote_code", False))

    loaded = {language: _load_one(name, batch_tokens=batch_tokens, progress=progress, **options) for language, name in _parts(given)}
    if None in loaded:
        return loaded[None]
    return OnePerLanguage({language: encoder for language, encoder in loaded.items() if language is not None})


def _parts(given: str) -> list[tuple[str | None, str]]:
    if not _ONE_A_LANGUAGE.match(given):
        return [(None, given)]
    found: dict[str | None, str] = {}
    for part in given.split(","):
        language, mark, name = part.partition("=")
        if not mark or not name or not _ONE_A_LANGUAGE.match(f"{language}=") or language in found:
            raise UserError(
                f"model is {given!r}, in which {part!r} is no language with its model: give en=MODEL,de=MODEL, each language once"
            )
        found[language] = name
    return list(found.items())


def _load_one(name: str, *, batch_tokens: int | None, progress: "Progress", **options: Any) -> "TextEncoder":
    from tain.models.word_vectors import WordVectors, is_word_vectors

    if is_word_vectors(name):
        return WordVectors.load(name, progress=progress)
    return _Loaded(load_encoder(name, progress=progress, **options), name, batch_tokens=batch_tokens)


def load_encoder(name: str, *, progress: "Progress", **options: Any) -> "Embedder | Student":
    """Load an encoder's folder, hub name, or student; a student needs no torch. ``progress`` is told where padding is computed.

    Raises:
        UserError: As ``Embedder.load`` and ``Student.load``; a student is given options that it has no use for.
    """
    from tain.students.student import Student, is_student

    if is_student(name):
        # a student runs on the CPU and in float32 whatever is said, so that its teacher may be told to
        for option, own in (("pooling", None), ("max_tokens", None), ("device", "cpu"), ("dtype", "float32")):
            if options.get(option) not in (None, "auto", own):
                raise UserError(f"{option} is {options[option]!r}, but {name!r} is a student, which was made with its own: leave it out")
        student = Student.load(name)
        if student.task != "embed":
            raise UserError(
                f"student {name!r} was made to {student.task}, so it has no vectors: use tain label, or distil one with --task embed"
            )
        return student
    from tain.foundation.machine import keep_freed_memory
    from tain.models.embedder import Embedder

    keep_freed_memory()
    embedder = Embedder.load(name, **options)
    if embedder.layout == "padded":
        progress.note(embedder.encoder.layout_reason)
    return embedder


def find_labeller(given: str) -> None:
    """Refuse what tells labels and is not there, before anything is loaded.

    Raises:
        UserError: As ``saved.locate``.
    """
    for name in _heads(given):
        find_encoder(name)


def load_labeller(given: str, *, device: str | None, trust_remote_code: bool = False) -> "LabelPredictor":
    """Load a student (without torch), a classifier, a tagger, or the last two side by side: ``intents=MODEL,slots=MODEL``.

    Raises:
        UserError: It is not there, or tells no labels.
    """
    from tain.evaluation.tagging import SideBySide

    loaded = [_load_head(name, device=device, trust_remote_code=trust_remote_code) for name in _heads(given)]
    if len(loaded) == 2:
        for role, head, names in (("intents", loaded[0], loaded[0].labels), ("slots", loaded[1], loaded[1].tags)):
            if not names:
                raise UserError(f"{role}={head.name} is given, but that model tells no {role}: name the models the other way round")
    return loaded[0] if len(loaded) == 1 else SideBySide(*loaded, name=given)


def _heads(given: str) -> list[str]:
    match = _TWO_HEADS.fullmatch(given)
    if match is None and given.startswith(("intents=", "slots=")):
        raise UserError(f"model is {given!r}: give two side by side, intents=MODEL,slots=MODEL, or one by its name alone")
    return [given] if match is None else [match[1], match[2]]


def _load_head(name: str, *, device: str | None, trust_remote_code: bool) -> "LabelPredictor":
    from tain.students.student import Student, is_student

    if not is_student(name):
        from tain.models.labeller import Labeller

        return Labeller.load(name, device=device, trust_remote_code=trust_remote_code)
    student = Student.load(name)
    if student.task == "embed":
        raise UserError(f"student {name!r} was made to embed, so it tells no labels: distil one with --task classify or tag")
    return student


class _Loaded:
    """An encoder with the options of this run, named as the user named it."""

    def __init__(self, embedder: "Embedder | Student", name: str, *, batch_tokens: int | None) -> None:
        self.name = name
        self.languages = getattr(embedder, "languages", ())
        self._embedder = embedder
        self._batch_tokens = batch_tokens

    @property
    def tokenizer(self) -> "Any":
        """None for a student, which reads characters."""
        return getattr(self._embedder, "tokenizer", None)

    @property
    def truncated(self) -> int:
        return self._embedder.truncated

    def encode(self, texts: Sequence[str], /, *, language: str | None = None) -> "np.ndarray":
        if language is None:
            return self._embedder.encode(texts, batch_tokens=self._batch_tokens)
        return self._embedder.encode(texts, batch_tokens=self._batch_tokens, language=language)
