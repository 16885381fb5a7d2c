import pytest

from tain.foundation.errors import ShapeError, UserError, refuse_all


def test_no_problems_refuse_nothing():
    assert refuse_all([]) is None


def test_all_problems_are_named_at_once_in_one_line():
    with pytest.raises(UserError) as caught:
        refuse_all(["temperature is 0: give more", "batch is 1: give 2"])
    assert str(caught.value) == "temperature is 0: give more; batch is 1: give 2"


def test_a_wrong_shape_is_not_the_users_error():
    assert not issubclass(ShapeError, UserError)
    assert issubclass(ShapeError, ValueError)
