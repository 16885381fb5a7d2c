"""Dense layer on text vectors that only training has."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class TrainingHead(nn.Module):
    """Dense layer with tanh on text vectors, computed in float32.

    Gao et al. 2021 (SimCSE): trained with the encoder, and dropped afterwards, so that the saved vectors are those below it.

    Args:
        dim: Dimension of the vectors, before and after.
        generator: Random generator of the weights.
    """

    def __init__(self, dim: int, *, generator: torch.Generator) -> None:
        super().__init__()
        bound = dim**-0.5  # variances are kept, as by torch's Linear
        self.weight = nn.Parameter(torch.empty(dim, dim).uniform_(-bound, bound, generator=generator))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, vectors: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts dim"]:
        return F.linear(vectors.float(), self.weight.float(), self.bias.float()).tanh()
