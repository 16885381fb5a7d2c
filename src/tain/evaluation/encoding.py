"""What an encoder must be able to do to be evaluated, and a wrapper that encodes each text only once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.unknown_tokens import WARN_FROM, check_known

_TEXTS_AT_ONCE = 4096  # so that a progress bar moves; large enough that batches stay full


@runtime_checkable
class Encodes(Protocol):
    """Anything with a name that turns texts into vectors: ``models.embedder.Embedder``, or a user's own class.

    Where it also has ``truncated`` (how many texts its last ``encode`` call cut), the report counts them. Where it has
    ``languages`` (codes such as ``en``), its ``encode`` is told the language of the texts: ``encode(texts, language="en")``.
    """

    @property
    def name(self) -> str:
        """What tables and charts call it."""
        ...

    def encode(self, texts: list[str], /) -> np.ndarray:
        """Turn texts into finite float vectors (texts, dim), in the order given."""
        ...


def languages_of(encoder: Encodes) -> tuple[str, ...]:
    """The languages that an encoder has to be told apart; empty where it treats all texts alike."""
    return tuple(getattr(encoder, "languages", ()) or ())


def refuse_unknown_languages(encoder: Encodes, wanted: Iterable[str | None]) -> None:
    """Refuse, before anything is encoded, texts that an encoder cannot treat by their language.

    Raises:
        UserError: It has to be told the language of texts, and some are in none that is given, or in one that it does not know.
    """
    known = languages_of(encoder)
    if not known:
        return
    wanted = set(wanted)
    unknown = sorted(language for language in wanted if language is not None and language not in known)
    if unknown:
        raise UserError(
            f"model {encoder.name!r} treats each language in its own way and knows {', '.join(known)}, but there are texts in"
            f" {', '.join(unknown)}: name sets of its languages only, or give a model that knows the others"
        )
    if None in wanted:
        raise UserError(
            f"model {encoder.name!r} treats each language in its own way ({', '.join(known)}) and there are texts whose language"
            " nobody has told: give --language"
        )


class EncodedOnce:
    """An encoder that remembers: a text that is in several sets is encoded once.

    Attributes:
        truncated: How many distinct texts the encoder says it cut at its length limit.
    """

    def __init__(self, encoder: Encodes, progress: Progress | None = None) -> None:
        self.truncated = 0
        self._encoder = encoder
        self._progress = progress if progress is not None else Progress.silent()
        self._has_languages = bool(languages_of(encoder))
        self._unknown: set[str] = set()  # models that were warned of
        self._rows: dict[tuple[str | None, str], int] = {}
        self._vectors = np.empty((0, 0), dtype=np.float32)

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def distinct(self) -> int:
        """How many distinct texts were encoded so far."""
        return len(self._rows)

    def encode(self, texts: Sequence[str], /, *, language: str | None = None) -> np.ndarray:
        """Give float32 vectors (texts, dim), encoding only what was never asked before.

        Args:
            texts: Any number.
            language: Theirs; of no account to an encoder that treats all texts alike.

        Raises:
            UserError: The encoder gave no table of one row a text, or a vector with nan or infinity.
        """
        self.prepare([(language, texts)])
        told = language if self._has_languages else None
        return self._vectors[[self._rows[told, text] for text in texts]]

    def told(self, language: str | None) -> Encodes:
        """This encoder for texts of one language, which then need not be named."""
        return _Told(self, language)

    def prepare(self, by_language: Iterable[tuple[str | None, Sequence[str]]]) -> None:
        """Encode what ``encode`` will be asked for, all at once, so that batches are full."""
        new: dict[str | None, dict[str, None]] = {}
        for language, texts in by_language:
            told = language if self._has_languages else None
            new.setdefault(told, {}).update((text, None) for text in texts if (told, text) not in self._rows)
        for told, wanted in new.items():
            if wanted:
                self._remember(list(wanted), told)

    def _remember(self, new: list[str], language: str | None) -> None:
        # longest first: texts of like length share batches, and a batch that is too large for the memory fails at the start
        new = sorted(new, key=len, reverse=True)
        told = {"language": language} if self._has_languages else {}
        encoder = self._encoder.of(language) if isinstance(self._encoder, OnePerLanguage) else self._encoder
        if encoder.name not in self._unknown and check_known(encoder, new, progress=self._progress) >= WARN_FROM:
            self._unknown.add(encoder.name)  # said once
        blocks = [self._vectors] if len(self._rows) else []
        with self._progress.task(f"encoding with {self.name}", len(new)) as task:
            for start in range(0, len(new), _TEXTS_AT_ONCE):
                block = new[start : start + _TEXTS_AT_ONCE]
                blocks.append(self._checked(block, np.asarray(self._encoder.encode(block, **told), dtype=np.float32)))
                self.truncated += int(getattr(self._encoder, "truncated", 0) or 0)
                task.advance(len(block))
        if len(widths := sorted({block.shape[1] for block in blocks})) > 1:
            raise UserError(f"model {self.name!r} gives vectors of {' and of '.join(map(str, widths))} numbers: give models of one width")
        self._vectors = np.concatenate(blocks)
        self._rows.update({(language, text): len(self._rows) + place for place, text in enumerate(new)})

    def _checked(self, texts: list[str], vectors: np.ndarray) -> np.ndarray:
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise UserError(
                f"model {self.name!r} gave an array of shape {vectors.shape} for {len(texts)} texts: one vector a text is needed"
            )
        is_bad = ~np.isfinite(vectors).all(axis=1)
        if is_bad.any():
            first = texts[int(is_bad.argmax())]
            raise UserError(
                f"model {self.name!r} gives vectors with nan or infinity for {is_bad.sum()} of {len(texts)} texts"
                f" (one is {_shortened(first)!r}), which no cosine can compare: check its weights, or load it in float32"
            )
        return vectors


class _Told:
    def __init__(self, once: EncodedOnce, language: str | None) -> None:
        self._once = once
        self._language = language

    @property
    def name(self) -> str:
        return self._once.name

    def encode(self, texts: Sequence[str], /) -> np.ndarray:
        return self._once.encode(texts, language=self._language)


class OnePerLanguage:
    """An encoder for each language as one model, for sets that know the language of their texts.

    Args:
        encoders: The encoders by language, such as ``{"en": ..., "de": ...}``.
    """

    def __init__(self, encoders: Mapping[str, Encodes]) -> None:
        self.name = ",".join(f"{language}={encoder.name}" for language, encoder in encoders.items())
        self.languages = tuple(encoders)
        self.truncated = 0
        self._encoders = dict(encoders)

    def of(self, language: str | None) -> Encodes:
        """The encoder of a language.

        Raises:
            UserError: There is none for it, or no language is given.
        """
        refuse_unknown_languages(self, [language])
        assert language is not None
        return self._encoders[language]

    def encode(self, texts: list[str], /, *, language: str | None = None) -> np.ndarray:
        """Encode ``texts`` with the encoder of their language.

        Raises:
            UserError: There is none for it, or no language is given.
        """
        encoder = self.of(language)
        told = {"language": language} if languages_of(encoder) else {}
        vectors = encoder.encode(texts, **told)
        self.truncated = int(getattr(encoder, "truncated", 0) or 0)
        return vectors


def _shortened(text: str, chars: int = 40) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
