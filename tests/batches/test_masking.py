import pytest
import torch
from torch import Tensor

from tain.batches.masking import MaskedTokens, indices_of_each_text, mask_at_random
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
    assert len(masked.indices) == len(masked.targets) == max(1, round(rate * 40 * 48))


@pytest.mark.parametrize("rate", [0.15, 1.0])
def test_special_tokens_are_never_masked(rate: float):
    ids, is_maskable = batch()
    for seed in range(10):
        masked = mask(ids, is_maskable, rate=rate, seed=seed)
        assert is_maskable.flatten()[masked.indices].all()
        assert torch.equal(masked.ids[~is_maskable], ids[~is_maskable])


def test_targets_are_the_true_ids_and_nothing_else_is_touched():
    ids, is_maskable = batch()
    before = ids.clone()
    masked = mask(ids, is_maskable)
    assert torch.equal(ids, before)
    assert masked.ids.shape == ids.shape
    assert (masked.indices.diff() > 0).all()  # ascending, each once
    assert torch.equal(masked.targets, ids.flatten()[masked.indices])
    is_chosen = torch.zeros(ids.numel(), dtype=torch.bool)
    is_chosen[masked.indices] = True
    assert torch.equal(masked.ids.flatten()[~is_chosen], ids.flatten()[~is_chosen])


def test_eighty_percent_show_the_mask_ten_a_random_token_ten_themselves():
    ids, is_maskable = batch(rows=600)
    masked = mask(ids, is_maskable)
    shown = masked.ids.flatten()[masked.indices]
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
    assert (only_masks.ids.flatten()[only_masks.indices] == MASK).all()
    unchanged = mask(ids, is_maskable, mask_share=0.0, random_share=0.0)
    assert torch.equal(unchanged.ids, ids)


def test_every_maskable_place_is_chosen_equally_often():
    ids, is_maskable = batch(rows=2, tokens=12)
    counts = torch.zeros(24)
    for seed in range(2000):
        counts[mask(ids, is_maskable, rate=0.3, seed=seed).indices] += 1
    share = counts[is_maskable.flatten()] / 2000
    assert (share - 6 / 20).abs().max() < 0.045  # four standard errors
    assert counts[~is_maskable.flatten()].sum() == 0


def test_the_same_generator_state_masks_the_same():
    ids, is_maskable = batch()
    assert torch.equal(mask(ids, is_maskable, seed=5).ids, mask(ids, is_maskable, seed=5).ids)
    assert not torch.equal(mask(ids, is_maskable, seed=5).indices, mask(ids, is_maskable, seed=6).indices)


def test_a_flat_packed_batch_is_masked_like_rows():
    ids, is_maskable = batch()
    rows, flat = mask(ids, is_maskable), mask(ids.flatten(), is_maskable.flatten())
    assert torch.equal(rows.ids.flatten(), flat.ids)
    assert torch.equal(rows.indices, flat.indices)


def test_a_batch_of_special_tokens_alone_is_refused():
    with pytest.raises(ShapeError, match="no token of this batch may be masked"):
        mask(torch.full((2, 3), 2), torch.zeros(2, 3, dtype=torch.bool))


# ---- a share of every text


def texts_of(*sizes: int) -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def by_text(owners: torch.Tensor, rate: float, seed: int, is_maskable: torch.Tensor | None = None) -> torch.Tensor:
    is_maskable = torch.ones_like(owners, dtype=torch.bool) if is_maskable is None else is_maskable
    return indices_of_each_text(is_maskable, owners=owners, rate=rate, generator=torch.Generator().manual_seed(seed))


def test_every_text_has_its_share_of_masks_rounded_up_or_down():
    owners = texts_of(8, 20, 126, 126, 8, 3)
    sizes = torch.bincount(owners)
    for seed in range(50):
        indices = by_text(owners, 0.3, seed)
        assert (indices.diff() > 0).all()
        chosen = torch.bincount(owners[indices], minlength=6)
        assert (chosen >= (0.3 * sizes).floor().clamp(min=1)).all()
        assert (chosen <= (0.3 * sizes).ceil()).all()


def test_no_text_is_without_a_mask_where_a_share_over_the_batch_leaves_some():
    """CMLM's case: eight tokens a sentence, 30% masked."""
    owners, generator = texts_of(*[8] * 4000), torch.Generator().manual_seed(1)
    over_batch = mask_at_random(
        torch.full_like(owners, 9),
        is_maskable=torch.ones_like(owners, dtype=torch.bool),
        rate=0.3,
        mask_id=4,
        vocabulary=10,
        generator=generator,
    ).indices
    empty = (torch.bincount(owners[over_batch], minlength=4000) == 0).float().mean()
    assert empty == pytest.approx(0.7**8, abs=0.015)  # 5.8%
    assert (torch.bincount(owners[by_text(owners, 0.3, 1)], minlength=4000) > 0).all()
    assert (torch.bincount(owners[by_text(owners, 0.01, 1)], minlength=4000) == 1).all()


def test_the_mean_share_is_the_rate_and_the_total_is_fixed():
    owners = texts_of(*[8] * 10, *[9] * 10)
    counts = torch.stack([torch.bincount(owners[by_text(owners, 0.3, seed)], minlength=20) for seed in range(4000)]).double()
    assert counts.sum(1).max() - counts.sum(1).min() <= 1  # 51 of 170
    torch.testing.assert_close(counts.mean(0), 0.3 * torch.bincount(owners).double(), atol=0.035, rtol=0)


def test_every_place_of_a_text_is_equally_likely_and_special_tokens_are_never_chosen():
    owners = texts_of(7, 12)
    is_maskable = torch.ones(19, dtype=torch.bool)
    is_maskable[[0, 6, 7, 18]] = False
    counts = torch.zeros(19)
    for seed in range(4000):
        counts[by_text(owners, 0.4, seed, is_maskable)] += 1
    assert counts[~is_maskable].sum() == 0
    assert (counts[is_maskable] / 4000 - 0.4).abs().max() < 0.03


def test_a_text_without_maskable_tokens_has_no_mask():
    is_maskable = torch.tensor([False, False, True, True, True])
    indices = by_text(texts_of(2, 3), 0.3, 1, is_maskable)
    assert len(indices) == 1
    assert indices[0] >= 2
    with pytest.raises(ShapeError, match="no token of this batch may be masked"):
        by_text(texts_of(2, 3), 0.3, 1, torch.zeros(5, dtype=torch.bool))
