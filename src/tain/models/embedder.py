"""Text encoder: turns texts into vectors with a tokenizer, a transformer and a pooling."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from safetensors.torch import save_file

from tain.batches.packing import batches_by_tokens, pack
from tain.batches.tokenizing import fingerprint as tokenizer_fingerprint
from tain.batches.tokenizing import tokenise, tokenise_rows
from tain.encoders.static import StaticTokens
from tain.encoders.transformer import TransformerEncoder, refuse_pooling
from tain.encoders.zero_blocks import skip_zero_blocks
from tain.foundation.choices import AnyPooling, Dtype, Layout
from tain.foundation.errors import UserError
from tain.foundation.machine import choose_device, one_thread, set_dtype
from tain.foundation.probing import evaluating
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.layers import LayerStack
from tain.models.loading import kind_of, load_pretrained, load_static_tokenizer, lower_case_first, max_length, segment_template
from tain.models.saved import Layout as StoredLayout
from tain.models.saved import read_layout, read_static, write_layout
from tain.text.collections import list_texts
from tain.text.encoding import EncodeOptions
from tain.text.token_encoding import TokenEncoder, TokenRows, TokenVectors

_BATCH_TOKENS = {"cpu": 4096, "cuda": 65_536}
_UNLIMITED = 1 << 30  # tokens of a text with static token vectors


class Embedder(TokenEncoder):
    """Text encoder built from a tokenizer, an encoder with pooling, and an optional correction.

    Args:
        encoder: Computes the vectors.
        tokenizer: A transformers tokenizer.
        name: Name shown in tables.
        max_tokens: Texts are cut at this length, special tokens included.
        normalize: Scale every vector to length 1.
        correction: Applied to the pooled vectors before normalization; see ``models.correction`` and ``models.layers``.
        record: Content of the folder's ``tain.json``; empty if there is none.
        sentence_transformers: Content of its ``config_sentence_transformers.json``: prompts and more; saved unchanged.
        include_prompt: Whether prompt tokens are pooled.
    """

    def __init__(
        self,
        encoder: TransformerEncoder,
        tokenizer: Any,
        *,
        name: str,
        max_tokens: int,
        normalize: bool = False,
        correction: LinearCorrection | LanguageCorrection | LayerStack | None = None,
        record: dict[str, Any] | None = None,
        sentence_transformers: dict[str, Any] | None = None,
        include_prompt: bool = True,
    ) -> None:
        self.encoder = encoder
        self.sentence_transformers = sentence_transformers or {}
        self._include_prompt = include_prompt
        self.correction = correction
        self.record = record or {}
        self.tokenizer = tokenizer
        self.name = name
        self.max_tokens = max_tokens
        self.normalize = normalize
        self.kept_dims = self.sentence_transformers.get("truncate_dim")

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        device: str | None = None,
        dtype: Dtype = "auto",
        pooling: AnyPooling | None = None,
        max_tokens: int | None = None,
        layout: Layout = "auto",
        below_head: bool = False,
        trust_remote_code: bool = False,
    ) -> "Embedder":
        """Load a text encoder from a transformers, sentence-transformers or tain folder, or a hub name.

        Decoders are loaded where the folder says how to pool, or ``pooling`` does.

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

        Examples:
            >>> import tain
            >>> encoder = tain.Embedder.load("tain-mini", dtype="float32", max_tokens=64)
            >>> encoder.dim, encoder.max_tokens, encoder.pooling
            (384, 64, 'mean')
        """
        if dtype not in ("auto", "float32", "bfloat16"):
            raise UserError(f"dtype is {dtype!r}: give auto, float32 or bfloat16")
        if pooling is not None:
            refuse_pooling(pooling)
        stored = read_layout(name)
        if stored.correction is not None and pooling not in (None, stored.pooling):
            raise UserError(
                f"pooling is {pooling!r}, but model {str(name)!r} has a correction fitted on vectors pooled by {stored.pooling}: remove it"
            )
        if pooling is None and stored.pooling is None and not below_head:
            kind_of(stored.path).refuse_head(name)
        for part, has in (("token weights", stored.token_weights), ("static token vectors", stored.is_static or None)):
            if has is not None and pooling not in (None, stored.pooling):
                raise UserError(f"pooling is {pooling!r}, but model {str(name)!r} has {part} and pools by {stored.pooling}: remove it")
        target = choose_device(device)
        if stored.is_static:
            return cls._static(stored, str(name), target, max_tokens=max_tokens)
        with torch.random.fork_rng(devices=[]):  # parts without saved weights, such as a pooler, get the same values at each loading
            torch.manual_seed(0)
            model, tokenizer = load_pretrained("AutoModel", stored.path, trust_remote_code=trust_remote_code)
        if stored.lower_cases:
            lower_case_first(tokenizer, name=str(name))
        own = None if stored.max_tokens is None else max_length(model, tokenizer, stored=stored.max_tokens)
        limit = max(max_length(model, tokenizer), own or 0)
        if max_tokens is not None and not 3 <= max_tokens <= limit:
            raise UserError(f"max_tokens is {max_tokens}, but model {str(name)!r} accepts 3 to {limit}: give a number in this range")
        model.to(device=target)
        encoder = TransformerEncoder(
            model,
            pooling=pooling or stored.pooling or "mean",
            pad_id=tokenizer.pad_token_id or 0,
            layout=layout,
            padded_to=max_tokens or own or limit,
            mask_id=tokenizer.mask_token_id,
            token_weights=_on_vocabulary(stored.token_weights, model, tokenizer, target, name=str(name)),
            layer_mix=_on_layers(stored.layer_mix, model, target, name=str(name)),
            decoder=stored.pooling is not None or pooling is not None,
            segment_template=segment_template(model, tokenizer, name=str(name)),
        )
        if encoder.is_decoder:
            model.config.use_cache = False  # keys and values of earlier tokens, which only generation needs
        set_dtype(encoder, encoder.choose_dtype(dtype))
        skip_zero_blocks(model)  # in the final data type
        encoder.eval()
        embedder = cls(
            encoder,
            tokenizer,
            name=str(name),
            max_tokens=max_tokens or own or limit,
            normalize=stored.normalize,
            correction=stored.correction,
            record=stored.record,
            sentence_transformers=stored.sentence_transformers,
            include_prompt=stored.include_prompt,
        )
        embedder._refuse_foreign_correction()
        return embedder

    @classmethod
    def _static(cls, stored: StoredLayout, name: str, device: torch.device, *, max_tokens: int | None) -> "Embedder":
        """Load static token vectors; texts have no length limit unless one is given, or stored in the tokenizer."""
        table, file = read_static(stored, name)
        tokenizer = load_static_tokenizer(file, name=name)
        largest = max(tokenizer.get_vocab().values(), default=-1)
        if largest >= len(table):
            raise UserError(
                f"model {name!r} has vectors for {len(table):,} tokens, but its tokenizer has {largest + 1:,}: copy the whole folder again"
            )
        cut = tokenizer.backend_tokenizer.truncation  # sentence-transformers leaves it on
        limit = _UNLIMITED if cut is None else int(cut["max_length"])
        if max_tokens is not None and not 1 <= max_tokens <= limit:
            raise UserError(f"max_tokens is {max_tokens}, but model {name!r} accepts 1 to {limit}: give a number in this range")
        embedder = cls(
            StaticTokens(torch.from_numpy(table)).to(device).eval(),
            tokenizer,
            name=name,
            max_tokens=max_tokens or limit,
            normalize=stored.normalize,
            correction=stored.correction,
            record=stored.record,
            sentence_transformers=stored.sentence_transformers,
        )
        embedder._refuse_foreign_correction()
        return embedder

    def refuse_other_networks(self, purpose: str) -> None:
        """Refuse a model whose token vectors are not those of the last layer of an encoder.

        Args:
            purpose: What it is to be used for, such as ``norm analysis``.

        Raises:
            UserError: It is a decoder, has static token vectors, or mixes layers.
        """
        self._refuse(
            purpose,
            {
                "is a decoder, whose tokens see only those before them": self.encoder.is_decoder,
                "has static token vectors and no transformer": isinstance(self.encoder, StaticTokens),
                "mixes the outputs of several layers (WeightedLayerPooling)": self.encoder.layer_mix is not None,
            },
        )

    def refuse_unusual(self, purpose: str) -> None:
        """Refuse a model that is good for encoding only.

        Args:
            purpose: What it is to be used for, such as ``mirroring``.

        Raises:
            UserError: As ``refuse_other_networks``; or it joins several poolings, has layers after pooling, puts a prompt before each text,
                or shortens its vectors.
        """
        self.refuse_other_networks(purpose)
        self._refuse(
            purpose,
            {
                f"joins several poolings ({self.pooling})": "+" in self.pooling,
                "has layers after pooling that are not linear": isinstance(self.correction, LayerStack),
                f"puts the prompt {self.default_prompt!r} before each text": bool(self.default_prompt),
                f"keeps the first {self.kept_dims} numbers of its vectors (truncate_dim)": self.kept_dims is not None,
            },
        )

    def _refuse(self, purpose: str, reasons: Mapping[str, bool]) -> None:
        for reason, holds in reasons.items():
            if holds:
                raise UserError(
                    f"model {self.name!r} {reason}, so it cannot be used for {purpose}: give an encoder such as BERT, RoBERTa or ModernBERT"
                )

    @property
    def include_prompt(self) -> bool:
        return self._include_prompt

    def set_default_prompt(self, prompt: str, *, include_prompt: bool) -> None:
        """Put a prompt before each text from now on, unless ``encode`` gets another one; it is saved with the encoder.

        Args:
            prompt: The prompt.
            include_prompt: Whether its tokens are pooled. Must be on for pooling ``cls``, whose token comes before the prompt.
        """
        prompts = {**self.prompts, "default": prompt}
        self.sentence_transformers = {**self.sentence_transformers, "prompts": prompts, "default_prompt_name": "default"}
        self._include_prompt = include_prompt

    def prompt_tokens(self, prompt: str) -> int:
        ids = self.token_rows([prompt]).ids[0]
        return len(ids) - (bool(ids) and ids[-1] in self.tokenizer.all_special_ids)

    @property
    def dim(self) -> int:
        whole = self.correction.dim if isinstance(self.correction, LinearCorrection | LayerStack) else self.encoder.dim
        return min(whole, self.kept_dims or whole)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages with a correction; empty if the model treats all texts alike."""
        return self.correction.languages if isinstance(self.correction, LanguageCorrection) else ()

    @property
    def pooling(self) -> str:
        """How token vectors become one; several poolings are joined by ``+``."""
        return self.encoder.pooling

    @property
    def layout(self) -> Literal["packed", "padded"]:
        return self.encoder.layout

    @torch.inference_mode()
    def _encode(self, texts: Iterable[str], options: EncodeOptions) -> Float32[np.ndarray, "texts dim"]:
        return super()._encode(texts, options)

    def token_rows(self, texts: Sequence[str], *, in_chunks: bool = False) -> TokenRows:
        return tokenise_rows(self.tokenizer, texts, max_tokens=self.max_tokens, in_chunks=in_chunks)

    def _batches(self, lengths: Sequence[int], batch_tokens: int | None) -> Iterator[list[int]]:
        return batches_by_tokens(lengths, batch_tokens=batch_tokens or _BATCH_TOKENS.get(self.encoder.device.type, 4096))

    def _pooled(self, batches: Iterable[list[list[int]]], *, is_alone: bool, skipped: int) -> Iterator[Float32[np.ndarray, "rows width"]]:
        return (self.encoder(pack(ids), skipped=skipped).cpu().numpy() for ids in batches)

    @torch.inference_mode()
    def token_vectors(self, text: str) -> TokenVectors:
        """Compute the token vectors of one text after its default prompt, and its vector."""
        (ids,) = self._rows([self.default_prompt + text], EncodeOptions(), start=0).ids
        with self._running(deterministic=False):
            found = self.encoder.tokens(pack([ids])).float().cpu().numpy()
        if isinstance(self.correction, LinearCorrection):
            found = self.correction.apply(found)
        return TokenVectors(found, self.encode(text))

    @contextmanager
    def _running(self, *, deterministic: bool) -> Iterator[None]:
        if deterministic and self.encoder.device.type != "cpu":
            raise UserError(f"deterministic is on, but the model runs on {self.encoder.device}: load it with device='cpu'")
        with evaluating(self.encoder), one_thread() if deterministic else nullcontext():
            yield

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
        self, vectors: Float32[np.ndarray, "rows width"], language: str | Sequence[str] | None, *, is_alone: bool
    ) -> Float32[np.ndarray, "rows dim"]:
        if self.correction is None:
            return vectors
        if isinstance(self.correction, LinearCorrection | LayerStack):
            return self.correction.apply(vectors, in_order=is_alone)
        assert language is not None
        return self.correction.apply(vectors, language, in_order=is_alone)

    def _refuse_foreign_correction(self) -> None:
        if isinstance(self.correction, LinearCorrection):
            widths = {self.correction.weight.shape[1]}
        elif isinstance(self.correction, LayerStack):
            widths = {self.correction.width}
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
        } | self._of_sentence_transformers()

    def _of_sentence_transformers(self) -> dict[str, Any]:
        found = {"default-prompt": self.default_prompt or None, "kept-dims": self.kept_dims}
        return {name: value for name, value in found.items() if value is not None}

    def fingerprint(self) -> str:
        """SHA-256 of weights, tokenizer and correction."""
        digest = hashlib.sha256(weights_fingerprint(self.encoder, self.tokenizer).encode())
        if self.correction is not None:
            for name, array in sorted(self.correction.arrays().items()):
                digest.update(f"{name} {array.shape}".encode() + array.tobytes())
        if self.encoder.token_weights is not None:
            digest.update(b"token weights" + self.encoder.token_weights.cpu().numpy().tobytes())
        if self.encoder.layer_mix is not None:
            digest.update(b"layer mix" + self.encoder.layer_mix.cpu().numpy().tobytes())
        return digest.hexdigest()

    def save(self, folder: Path, *, record: dict[str, Any], card: str, similarity: Literal["cosine", "dot"] | None = None) -> None:
        """Save the encoder into an existing folder in the layout of sentence-transformers, with float32 weights.

        Args:
            folder: Target folder; see ``whole_folder`` for writing it atomically.
            record: Kind, config, base model, seeds and figures for ``tain.json``.
            card: The model card, Markdown.
            similarity: Similarity function stored in the folder; default: as in the folder that it was loaded from, else cosine.
        """
        dtype = next(self.encoder.parameters()).dtype
        is_static = isinstance(self.encoder, StaticTokens)
        if is_static:
            save_file({"embedding.weight": self.encoder.model.table.detach().cpu().contiguous()}, folder / "model.safetensors")
            if self.max_tokens < _UNLIMITED:
                self.tokenizer.backend_tokenizer.enable_truncation(self.max_tokens, direction=self.tokenizer.truncation_side)
            else:
                self.tokenizer.backend_tokenizer.no_truncation()
            self.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        else:
            set_dtype(self.encoder, torch.float32)
            self.encoder.model.save_pretrained(folder)
            set_dtype(self.encoder, dtype)
            self.tokenizer.save_pretrained(folder)
        mix = self.encoder.layer_mix
        layers = 0 if mix is None else int(self.encoder.model.config.num_hidden_layers) + 1
        write_layout(
            folder,
            pooling=self.pooling,
            dim=self.encoder.width,
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
            layer_mix=None if mix is None else (layers - len(mix), mix.cpu().numpy()),
            is_static=is_static,
        )


