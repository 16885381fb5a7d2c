"""Base class of text encoders: encode one text or many, and compare vectors."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from tain.foundation.choices import Truncation
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.foundation.vectors import cosine_similarities

if TYPE_CHECKING:
    import numpy as np


class UnusableTextError(UserError):
    """One of the given texts cannot be encoded.

    Args:
        row: Index of the text.
        text: The text.
        reason: Why it cannot be encoded, and what to do.
    """

    def __init__(self, row: int, text: str, reason: str) -> None:
        super().__init__(f"text {row} ({text!r:.60}) {reason}")
        self.row, self.text, self.reason = row, text, reason

    def after(self, texts: int) -> "UnusableTextError":
        """The same error, with the index counted from the beginning of a file whose first ``texts`` texts were encoded before."""
        return UnusableTextError(self.row + texts, self.text, self.reason)


@dataclass(frozen=True, kw_only=True)
class EncodeOptions:
    """The options of one call of ``BaseTextEncoder.encode``, which documents them."""

    language: str | Iterable[str] | None = None
    batch_size: int | None = None
    batch_tokens: int | None = None
    normalize: bool | None = None
    truncation: Truncation = "cut"
    deterministic: bool = False
    prompt_name: str | None = None
    prompt: str | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        if self.truncation not in get_args(Truncation):
            raise UserError(f"truncation is {self.truncation!r}: give {', '.join(get_args(Truncation))}")


class BaseTextEncoder(ABC):
    """What ``Embedder``, ``ExportedEncoder`` and ``Student`` share. A subclass computes the vectors, in ``_encode``."""

    def encode(
        self,
        texts: str | Iterable[str],
        *,
        language: str | Iterable[str] | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        normalize: bool | None = None,
        truncation: Truncation = "cut",
        deterministic: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        progress: Progress | None = None,
    ) -> "np.ndarray":
        """Encode texts into vectors, in the given order. Dropout is always off.

        Args:
            texts: One text, or an iterable of texts: a list, a generator, a column of a table. Not a table or a set.
            language: Language of the texts, or one per text. Required by models with a per-language correction, refused by others.
            batch_size: Upper limit of texts per batch. Batches are sized by tokens (``batch_tokens``), so long texts need no smaller
                batches; this is an additional limit.
            batch_tokens: Tokens per batch; an exported graph counts padding too. Both limits affect speed and memory; vectors change by
                rounding only (the sixth digit in float32, the third in bfloat16 and int8).
            normalize: Scale vectors to length 1; default: as stored in the model's folder.
            truncation: What to do with texts that are longer than ``max_tokens``. ``cut`` encodes their beginning and counts them in
                ``truncated``. ``error`` refuses them. ``mean-of-chunks`` splits them into chunks of ``max_tokens`` tokens, encodes each
                chunk, averages the vectors weighted by the chunks' numbers of tokens (special tokens included), scales the mean to
                length 1 if the vectors have that length, and counts the texts in ``chunked``.
            deterministic: Give the same bits for a text regardless of the other texts, their order, the batch options and the number of
                threads: each text runs alone and on one thread. Slower. CPU only.
            prompt_name: Name of one of the model's prompts, which is put before each text; default: the model's default prompt, if any.
            prompt: A prompt of your own; takes precedence over ``prompt_name``; empty for none.
            progress: Receives an update per batch.

        Returns:
            float32 (texts, dim); for a single string (dim,).

        Raises:
            UserError: ``texts`` is a table or a set, or contains something that is not text, or a text without tokens, or with
                ``truncation="error"`` one that is too long; a language is missing, unknown, or given to a model that treats all texts
                alike; the number of languages differs from the number of texts; a student outputs labels, not vectors, or does not
                support an option; or ``normalize`` is off and an exported graph scales its vectors.
            NotFiniteError: The model gave NaN or infinity.

        Examples:
            >>> import tain
            >>> encoder = tain.load("tain-mini")
            >>> encoder.encode("one text").shape
            (384,)
            >>> encoder.encode(["a first text", "a second text"], normalize=True).shape
            (2, 384)
        """
        options = EncodeOptions(
            language=language,
            batch_size=batch_size,
            batch_tokens=batch_tokens,
            normalize=normalize,
            truncation=truncation,
            deterministic=deterministic,
            prompt_name=prompt_name,
            prompt=prompt,
            progress=progress,
        )
        return self._encode([texts], options)[0] if isinstance(texts, str) else self._encode(texts, options)

    def encode_query(self, texts: str | Iterable[str], **options: Any) -> "np.ndarray":
        """Encode queries with the model's prompt ``query``, or without a prompt if it has none.

        Args:
            texts: As for ``encode``.
            **options: As for ``encode``.
        """
        return self.encode(texts, **self._with_prompt(options, "query"))

    def encode_document(self, texts: str | Iterable[str], **options: Any) -> "np.ndarray":
        """Encode documents with the model's prompt ``document``, ``passage`` or ``corpus`` (the first it has), or without a prompt.

        Args:
            texts: As for ``encode``.
            **options: As for ``encode``.
        """
        return self.encode(texts, **self._with_prompt(options, "document", "passage", "corpus"))

    @property
    def prompts(self) -> Mapping[str, str]:
        """The model's prompts by name; empty if it has none."""
        return {}

    @property
    def default_prompt(self) -> str:
        """What is put before each text where ``encode`` gets no prompt; usually empty."""
        return ""

    def _with_prompt(self, options: dict[str, Any], *names: str) -> dict[str, Any]:
        if options.get("prompt") is not None or options.get("prompt_name") is not None:
            return options
        return options | {"prompt": next((self.prompts[name] for name in names if name in self.prompts), "")}

    def prompt_for(self, *, prompt_name: str | None, prompt: str | None) -> str:
        """What is put before each text.

        Raises:
            UserError: The model has no prompt of that name.
        """
        if prompt is not None:
            return prompt
        if prompt_name is None:
            return self.default_prompt
        if prompt_name not in self.prompts:
            known = f"it has {', '.join(sorted(self.prompts))}" if self.prompts else "it has none"
            raise UserError(f"prompt_name is {prompt_name!r}, but the model has no such prompt: {known}; or give the prompt itself")
        return self.prompts[prompt_name]

    @abstractmethod
    def _encode(self, texts: Iterable[str], options: EncodeOptions) -> "np.ndarray":
        """Encode many texts: float32 (texts, dim)."""

    def similarity(self, left: Any, right: Any) -> "np.ndarray":
        """Cosine similarity of every left vector with every right vector, like ``similarity`` of sentence-transformers.

        Args:
            left: Vectors as ``encode`` returns them, (n, dim) or (dim,).
            right: Vectors (m, dim) or (dim,).

        Returns:
            float32 (n, m).

        Raises:
            UserError: The arguments are texts, or their dimensions differ.

        Examples:
            >>> import tain
            >>> encoder = tain.load("tain-mini")
            >>> left, right = encoder.encode(["a kitten", "a train"]), encoder.encode(["a small cat"])
            >>> encoder.similarity(left, right).shape
            (2, 1)
        """
        return cosine_similarities(left, right)
