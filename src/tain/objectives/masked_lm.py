"""Predict what was masked."""

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def masked_cross_entropy(logits: Float[Tensor, "masked vocabulary"], targets: Int[Tensor, " masked"]) -> Float[Tensor, ""]:
    """Mean negative log probability of the true tokens at the masked places, in nats; chance level is log(vocabulary).

    Devlin et al. 2019 (BERT). The places must have been gathered before the head: computing logits elsewhere costs
    most of a small model's time and tells nothing.
    """
    return F.cross_entropy(logits.float(), targets)
