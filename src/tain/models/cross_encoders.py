"""Cross-encoders saved by transformers or sentence-transformers: one score per text pair."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import nn

from tain.batches.packing import batches_by_tokens
from tain.batches.tokenizing import fingerprint as tokenizer_fingerprint
from tain.encoders.headed import HeadedModel, TokenRow
from tain.encoders.transformer import usable_dtype
from tain.foundation.choices import Dtype
from tain.foundation.errors import UserError, refuse_not_finite
from tain.foundation.machine import choose_device, set_dtype
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.kinds import ModelKind
from tain.models.loading import load_with_missing, lower_case_first, max_length, padding_id
from tain.models.ranker_base import PairRanker, StoredRanker, digest
from tain.models.saved import read_stored_json, refuse_default_prompt, refuse_pickles, write_record
from tain.models.transformer_settings import TransformerSettings, read_settings
from tain.text.collections import matched_lists

_ACTIVATIONS: dict[str, type[nn.Module]] = {"Sigmoid": nn.Sigmoid, "Identity": nn.Identity}
_PROBE = [("a", "b"), ("one two three", "four"), ("the first of two texts", "and another one that is somewhat longer")]


class SavedCrossEncoder(PairRanker):
    """A saved cross-encoder that scores pairs as ``CrossEncoder.predict`` of sentence-transformers does.

    Scores are logits after a sigmoid, unless the folder specifies another activation. Overlong pairs lose tokens of the longer text first.

    Args:
        model: The network, in float32.
        tokenizer: Its tokenizer.
        activation: Turns logits into scores.
        max_tokens: Pairs are cut at this length, special tokens included.
        name: Name shown in tables.
        about: Its ``config_sentence_transformers.json``.
    """

    def __init__(
        self, model: Any, tokenizer: Any, activation: nn.Module, *, max_tokens: int, name: str, about: dict[str, Any] | None = None
    ) -> None:
        super().__init__(name=name)
        self._tokenizer, self.activation, self._max_tokens = tokenizer, activation, max_tokens
        self.about = about or {}
        self.network = HeadedModel(model, pad_id=padding_id(model, tokenizer, name=name), probe=self._rows(_PROBE))

    @classmethod
    def opened(cls, found: StoredRanker) -> "SavedCrossEncoder | None":
        if found.kind is None or found.kind.head != "cross-encoder":
            return None
        return cls.read(found.kind, name=found.name, device=found.device, trust_remote_code=found.trust_remote_code)

    @classmethod
    def read(cls, kind: ModelKind, *, name: str, device: str | None, trust_remote_code: bool) -> "SavedCrossEncoder":
        """Load a folder or hub name that ``kind_of`` found to be a cross-encoder.

        Raises:
            UserError: It has more than one output, no trained head, or an activation, prompt, setting or module that tain does not support.
        """
        if kind.labels != 1:
            raise UserError(
                f"model {name!r} is a cross-encoder that has {kind.labels} outputs per pair, so no single score: give one with one output"
            )
        activation = _activation(kind, name)
        settings = _settings(kind, name)
        refuse_default_prompt(kind.sentence_transformers, name)
        refuse_pickles(kind.path)
        model, tokenizer, missing = load_with_missing("AutoModelForSequenceClassification", kind.path, trust_remote_code=trust_remote_code)
        if heads := [weight for weight in missing if "pooler" not in weight]:
            raise UserError(f"model {name!r} has no trained scoring head ({heads[0]} is not in its weights): give a trained cross-encoder")
        if settings.lower_cases:
            lower_case_first(tokenizer, name=name)
        longest = max_length(model, tokenizer, stored=settings.max_tokens)
        tokenizer.model_max_length = longest  # where a saved copy keeps it
        model = model.to(choose_device(device))
        return cls(model, tokenizer, activation, max_tokens=longest, name=name, about=kind.sentence_transformers)

    @property
    def module(self) -> nn.Module:
        return self.network

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    @property
    def max_tokens(self) -> int:
        return self._max_tokens

    @property
    def towers(self) -> tuple[Embedder, ...]:
        return ()

    @property
    def device(self) -> torch.device:
        return self.network.device

    def choose_dtype(self, asked: Dtype) -> torch.dtype:
        """Compute type: float32, which reproduces the scores of ``CrossEncoder``, unless another one is requested."""
        return torch.float32 if asked == "auto" else usable_dtype(self.network.model, asked)

    def compute_in(self, dtype: torch.dtype) -> None:
        set_dtype(self.network, dtype)

    def _fingerprinted(self) -> str:
        about = (tokenizer_fingerprint(self.tokenizer), self.max_tokens, type(self.activation).__name__)
        return digest(dict(self.network.model.state_dict()), about)

    def _rows(self, pairs: Sequence[tuple[str, str]], *, max_tokens: int | None = None) -> list[TokenRow]:
        if not pairs:
            return []
        encoded = self.tokenizer(
            [left for left, _ in pairs],
            [right for _, right in pairs],
            truncation="longest_first",
            max_length=max_tokens or self.max_tokens,
            return_attention_mask=False,
        )
        return [{name: encoded[name][index] for name in encoded} for index in range(len(pairs))]

    @torch.inference_mode()
    def score_lists(
        self, contexts: Iterable[str], lists: Iterable[Iterable[str]], *, progress: Progress | None = None
    ) -> list[Float32[np.ndarray, " listed"]]:
        contexts, lists = matched_lists(contexts, lists)
        pairs = [(context, text) for context, listed in zip(contexts, lists, strict=True) for text in listed]
        rows = self._rows(pairs, max_tokens=self.max_tokens + 1)
        self.truncated_contexts, self.truncated_candidates = 0, sum(len(row["input_ids"]) > self.max_tokens for row in rows)  # pairs
        if self.truncated:
            rows = self._rows(pairs)
        scores = np.empty(len(pairs), dtype=np.float32)
        with (progress or Progress.silent()).task("score pairs", len(pairs)) as task:
            for batch in batches_by_tokens([len(row["input_ids"]) for row in rows], batch_tokens=self._batch_tokens()):
                logits = torch.stack(self.network([rows[index] for index in batch]))
                scores[batch] = self.activation(logits)[:, 0].cpu().numpy()
                task.advance(len(batch))
        refuse_not_finite(scores, self.name)
        return np.split(scores, np.cumsum([len(listed) for listed in lists])[:-1]) if lists else []

    def count_tokens(self, contexts: Iterable[str], lists: Iterable[Iterable[str]]) -> list[int]:
        contexts, lists = matched_lists(contexts, lists)
        return [
            sum(len(row["input_ids"]) for row in self._rows([(context, text) for text in listed])) if listed else 0
            for context, listed in zip(contexts, lists, strict=True)
        ]

    def save(self, folder: Path, *, record: dict[str, Any], card: str) -> None:
        """Save it into an existing folder in the layout of sentence-transformers, with float32 weights."""
        dtype = next(self.network.model.parameters()).dtype
        kind = type(self.activation)
        activation = f"{kind.__module__}.{kind.__name__}"
        config = self.network.model.config  # where sentence-transformers looks if there is no modules.json
        config.sentence_transformers = {**(getattr(config, "sentence_transformers", None) or {}), "activation_fn": activation}
        set_dtype(self.network, torch.float32)
        self.network.model.save_pretrained(folder)
        set_dtype(self.network, dtype)
        self.tokenizer.save_pretrained(folder)
        about = {**self.about, "model_type": "CrossEncoder", "activation_fn": activation}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        write_record(folder, record)
        (folder / "README.md").write_text(card, encoding="utf-8")


def _settings(kind: ModelKind, name: str) -> TransformerSettings:
    """Settings of the transformer, which sentence-transformers reads only beside a ``modules.json``.

    Raises:
        UserError: A setting or a second module would change the scores, and tain does not apply it.
    """
    modules = read_stored_json(kind.path, "modules.json")
    if not modules:
        return TransformerSettings()
    types = [str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else "" for module in modules]
    if types != ["Transformer"]:
        other = next((each for each in types if each != "Transformer"), "Transformer")
        raise UserError(
            f"model {name!r} is a cross-encoder with a {other} module, which tain does not support: use sentence-transformers for it"
        )
    return read_settings(lambda file: read_stored_json(kind.path, file), "", task="sequence-classification", name=name)


def _activation(kind: ModelKind, name: str) -> nn.Module:
    """Activation named by the folder, looked up in the same order as sentence-transformers."""
    old = kind.config.get("sentence_transformers")
    activation = (
        kind.sentence_transformers.get("activation_fn")
        or (old.get("activation_fn") if isinstance(old, dict) else None)
        or kind.config.get("sbert_ce_default_activation_function")
        or "torch.nn.Sigmoid"
    )
    found = _ACTIVATIONS.get(str(activation).rpartition(".")[2]) if str(activation).startswith("torch.nn.") else None
    if found is None:
        raise UserError(
            f"model {name!r} computes its scores with {activation}, which tain does not support: only torch.nn.Sigmoid and torch.nn.Identity are"
        )
    return found()
