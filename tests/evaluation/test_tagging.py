"""F1 of whole slots, by hand."""

import pytest

from tain.evaluation.tagging import slot_f1
from tain.foundation.errors import ShapeError


def test_a_slot_counts_where_kind_and_both_ends_are_right():
    gold = [["O", "B-a", "I-a", "O", "B-b"], ["B-a", "O"]]
    assert slot_f1(gold, gold) == 1.0
    found = [["O", "B-a", "O", "O", "B-b"], ["B-c", "O"]]  # one of three right, three told
    assert slot_f1(gold, found) == pytest.approx(1 / 3)


def test_slots_that_nobody_has_and_slots_made_up():
    assert slot_f1([["O"]], [["O"]]) == 1.0
    assert slot_f1([["O"]], [["B-a"]]) == 0.0


def test_texts_of_unequal_length_are_refused():
    with pytest.raises(ShapeError, match="text 0 has 1 tags and 2 found ones"):
        slot_f1([["O"]], [["O", "O"]])
