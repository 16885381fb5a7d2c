"""Static student: the mean of token vectors, followed by a linear layer; the fastest student, without context."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tain.students.torch.quantisation import fake_quantise_table


class StaticStudent(nn.Module):
    """Maps texts to the mean of their token vectors and a linear layer.

    Row 0 of the table is padding and stays zero. The weight of a token is the length of its vector. The table is stored in eight bits; the
    layer, which is small, in float32.

    Args:
        tokens: Rows of the table, including padding.
        dim: Dimension of the token vectors.
        outputs: Outputs per text.
    """

    def __init__(self, *, tokens: int, dim: int, outputs: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(tokens, dim) * dim**-0.5)
        self.text_head = nn.Linear(dim, outputs)
        with torch.no_grad():
            self.table[0] = 0.0

    @torch.no_grad()
    def start_from(self, vectors: Float[Tensor, "tokens width"], weights: Float[Tensor, " tokens"], *, with_head: bool = True) -> None:
        """Initialize from a teacher's token vectors, reduced to their principal directions.

        Args:
            vectors: One per token of the vocabulary, without padding.
            weights: Weight of each token in the mean.
            with_head: Initialize the head to map back to the teacher's space; requires as many outputs as the vectors' dimension.
        """
        kept = min(self.table.shape[1], *vectors.shape)
        mean = vectors.mean(dim=0)
        directions = torch.linalg.svd(vectors - mean, full_matrices=False).Vh[:kept]  # (kept, width)
        self.table.zero_()
        self.table[1:, :kept] = (vectors - mean) @ directions.T * weights[:, None]
        if with_head:
            self.text_head.weight.zero_()
            self.text_head.bias.zero_()
            self.text_head.weight[:, :kept] = directions.T

    def forward(self, ids: Int[Tensor, "texts tokens"]) -> Float[Tensor, "texts outputs"]:
        """Compute the outputs of each text; ``ids`` are 0 after a text's end."""
        is_token = (ids > 0)[..., None]
        vectors = nn.functional.embedding(ids, fake_quantise_table(self.table)) * is_token
        return self.text_head(vectors.sum(dim=1) / is_token.sum(dim=1).clamp(min=1))


def frequency_weights(counts: Float[Tensor, " tokens"], *, smoothing: float = 1e-3) -> Float[Tensor, " tokens"]:
    """Token weights a / (a + p) for relative frequency p, which reduce the weight of frequent tokens (Arora et al. 2017, SIF).

    Args:
        counts: Count of each token in the texts.
        smoothing: The a, the relative frequency at which the weight is one half.
    """
    return smoothing / (smoothing + counts / counts.sum().clamp(min=1.0))
