"""The static student: a text is the mean of its tokens' vectors. Nothing is faster, and no token sees another."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tain.students.torch.quantisation import fake_quantise_table


class StaticStudent(nn.Module):
    """Token vectors, their mean, and a linear layer to the outputs.

    Row 0 of the table is padding and stays zero. How much a token counts lies in the length of its vector. The table is of eight bits, the
    layer, small beside it, of float32.

    Args:
        tokens: Rows of the table, padding included.
        dim: Width of the token vectors.
        outputs: Numbers for each text.
    """

    def __init__(self, *, tokens: int, dim: int, outputs: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(tokens, dim) * dim**-0.5)
        self.text_head = nn.Linear(dim, outputs)
        with torch.no_grad():
            self.table[0] = 0.0

    @torch.no_grad()
    def start_from(self, vectors: Float[Tensor, "tokens width"], weights: Float[Tensor, " tokens"], *, with_head: bool = True) -> None:
        """Take over a teacher's token vectors, reduced to their main directions.

        Args:
            vectors: One a token of the vocabulary, without padding.
            weights: How much each token counts in a mean.
            with_head: Let the head turn them back into the teacher's space; it has as many outputs as they are wide.
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
        """Compute each text's outputs; ``ids`` are 0 behind a text's end."""
        is_token = (ids > 0)[..., None]
        vectors = nn.functional.embedding(ids, fake_quantise_table(self.table)) * is_token
        return self.text_head(vectors.sum(dim=1) / is_token.sum(dim=1).clamp(min=1))


def frequency_weights(counts: Float[Tensor, " tokens"], *, smoothing: float = 1e-3) -> Float[Tensor, " tokens"]:
    """Weights a / (a + p) of tokens with relative frequency p: frequent ones say less (Arora et al. 2017, SIF).

    Args:
        counts: How often each token occurs in the texts.
        smoothing: The a: the frequency at which a token counts half.
    """
    return smoothing / (smoothing + counts / counts.sum().clamp(min=1.0))
