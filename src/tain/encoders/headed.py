"""A transformers model with its head: the same outputs for a text alone and beside others."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tain.encoders.transformer import FOREIGN_ERRORS
from tain.foundation.errors import UserError
from tain.foundation.probing import unchanged

_TOLERANCE = 1e-4  # float32 runs agree to 1e-6; a model that reads padding is off by far more

TokenRow = Mapping[str, Sequence[int]]  # what a tokenizer says of one text or pair: input_ids, for some models token_type_ids


class HeadedModel(nn.Module):
    """Logits of a transformers model with a head for texts, pairs or tokens.

    Rows are filled up on the right and masked here, whatever the tokenizer's settings are. Where padding changes the logits even so
    (FNet mixes all places of a row, XLNet's classifiers read the last one), only rows of equal length run together.

    Args:
        model: As ``AutoModelForSequenceClassification`` or ``AutoModelForTokenClassification`` loads it; is put in eval mode.
        pad_id: Token id that rows are filled up with.
        probe: A few tokenised texts of different lengths, to find out about padding.

    Attributes:
        pads: Padding changes nothing.

    Raises:
        UserError: The model does not run on these texts.
    """

    def __init__(self, model: Any, *, pad_id: int, probe: Sequence[TokenRow]) -> None:
        super().__init__()
        self.model = model.eval()
        self.pad_id = pad_id
        self.pads = True
        self.pads = self._padding_changes_nothing(probe)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def forward(self, rows: Sequence[TokenRow]) -> list[Tensor]:
        """Compute each row's logits: (outputs,) of a head for texts, (tokens, outputs) of one for tokens, float32."""
        found: list[Any] = [None] * len(rows)
        for indices in self._together(rows):
            lengths = [len(rows[index]["input_ids"]) for index in indices]
            logits = self.model(**self._padded([rows[index] for index in indices])).logits.float()
            for index, each, length in zip(indices, logits, lengths, strict=True):
                found[index] = each if each.ndim == 1 else each[:length]
        return found

    def _together(self, rows: Sequence[TokenRow]) -> list[list[int]]:
        """Places of rows that run together."""
        if self.pads:
            return [list(range(len(rows)))] if rows else []
        by_length: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            by_length.setdefault(len(row["input_ids"]), []).append(index)
        return list(by_length.values())

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
            raise UserError(f"{name} does not run on the tokens of a text alone ({reason}): give a BERT-like classifier") from None
        try:
            with unchanged(self.model):
                together = self(probe)
        except FOREIGN_ERRORS:
            return False  # such as GPT-2's without a padding id
        return all(torch.allclose(one, other, atol=_TOLERANCE, rtol=_TOLERANCE) for one, other in zip(alone, together, strict=True))
