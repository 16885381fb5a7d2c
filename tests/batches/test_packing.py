from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from tain.batches.packing import batches_by_tokens, pack, pad

IDS = [[1, 2, 3], [4], [5, 6], [7], [8, 9, 10]]


def test_texts_lie_end_to_end_shortest_first_in_the_order_given():
    packed = pack(IDS)
    assert packed.ids.tolist() == [4, 7, 5, 6, 1, 2, 3, 8, 9, 10]
    assert packed.lengths == (1, 1, 2, 3, 3)
    assert packed.order.tolist() == [1, 3, 2, 0, 4]


def test_groups_are_runs_of_equal_length():
    assert pack(IDS).groups == ((2, 1), (1, 2), (2, 3))
    assert pack([[1, 2]] * 5).groups == ((5, 2),)


def test_positions_count_from_each_texts_start():
    packed = pack(IDS)
    assert packed.positions().tolist() == [0, 0, 0, 1, 0, 1, 2, 0, 1, 2]
    assert packed.starts().tolist() == [0, 1, 2, 4, 7]
    assert packed.ids[packed.starts()].tolist() == [4, 7, 5, 1, 8]
    assert packed.length_tensor().tolist() == [1, 1, 2, 3, 3]
    assert packed.texts == 5


def test_the_order_leads_back(token_ids: Callable[..., list[list[int]]]):
    ids = token_ids(4, 1, 9, 4, 30, 2)
    packed = pack(ids)
    cut = packed.ids.split(packed.lengths)
    back = packed.order.argsort().tolist()
    assert [cut[place].tolist() for place in back] == ids


def test_padding_and_unpadding_are_inverse(token_ids: Callable[..., list[list[int]]]):
    packed = pack(token_ids(4, 1, 9, 4, 30, 2))
    rows, is_token = pad(packed, pad_id=77)
    assert rows.shape == is_token.shape == (6, 30)
    assert torch.equal(rows[is_token], packed.ids)
    assert (rows[~is_token] == 77).all()
    assert is_token.sum(1).tolist() == list(packed.lengths)
    assert (is_token.int().diff(dim=1) <= 0).all()  # real tokens first


def test_a_batch_stays_where_it_is_when_it_is_there_already():
    packed = pack(IDS)
    assert packed.to(torch.device("cpu")) is packed


@pytest.mark.parametrize("batch_tokens", [1, 7, 50, 10_000])
def test_every_text_comes_once_and_no_batch_exceeds_its_budget(batch_tokens: int):
    lengths = np.random.default_rng(1).integers(1, 40, size=200).tolist()
    batches = list(batches_by_tokens(lengths, batch_tokens=batch_tokens))
    assert sorted(text for batch in batches for text in batch) == list(range(200))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[text] for text in batch) <= batch_tokens


def test_batches_come_longest_first_and_are_filled():
    lengths = np.random.default_rng(1).integers(1, 40, size=200).tolist()
    batches = list(batches_by_tokens(lengths, batch_tokens=100))
    in_order = [lengths[text] for batch in batches for text in batch]
    assert in_order == sorted(lengths, reverse=True)
    for batch, following in pairwise(batches):
        assert sum(lengths[text] for text in batch) + lengths[following[0]] > 100


def test_a_text_longer_than_the_budget_gets_a_batch_of_its_own():
    assert list(batches_by_tokens([3, 90, 4], batch_tokens=10)) == [[1], [2, 0]]


def test_no_texts_make_no_batch():
    assert list(batches_by_tokens([], batch_tokens=10)) == []
