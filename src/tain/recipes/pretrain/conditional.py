"""Pretraining objective of conditional masked language modelling (CMLM, Yang et al. 2021).

Each step predicts masked tokens of sentences with the help of their neighbours' vectors, so the model learns good sentence vectors.
`docs/cmlm.md` lists the differences from the paper.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tain.batches.neighbours import NeighbourOrder, Neighbours, conditional_batch, conditional_share
from tain.batches.order import step_seed
from tain.batches.shards import token_batches
from tain.batches.splitting import SentenceEnds, SplitSentences
from tain.batches.tokenizing import opening_id, separator_id
from tain.batches.types import ConditionalBatch
from tain.encoders.conditioning import ConditionalMaskedLM
from tain.foundation.errors import UserError
from tain.foundation.probing import evaluating, unchanged
from tain.models.embedder import max_length
from tain.models.saved import write_layout
from tain.objectives.bitext import bitext_retrieval
from tain.objectives.masked_lm import masked_cross_entropy
from tain.recipes.pretrain.bitext import Translations
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.objectives import Masker, MaskingContext, dropout_seed
from tain.text.readers import read_sentences
from tain.training import distributed
from tain.training.async_loss import backward
from tain.training.gradcache import cached_gradients

_CARD = """# Sentence encoder and masked language model

Trained by tain with conditional masked language modelling (Yang et al. 2021), from {base}, on {tokens:.2f}M tokens. A text's vector is the mean of
its token vectors; `tain mirror` can start from it. Settings and figures are in `tain.json`.

