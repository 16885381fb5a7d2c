"""Disjoint masks: what they cover, the probability of each position, and how much variance they remove."""

import hashlib
import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tain.batches.blocks import BlockOrder
from tain.batches.masking import corrupted, disjoint_indices, mask_at_random, span_beginnings, word_beginnings
from tain.batches.order import step_seed
from tain.foundation.errors import ShapeError

MASK, VOCABULARY, FIRST = 4, 1000, 5
ROWS, TOKENS = 6, 32


@pytest.fixture
def is_maskable() -> Tensor:
    """Special tokens at both ends of each row, and one inside where a sentence ends."""
    mask = torch.ones(ROWS, TOKENS, dtype=torch.bool)
    mask[:, [0, -1]] = False
    mask[torch.arange(ROWS), torch.arange(ROWS) * 3 + 5] = False
    return mask


def draws(seed: int = 1, rows: int = ROWS, tokens: int = TOKENS) -> Tensor:
    return torch.rand(rows, tokens, generator=torch.Generator().manual_seed(seed))


def units_of(kind: str, is_maskable: Tensor, seed: int = 1) -> Tensor | None:
    generator = torch.Generator().manual_seed(seed)
    if kind == "word":
        ids = torch.randint(FIRST, VOCABULARY, is_maskable.shape, generator=generator)
        return word_beginnings(ids, is_maskable=is_maskable, continues_word=torch.arange(VOCABULARY) % 3 == 0)
    if kind == "span":
        return span_beginnings(torch.randint(0, 4, (len(is_maskable),), generator=generator), is_maskable=is_maskable, span_tokens=4)
    return None


# what the parts cover


@pytest.mark.parametrize("kind", ["token", "word", "span"])
@pytest.mark.parametrize("each_row", [False, True])
@pytest.mark.parametrize(("parts", "rate"), [(6, 1 / 6), (3, 0.3), (7, 1 / 7), (2, 0.15), (1, 0.3)])
def test_parts_never_overlap_and_never_hold_a_special_token(is_maskable, kind, each_row, parts, rate):
    for seed in range(20):
        found = disjoint_indices(
            draws(seed), is_maskable=is_maskable, parts=parts, rate=rate, begins_unit=units_of(kind, is_maskable, seed), each_row=each_row
        )
        together = torch.cat(found)
        assert len(found) == parts
        assert len(together.unique()) == len(together)
        assert is_maskable.flatten()[together].all()
        assert all((part.diff() > 0).all() for part in found)  # ascending
        if parts * rate == pytest.approx(1.0):
            assert len(together) == is_maskable.sum()


