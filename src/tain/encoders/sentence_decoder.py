"""Decoder that restores the masked tokens of a text from the text's vector; only training has it."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

_SPREAD = 0.02  # standard deviation of the position embeddings, as in BERT


class SentenceDecoder(nn.Module):
    """One transformer layer over a text's vector and its masked token embeddings.

    Xiao et al. 2022 (RetroMAE), in its basic form. The layer is weak and most it sees is masked, so it can only restore the text if the
    vector holds it.

    Args:
        dim: Dimension of vectors and token embeddings.
        heads: Attention heads.
        max_tokens: Longest text.
        seed: Seed of the weights.
    """

    def __init__(self, dim: int, *, heads: int, max_tokens: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layer = nn.TransformerEncoderLayer(dim, heads, 4 * dim, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
            self.positions = nn.Parameter(_SPREAD * torch.randn(max_tokens, dim))
        self.of_vector, self.of_output = nn.LayerNorm(dim), nn.LayerNorm(dim)

    def forward(
        self, vectors: Float[Tensor, "texts dim"], embeddings: Float[Tensor, "texts longest dim"], is_token: Bool[Tensor, "texts longest"]
    ) -> Float[Tensor, "texts longest dim"]:
        """Compute token vectors to predict from.

        Args:
            vectors: One vector per text.
            embeddings: Embeddings of its masked tokens.
            is_token: False on padding.
        """
        dtype = self.positions.dtype
        tokens = embeddings.to(dtype) + self.positions[: embeddings.shape[1]]
        rows = torch.cat([self.of_vector(vectors.to(dtype))[:, None], tokens], dim=1)
        is_padding = torch.cat([torch.zeros_like(is_token[:, :1]), ~is_token], dim=1)
        return self.of_output(self.layer(rows, src_key_padding_mask=is_padding))[:, 1:]
