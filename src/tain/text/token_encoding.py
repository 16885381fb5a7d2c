"""Base class of encoders that read token ids: windows of texts, chunks of long texts, batches, and the order of the vectors."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.progress import Progress, Task
from tain.foundation.slices import in_slices
from tain.foundation.vectors import unit_length
from tain.text.collections import list_texts
from tain.text.encoding import BaseTextEncoder, EncodeOptions, UnusableTextError
from tain.text.windows import windows

WINDOW_TEXTS = 16_384  # texts tokenized and sorted together
_WINDOW_CHARACTERS = 8_000_000  # of whole texts, which are tokenized to the end only to be chunked


@dataclass(frozen=True)
class TokenRows:
    """Rows of token ids: one per text, or one per chunk of a text.

    Attributes:
        ids: Token ids of each row, special tokens included.
        owners: Index of each row's text; the rows of a text are next to each other.
        is_cut: Whether each text was cut.
    """

    ids: list[list[int]]
    owners: list[int]
    is_cut: list[bool]

    @classmethod
    def one_each(cls, ids: list[list[int]], is_cut: list[bool]) -> "TokenRows":
        """One row per text."""
        return cls(ids, list(range(len(ids))), is_cut)

    @classmethod
    def chunks(cls, ids: Sequence[Sequence[list[int]]]) -> "TokenRows":
        """All chunks of each text."""
        owners = [text for text, chunks in enumerate(ids) for _ in chunks]
        return cls([chunk for chunks in ids for chunk in chunks], owners, [False] * len(ids))


@dataclass(frozen=True)
class TokenVectors:
    """A text's tokens as the last layer gives them, and what becomes of them.

    Attributes:
        tokens: Float32 (tokens, dim), special tokens included; with a linear correction applied, where the model has one and runs in torch.
        text: The text's vector, float32 (dim,).
    """

    tokens: np.ndarray
    text: np.ndarray


class TokenEncoder(BaseTextEncoder):
    """What ``Embedder`` and ``ExportedEncoder`` share. A subclass tokenizes texts, and runs a batch of token ids.

    Attributes:
        name: Name shown in tables.
        max_tokens: Length limit of texts in tokens, special tokens included.
        normalize: Vectors have length 1 unless ``encode`` gets another setting.
        sentence_transformers: Content of the model's ``config_sentence_transformers.json``: prompts and more.
        kept_dims: Numbers kept of each finished vector (sentence-transformers' ``truncate_dim``); None for all.
        truncated: Texts cut by the last call of ``encode``.
        chunked: Texts that the last call of ``encode`` split into chunks.
    """

    name: str
    max_tokens: int
    normalize: bool
    sentence_transformers: dict[str, Any]
    kept_dims: int | None = None
    truncated: int = 0
    chunked: int = 0

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension of a finished vector."""

    @abstractmethod
    def token_rows(self, texts: Sequence[str], *, in_chunks: bool = False) -> TokenRows:
        """Tokenize texts up to the limit, or all of each text in chunks."""

    @abstractmethod
    def _batches(self, lengths: Sequence[int], batch_tokens: int | None) -> Iterator[list[int]]:
        """Group rows into batches by their lengths."""

    @abstractmethod
    def _pooled(self, batches: Iterable[list[list[int]]], *, is_alone: bool, skipped: int) -> Iterator[Float32[np.ndarray, "rows width"]]:
        """Run batches, and yield the vectors of each, in order.

        Args:
            batches: Token ids of each row of each batch.
            is_alone: Deterministic mode: a batch is one row, which runs on one thread.
            skipped: Tokens at the beginning of each row that are left out of the pooling.
        """

    @abstractmethod
    def _corrected(self, vectors: Float32[np.ndarray, "rows width"], language: Any, *, is_alone: bool) -> Float32[np.ndarray, "rows dim"]:
        """Apply the model's correction; ``language`` is one, or one per row."""

    @abstractmethod
    def _running(self, *, deterministic: bool) -> AbstractContextManager[Any]:
        """Prepare the model for the batches of one call.

        Raises:
            UserError: It cannot run deterministically.
        """

    @property
    def prompts(self) -> Mapping[str, str]:
        return self.sentence_transformers.get("prompts") or {}

    @property
    def default_prompt(self) -> str:
        return self.prompts.get(self.sentence_transformers.get("default_prompt_name") or "", "")

    @property
    @abstractmethod
    def include_prompt(self) -> bool:
        """Whether the tokens of a prompt are pooled."""

    @abstractmethod
    def prompt_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt before a text, with special tokens before it."""

    @abstractmethod
    def refuse_language(self, language: Any) -> None:
        """Refuse a language argument that does not fit the model, before encoding anything."""

    def _scales(self, normalize: bool | None) -> bool:
        """Whether finished vectors have length 1."""
        return self.normalize if normalize is None else normalize

    def _scaled(self, vectors: Float32[np.ndarray, "rows dim"]) -> Float32[np.ndarray, "rows dim"]:
        return unit_length(vectors, out=vectors)

    def _encode(self, texts: Iterable[str], options: EncodeOptions) -> Float32[np.ndarray, "texts dim"]:
        texts = list_texts(texts)
        language = options.language
        if language is not None and not isinstance(language, str):
            language = list_texts(language, what="language")
        self.refuse_language(language)
        if isinstance(language, list) and len(language) != len(texts):
            raise UserError(f"got {len(language):,} languages for {len(texts):,} texts: give one per text, or one for all")
        scales = self._scales(options.normalize)
        prompt = self.prompt_for(prompt_name=options.prompt_name, prompt=options.prompt)
        skipped = self._skipped(prompt, options)
        if prompt:
            texts = [prompt + text for text in texts]
        self.truncated = self.chunked = 0
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        start = 0
        with self._running(deterministic=options.deterministic), (options.progress or Progress.silent()).task("encode", len(texts)) as task:
            for window in self._windows(texts, options):
                rows = self._rows(window, options, start=start)
                own = language if not isinstance(language, list) else [language[start + text] for text in rows.owners]
                found = self._vectors_of(rows, own, options, scales=scales, skipped=skipped, task=task)
                vectors[start : start + len(window)] = self._joined(found, rows, scales=scales)
                start += len(window)
        refuse_not_finite(vectors, self.name)
        return vectors

    def _skipped(self, prompt: str, options: EncodeOptions) -> int:
        """Tokens of the prompt that are left out of the pooling.

        Raises:
            UserError: Texts are split into chunks, of which only the first has the prompt.
        """
        if not prompt or self.include_prompt:
            return 0
        if options.truncation == "mean-of-chunks":
            raise UserError(
                f"truncation is 'mean-of-chunks', but model {self.name!r} leaves its prompt out of the pooling, which chunks cannot do:"
                " let truncation be cut or error"
            )
        return self.prompt_tokens(prompt)

    def _windows(self, texts: list[str], options: EncodeOptions) -> Iterator[list[str]]:
        if options.truncation == "mean-of-chunks":
            return windows(texts, most=WINDOW_TEXTS, characters=_WINDOW_CHARACTERS, text_of=str)
        return in_slices(texts, WINDOW_TEXTS)

    def _rows(self, texts: list[str], options: EncodeOptions, *, start: int) -> TokenRows:
        """Tokenize a window of texts, and count or refuse long ones; ``start`` is the index of its first text.

        Raises:
            UnusableTextError: A text has no tokens, or too many and ``truncation`` is ``error``.
        """
        rows = self.token_rows(texts, in_chunks=options.truncation == "mean-of-chunks")
        if not all(rows.ids):
            text = rows.owners[next(row for row, ids in enumerate(rows.ids) if not ids)]
            raise UnusableTextError(start + text, texts[text], "has no tokens: remove it")
        if options.truncation == "error" and any(rows.is_cut):
            text = rows.is_cut.index(True)
            reason = f"has more than {self.max_tokens} tokens: split it, raise max_tokens, or let truncation be cut or mean-of-chunks"
            raise UnusableTextError(start + text, texts[text], reason)
        self.truncated += sum(rows.is_cut)
        self.chunked += len({owner for before, owner in zip(rows.owners, rows.owners[1:], strict=False) if before == owner})
        return rows

    def _vectors_of(
        self, rows: TokenRows, language: str | list[str] | None, options: EncodeOptions, *, scales: bool, skipped: int, task: Task
    ) -> Float32[np.ndarray, "rows dim"]:
        """The finished vector of each row."""
        is_alone = options.deterministic
        vectors: np.ndarray | None = None
        is_last = [owner != after for owner, after in zip(rows.owners, [*rows.owners[1:], -1], strict=True)]
        whole = self._alone(len(rows.ids)) if is_alone else self._batches(list(map(len, rows.ids)), options.batch_tokens)
        batches = [batch for full in whole for batch in in_slices(full, options.batch_size)]
        pooled = self._pooled(([rows.ids[row] for row in batch] for batch in batches), is_alone=is_alone, skipped=skipped)
        for batch, found in zip(batches, pooled, strict=True):
            if vectors is None:
                vectors = np.empty((len(rows.ids), found.shape[1]), dtype=np.float32)
            vectors[batch] = found
            task.advance(sum(is_last[row] for row in batch))
        if vectors is None:
            return np.empty((0, self.dim), dtype=np.float32)
        if not is_alone:
            corrected = self._corrected(vectors, language, is_alone=False)
            return self._kept(self._scaled(corrected) if scales else corrected, options)
        # one row at a time: the library may choose another order of additions for another number of rows
        languages = language if isinstance(language, list) else [language] * len(vectors)
        finished = [self._corrected(vector[None], own, is_alone=True) for vector, own in zip(vectors, languages, strict=True)]
        return np.concatenate([self._kept(self._scaled(vector) if scales else vector, options) for vector in finished])

    def _kept(self, vectors: Float32[np.ndarray, "rows width"], options: EncodeOptions) -> Float32[np.ndarray, "rows dim"]:
        """The numbers that the model keeps; scaled to length 1 again only on request, as sentence-transformers does."""
        if self.kept_dims is None:
            return vectors
        kept = vectors[:, : self.kept_dims]
        return unit_length(kept) if options.normalize else kept

    def _joined(self, vectors: Float32[np.ndarray, "rows dim"], rows: TokenRows, *, scales: bool) -> Float32[np.ndarray, "texts dim"]:
        """The vector of each text: its row's, or the mean of its chunks', weighted by their numbers of tokens."""
        texts = len(rows.is_cut)
        if len(rows.ids) == texts:
            return vectors
        starts = np.searchsorted(rows.owners, np.arange(texts + 1))
        joined = vectors[starts[:-1]]
        for text in np.flatnonzero(np.diff(starts) > 1):
            chunks = slice(starts[text], starts[text + 1])
            tokens = np.array([len(ids) for ids in rows.ids[chunks]], dtype=np.float64)
            mean = (vectors[chunks] * tokens[:, None]).sum(axis=0) / tokens.sum()
            joined[text] = unit_length(mean) if scales else mean
        return joined

    @staticmethod
    def _alone(rows: int) -> Iterator[list[int]]:
        return ([row] for row in range(rows))
