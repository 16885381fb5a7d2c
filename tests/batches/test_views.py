import string

import numpy as np
import pytest
from scipy.stats import chisquare

from tain.batches.views import erase_span, twin_views

TEXT = string.ascii_letters  # 52 characters, each once


def erase(text: str, *, chars: int = 5, floor: int = 0, mask_token: str = "[MASK]", seed: int = 0) -> str:
    return erase_span(text, chars=chars, floor=floor, mask_token=mask_token, rng=np.random.default_rng(seed))


@pytest.mark.parametrize("chars", [1, 5, 51])
def test_one_run_of_the_asked_length_gives_way_to_one_mask_token(chars: int):
    for seed in range(50):
        left, right = erase(TEXT, chars=chars, seed=seed).split(" [MASK] ")
        assert len(left) + len(right) == 52 - chars
        assert TEXT.startswith(left)
        assert TEXT.endswith(right)


def test_the_mask_token_is_the_one_given():
    assert erase(TEXT, mask_token="<mask>").count(" <mask> ") == 1


@pytest.mark.parametrize("text", ["", "abc", "x" * 29])
def test_texts_under_the_floor_are_left_alone(text: str):
    assert erase(text, floor=30) == text


def test_a_text_of_exactly_the_floor_is_cut():
    assert "[MASK]" in erase("x" * 30, floor=30)


@pytest.mark.parametrize("text", ["", "a", "abcd", "abcde"])
def test_texts_no_longer_than_the_run_are_left_alone(text: str):
    assert erase(text, chars=5) == text
    assert "[MASK]" in erase("abcdef", chars=5)


def test_a_run_of_zero_changes_nothing_and_draws_nothing():
    rng = np.random.default_rng(0)
    assert erase_span(TEXT, chars=0, floor=0, mask_token="[MASK]", rng=rng) == TEXT
    assert rng.random() == np.random.default_rng(0).random()


def test_every_start_is_drawn_equally_often():
    rng = np.random.default_rng(7)
    starts = [erase_span(TEXT, chars=5, floor=0, mask_token="[MASK]", rng=rng).index(" [MASK] ") for _ in range(24_000)]
    counts = np.bincount(starts, minlength=48)
    assert len(counts) == 48  # from the first character to the last place where five fit
    assert chisquare(counts).pvalue > 0.001


def test_the_cut_is_made_at_the_drawn_place_where_the_same_letters_stand_earlier():
    rng = np.random.default_rng(7)
    views = [erase_span("abab" * 10, chars=2, floor=0, mask_token="#", rng=rng) for _ in range(8000)]
    starts = np.bincount([view.index(" # ") for view in views], minlength=39)
    assert chisquare(starts).pvalue > 0.001  # the reference would cut at 0 or 1 only


def test_characters_are_counted_not_bytes():
    left, right = erase("漢" * 40, chars=7).split(" [MASK] ")
    assert len(left + right) == 33


def test_only_the_right_view_is_cut():
    texts = [TEXT, "short", TEXT[::-1]]
    left, right = twin_views(texts, chars=5, floor=30, mask_token="[MASK]", rng=np.random.default_rng(1))
    assert left == texts
    assert ["[MASK]" in text for text in right] == [True, False, True]
    assert right[0].index("[") != right[2].index("[")  # each text draws its own place


def test_the_same_generator_state_gives_the_same_views():
    views = [twin_views([TEXT] * 20, chars=5, floor=30, mask_token="[MASK]", rng=np.random.default_rng(3)) for _ in range(2)]
    assert views[0] == views[1]