def vocabulary_of(tokenizer: Any, size: int) -> list[str]:
    """Token per row of an embedding table with ``size`` rows; unused rows are called ``[unused ID]``."""
    by_id = {index: token for token, index in tokenizer.get_vocab().items()}
    return [by_id.get(index, f"[unused {index}]") for index in range(size)]


def _on_vocabulary(weights: np.ndarray | None, model: Any, tokenizer: Any, device: torch.device, *, name: str) -> torch.Tensor | None:
    """Convert stored token weights into a tensor with one weight per row of the embedding table; rows that no token uses get 1.

    Raises:
        UserError: There are fewer weights than tokens.
    """
    if weights is None:
        return None
    tokens = max(tokenizer.get_vocab().values(), default=-1) + 1
    if len(weights) < tokens:
        raise UserError(f"model {name!r} has weights for {len(weights):,} tokens, but its vocabulary has {tokens:,}: save the model again")
    found = torch.ones(int(model.config.vocab_size))
    found[: len(weights)] = torch.from_numpy(weights[: len(found)])
    return found.to(device)


def _on_layers(weights: np.ndarray | None, model: Any, device: torch.device, *, name: str) -> torch.Tensor | None:
    """Convert stored weights of layers into a tensor.

    Raises:
        UserError: There are more weights than layers.
    """
    if weights is None:
        return None
    layers = int(model.config.num_hidden_layers) + 1  # the embeddings count as one
    if len(weights) > layers:
        raise UserError(f"model {name!r} mixes {len(weights)} layers, but its transformer has {layers}: save the model again")
    return torch.from_numpy(weights).to(device)


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