@pytest.mark.parametrize(("parts", "rate"), [(6, 1 / 6), (3, 0.3), (7, 1 / 7), (5, 0.15), (2, 0.5)])
def test_sizes_of_parts_of_tokens_differ_by_one_at_most(is_maskable, parts, rate):
    sizes = list(map(len, disjoint_indices(draws(), is_maskable=is_maskable, parts=parts, rate=rate)))
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == round(parts * rate * int(is_maskable.sum()))
    by_row = disjoint_indices(draws(), is_maskable=is_maskable, parts=parts, rate=rate, each_row=True)
    counts = torch.stack([torch.bincount(part // TOKENS, minlength=ROWS) for part in by_row])  # (parts, rows)
    assert (counts.amax(0) - counts.amin(0)).max() <= 1


@pytest.mark.parametrize("kind", ["word", "span"])
def test_words_and_spans_are_masked_as_a_whole_and_parts_are_off_by_the_longest_at_most(is_maskable, kind):
    for seed in range(20):
        begins = units_of(kind, is_maskable, seed)
        unit = torch.where(is_maskable.flatten(), begins.flatten().cumsum(0), -1)
        found = disjoint_indices(draws(seed), is_maskable=is_maskable, parts=3, rate=1 / 3, begins_unit=begins, turns=draws(seed)[:, 0])
        owners = [set(unit[part].tolist()) for part in found]
        assert not owners[0] & owners[1]
        assert not owners[1] & owners[2]
        longest = int(torch.bincount(unit[unit >= 0]).max())
        assert max(abs(len(part) - int(is_maskable.sum()) / 3) for part in found) <= longest


def test_a_word_begins_at_what_is_no_continuation_and_behind_what_cannot_be_masked():
    ids = torch.tensor([[2, 10, 11, 11, 10, 3, 11, 11, 10, 3]])  # 11 goes on with the word before it; 2 and 3 are special
    begins = word_beginnings(ids, is_maskable=ids > 4, continues_word=torch.arange(20) == 11)
    assert begins.int().tolist() == [[0, 1, 0, 0, 1, 0, 1, 0, 1, 0]]


def test_spans_are_cut_at_every_phase_and_at_special_tokens():
    is_maskable = torch.ones(2, 10, dtype=torch.bool)
    is_maskable[:, 0] = is_maskable[1, 5] = False
    begins = span_beginnings(torch.tensor([0, 2]), is_maskable=is_maskable, span_tokens=3)
    assert begins.int().tolist() == [[0, 1, 0, 1, 0, 0, 1, 0, 0, 1], [0, 1, 0, 0, 1, 0, 1, 1, 0, 0]]


@pytest.mark.parametrize("kind", ["token", "word", "span"])
@pytest.mark.parametrize("each_row", [False, True])
def test_every_place_is_in_every_part_equally_often(kind, each_row):
    is_maskable = torch.ones(2, 30, dtype=torch.bool)
    is_maskable[:, [0, -1]] = False
    begins = units_of(kind, is_maskable)
    counts, runs = torch.zeros(3, 60), 4000
    for seed in range(runs):
        uniform = draws(seed, 2, 30)
        found = disjoint_indices(
            uniform, is_maskable=is_maskable, parts=3, rate=0.25, begins_unit=begins, turns=uniform[:, -1], each_row=each_row
        )
        for number, part in enumerate(found):
            counts[number, part] += 1
    assert (counts[:, is_maskable.flatten()] / runs - 0.25).abs().max() < 0.03
    assert counts[:, ~is_maskable.flatten()].sum() == 0


def test_one_part_is_a_random_mask_of_fixed_size():
    is_maskable = torch.ones(1, 8, dtype=torch.bool)
    runs = 6000
    pairs = torch.zeros(2, 8, 8)
    for seed in range(runs):
        (explored,) = disjoint_indices(draws(seed, 1, 8), is_maskable=is_maskable, parts=1, rate=0.375)
        generator = torch.Generator().manual_seed(seed + 10**6)
        random = mask_at_random(torch.full((1, 8), 9), is_maskable=is_maskable, rate=0.375, mask_id=4, vocabulary=10, generator=generator)
        assert len(explored) == len(random.indices) == 3
        for number, indices in enumerate((explored, random.indices)):
            pairs[number, indices[:, None], indices] += 1
    # a place is masked with probability 3/8, two places together with 3/8 * 2/7: that is every set of three alike
    expected = torch.full((8, 8), 3 / 8 * 2 / 7).fill_diagonal_(3 / 8)
    assert (pairs / runs - expected).abs().max() < 0.026  # four standard errors


def test_the_distance_of_two_masks_is_the_sum_of_their_sizes(is_maskable):
    ids = torch.randint(FIRST, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(1))
    found = disjoint_indices(draws(), is_maskable=is_maskable, parts=3, rate=0.3)
    seen = [
        corrupted(ids, part, mask_id=MASK, vocabulary=VOCABULARY, generator=torch.Generator(), mask_share=1.0, random_share=0.0).ids
        for part in found
    ]
    for left, right in itertools.combinations(range(3), 2):
        assert int((seen[left] != seen[right]).sum()) == len(found[left]) + len(found[right])


def test_a_rows_parts_depend_on_its_own_draws_alone(is_maskable):
    whole = disjoint_indices(draws(), is_maskable=is_maskable, parts=3, rate=0.3, each_row=True)
    alone = disjoint_indices(draws()[2:3], is_maskable=is_maskable[2:3], parts=3, rate=0.3, each_row=True)
    for part, single in zip(whole, alone, strict=True):
        assert torch.equal(part[part // TOKENS == 2] - 2 * TOKENS, single)


def test_what_cannot_be_cut_is_refused(is_maskable):
    with pytest.raises(ShapeError, match="4 parts of 30% each are more than the whole text"):
        disjoint_indices(draws(), is_maskable=is_maskable, parts=4, rate=0.3)
    with pytest.raises(ShapeError, match="3 maskable positions cannot be split into 6 parts"):
        disjoint_indices(draws(1, 1, 3), is_maskable=torch.ones(1, 3, dtype=torch.bool), parts=6, rate=1 / 6)
    with pytest.raises(ShapeError, match="no token of this batch may be masked"):
        disjoint_indices(draws(1, 1, 3), is_maskable=torch.zeros(1, 3, dtype=torch.bool), parts=1, rate=0.3)


# the variance, where it can be solved: the gradient of a mask is the mean of one vector a place


def variance(samples: Tensor) -> float:
    """Trace of the covariance of rows."""
    return float((samples - samples.mean(0)).square().sum(1).mean())


def additive_gradients(vectors: Tensor, uniform: Tensor, *, parts: int, rate: float) -> Tensor:
    """The mean over the parts of each part's mean vector, for each row of draws."""
    found = disjoint_indices(uniform, is_maskable=torch.ones_like(uniform, dtype=torch.bool), parts=parts, rate=rate, each_row=True)
    tokens = uniform.shape[1]
    total = torch.zeros(len(uniform), vectors.shape[1], dtype=torch.float64)
    for part in found:
        size = len(part) // len(uniform)
        total.index_add_(0, part // tokens, vectors[part % tokens] / (size * parts))
    return total


@pytest.mark.parametrize(("tau", "parts"), [(2, 1), (2, 2), (2, 3), (3, 2), (1, 4), (1, 6)])
def test_the_variance_ratio_on_the_additive_toy_is_exact(tau, parts):
    indices = 6
    vectors = torch.randn(indices, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    every_order = torch.tensor(list(itertools.permutations(range(indices)))) / indices  # all 720, so nothing is left to chance
    disjoint = variance(additive_gradients(vectors, every_order, parts=parts, rate=tau / indices))
    independent = variance(additive_gradients(vectors, every_order, parts=1, rate=tau / indices)) / parts
    assert disjoint / independent == pytest.approx((1 - parts * tau / indices) / (1 - tau / indices), abs=1e-9)


@pytest.mark.parametrize(("parts", "ratio"), [(2, 0.8), (3, 0.6), (6, 0.0)])
def test_the_variance_ratio_holds_for_masks_drawn_at_random(parts, ratio):
    indices, tau, runs = 24, 4, 20_000
    vectors = torch.randn(indices, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    disjoint = variance(additive_gradients(vectors, draws(3, runs, indices), parts=parts, rate=tau / indices))
    independent = [additive_gradients(vectors, draws(10 + k, runs, indices), parts=1, rate=tau / indices) for k in range(parts)]
    assert disjoint / variance(sum(independent) / parts) == pytest.approx(ratio, abs=0.03)


@pytest.mark.parametrize(("text_spread", "wins"), [(0.0, True), (3.0, False)])
def test_at_equal_passes_exploring_wins_where_texts_are_alike_and_loses_where_they_differ(text_spread, wins):
    """Stochastic gradient descent towards the mean vector: a step has B texts with K masks each, or B * K texts with one."""
    indices, parts, texts, steps = 12, 4, 2, 3000
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(indices, 4, dtype=torch.float64, generator=generator)
    target = vectors.mean(0)
    errors = {}
    for name, step_texts, masks in (("explored", texts, parts), ("random", texts * parts, 1)):
        weights, squared = torch.zeros(4, dtype=torch.float64), []
        gradients = additive_gradients(vectors, draws(7, steps * step_texts, indices), parts=masks, rate=1 / parts)
        gradients += text_spread * torch.randn(len(gradients), 4, dtype=torch.float64, generator=generator)
        for batch in gradients.view(steps, step_texts, 4).mean(1):
            weights = weights + 0.1 * (batch - weights)
            squared.append(float((weights - target).square().sum()))
        errors[name] = sum(squared[200:]) / len(squared[200:])
    assert (errors["explored"] < errors["random"]) == wins


# what earlier runs saw stays what it was


def test_blocks_and_random_masks_are_those_of_the_first_version():
    """The digest was taken before objectives were split off: checkpoints of that time go on with the same batches."""
    stream = np.random.default_rng(0).integers(5, 900, size=5000).astype(np.uint16)
    stream[::17] = 3
    order = BlockOrder(stream, block_tokens=34, batch_blocks=6, first_id=2, last_id=3, seed=13)
    digest = hashlib.sha256()
    for step in range(60):
        ids = order.batch(step)
        masked = mask_at_random(
            ids,
            is_maskable=ids > 4,
            rate=0.3,
            mask_id=4,
            vocabulary=900,
            first_ordinary_id=5,
            generator=torch.Generator().manual_seed(step_seed(13, step, 7)),
        )
        for tensor in (ids, masked.ids, masked.indices, masked.targets):
            digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == "c2d6764493e733cf20595dd3c5458f74d49c2f417b733b8cb4283df455b73efa"


def test_epochs_of_one_phase_shuffle_the_same_blocks():
    stream = np.arange(100, 1125, dtype=np.uint16)
    order = BlockOrder(stream, block_tokens=12, batch_blocks=4, first_id=2, last_id=3, seed=3, phase_epochs=3)
    per_epoch = order.steps_per_epoch
    epochs = [np.concatenate([order.starts(step) for step in range(number * per_epoch, (number + 1) * per_epoch)]) for number in range(6)]
    for number in (1, 2):
        assert set(epochs[number]) == set(epochs[0])
        assert not np.array_equal(epochs[number], epochs[0])
    assert set(epochs[3]) == set(epochs[5])
    assert set(epochs[3]) != set(epochs[0])
    assert order.epoch(per_epoch) == 1
    assert math.gcd(*np.diff(np.sort(epochs[4])).tolist()) == 10  # blocks lie side by side
