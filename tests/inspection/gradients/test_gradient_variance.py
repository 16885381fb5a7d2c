"""Gradient variance: closed forms, full enumeration, and a toy problem that disjoint masks solve (Zheng et al. 2020)."""

from itertools import combinations

import numpy as np
import pytest
import torch

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.inspection.gradients.variance import (
    SHARES,
    GradientProducts,
    SignedFold,
    additive_correlation,
    draw_masks,
    gradient_variance,
    measure_products,
)

PLACES = 8


def measure(gradient, texts, *, masking_rate, disjoint, rounds=2, seed=0):
    rng = np.random.default_rng(seed)
    return measure_products(
        gradient,
        [np.arange(PLACES)] * texts,
        masking_rate=masking_rate,
        disjoint=disjoint,
        rounds=rounds,
        rng=rng,
        progress=Progress.silent(),
    )


@pytest.fixture
def parts():
    """Three texts of eight places, each place with a vector of its own."""
    return torch.randn(3, PLACES, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def additive(parts):
    return lambda text, mask: parts[text, torch.from_numpy(mask)].mean(0)


def curved(parts):
    """Not additive: places act on each other."""
    return lambda text, mask: torch.tanh(parts[text, torch.from_numpy(mask)].sum(0)) + parts[text, torch.from_numpy(mask)].prod(0)


def enumerated(gradient, texts, masked):
    """Exact figures over all masks of ``masked`` places, and over all pairs of them with a given number of places in common."""
    masks = [np.array(mask) for mask in combinations(range(PLACES), masked)]
    gradients = np.stack([[gradient(text, mask).numpy() for mask in masks] for text in range(texts)])  # (texts, masks, dim)
    means = gradients.mean(1)
    noise = gradients - means[:, None]
    variance = (noise**2).sum(-1).mean()
    common = np.array([[len(set(left) & set(right)) for right in masks] for left in masks])
    products = np.einsum("xmd,xnd->xmn", noise, noise).mean(0)
    covariances = [products[common == round(share * masked)].mean() for share in SHARES]
    data = ((means - means.mean(0)) ** 2).sum() / (texts - 1)
    return variance, data, covariances


def test_masks_are_disjoint_or_share_what_was_asked(rng):
    maskable = np.arange(100, 200, 2)  # fifty places
    masks = draw_masks(maskable, masked=8, disjoint=6, rng=rng)
    assert len(masks) == 6 + len(SHARES) - 1
    assert all(len(set(mask.tolist())) == 8 and set(mask.tolist()) <= set(maskable.tolist()) for mask in masks)
    assert len({index for mask in masks[:6] for index in mask.tolist()}) == 48
    assert [len(set(masks[0].tolist()) & set(mask.tolist())) for mask in masks[6:]] == [8, 6, 4, 2]


def test_every_mask_covers_every_place_equally_often(rng):
    counts = np.zeros((8, 10))
    for _ in range(4000):
        for number, mask in enumerate(draw_masks(np.arange(10), masked=2, disjoint=4, rng=rng)):
            counts[number, mask] += 1
    expected = 4000 * 2 / 10
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_additive_gradients_have_the_covariance_of_sampling_without_replacement(parts):
    """Cov = s2 / tau^2 * (o - (tau^2 - o) / (n - 1)) for two masks of tau places with o in common; s2 the variance of a place."""
    spread = float(((parts - parts.mean(1, keepdim=True)) ** 2).sum(-1).mean())
    _, _, covariances = enumerated(additive(parts), 3, 4)
    for share, found in zip(SHARES, covariances, strict=True):
        common = 4 * share
        assert found == pytest.approx(spread / 16 * (common - (16 - common) / (PLACES - 1)), rel=1e-9)
        assert found / covariances[0] == pytest.approx(additive_correlation(share, 0.5), rel=1e-9)


@pytest.mark.parametrize(("masking_rate", "disjoint"), [(0.5, 2), (0.25, 4), (0.125, 8)])
def test_full_exploration_of_additive_gradients_leaves_no_mask_variance_at_all(parts, masking_rate, disjoint):
    found = gradient_variance(measure(additive(parts), 3, masking_rate=masking_rate, disjoint=disjoint), rng=np.random.default_rng(0))
    assert found.disjoint_ratio.value == pytest.approx(0, abs=1e-9)
    assert found.disjoint_ratio.high == pytest.approx(0, abs=1e-9)
    means = parts.mean(1).numpy()
    data = ((means - means.mean(0)) ** 2).sum() / 2
    assert found.data_variance.value == pytest.approx(data, rel=1e-5)
    assert found.step_ratio.value == pytest.approx(disjoint * found.data_variance.value / (data + found.mask_variance.value), rel=1e-5)


@pytest.mark.parametrize("disjoint", [2, 3])
def test_partial_exploration_has_the_papers_ratio_on_additive_gradients(parts, disjoint):
    """Var_disjoint / Var_iid = (1 - K tau / n) / (1 - tau / n)."""
    ratios = []
    for seed in range(60):
        products = measure(additive(parts), 3, masking_rate=0.25, disjoint=disjoint, rounds=4, seed=seed)
        variance, apart = (products.squares - products.means).mean(), (products.shared[:, -1] - products.means).mean()
        ratios.append((variance, variance + (disjoint - 1) * apart))
    iid, together = np.mean(ratios, axis=0)
    assert together / iid == pytest.approx((1 - disjoint / 4) / (1 - 1 / 4), abs=0.08)


def test_all_estimates_are_unbiased_for_gradients_that_are_not_additive(parts):
    gradient = curved(parts)
    variance, data, covariances = enumerated(gradient, 3, 4)
    found = []
    for seed in range(1500):
        products = measure(gradient, 3, masking_rate=0.5, disjoint=2, seed=seed)
        between = products.between[~np.eye(3, dtype=bool)].mean()
        mask, squared = (products.squares - products.means).mean(), products.means.mean()
        found.append([mask, squared - between, *(products.shared - products.means[:, None]).mean(0)])
    error = np.std(found, axis=0) / np.sqrt(len(found))
    difference = np.mean(found, axis=0) - [variance, data, *covariances]
    assert (np.abs(difference) < 4 * error).all(), difference / error
    assert (error < 0.1 * variance).all()


def test_total_variance_is_that_of_a_random_text_under_a_random_mask(parts):
    gradient = curved(parts)
    variance, data, _ = enumerated(gradient, 3, 2)
    masks = [np.array(mask) for mask in combinations(range(PLACES), 2)]
    everything = np.stack([gradient(text, mask).numpy() for text in range(3) for mask in masks])
    total = ((everything - everything.mean(0)) ** 2).sum(-1).mean()
    assert variance + data * 2 / 3 == pytest.approx(total, rel=1e-9)  # here the three texts are all there are


def test_equal_texts_have_no_data_variance_and_constant_gradients_no_mask_variance(parts):
    same = measure(lambda text, mask: additive(parts)(0, mask), 3, masking_rate=0.5, disjoint=2)
    assert gradient_variance(same, rng=np.random.default_rng(0)).data_variance.value == pytest.approx(0, abs=1e-6)
    constant = measure(lambda text, mask: parts[text, 0], 3, masking_rate=0.5, disjoint=2)
    with pytest.raises(UserError, match=r"gradients of different masks do not differ measurably \(3 blocks, 12 masks each\)"):
        gradient_variance(constant, rng=np.random.default_rng(0))


def test_the_same_seed_gives_the_same_figures(parts):
    first, again, other = (measure(curved(parts), 3, masking_rate=0.25, disjoint=2, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.shared, again.shared)
    assert np.array_equal(first.between, again.between)
    assert not np.array_equal(first.shared, other.shared)
    left, right = (gradient_variance(first, rng=np.random.default_rng(1)) for _ in range(2))
    assert left.step_ratio == right.step_ratio


def products_of(squares, means, shared, between, disjoint):
    texts = len(squares)
    return GradientProducts(
        squares=np.array(squares),
        means=np.array(means),
        shared=np.array(shared),
        between=np.array(between),
        disjoint=disjoint,
        masking_rate=0.25,
        masked=4.0,
        masks=2 * (disjoint + 4) if texts else 0,
    )


def test_ratios_are_the_ones_of_the_theory():
    # mask variance 10, data variance 3, covariance of disjoint masks -2, K = 4, the same for both texts
    products = products_of([17.0, 17.0], [7.0, 7.0], [[16.0, 13.0, 9.0, 7.0, 5.0]] * 2, [[0.0, 4.0], [4.0, 0.0]], 4)
    found = gradient_variance(products, rng=np.random.default_rng(0))
    assert (found.squared_mean.value, found.mask_variance.value, found.data_variance.value) == (4.0, 10.0, 3.0)
    assert [figure.value for figure in found.covariances] == [9.0, 6.0, 2.0, 0.0, -2.0]
    assert found.correlations[-1].value == pytest.approx(-0.2)
    assert found.slope.value == pytest.approx(np.polyfit(1 - np.array(SHARES), [0.9, 0.6, 0.2, 0.0, -0.2], 1)[0])
    assert found.disjoint_ratio.value == pytest.approx(1 - 3 * 0.2)
    # B texts, four disjoint masks each: 3 / B + (10 - 3 * 2) / 4B; four times as many texts, one mask each: 13 / 4B
    assert found.step_ratio.value == pytest.approx((3 + 1) / (13 / 4))
    assert found.data_share.value == pytest.approx(3 / 13)


def test_intervals_shrink_with_the_number_of_texts_and_hold_the_value(parts):
    many = torch.randn(40, PLACES, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    few, more = (
        gradient_variance(measure(curved(many), texts, masking_rate=0.25, disjoint=4), rng=np.random.default_rng(0)) for texts in (8, 40)
    )
    for found in (few, more):
        for figure in (found.mask_variance, found.slope, *found.correlations):
            assert figure.low <= figure.value <= figure.high
    assert more.mask_variance.high - more.mask_variance.low < few.mask_variance.high - few.mask_variance.low


def test_a_short_vector_is_left_alone_and_a_long_one_keeps_inner_products_on_average():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 1000, generator=generator)
    right += left
    exact = SignedFold(1000, 1000, generator=generator)
    assert exact.is_exact
    assert torch.equal(exact([left[:300], left[300:].view(70, 10)]), left)
    found = []
    for seed in range(300):
        fold = SignedFold(1000, 64, generator=torch.Generator().manual_seed(seed))
        assert not fold.is_exact
        assert fold([left]).shape == (64,)
        found.append(float(fold([left[:10], left[10:]]) @ fold([right])))
    lengths = float(left.norm() * right.norm())
    assert np.mean(found) == pytest.approx(float(left @ right), abs=4 * np.std(found) / np.sqrt(300))
    assert np.std(found) < 1.5 * lengths / np.sqrt(64 / 2)  # what the docstring says of the error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking_rate": 0.6}, "masking_rate is 0.6: give a share above 0 and up to 0.5"),
        ({"disjoint": 1}, "masks is 1, but covariance needs at least two masks"),
        ({"rounds": 1}, "rounds is 1, but a squared mean is estimated from independent rounds"),
        ({"texts": 1}, "got 1 block of text, but data variance needs 2 or more"),
        ({"disjoint": 5}, "5 disjoint masks of 25% each are more than the whole text: give --masks 4 or fewer"),
        ({"disjoint": 9, "masking_rate": 0.1}, "a block has 8 tokens that may be masked, too few for 9 disjoint masks"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, parts):
    with pytest.raises(UserError, match=message):
        measure(additive(parts), **{"texts": 3, "masking_rate": 0.25, "disjoint": 2, **settings})
