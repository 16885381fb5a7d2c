"""Masked language modelling loss."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def masked_cross_entropy(logits: Float[Tensor, "masked vocabulary"], targets: Int[Tensor, " masked"]) -> Float[Tensor, ""]:
    """Mean negative log probability of the true tokens at the masked positions, in nats; chance level is log(vocabulary).

    Devlin et al. 2019 (BERT). Gather the positions before the head: computing logits elsewhere takes most of a small
    model's time and does not affect the loss.
    """
    return F.cross_entropy(logits.float(), targets)
