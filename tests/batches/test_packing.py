from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

from tain.batches.packing import ROW_TOKENS, batches_by_tokens, fill_rows, pack, pad, shared_rows

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
    assert packed.positions.tolist() == [0, 0, 0, 1, 0, 1, 2, 0, 1, 2]
    assert packed.starts.tolist() == [0, 1, 2, 4, 7]
    assert packed.ids[packed.starts].tolist() == [4, 7, 5, 1, 8]
    assert packed.length_tensor().tolist() == [1, 1, 2, 3, 3]
    assert packed.texts == 5


def test_the_order_leads_back(token_ids: Callable[..., list[list[int]]]):
    ids = token_ids(4, 1, 9, 4, 30, 2)
    packed = pack(ids)
    cut = packed.ids.split(packed.lengths)
    back = packed.order.argsort().tolist()
    assert [cut[index].tolist() for index in back] == ids


@pytest.mark.parametrize("seed", range(5))
def test_rows_hold_every_text_that_fits_once_and_none_is_overfull(seed: int):
    lengths = np.random.default_rng(seed).integers(1, 60, size=300).tolist()
    rows = fill_rows(lengths, row_tokens=48)
    assert sorted(text for row in rows for text in row) == [text for text, length in enumerate(lengths) if length <= 48]
    assert all(0 < sum(lengths[text] for text in row) <= 48 for row in rows)


def test_rows_of_short_texts_are_nearly_full():
    lengths = np.random.default_rng(1).integers(4, 30, size=400).tolist()
    assert sum(lengths) > 0.98 * 48 * len(fill_rows(lengths, row_tokens=48))


def test_sharing_takes_the_longest_that_still_fits():
    assert fill_rows([5, 9, 3, 10, 7, 1], row_tokens=10) == [[3], [1, 5], [4, 2], [0]]


def test_texts_share_rows_only_where_it_is_cheaper():
    assert shared_rows([20] * 400) == []  # two to a row of 48 would waste a sixth, for the sake of a single group
    assert shared_rows([60, 70, 80]) == []  # nothing fits
    assert len(shared_rows(list(range(4, 40)) * 10)) > 0


def test_the_number_of_shared_rows_is_one_of_few():
    sizes = set()
    for texts in range(380, 420):
        lengths = np.random.default_rng(texts).integers(4, 40, size=texts).tolist()
        rows, needed = len(shared_rows(lengths)), len(fill_rows(lengths, row_tokens=ROW_TOKENS))
        assert needed <= rows <= 1.0625 * needed
        sizes.add(rows)
    assert len(sizes) <= 6


def test_shared_rows_come_first_and_keep_their_texts_apart(token_ids: Callable[..., list[list[int]]]):
    ids = token_ids(*range(2, 20), 60, 55, 60)
    packed = pack(ids, share_rows=True)
    rows, row_tokens = packed.shared
    assert packed.groups == ((rows, 48), (1, 55), (2, 60))
    assert len(packed.ids) == rows * row_tokens + 175
    back = packed.order.argsort().tolist()
    for text, tokens in enumerate(ids):
        start = int(packed.starts[back[text]])
        index = slice(start, start + len(tokens))
        assert packed.ids[index].tolist() == tokens
        assert packed.positions[index].tolist() == list(range(len(tokens)))
        assert set(packed.owners[index].tolist()) == {back[text]}
        assert packed.lengths[back[text]] == len(tokens)
    is_filler = packed.owners == len(ids)
    assert int(is_filler.sum()) == len(packed.ids) - sum(map(len, ids))
    assert packed.shared_owners is not None
    assert torch.equal(packed.shared_owners.flatten(), packed.owners[: rows * row_tokens])


def test_padding_leaves_out_the_fillers_of_shared_rows(token_ids: Callable[..., list[list[int]]]):
    ids = token_ids(*range(2, 20))
    packed = pack(ids, share_rows=True)
    rows, is_token = pad(packed, pad_id=77)
    back = packed.order.argsort().tolist()
    assert [rows[index][is_token[index]].tolist() for index in back] == ids


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


def test_a_batchs_groups_are_known_without_its_tensors(token_ids: Callable[..., list[list[int]]]):
    packed = pack(token_ids(*range(2, 20), 60, 55, 60), share_rows=True)
    assert packed.to(torch.device("meta")).groups == packed.groups  # a GPU would be waited for


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
