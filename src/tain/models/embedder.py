"""Text encoder: turns texts into vectors with a tokenizer, a transformer and a pooling."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32

from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import fingerprint as tokenizer_fingerprint
from tain.batches.tokenizing import tokenise
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.choices import POOLINGS, Dtype, Layout, Pooling
from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.machine import choose_device, set_dtype
from tain.foundation.probing import evaluating
from tain.foundation.progress import Progress
from tain.foundation.slices import in_slices
from tain.foundation.vectors import unit_length
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.loading import kind_of, load_pretrained, max_length
from tain.models.saved import read_layout, write_layout
from tain.text.collections import list_texts
from tain.text.encoding import BaseTextEncoder

_WINDOW_TEXTS = 16_384  # texts tokenised and sorted together
_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}


class Embedder(BaseTextEncoder):
    """Text encoder built from a tokenizer, an encoder with pooling, and an optional correction.

    Args:
        encoder: Computes the vectors.
        tokenizer: A transformers tokenizer.
        name: Name shown in tables.
        max_tokens: Texts are cut at this length, special tokens included.
        normalize: Scale every vector to length 1.
        correction: Applied to the pooled vectors before normalization; see ``models.correction``.
        record: Content of the folder's ``tain.json``; empty if there is none.
        sentence_transformers: Content of its ``config_sentence_transformers.json`` (such as prompts); saved unchanged.
        include_prompt: Whether sentence-transformers includes prompt tokens in the mean.
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        tokenizer: Any,
        *,
        name: str,
        max_tokens: int,
        normalize: bool = False,
        correction: LinearCorrection | LanguageCorrection | None = None,
        record: dict[str, Any] | None = None,
        sentence_transformers: dict[str, Any] | None = None,
        include_prompt: bool = True,
    ) -> None:
        self.encoder = encoder
        self.sentence_transformers = sentence_transformers or {}
        self.include_prompt = include_prompt
        self.correction = correction
        self.record = record or {}
        self.tokenizer = tokenizer
        self.name = name
        self.max_tokens = max_tokens
        self.normalize = normalize
        self.truncated = 0  # texts truncated by the last call of encode

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        dtype: Dtype = "auto",
        pooling: Pooling | None = None,
        max_tokens: int | None = None,
        layout: Layout = "auto",
        below_head: bool = False,
        trust_remote_code: bool = False,
    ) -> "Embedder":
        """Load a text encoder from a transformers, sentence-transformers or tain folder, or a hub name.

        Args:
            name: A folder, a hub name, or ``tain-mini``.
            device: ``cpu``, ``cuda`` or ``cuda:N``; default: a GPU if available.
            dtype: Data type of the weights; ``auto`` benchmarks float32 and bfloat16 on this machine and takes the faster one.
            pooling: Default: as stored in the folder, else ``mean``.
            max_tokens: Default: as stored in the folder, else the model's own limit.
            layout: See ``TransformerEncoder``.
            below_head: Use the encoder below a head for labels or scores; otherwise such a model is refused unless ``pooling`` is given.
            trust_remote_code: Allow Python code from the model's folder.

        Raises:
            UserError: The model does not exist or cannot be run.

        Example:
            >>> import tain
            >>> encoder = tain.Embedder.load("tain-mini", dtype="float32", max_tokens=64)
            >>> encoder.dim, encoder.max_tokens, encoder.pooling
            (384, 64, 'mean')
        """
        if dtype not in ("auto", "float32", "bfloat16"):
            raise UserError(f"dtype is {dtype!r}: give auto, float32 or bfloat16")
        if pooling is not None and pooling not in POOLINGS:
            raise UserError(f"pooling is {pooling!r}: give one of {', '.join(POOLINGS)}")
        stored = read_layout(name)
        if stored.correction is not None and pooling not in (None, stored.pooling):
            raise UserError(
                f"pooling is {pooling!r}, but model {str(name)!r} has a correction fitted on vectors pooled by {stored.pooling}: remove it"
            )
        if pooling is None and stored.pooling is None and not below_head:
            kind_of(stored.path).refuse_head(name)
        if stored.token_weights is not None and pooling not in (None, "mean"):
            raise UserError(f"pooling is {pooling!r}, but model {str(name)!r} uses weighted mean pooling: remove it")
        target = choose_device(device)
        with torch.random.fork_rng(devices=[]):  # parts without saved weights, such as a pooler, get the same values at each loading
            torch.manual_seed(0)
            model, tokenizer = load_pretrained("AutoModel", stored.path, trust_remote_code=trust_remote_code)
        limit = max_length(model, tokenizer)
        if max_tokens is not None and not 3 <= max_tokens <= limit:
            raise UserError(f"max_tokens is {max_tokens}, but model {str(name)!r} accepts 3 to {limit}: give a number in this range")
        model.to(device=target)
        encoder = TransformerEncoder(
            model,
            pooling=pooling or stored.pooling or "mean",
            pad_id=tokenizer.pad_token_id or 0,
            layout=layout,
            padded_to=min(max_tokens or stored.max_tokens or limit, limit),
            mask_id=tokenizer.mask_token_id,
            token_weights=_on_vocabulary(stored.token_weights, model, target, name=str(name)),
        )
        set_dtype(encoder, encoder.choose_dtype(dtype))
        encoder.eval()
        embedder = cls(
            encoder,
            tokenizer,
            name=str(name),
            max_tokens=min(max_tokens or stored.max_tokens or limit, limit),
            normalize=stored.normalize,
            correction=stored.correction,
            record=stored.record,
            sentence_transformers=stored.sentence_transformers,
            include_prompt=stored.include_prompt,
        )
        embedder._refuse_foreign_correction()
        return embedder

    @property
    def dim(self) -> int:
        return self.correction.dim if isinstance(self.correction, LinearCorrection) else self.encoder.dim

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages with a correction; empty if the model treats all texts alike."""
        return self.correction.languages if isinstance(self.correction, LanguageCorrection) else ()

    @property
    def pooling(self) -> Pooling:
        return self.encoder.pooling

    @property
    def layout(self) -> Literal["packed", "padded"]:
        return self.encoder.layout

    @torch.inference_mode()
    def _encode(
        self,
        texts: Iterable[str],
        *,
        language: str | Iterable[str] | None,
        batch_size: int | None,
        batch_tokens: int | None,
        normalize: bool | None,
        progress: Progress | None,
    ) -> Float32[np.ndarray, "texts dim"]:
        texts = list_texts(texts)
        if language is not None and not isinstance(language, str):
            language = list_texts(language, what="language")
        self.refuse_language(language)
        if isinstance(language, list) and len(language) != len(texts):
            raise UserError(f"got {len(language):,} languages for {len(texts):,} texts: give one per text, or one for all")
        batch_tokens = batch_tokens or _BATCH_TOKENS.get(self.encoder.device.type, 4096)
        self.truncated = 0
        vectors = np.empty((len(texts), self.encoder.dim), dtype=np.float32)
        with evaluating(self.encoder), (progress or Progress.silent()).task("encode", len(texts)) as task:
            for start in range(0, len(texts), _WINDOW_TEXTS):
                window = texts[start : start + _WINDOW_TEXTS]
                tokens = tokenise(self.tokenizer, window, max_tokens=self.max_tokens)
                self.truncated += tokens.truncated
                if not all(tokens.ids):
                    index = start + next(index for index, ids in enumerate(tokens.ids) if not ids)
                    raise UserError(f"text {index} ({texts[index]!r:.60}) has no tokens: remove it")
                for full in batches_by_tokens([len(ids) for ids in tokens.ids], batch_tokens=batch_tokens):
                    for batch in in_slices(full, batch_size):
                        found = self.encoder(pack([tokens.ids[text] for text in batch]))
                        vectors[np.asarray(batch) + start] = found.cpu().numpy()
                        task.advance(len(batch))
        vectors = self._corrected(vectors, language)
        refuse_not_finite(vectors, self.name)
        if self.normalize if normalize is None else normalize:
            unit_length(vectors, out=vectors)
        return vectors

    def count_tokens(self, texts: Iterable[str]) -> list[int]:
        """Number of tokens read per text, including special tokens."""
        return [len(ids) for ids in tokenise(self.tokenizer, list_texts(texts), max_tokens=self.max_tokens).ids]

    def refuse_language(self, language: str | Sequence[str] | None) -> None:
        """Refuse a language argument that ``encode`` would refuse, before encoding anything.

        Raises:
            UserError: A language is missing, unknown, or given to a model that treats all texts alike.
        """
        if isinstance(self.correction, LanguageCorrection):
            self.correction.refuse_unknown(language, name=self.name)
        elif language is not None:
            raise UserError(
                f"language is {language!r}, but model {self.name!r} treats all texts alike: remove it, or fit a correction with tain correct"
            )

    def _corrected(
        self, vectors: Float32[np.ndarray, "texts width"], language: str | Sequence[str] | None
    ) -> Float32[np.ndarray, "texts dim"]:
        if isinstance(self.correction, LinearCorrection):
            return self.correction.apply(vectors)
        if isinstance(self.correction, LanguageCorrection):
            assert language is not None
            return self.correction.apply(vectors, language)
        return vectors

    def _refuse_foreign_correction(self) -> None:
        if isinstance(self.correction, LinearCorrection):
            widths = {self.correction.weight.shape[1]}
        else:
            widths = {rows.shape[-1] for rows in self.correction.directions.values()} if self.correction else set()
        if widths - {self.encoder.dim}:
            raise UserError(
                f"model {self.name!r} has a correction for vectors of dimension {min(widths)}, but its encoder gives {self.encoder.dim}:"
                " fit it again with tain correct"
            )

    def settings(self) -> dict[str, Any]:
        """Settings that affect the vectors, besides weights, tokenizer and correction."""
        return {
            "pooling": self.pooling,
            "max-tokens": self.max_tokens,
            "compute-dtype": str(next(self.encoder.parameters()).dtype).removeprefix("torch."),
            "layout": self.layout,
            "device": self.encoder.device.type,
        }

    def fingerprint(self) -> str:
        """SHA-256 of weights, tokenizer and correction."""
        digest = hashlib.sha256(weights_fingerprint(self.encoder, self.tokenizer).encode())
        if self.correction is not None:
            for name, array in sorted(self.correction.arrays().items()):
                digest.update(f"{name} {array.shape}".encode() + array.tobytes())
        if self.encoder.token_weights is not None:
            digest.update(b"token weights" + self.encoder.token_weights.cpu().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, *, record: dict[str, Any], card: str, similarity: Literal["cosine", "dot"] = "cosine") -> None:
        """Save the encoder into an existing folder in the layout of sentence-transformers, with float32 weights.

        Args:
            folder: Target folder; see ``whole_folder`` for writing it atomically.
            record: Kind, config, base model, seeds and figures for ``tain.json``.
            card: The model card, Markdown.
            similarity: Similarity function stored in the folder.
        """
        dtype = next(self.encoder.parameters()).dtype
        set_dtype(self.encoder, torch.float32)
        self.encoder.model.save_pretrained(folder)
        set_dtype(self.encoder, dtype)
        self.tokenizer.save_pretrained(folder)
        write_layout(
            folder,
            pooling=self.pooling,
            dim=self.encoder.dim,
            max_tokens=self.max_tokens,
            normalize=self.normalize,
            correction=self.correction,
            record=record,
            card=card,
            similarity=similarity,
            kept=self.sentence_transformers,
            include_prompt=self.include_prompt,
            token_weights=None if (weights := self.encoder.token_weights) is None else weights.cpu().numpy(),
            vocabulary=vocabulary_of(self.tokenizer, len(self.encoder.token_weights)) if self.encoder.token_weights is not None else (),
        )


def vocabulary_of(tokenizer: Any, size: int) -> list[str]:
    """Token per row of an embedding table with ``size`` rows; unused rows are called ``[unused ID]``."""
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    return [by_id.get(index, f"[unused {index}]") for index in range(size)]


def _on_vocabulary(weights: np.ndarray | None, model: Any, device: torch.device, *, name: str) -> torch.Tensor | None:
    """Convert stored token weights into a tensor with one weight per row of the embedding table.

    Raises:
        UserError: There are fewer weights than rows.
    """
    if weights is None:
        return None
    rows = int(model.config.vocab_size)
    if len(weights) < rows:
        raise UserError(f"model {name!r} has weights for {len(weights):,} tokens, but its vocabulary has {rows:,}: save the model again")
    return torch.from_numpy(weights[:rows]).to(device)


def weights_fingerprint(module: torch.nn.Module, tokenizer: Any) -> str:
    """SHA-256 of a model's weights and tokenizer."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        if "pooler." in name:
            continue  # not used for our vectors, and randomly initialized if the checkpoint lacks it
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    digest.update(tokenizer_fingerprint(tokenizer).encode())
    return digest.hexdigest()
