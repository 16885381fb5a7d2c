"""Bitext retrieval loss: contrast translations with the other sentences of the batch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tain.foundation.errors import ShapeError


def bitext_retrieval(
    left: Float[Tensor, "batch dim"], right: Float[Tensor, "batch dim"], *, margin: float, scale: float
) -> Float[Tensor, ""]:
    """Retrieve each sentence's translation within the batch, in both directions, with an additive margin.

    Yang et al. 2021 (CMLM), section 3: added with a small weight to the conditional loss of the multilingual model. The margin is
    subtracted from the cosine before scaling, as in the additive margin softmax that the paper builds on; after scaling, a margin
    below 1 would be negligible next to a scale of twenty.

    Args:
        left: Sentences of one language; vectors of any length, compared by cosine.
        right: Row i is the translation of ``left[i]``.
        margin: Margin in cosine by which a translation must exceed the others, 0 or more.
        scale: Factor on the cosines, above 0.

    Returns:
        Mean over left sentences plus mean over right sentences, in nats. Without margin, chance level is 2 log(batch).

    Raises:
        ShapeError: Fewer than two pairs leave no negatives.
    """
    batch = len(left)
    if batch < 2:
        raise ShapeError(f"bitext_retrieval needs at least 2 pairs for negatives, got {tuple(left.shape)}")
    cosines = F.normalize(left.float(), dim=-1) @ F.normalize(right.float(), dim=-1).T  # (batch, batch)
    logits = scale * (cosines - margin * torch.eye(batch, device=cosines.device))
    translations = torch.arange(batch, device=cosines.device)
    return F.cross_entropy(logits, translations) + F.cross_entropy(logits.T, translations)
