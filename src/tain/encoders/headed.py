"""Wrapper of transformers models with a head, with outputs independent of the batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tain.encoders.transformer import FOREIGN_ERRORS, full_attention_tokens, restore_sparse_attention
from tain.foundation.errors import UserError
from tain.foundation.probing import unchanged

_TOLERANCE = 1e-4  # float32 runs agree to 1e-6; a model that attends to padding is off by far more

TokenRow = Mapping[str, Sequence[int]]  # tokenizer output of one text or pair: input_ids, for some models token_type_ids


class HeadedModel(nn.Module):
    """Computes the logits of a transformers model with a head for texts, pairs or tokens.

    Rows are padded on the right and masked here, regardless of the tokenizer's settings. If padding still changes the logits
    (FNet mixes all positions of a row, XLNet's classifiers read the last one), only rows of equal length are batched; of BigBird with
    sparse attention, this applies to rows that are too long for full attention.

    Args:
        model: As loaded by ``AutoModelForSequenceClassification`` or ``AutoModelForTokenClassification``; set to eval mode.
        pad_id: Padding token id.
        probe: A few tokenized texts of different lengths, to test the effect of padding.

    Attributes:
        pads: Padding does not change the logits.

    Raises:
        UserError: The model cannot run on these texts.
    """

    def __init__(self, model: Any, *, pad_id: int, probe: Sequence[TokenRow]) -> None:
        super().__init__()
        self.model = model.eval()
        self.pad_id = pad_id
        self.full_attention_tokens = full_attention_tokens(self._encoder)
        self.pads = True
        self.pads = self._padding_changes_nothing(probe)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _encoder(self) -> Any:
        """The model below the head."""
        return getattr(self.model, self.model.base_model_prefix, self.model)

    def forward(self, rows: Sequence[TokenRow]) -> list[Tensor]:
        """Compute the logits of each row, float32: (outputs,) for a text head, (tokens, outputs) for a token head."""
        found: list[Any] = [None] * len(rows)
        for indices in self._together(rows):
            lengths = [len(rows[index]["input_ids"]) for index in indices]
            if self._is_sparse(lengths[0]):
                restore_sparse_attention(self._encoder)
            logits = self.model(**self._padded([rows[index] for index in indices])).logits.float()
            for index, each, length in zip(indices, logits, lengths, strict=True):
                found[index] = each if each.ndim == 1 else each[:length]
        return found

    def _together(self, rows: Sequence[TokenRow]) -> list[list[int]]:
        """Group row indices into batches: those that may be padded together, the others by length."""
        groups: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            length = len(row["input_ids"])
            groups.setdefault(0 if self.pads and not self._is_sparse(length) else length, []).append(index)
        return list(groups.values())

    def _is_sparse(self, tokens: int) -> bool:
        """Whether a row of this length runs in BigBird's sparse attention."""
        return self.full_attention_tokens is not None and tokens > self.full_attention_tokens

    def _padded(self, rows: Sequence[TokenRow]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)

        def table(values: Sequence[Sequence[int]], fill: int) -> Tensor:
            return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in values], device=self.device)

        inputs = {name: table([row[name] for row in rows], self.pad_id if name == "input_ids" else 0) for name in rows[0]}
        return inputs | {"attention_mask": table([[1] * len(row["input_ids"]) for row in rows], 0)}

    @torch.inference_mode()
    def _padding_changes_nothing(self, probe: Sequence[TokenRow]) -> bool:
        name = type(self.model).__name__
        try:
            with unchanged(self.model):
                alone = [self([row])[0] for row in probe]
        except FOREIGN_ERRORS as error:
            reason = " ".join(str(error).split())[:150] or type(error).__name__
            raise UserError(f"{name} cannot run on the tokens of a text alone ({reason}): give a BERT-like classifier") from None
        try:
            with unchanged(self.model):
                together = self(probe)
        except FOREIGN_ERRORS:
            return False  # such as GPT-2 without a padding id
        return all(torch.allclose(one, other, atol=_TOLERANCE, rtol=_TOLERANCE) for one, other in zip(alone, together, strict=True))
