import pytest
import torch
from torch import Tensor

from tain.batches.masking import MaskedTokens, mask_at_random
from tain.foundation.errors import ShapeError

MASK, VOCABULARY, FIRST = 4, 1000, 5


def batch(rows: int = 40, tokens: int = 50) -> tuple[Tensor, Tensor]:
    """Ids with special tokens at both ends of each row."""
    ids = torch.randint(FIRST, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(1))
    is_maskable = torch.ones_like(ids, dtype=torch.bool)
    ids[:, 0], ids[:, -1] = 2, 3
    is_maskable[:, [0, -1]] = False
    return ids, is_maskable


def mask(ids: Tensor, is_maskable: Tensor, *, rate: float = 0.3, seed: int = 1, **shares: float) -> MaskedTokens:
    generator = torch.Generator().manual_seed(seed)
    return mask_at_random(
        ids, is_maskable=is_maskable, rate=rate, mask_id=MASK, vocabulary=VOCABULARY, first_ordinary_id=FIRST, generator=generator, **shares
    )


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.3, 1.0])
def test_the_number_of_places_is_fixed_and_at_least_one(rate: float):
    ids, is_maskable = batch()
    masked = mask(ids, is_maskable, rate=rate)
    assert len(masked.places) == len(masked.targets) == max(1, round(rate * 40 * 48))


@pytest.mark.parametrize("rate", [0.15, 1.0])
def test_special_tokens_are_never_masked(rate: float):
    ids, is_maskable = batch()
    for seed in range(10):
        masked = mask(ids, is_maskable, rate=rate, seed=seed)
        assert is_maskable.flatten()[masked.places].all()
        assert torch.equal(masked.ids[~is_maskable], ids[~is_maskable])


def test_targets_are_the_true_ids_and_nothing_else_is_touched():
    ids, is_maskable = batch()
    before = ids.clone()
    masked = mask(ids, is_maskable)
    assert torch.equal(ids, before)
    assert masked.ids.shape == ids.shape
    assert (masked.places.diff() > 0).all()  # ascending, each once
    assert torch.equal(masked.targets, ids.flatten()[masked.places])
    is_chosen = torch.zeros(ids.numel(), dtype=torch.bool)
    is_chosen[masked.places] = True
    assert torch.equal(masked.ids.flatten()[~is_chosen], ids.flatten()[~is_chosen])


def test_eighty_percent_show_the_mask_ten_a_random_token_ten_themselves():
    ids, is_maskable = batch(rows=600)
    masked = mask(ids, is_maskable)
    shown = masked.ids.flatten()[masked.places]
    is_mask, is_same = shown == MASK, shown == masked.targets
    assert is_mask.float().mean().item() == pytest.approx(0.8, abs=0.015)
    assert is_same.float().mean().item() == pytest.approx(0.1, abs=0.012)
    drawn = shown[~is_mask & ~is_same]
    assert len(drawn) / len(shown) == pytest.approx(0.1, abs=0.012)
    assert drawn.min() >= FIRST
    assert drawn.max() < VOCABULARY
    assert drawn.float().mean().item() == pytest.approx((FIRST + VOCABULARY) / 2, rel=0.05)


def test_the_shares_are_settable():
    ids, is_maskable = batch()
    only_masks = mask(ids, is_maskable, mask_share=1.0, random_share=0.0)
    assert (only_masks.ids.flatten()[only_masks.places] == MASK).all()
    unchanged = mask(ids, is_maskable, mask_share=0.0, random_share=0.0)
    assert torch.equal(unchanged.ids, ids)


def test_every_maskable_place_is_chosen_equally_often():
    ids, is_maskable = batch(rows=2, tokens=12)
    counts = torch.zeros(24)
    for seed in range(2000):
        counts[mask(ids, is_maskable, rate=0.3, seed=seed).places] += 1
    share = counts[is_maskable.flatten()] / 2000
    assert (share - 6 / 20).abs().max() < 0.045  # four standard errors
    assert counts[~is_maskable.flatten()].sum() == 0


def test_the_same_generator_state_masks_the_same():
    ids, is_maskable = batch()
    assert torch.equal(mask(ids, is_maskable, seed=5).ids, mask(ids, is_maskable, seed=5).ids)
    assert not torch.equal(mask(ids, is_maskable, seed=5).places, mask(ids, is_maskable, seed=6).places)


def test_a_flat_packed_batch_is_masked_like_rows():
    ids, is_maskable = batch()
    rows, flat = mask(ids, is_maskable), mask(ids.flatten(), is_maskable.flatten())
    assert torch.equal(rows.ids.flatten(), flat.ids)
    assert torch.equal(rows.places, flat.places)


def test_a_batch_of_special_tokens_alone_is_refused():
    with pytest.raises(ShapeError, match="no token of this batch may be masked"):
        mask(torch.full((2, 3), 2), torch.zeros(2, 3, dtype=torch.bool))
