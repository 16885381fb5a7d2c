"""Texts with the same tokens share one number."""

import numpy as np

from tain.batches.same_texts import differ_in_one, id_keys, same_numbers, same_texts


def test_texts_with_the_same_ids_or_the_same_letters_are_the_same():
    texts = ["Glass", "glas\u0301s", "glass ", "sand", "sea"]
    ids = [[1, 7, 2], [1, 7, 2], [1, 8, 2], [1, 9, 2], [1, 7]]
    numbers, alike = same_texts(texts, ids)
    assert numbers.tolist() == [0, 0, 0, 3, 4]  # the third by its letters, the second by its ids
    assert alike == 2  # repeats by letters are no news: they were told apart from nothing


def test_groups_close_over_all_keys():
    # 0 and 1 share the first key, 1 and 2 the second, 2 and 4 the first
    assert same_numbers(["a", "a", "b", "c", "b"], [1, 2, 2, 3, 4]).tolist() == [0, 0, 0, 3, 0]
    assert same_numbers(["b", "c", "d"]).tolist() == [0, 1, 2]
    assert same_numbers([]).tolist() == []


def test_numbers_equal_a_search_of_all_pairs(rng):
    for _ in range(20):
        keys = [rng.integers(0, 12, size=15).tolist() for _ in range(2)]
        is_same = np.eye(15, dtype=bool)
        for each in keys:
            is_same |= np.equal.outer(each, each)
        for _ in range(4):
            is_same = is_same @ is_same
        assert same_numbers(*keys).tolist() == is_same.argmax(axis=1).tolist()


def test_ids_of_another_length_are_others():
    assert len(set(id_keys([[1], [1, 1], [], [256]]))) == 4


def test_only_texts_with_other_letters_are_counted():
    assert differ_in_one(["a", "a", "b"], ["x", "x", "y"]) == 0
    assert differ_in_one(["a", "a", "b"], ["x", "x", "x"]) == 3
