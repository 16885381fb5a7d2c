"""Static token vectors with mean pooling: sentence-transformers' ``StaticEmbedding``."""

from types import SimpleNamespace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tain.batches.types import PackedTexts
from tain.encoders.attention import Capture
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.choices import Dtype


class _Table(nn.Module):
    """The table, with what other code reads of a transformer's config."""

    def __init__(self, table: Float[Tensor, "vocabulary dim"]) -> None:
        super().__init__()
        self.table = nn.Parameter(table, requires_grad=False)
        sizes = {"vocab_size": table.shape[0], "hidden_size": table.shape[1]}
        object.__setattr__(self, "config", SimpleNamespace(model_type="static embedding", **sizes))


class StaticTokens(TransformerEncoder):
    """An encoder whose token vectors are rows of a table; a text's vector is their mean.

    Args:
        table: Float32, one row per token id.
    """

    def __init__(self, table: Float[Tensor, "vocabulary dim"]) -> None:
        nn.Module.__init__(self)
        self.model = _Table(table.float())
        self.register_buffer("token_weights", None, persistent=False)
        self.register_buffer("layer_mix", None, persistent=False)
        self.pooling, self.pad_id, self.padded_to, self.position_offset = "mean", 0, None, 0
        self.pads, self.is_decoder, self.segment_template = True, False, None
        self.full_attention_tokens = None
        self.layout: Literal["packed", "padded"] = "packed"
        self.layout_reason = "static token vectors run packed: no padding is computed"

    @property
    def has_segments(self) -> bool:
        return False

    def tokens(
        self, packed: PackedTexts, *, drophead: float = 0.0, capture: Capture | None = None, second_parts: Tensor | None = None
    ) -> Float[Tensor, "tokens dim"]:
        """Each token's row."""
        return self.model.table[packed.to(self.device).ids]

    def choose_dtype(self, asked: Dtype) -> torch.dtype:
        """Float32: there is no product that a smaller type would make faster."""
        return torch.float32
