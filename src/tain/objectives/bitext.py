"""Draw translations together, push other sentences of the batch away."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from tain.foundation.errors import ShapeError


def bitext_retrieval(
    left: Float[Tensor, "batch dim"], right: Float[Tensor, "batch dim"], *, margin: float, scale: float
) -> Float[Tensor, ""]:
    """Find each sentence's translation among the batch's, in both directions, by a margin.

    Yang et al. 2021 (CMLM), section 3: added to the conditional loss of the multilingual model with a small weight. The margin is
    taken off the cosine before it is scaled, as in the additive margin softmax that the paper builds on: taken off afterwards, a margin
    of a fraction would mean next to nothing beside a scale of twenty.

    Args:
        left: Sentences of one language; vectors of any length, compared by cosine.
        right: Row i is the translation of ``left[i]``.
        margin: By how much of a cosine a translation must beat the others, 0 or more.
        scale: Multiplies the cosines, above 0.

    Returns:
        The mean over left sentences plus the mean over right ones, in nats. With no margin, chance level is 2 log(batch).

    Raises:
        ShapeError: With fewer than two pairs there is nothing to push away.
    """
    batch = len(left)
    if batch < 2:
        raise ShapeError(f"bitext_retrieval needs at least 2 pairs for negatives, got {tuple(left.shape)}")
    cosines = F.normalize(left.float(), dim=-1) @ F.normalize(right.float(), dim=-1).T  # (batch, batch)
    logits = scale * (cosines - margin * torch.eye(batch, device=cosines.device))
    translations = torch.arange(batch, device=cosines.device)
    return F.cross_entropy(logits, translations) + F.cross_entropy(logits.T, translations)
