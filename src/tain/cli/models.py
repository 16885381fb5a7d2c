"""Load models named on the command line: encoders, word vectors, one model per language, baselines, labellers."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tain.foundation.choices import CHARACTERS, LEXICAL, STATIC, is_baseline
from tain.foundation.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from tain.evaluation.baselines import Lexical, Static, Weighting
    from tain.evaluation.tagging import LabelPredictor
    from tain.exported.encoder import ExportedEncoder
    from tain.foundation.progress import Progress
    from tain.models.embedder import Embedder
    from tain.models.text_encoder import TextEncoder
    from tain.students.student import Student

_TWO_HEADS = re.compile(r"intents=(.+),slots=(.+)")
_ONE_A_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)?=")


def find_model(given: str) -> None:
    """Check that a model exists, before anything is loaded.

    Raises:
        UserError: As ``saved.locate``; a vector file is missing, or a language is named twice or without a model.
    """
    from tain.models.word_vectors import is_word_vectors
    from tain.text.lines import refuse_unreadable

    for language, name in _parts(given):
        if is_baseline(name):
            if language is not None:
                raise UserError(f"model is {given!r}, but a baseline treats all languages the same way: give {name} alone")
            find_baseline(name)
        elif is_word_vectors(name):
            refuse_unreadable(name)
        else:
            find_encoder(name)


def find_baseline(name: str) -> None:
    """Check that a baseline can be built, before anything is loaded.

    Raises:
        UserError: There is also a folder called like the baseline; ``static:`` names no model, or one without input embeddings.
    """
    from tain.models.saved import locate
    from tain.models.word_vectors import is_word_vectors
    from tain.students.student import is_student

    if not name.startswith(STATIC):
        if Path(name).exists():
            raise UserError(
                f"model is {name!r}, a baseline, but this directory has a folder of that name: give ./{name} for the folder, or run in"
                " another directory for the baseline"
            )
        return
    model = name.removeprefix(STATIC)
    if not model:
        raise UserError(f"model is {name!r}, which names no model with input embeddings: give {STATIC}tain-mini, or {STATIC}FOLDER")
    if is_word_vectors(model):
        raise UserError(f"model is {name!r}, but word vectors are already static: give {model}")
    if is_student(model):
        raise UserError(f"model is {name!r}, but a student has no input embeddings: give it as {model}, or {STATIC} with its teacher")
    locate(model)


def load_baseline(
    name: str, *, texts: Sequence[str] | None = None, weighting: "Weighting" = "sif", trust_remote_code: bool = False
) -> "Lexical | Static":
    """Build the baseline ``lexical``, ``characters`` or ``static:MODEL``; most models need no torch for it.

    Args:
        name: See ``is_baseline``.
        texts: Texts to fit it on; default: the texts being encoded.
        weighting: Term weighting of ``lexical``.
        trust_remote_code: Allow Python code from the folder of ``static:MODEL``.

    Raises:
        UserError: As in ``find_baseline``, or the model cannot be read.
    """
    from tain.evaluation.baselines import Lexical, Static

    find_baseline(name)
    if name == LEXICAL:
        return Lexical(texts, weighting=weighting)
    if name == CHARACTERS:
        return Lexical.of_characters(texts)
    return Static.load(name.removeprefix(STATIC), texts, trust_remote_code=trust_remote_code)


def find_encoder(name: str) -> None:
    """Check that an encoder exists, before anything is loaded.

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
    """Load the model ``given``; ``options`` as in ``Embedder.load``, ignored by word vectors and baselines.

    Baselines are fitted on ``fit_texts``; default: the texts being encoded.
    """
    from tain.evaluation.encoding import OnePerLanguage

    if is_baseline(given):
        return load_baseline(given, texts=fit_texts, trust_remote_code=options.get("trust_remote_code", False))

    loaded = {language: _load_one(name, batch_tokens=batch_tokens, progress=progress, **options) for language, name in _parts(given)}
    if None in loaded:
        return loaded[None]
    return OnePerLanguage({language: encoder for language, encoder in loaded.items() if language is not None})


def model_names(*given: str) -> list[str]:
    """Names of the models in ``given``; ``static:MODEL`` has one, ``en=MODEL,de=MODEL`` and ``intents=MODEL,slots=MODEL`` have two."""
    names: list[str] = []
    for each in given:
        names += _heads(each) if each.startswith(("intents=", "slots=")) else [name.removeprefix(STATIC) for _, name in _parts(each)]
    return names


def _parts(given: str) -> list[tuple[str | None, str]]:
    if not _ONE_A_LANGUAGE.match(given):
        return [(None, given)]
    found: dict[str | None, str] = {}
    for part in given.split(","):
        language, mark, name = part.partition("=")
        if not mark or not name or not _ONE_A_LANGUAGE.match(f"{language}=") or language in found:
            raise UserError(f"model is {given!r}, in which {part!r} is not LANGUAGE=MODEL: give en=MODEL,de=MODEL, each language once")
        found[language] = name
    return list(found.items())


def _load_one(name: str, *, batch_tokens: int | None, progress: "Progress", **options: Any) -> "TextEncoder":
    from tain.models.word_vectors import WordVectors, is_word_vectors

    if is_word_vectors(name):
        return WordVectors.load(name, progress=progress)
    return _Loaded(load_encoder(name, progress=progress, **options), name, batch_tokens=batch_tokens)


def load_encoder(name: str, *, progress: "Progress", **options: Any) -> "Embedder | ExportedEncoder | Student":
    """Load an encoder's folder, hub name, or student, and note in ``progress`` if padding is computed.

    Raises:
        UserError: As ``loading.load_encoder``.
    """
    from tain.loading import load_encoder as load

    encoder = load(name, **options)
    if getattr(encoder, "layout", None) == "padded":
        progress.note(encoder.encoder.layout_reason)  # type: ignore[union-attr]
    return encoder


def find_labeller(given: str) -> None:
    """Check that a labeller exists, before anything is loaded.

    Raises:
        UserError: As ``saved.locate``.
    """
    for name in _heads(given):
        find_encoder(name)


def load_labeller(given: str, *, device: str | None, trust_remote_code: bool = False) -> "LabelPredictor":
    """Load a student (without torch), a classifier, a tagger, or a classifier and a tagger together: ``intents=MODEL,slots=MODEL``.

    Raises:
        UserError: It does not exist, or predicts no labels.
    """
    from tain.evaluation.tagging import SideBySide
    from tain.loading import load_labeller as load

    loaded = [load(name, device=device, trust_remote_code=trust_remote_code) for name in _heads(given)]
    if len(loaded) == 2:
        for role, head, names in (("intents", loaded[0], loaded[0].labels), ("slots", loaded[1], loaded[1].tags)):
            if not names:
                raise UserError(f"{role}={head.name} is given, but that model predicts no {role}: swap the two models")
    return loaded[0] if len(loaded) == 1 else SideBySide(*loaded, name=given)


def _heads(given: str) -> list[str]:
    match = _TWO_HEADS.fullmatch(given)
    if match is None and given.startswith(("intents=", "slots=")):
        raise UserError(f"model is {given!r}: give two as intents=MODEL,slots=MODEL, or one model alone")
    return [given] if match is None else [match[1], match[2]]


class _Loaded:
    """An encoder with the options of this run, under the name that the user gave."""

    def __init__(self, embedder: "Embedder | ExportedEncoder | Student", name: str, *, batch_tokens: int | None) -> None:
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
