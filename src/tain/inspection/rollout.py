"""Roll-out: what a token has from each token of the text's beginning, through all layers up to one."""

import torch
from jaxtyping import Float
from torch import Tensor


def rollout(matrices: Float[Tensor, "layers tokens tokens"]) -> Float[Tensor, "layers tokens tokens"]:
    """Multiply the layers' matrices, each row brought to sum 1: Abnar and Zuidema 2020, there with the rows of 0.5 A + 0.5 I.

    A row of norms is read as shares here, as if parts never cancelled each other: a summary to look at, not a decomposition.

    Args:
        matrices: Each layer's weights or norms; row i tells what token i is made of.

    Returns:
        For each layer the product up to and with it; rows sum to 1. A row without any norm keeps its token as it is.
    """
    sums = matrices.sum(-1, keepdim=True)
    shares = matrices / sums.masked_fill(sums == 0, 1.0)
    shares = shares + torch.diag_embed((sums == 0).squeeze(-1).to(matrices.dtype))
    rolled = [shares[0]]
    for share in shares[1:]:
        rolled.append(share @ rolled[-1])
    return torch.stack(rolled)
