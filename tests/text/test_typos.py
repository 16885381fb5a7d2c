"""Generated typing errors: their share, and that every token stays a token."""

import difflib

import numpy as np
import pytest

from tain.text.typos import misspelt


def test_no_share_changes_nothing(rng, sentences):
    assert [misspelt(text, share=0.0, rng=rng) for text in sentences] == sentences
    assert misspelt("  ", share=0.5, rng=rng) == "  "


@pytest.mark.parametrize("text", ["a bc def", "  two  blanks ", "das ist größer", "鏡 と 水", "x"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_tokens_keep_their_number_and_characters_come_from_the_text(text, share, rng):
    for _ in range(50):
        spelt = misspelt(text, share=share, rng=rng)
        assert [bool(token) for token in spelt.split(" ")] == [bool(token) for token in text.split(" ")]
        assert set(spelt) <= set(text)


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_the_share_of_touched_characters_is_the_one_asked_for(share, rng):
    text = " ".join("".join(rng.permutation(list("abcdefghijklmnopqrstuvwxyz"))) for _ in range(300))
    spelt = misspelt(text, share=share, rng=rng)
    blocks = [difflib.SequenceMatcher(None, one, other, autojunk=False) for one, other in zip(text.split(), spelt.split(), strict=True)]
    events = sum(tag != "equal" for block in blocks for tag, *_ in block.get_opcodes())
    assert events / (300 * 26) == pytest.approx(share, rel=0.35)  # a swap reads as two events, neighbours as one


def test_equal_generators_make_equal_errors(sentences):
    one, other = ([misspelt(text, share=0.3, rng=np.random.default_rng(seed)) for text in sentences] for seed in (5, 5))
    assert one == other
    assert one != [misspelt(text, share=0.3, rng=np.random.default_rng(6)) for text in sentences]
