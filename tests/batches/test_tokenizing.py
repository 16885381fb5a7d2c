from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import transformers

from tain.batches import tokenizing
from tain.batches.tokenizing import mask_token, tokenise, tokenise_once
from tain.foundation.errors import UserError
from tain.text import token_ids

Build = Callable[..., Any]

TEXTS = ["Glass and sand", "", "the sea the sea the sea the sea the sea", "[MASK] is far", "an ünknown ✓ 漢字, far away"]


def test_ids_equal_the_tokenizers_own(tiny_tokenizer: Build):
    tokenizer = tiny_tokenizer()
    found = tokenise(tokenizer, TEXTS, max_tokens=40)
    assert found.ids == tokenizer(TEXTS)["input_ids"]
    assert len(found) == 5
    assert found.truncated == 0


def test_cut_texts_keep_their_special_tokens_and_are_counted(tiny_tokenizer: Build):
    tokenizer = tiny_tokenizer()
    whole = tokenise(tokenizer, TEXTS, max_tokens=40)
    cut = tokenise(tokenizer, TEXTS, max_tokens=6)
    assert cut.ids == tokenizer(TEXTS, truncation=True, max_length=6)["input_ids"]
    assert cut.truncated == sum(len(ids) > 6 for ids in whole.ids) > 0
    assert all(ids[0] == tokenizer.cls_token_id and ids[-1] == tokenizer.sep_token_id for ids in cut.ids)


@pytest.mark.parametrize("at_once", [2, 5, 100])
def test_ids_that_are_kept_are_those_of_the_texts(tiny_tokenizer: Build, monkeypatch: pytest.MonkeyPatch, at_once: int):
    monkeypatch.setattr(tokenizing, "_TEXTS_AT_ONCE", at_once)
    found = tokenise(tiny_tokenizer(), TEXTS, max_tokens=6)
    kept = tokenise_once(tiny_tokenizer(), TEXTS, max_tokens=6)
    assert [kept[text] for text in range(len(kept))] == found.ids
    assert kept.truncated == found.truncated > 0
    assert len(tokenise_once(tiny_tokenizer(), [], max_tokens=6)) == 0


def test_a_text_of_exactly_the_limit_is_not_cut(tiny_tokenizer: Build):
    tokenizer = tiny_tokenizer()
    length = len(tokenizer("glass and sand")["input_ids"])
    assert tokenise(tokenizer, ["glass and sand"], max_tokens=length).truncated == 0
    assert tokenise(tokenizer, ["glass and sand"], max_tokens=length - 1).truncated == 1


def test_an_earlier_limit_or_padding_does_not_linger(tiny_tokenizer: Build):
    tokenizer = tiny_tokenizer()
    tokenizer(TEXTS, padding="max_length", truncation=True, max_length=12)
    tokenise(tokenizer, TEXTS, max_tokens=4)
    assert tokenise(tokenizer, TEXTS, max_tokens=40).ids == tiny_tokenizer()(TEXTS)["input_ids"]


def test_a_tokenizer_that_cuts_on_the_left_still_does(tiny_tokenizer: Build):
    tokenizer = tiny_tokenizer()
    tokenizer.truncation_side = "left"
    found = tokenise(tokenizer, TEXTS, max_tokens=6)
    assert found.ids == tokenizer(TEXTS, truncation=True, max_length=6)["input_ids"]
    assert found.ids[4] != tokenise(tiny_tokenizer(), TEXTS, max_tokens=6).ids[4]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("limit", [6, 40])
def test_of_a_long_text_only_an_end_is_read(tiny_tokenizer: Build, monkeypatch: pytest.MonkeyPatch, side: str, limit: int):
    texts = [
        "the sea is far away, " * 9000,
        "glass " * 200,
        "漢" * 5000,
        "x" * 5000 + " the sea",
        " " * 40_000 + "glass and sand",
        "a" * 1025,
    ]
    tokenizer = tiny_tokenizer()
    tokenizer.truncation_side = side
    expected = tokenizer(texts, truncation=True, max_length=limit)["input_ids"]
    longest = []
    real = token_ids.end_of
    monkeypatch.setattr(token_ids, "end_of", lambda *given: longest.append(len(real(*given))) or real(*given))
    found = tokenise(tokenizer, texts, max_tokens=limit)
    assert found.ids == expected
    assert found.truncated == sum(len(ids) > limit for ids in tokenizer(texts, verbose=False)["input_ids"])
    assert longest[0] <= 1024 and max(longest[: len(texts)]) <= 1024


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("filling", ["x", " "])
def test_a_text_of_a_few_endless_tokens_is_read_to_a_limit_and_counted_as_cut(
    tiny_tokenizer: Build, monkeypatch: pytest.MonkeyPatch, side: str, filling: str
):
    monkeypatch.setattr(token_ids, "MOST_CHARACTERS_A_TOKEN", 32)  # 2,048 characters for 64 tokens
    text = "glass " + filling * 100_000 + " sand"
    tokenizer = tiny_tokenizer()
    tokenizer.truncation_side = side
    read = []
    real = token_ids.end_of
    monkeypatch.setattr(token_ids, "end_of", lambda *given: read.append(real(*given)) or read[-1])
    found = tokenise(tokenizer, [text, "glass"], max_tokens=40)
    assert found.truncated == 1
    assert max(map(len, read)) <= 4096
    end = "sand" if side == "left" else "glass"
    assert tokenizer.convert_tokens_to_ids(end) in found.ids[0]


def test_a_tokenizer_in_python_does_the_same():
    tokenizer = transformers.CanineTokenizer()
    found = tokenise(tokenizer, ["ab", "abcdefgh"], max_tokens=6)
    assert found.ids == tokenizer(["ab", "abcdefgh"], truncation=True, max_length=6)["input_ids"]
    assert [len(ids) for ids in found.ids] == [4, 6]
    assert found.truncated == 1
    assert tokenise(tokenizer, ["ab", "abcdefgh"], max_tokens=10).truncated == 0


def test_half_a_character_is_named(tiny_tokenizer: Build):
    with pytest.raises(UserError, match=r"the text 'a \\ud800 b' holds half a character \(a lone surrogate\)"):
        tokenise(tiny_tokenizer(), ["glass", "a \ud800 b"], max_tokens=6)


def test_no_texts_are_no_error(tiny_tokenizer: Build):
    assert tokenise(tiny_tokenizer(), [], max_tokens=6).ids == []


def test_the_mask_token_is_the_tokenizers_own(tiny_tokenizer: Build):
    assert mask_token(tiny_tokenizer()) == "[MASK]"


@pytest.mark.parametrize("tokenizer", [SimpleNamespace(mask_token=None), SimpleNamespace()])
def test_a_tokenizer_without_a_mask_token_is_refused(tokenizer: SimpleNamespace):
    with pytest.raises(UserError, match=r"the tokenizer has no mask token.*give a masked language model, or --erased-chars 0"):
        mask_token(tokenizer)
