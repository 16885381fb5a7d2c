"""Requirements on evaluated encoders, and a wrapper that encodes each text only once."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from tain.evaluation.metrics import cosine_rows, unit_rows
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.text_encoder import TextEncoder
from tain.models.unknown_tokens import WARN_FROM, check_known

_ROWS_AT_ONCE = 128  # rows of a table of cosines
_TEXTS_AT_ONCE = 4096  # small enough for a moving progress bar, large enough for full batches


@runtime_checkable
class FitsAtHand(Protocol):
    """Protocol of encoders that are fitted on the evaluated texts, such as the baselines.

    An optional ``unfit_for`` maps suite names to reasons; these suites are refused.
    """

    def fit_at_hand(self, texts: Sequence[str], /) -> None:
        """Fit on the texts, all at once and each once, before encoding; a second call replaces the first."""
        ...


@runtime_checkable
class CosineIndex(Protocol):
    """Protocol of indexed candidates."""

    def cosines(self, texts: Sequence[str], /) -> np.ndarray:
        """Cosine of every text with every candidate, (texts, candidates)."""
        ...


@runtime_checkable
class ComparesTexts(Protocol):
    """Protocol of encoders that compare texts themselves, such as ``baselines.Lexical``, which has very wide vectors."""

    def pair_cosines(self, left: Sequence[str], right: Sequence[str], /) -> np.ndarray:
        """Cosine of each text of ``left`` with the corresponding text of ``right``, float64 (pairs,)."""
        ...

    def index(self, candidates: Sequence[str], /) -> CosineIndex:
        """Prepare candidates."""
        ...


def languages_of(encoder: TextEncoder) -> tuple[str, ...]:
    """Languages that an encoder distinguishes; empty if it treats all texts alike."""
    return tuple(getattr(encoder, "languages", ()) or ())


def refuse_unknown_languages(encoder: TextEncoder, wanted: Iterable[str | None]) -> None:
    """Refuse, before encoding anything, texts in languages that an encoder cannot handle.

    Raises:
        UserError: It distinguishes languages, and some texts have no given language or an unknown one.
    """
    known = languages_of(encoder)
    if not known:
        return
    wanted = set(wanted)
    unknown = sorted(language for language in wanted if language is not None and language not in known)
    if unknown:
        raise UserError(
            f"model {encoder.name!r} treats each language separately and supports {', '.join(known)}, but there are texts in"
            f" {', '.join(unknown)}: name sets of its languages only, or give a model that supports the others"
        )
    if None in wanted:
        raise UserError(
            f"model {encoder.name!r} treats each language separately ({', '.join(known)}), but some texts have no given"
            " language: give --language"
        )


def refuse_unfit_suites(encoder: TextEncoder, suites: Sequence[str]) -> None:
    """Refuse, before encoding anything, suites for which an encoder has no meaningful vectors.

    Raises:
        UserError: There are such suites.
    """
    reasons: Mapping[str, str] = getattr(encoder, "unfit_for", {})
    for suite in suites:
        if suite in reasons:
            raise UserError(f"model {encoder.name!r} cannot be evaluated on suite {suite}: {reasons[suite]}; remove one of the two")


class EncodedOnce:
    """Caching encoder: encodes a text that occurs in several sets only once.

    Attributes:
        truncated: Number of distinct texts that the encoder truncated at its length limit.
    """

    def __init__(self, encoder: TextEncoder, progress: Progress | None = None) -> None:
        self.truncated = 0
        self._encoder = encoder
        self._progress = progress if progress is not None else Progress.silent()
        self._has_languages = bool(languages_of(encoder))
        self._unknown: set[str] = set()  # models that were warned about
        self._is_fitted = False
        self._seen: set[tuple[str | None, str]] = set()
        self._rows: dict[tuple[str | None, str], int] = {}
        self._vectors = np.empty((0, 0), dtype=np.float32)

    @property
    def name(self) -> str:
        return self._encoder.name

    @property
    def distinct(self) -> int:
        """Number of distinct texts encoded so far."""
        return len(self._seen)

    def encode(self, texts: Sequence[str], /, *, language: str | None = None) -> np.ndarray:
        """Return float32 vectors (texts, dim), encoding only new texts.

        Args:
            texts: Any number of texts. An encoder that needs fitting, and is not fitted, is fitted on them.
            language: Language of the texts; ignored by an encoder that treats all texts alike.

        Raises:
            UserError: The encoder did not return one row per text, or returned nan or infinity.
        """
        self._fit_once(texts)
        self._encode_new([(language, texts)])
        key = language if self._has_languages else None
        return self._vectors[[self._rows[key, text] for text in texts]]

    def pair_cosines(
        self, left: Sequence[str], right: Sequence[str], *, languages: tuple[str | None, str | None] = (None, None)
    ) -> np.ndarray:
        """Cosine of each text of ``left`` with the corresponding text of ``right``, float64 (pairs,)."""
        self._fit_once(left, right)
        if isinstance(self._encoder, ComparesTexts):
            return self._encoder.pair_cosines(left, right)
        return cosine_rows(*(self.encode(side, language=language) for side, language in zip((left, right), languages, strict=True)))

    def cosine_blocks(self, texts: Sequence[str], candidates: Sequence[str], *, language: str | None = None) -> Iterator[np.ndarray]:
        """Cosines of texts with all candidates, in blocks (some texts, candidates), in the order of ``texts``."""
        self._fit_once(texts, candidates)
        if not isinstance(self._encoder, ComparesTexts):
            yield from cosine_blocks(*(self.encode(side, language=language) for side in (texts, candidates)))
            return
        index = self._encoder.index(candidates)
        for start in range(0, len(texts), _ROWS_AT_ONCE):
            yield index.cosines(texts[start : start + _ROWS_AT_ONCE])

    def for_language(self, language: str | None) -> TextEncoder:
        """This encoder bound to one language."""
        return (_ToldAndFitted if isinstance(self._encoder, FitsAtHand) else _Told)(self, language)

    def prepare(self, by_language: Iterable[tuple[str | None, Sequence[str]]]) -> None:
        """Encode all given texts at once, so that batches are full.

        An encoder that needs fitting is fitted on these texts, and its cached vectors are discarded.
        """
        by_language = list(by_language)
        self._is_fitted = False
        self._fit_once(*(texts for _, texts in by_language))
        if not isinstance(self._encoder, ComparesTexts):
            self._encode_new(by_language)

    def _fit_once(self, *sides: Sequence[str]) -> None:
        if self._is_fitted or not isinstance(self._encoder, FitsAtHand):
            return
        texts = list(dict.fromkeys(text for side in sides for text in side))
        self._encoder.fit_at_hand(texts)
        self._is_fitted = True
        self._seen.update((None, text) for text in texts)
        self._rows.clear()

    def _encode_new(self, by_language: list[tuple[str | None, Sequence[str]]]) -> None:
        new: dict[str | None, dict[str, None]] = {}
        for language, texts in by_language:
            key = language if self._has_languages else None
            new.setdefault(key, {}).update((text, None) for text in texts if (key, text) not in self._rows)
        for key, wanted in new.items():
            if wanted:
                self._remember(list(wanted), key)

    def _remember(self, new: list[str], language: str | None) -> None:
        # longest first: texts of similar length share batches, and a batch too large for the memory fails at the start
        new = sorted(new, key=len, reverse=True)
        options = {"language": language} if self._has_languages else {}
        encoder = self._encoder.of(language) if isinstance(self._encoder, OnePerLanguage) else self._encoder
        if encoder.name not in self._unknown and check_known(encoder, new, progress=self._progress) >= WARN_FROM:
            self._unknown.add(encoder.name)  # warn once
        blocks = [self._vectors] if len(self._rows) else []
        with self._progress.task(f"encoding with {self.name}", len(new)) as task:
            for start in range(0, len(new), _TEXTS_AT_ONCE):
                block = new[start : start + _TEXTS_AT_ONCE]
                blocks.append(self._checked(block, np.asarray(self._encoder.encode(block, **options), dtype=np.float32)))
                self.truncated += int(getattr(self._encoder, "truncated", 0) or 0)
                task.advance(len(block))
        if len(widths := sorted({block.shape[1] for block in blocks})) > 1:
            raise UserError(
                f"model {self.name!r} gives vectors of dimension {' and '.join(map(str, widths))}: give models of equal dimension"
            )
        self._vectors = np.concatenate(blocks)
        self._rows.update({(language, text): len(self._rows) + index for index, text in enumerate(new)})
        self._seen.update((language, text) for text in new)

    def _checked(self, texts: list[str], vectors: np.ndarray) -> np.ndarray:
        if vectors.ndim != 2 or len(vectors) != len(texts):
            raise UserError(
                f"model {self.name!r} gave an array of shape {vectors.shape} for {len(texts)} texts: one vector per text is needed"
            )
        is_bad = ~np.isfinite(vectors).all(axis=1)
        if is_bad.any():
            first = texts[int(is_bad.argmax())]
            raise UserError(
                f"model {self.name!r} gives vectors with nan or infinity for {is_bad.sum()} of {len(texts)} texts"
                f" (one is {_shortened(first)!r}), which have no cosine: check its weights, or load it in float32"
            )
        return vectors


def cosine_blocks(left: np.ndarray, right: np.ndarray) -> Iterator[np.ndarray]:
    """Cosines of vectors (texts, dim) with vectors (candidates, dim): float32 blocks (some texts, candidates), in order."""
    candidates = unit_rows(right).astype(np.float32)
    for start in range(0, len(left), _ROWS_AT_ONCE):
        yield unit_rows(left[start : start + _ROWS_AT_ONCE]).astype(np.float32) @ candidates.T


class _Told:
    def __init__(self, once: EncodedOnce, language: str | None) -> None:
        self._once = once
        self._language = language

    @property
    def name(self) -> str:
        return self._once.name

    def encode(self, texts: Sequence[str], /) -> np.ndarray:
        return self._once.encode(texts, language=self._language)


class _ToldAndFitted(_Told):
    def fit_at_hand(self, texts: Sequence[str], /) -> None:
        self._once.prepare([(self._language, texts)])


class OnePerLanguage:
    """Combines one encoder per language into one model, for sets with known languages.

    Args:
        encoders: Encoders by language, such as ``{"en": ..., "de": ...}``.
    """

    def __init__(self, encoders: Mapping[str, TextEncoder]) -> None:
        self.name = ",".join(f"{language}={encoder.name}" for language, encoder in encoders.items())
        self.languages = tuple(encoders)
        self.truncated = 0
        self._encoders = dict(encoders)

    def of(self, language: str | None) -> TextEncoder:
        """Encoder of a language.

        Raises:
            UserError: The language has no encoder, or no language is given.
        """
        refuse_unknown_languages(self, [language])
        assert language is not None
        return self._encoders[language]

    def encode(self, texts: list[str], /, *, language: str | None = None) -> np.ndarray:
        """Encode ``texts`` with the encoder of their language.

        Raises:
            UserError: The language has no encoder, or no language is given.
        """
        encoder = self.of(language)
        options = {"language": language} if languages_of(encoder) else {}
        vectors = encoder.encode(texts, **options)
        self.truncated = int(getattr(encoder, "truncated", 0) or 0)
        return vectors


def _shortened(text: str, chars: int = 40) -> str:
    return text if len(text) <= chars else text[: chars - 1] + "…"
