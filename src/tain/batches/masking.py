"""Which tokens a masked language model must predict, and what it sees in their place."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tain.foundation.errors import ShapeError


@dataclass(frozen=True)
class MaskedTokens:
    """A corrupted batch.

    Attributes:
        ids: What the model sees.
        places: Where it must predict, as flat places into ``ids``, ascending.
        targets: The true ids there.
    """

    ids: Int[Tensor, "*shape"]
    places: Int[Tensor, " masked"]
    targets: Int[Tensor, " masked"]


def mask_at_random(
    ids: Int[Tensor, "*shape"],
    *,
    is_maskable: Bool[Tensor, "*shape"],
    rate: float,
    mask_id: int,
    vocabulary: int,
    first_ordinary_id: int = 0,
    generator: torch.Generator,
    mask_share: float = 0.8,
    random_share: float = 0.1,
) -> MaskedTokens:
    """Choose a fixed number of places and corrupt them as BERT does: 80% mask, 10% a random token, 10% unchanged.

    The number is fixed, not the probability, so that every batch costs the same and batch losses vary less.

    Args:
        ids: Token ids of any shape.
        is_maskable: False on special tokens and padding.
        rate: Share of the maskable places to choose, 0 to 1; at least one place is chosen.
        mask_id: The mask token's id.
        vocabulary: Random tokens are drawn below this id.
        first_ordinary_id: And from this one on; special tokens usually come first.
        generator: Draws places and tokens.
        mask_share: Share of chosen places that show the mask token.
        random_share: Share that shows a random token; the rest is unchanged.

    Raises:
        ShapeError: No place is maskable.
    """
    maskable = int(is_maskable.sum())
    if maskable == 0:
        raise ShapeError(f"no token of this batch may be masked: all {ids.numel()} are special tokens or padding")
    flat = ids.flatten()
    draws = torch.rand(flat.shape, generator=generator, device=flat.device).masked_fill_(~is_maskable.flatten(), 2.0)
    chosen = max(1, round(rate * maskable))
    places = draws.topk(chosen, largest=False).indices.sort().values
    targets = flat[places]
    kind = torch.rand(chosen, generator=generator, device=flat.device)
    random_ids = torch.randint(first_ordinary_id, vocabulary, (chosen,), generator=generator, device=flat.device)
    shown = torch.where(kind < mask_share, mask_id, torch.where(kind < mask_share + random_share, random_ids, targets))
    corrupted = flat.clone()
    corrupted[places] = shown
    return MaskedTokens(corrupted.view(ids.shape), places, targets)