The training method is covered by US patent 11,769,011: check before commercial use.
"""
_HELD_OUT_LINES = 2000  # per file
_HELD_OUT_TARGETS = 400  # in total
_BATCH_TARGETS = 50


def pseudo_tokens_of(config: PretrainConfig) -> int:
    """Number of pseudo-tokens that are put before a sentence."""
    if config.objective != "cmlm":
        return 0
    return config.pseudo_tokens * (2 if config.neighbour == "both" else 1)


def conditional_model(model: Any, config: PretrainConfig) -> ConditionalMaskedLM:
    """Wrap a masked language model with the conditioning that the settings ask for."""
    return ConditionalMaskedLM(
        model,
        pseudo_tokens=config.pseudo_tokens,
        conditions=2 if config.neighbour == "both" else 1,
        skip_connection=config.skip_connection,
    )


def write_conditional_layout(folder: Path, model: Any, tokenizer: Any, record: dict[str, Any]) -> None:
    """Write the sentence-transformers files of an encoder with mean pooling."""
    write_layout(
        folder,
        pooling="mean",
        dim=int(model.config.hidden_size),
        max_tokens=max_length(model, tokenizer),
        normalize=False,
        record={"pooling": "mean", **record},
        card=_CARD.format(base=record["base_model"], tokens=record["tokens"] / 1e6),
    )


class ConditionalSentences:
    """Objective that predicts masked tokens of sentences from their neighbours' vectors.

    A step takes enough sentences for about ``batch_blocks * block_tokens`` tokens, including neighbours and pseudo-tokens, so it costs
    as much as a step of other objectives. ``step_tokens`` is the mean over the corpus. With ``bitext``, a step also ranks translations
    within its pairs (the multilingual model's joint objective); these tokens come on top, and the loss is the weighted sum.
    """

    def __init__(self, context: MaskingContext) -> None:
        config = context.config
        assert context.conditional is not None
        self.conditional = context.conditional
        self.config, self.device = config, context.device
        self.masker = Masker(context.tokenizer, rate=config.masking_rate)
        self._is_by_text = config.masked_by == "text"
        self.neighbours = _neighbours(context.shards.sentences, context.shards.document_starts, context.tokenizer, config)
        tokens = self.neighbours.mean_tokens(with_neighbours=self.conditional.is_conditional)
        tokens += self.neighbours.conditions * config.pseudo_tokens
        batch_targets = max(1, round(config.batch_blocks * config.block_tokens / tokens))
        distributed.refuse_idle_processes(batch_targets, what="sentences")
        self.order = NeighbourOrder(self.neighbours, batch_targets=batch_targets, seed=config.seed)
        self.step_tokens = round(batch_targets * tokens)
        self.facts = {"sentences": self.neighbours.counts.to_dict(), "step_sentences": batch_targets}
        self.weights = context.weights
        self.translations = Translations(config.bitext, context.tokenizer, config) if config.bitext is not None else None
        if self.translations is not None:
            distributed.refuse_idle_processes(config.bitext_pairs, what="pairs of translations")
            self.step_tokens += round(self.translations.step_tokens)
            self.facts["translations"] = self.translations.facts
            self.facts |= {f"{name}_before": value for name, value in self._found_translations().items()}
        self._bottleneck = _Bottleneck(config.validation, context.tokenizer, config) if config.validation else None

    def gradient(self, step: int) -> float:
        seed = self.config.seed
        batch = conditional_batch(
            self.neighbours,
            self.order.targets(step),
            mask=lambda ids, owners: self.masker.at_random(ids, seed=step_seed(seed, step, 7), owners=owners if self._is_by_text else None),
        )
        hidden = len(batch.indices)
        if distributed.world_size() > 1:
            batch = conditional_share(batch, distributed.share_of(batch.texts.texts))
        torch.manual_seed(dropout_seed(seed, step))  # dropout draws from torch's global state
        loss = self._masked_loss(batch.to(self.device), hidden) if len(batch.indices) else 0.0
        retrieval = 0.0
        if self.translations is not None:
            self.weights.take_gradients()  # in float32: bfloat16 sums lose small terms
            retrieval = self._retrieval_loss(self.translations, step)
        self.weights.sum_over_processes()
        return distributed.summed(loss) + retrieval

    def _masked_loss(self, batch: ConditionalBatch, hidden: int) -> float:
        """Accumulate the gradient of this process's part of the mean loss over ``hidden`` masked tokens."""
        loss = masked_cross_entropy(self.conditional(batch), batch.targets)
        return backward(loss * (len(batch.indices) / hidden))()

    def _retrieval_loss(self, translations: Translations, step: int) -> float:
        """Accumulate this process's part of the gradient of the translations' loss, which sees the pairs of all processes."""
        share = distributed.share_of(self.config.bitext_pairs)
        packed, own = translations.batch(step, share).to(self.device), share.stop - share.start

        def loss(vectors: Tensor) -> Tensor:
            margin, scale = self.config.bitext_margin, self.config.bitext_scale
            return self.config.bitext_weight * bitext_retrieval(vectors[0::2], vectors[1::2], margin=margin, scale=scale)

        return cached_gradients(
            [packed],
            rows=[[*range(0, 2 * own, 2), *range(1, 2 * own, 2)]],
            embed=self.conditional.encode,
            loss=loss,
            reseed=lambda part: None,  # one part runs once
            total=self.config.bitext_pairs,
            rows_each=2,
        )

    def held_out(self) -> dict[str, float]:
        figures = self._found_translations()
        if self._bottleneck is not None and self.conditional.is_conditional:
            figures |= self._bottleneck.losses(self.conditional, self.device)
        return figures

    def _found_translations(self) -> dict[str, float]:
        """The share of held-out translations that are found; empty without translations."""
        if self.translations is None:
            return {}
        with unchanged(self.conditional), evaluating(self.conditional):
            found = self.translations.accuracy(self.conditional.encode)
        return {} if found is None else {"translation_accuracy": round(found, 4)}


class _Bottleneck:
    """Measures how useful the vector is: held-out losses with the neighbour's vector, with another sentence's, and without one.

    The other sentence comes from another document; with a single document this loss is left out.
    """

    def __init__(self, files: Sequence[Path], tokenizer: Any, config: PretrainConfig) -> None:
        lines, starts = _held_out_lines(files, tokenizer)
        try:
            neighbours = _neighbours(lines, starts, tokenizer, config)
        except UserError as error:
            raise UserError(f"validation files cannot be used to measure the effect of neighbours: {error}") from None
        masker = Masker(tokenizer, rate=config.masking_rate)
        is_by_text = config.masked_by == "text"
        count = min(_HELD_OUT_TARGETS, len(neighbours.targets))
        targets = neighbours.targets[np.linspace(0, len(neighbours.targets) - 1, count).astype(int)]
        self._others = _of_other_documents(neighbours.documents_of(targets))
        self._batches = [
            conditional_batch(
                neighbours,
                targets[first : first + _BATCH_TARGETS],
                mask=lambda ids, owners, first=first: masker.at_random(
                    ids, seed=step_seed(1, first, 9), owners=owners if is_by_text else None
                ),
            )
            for first in range(0, count, _BATCH_TARGETS)
        ]

    def losses(self, conditional: ConditionalMaskedLM, device: torch.device) -> dict[str, float]:
        """Mean losses over all masked tokens, nats, dropout off."""
        with torch.no_grad(), unchanged(conditional), evaluating(conditional):
            return self._losses(conditional, device)

    def _losses(self, conditional: ConditionalMaskedLM, device: torch.device) -> dict[str, float]:
        batches = [batch.to(device) for batch in self._batches]
        own = [conditional.vectors(batch) for batch in batches]
        conditions: dict[str, Sequence[Tensor | None]] = {"loss_with_neighbour": own, "loss_without": [None] * len(own)}
        if self._others is not None:
            moved = torch.cat(own, dim=1)[:, torch.from_numpy(self._others).to(device)]
            conditions["loss_with_another"] = moved.split([part.shape[1] for part in own], dim=1)
        indices = sum(len(batch.indices) for batch in batches)
        figures = {}
        for name, vectors in conditions.items():
            losses = [
                masked_cross_entropy(conditional.logits(batch, given), batch.targets).item() * len(batch.indices)
                for batch, given in zip(batches, vectors, strict=True)
            ]
            figures[name] = round(sum(losses) / indices, 4)
        return figures


def _of_other_documents(documents: np.ndarray) -> np.ndarray | None:
    """For each sentence, the index of a random sentence from another document; None if there is only one document.

    Args:
        documents: The document of each sentence, in order (sentences,).
    """
    names, first, counts = np.unique(documents, return_index=True, return_counts=True)
    if len(names) < 2:
        return None
    mine = np.searchsorted(names, documents)
    steps = np.random.default_rng(1).integers(len(documents) - counts[mine])  # past the sentence's own document, wrapping around
    return (first[mine] + counts[mine] + steps) % len(documents)


def _neighbours(lines: Sequence[np.ndarray], document_starts: np.ndarray, tokenizer: Any, config: PretrainConfig) -> Neighbours:
    if config.split_sentences:
        lines = SplitSentences(lines, document_starts, SentenceEnds.of(tokenizer))
        document_starts = lines.document_starts
    return Neighbours(
        lines,
        document_starts,
        side=config.neighbour,
        first_id=opening_id(tokenizer),
        last_id=separator_id(tokenizer),
        min_tokens=config.min_tokens,
        max_tokens=config.block_tokens,
        max_overlap=config.max_overlap,
    )


def _held_out_lines(files: Sequence[Path], tokenizer: Any) -> tuple[list[np.ndarray], np.ndarray]:
    """The first lines of each file as token ids, and the indices at which documents begin."""
    lines: list[np.ndarray] = []
    starts: list[int] = []
    for path in files:
        wanted = len(lines) + _HELD_OUT_LINES
        for ids, lengths, begins_document in token_batches(read_sentences(path), tokenizer, batch_texts=256):
            starts += (begins_document.nonzero()[0] + len(lines)).tolist()
            ends = lengths.cumsum()
            lines += [ids[end - length : end - 1] for end, length in zip(ends, lengths, strict=True)]  # the last one is the separator
            if len(lines) >= wanted:
                break
    return lines, np.array(starts)
