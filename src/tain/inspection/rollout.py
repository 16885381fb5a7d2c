"""Attention roll-out: contribution of each input token to a token's vector, through all layers up to a given one."""

import torch
from jaxtyping import Float
from torch import Tensor


def rollout(matrices: Float[Tensor, "layers tokens tokens"]) -> Float[Tensor, "layers tokens tokens"]:
    """Multiply the layers' matrices, with rows normalized to sum 1, as Abnar and Zuidema 2020 do for 0.5 A + 0.5 I.

    Norms are treated as shares, as if parts never cancelled each other. This is a visual summary, not a decomposition.

    Args:
        matrices: Weights or norms of each layer; row i holds the parts of token i.

    Returns:
        For each layer the product up to and including it; rows sum to 1. A row of zeros is replaced by the identity.
    """
    sums = matrices.sum(-1, keepdim=True)
    shares = matrices / sums.masked_fill(sums == 0, 1.0)
    shares = shares + torch.diag_embed((sums == 0).squeeze(-1).to(matrices.dtype))
    rolled = [shares[0]]
    for share in shares[1:]:
        rolled.append(share @ rolled[-1])
    return torch.stack(rolled)
