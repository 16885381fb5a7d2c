"""Tokenizers that never end, panic or multiply a text are refused in one line; ordinary ones pass."""

import threading

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from tain.foundation.errors import UserError
from tain.text import tokenizer_limits
from tain.text.tokenizer_limits import refuse_wild_tokenizer


def words(**parts):
    made = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]"))
    for name, part in parts.items():
        setattr(made, name, part)
    return made


BYTES = Tokenizer(models.BPE({letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
BYTES.pre_tokenizer = pre_tokenizers.ByteLevel()


@pytest.mark.parametrize(
    "tokenizer",
    [
        words(normalizer=normalizers.BertNormalizer(), pre_tokenizer=pre_tokenizers.BertPreTokenizer()),
        words(normalizer=normalizers.Sequence([normalizers.Replace(" ", "\u2581"), normalizers.Prepend("\u2581")])),
        words(normalizer=normalizers.Replace(Regex(" {2,}"), " "), pre_tokenizer=pre_tokenizers.Split(Regex(r"\s+|\w+"), "isolated")),
        BYTES,
        Tokenizer(models.WordLevel({"b": 0}, unk_token="[UNK]")),  # cannot spell the check's texts: told when such a text comes
    ],
)
def test_ordinary_tokenizers_pass(tokenizer):
    assert refuse_wild_tokenizer(tokenizer, name="m") is None


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Replace("a", "b" * 1000),
        normalizers.Replace(Regex("x*"), "b" * 100),
        normalizers.Sequence([normalizers.Replace("a", "aa")] * 40),
        normalizers.Prepend("b" * 1000),
        normalizers.Sequence([normalizers.Sequence([normalizers.Replace("z", "z" * 20)]), normalizers.Replace("z", "z" * 20)]),
    ],
)
def test_replacements_that_multiply_a_text_are_refused_without_being_run(normalizer):
    made = words(normalizer=normalizer)
    with pytest.raises(UserError, match=r"^the tokenizer of model 'm' replaces one character by up to [0-9,]+, which can take all memory"):
        refuse_wild_tokenizer(made, name="m")


def test_a_regular_expression_that_backtracks_for_ever_is_refused(monkeypatch):
    monkeypatch.setattr(tokenizer_limits, "LIMIT_S", 5.0)
    made = words(pre_tokenizer=pre_tokenizers.Split(Regex("(a|a)*$"), "isolated"))
    with pytest.raises(UserError, match=r"does not finish on a text of 1,000 characters|panics on an ordinary text"):
        refuse_wild_tokenizer(made, name="m")


class Faked:
    normalizer = None

    def __init__(self, encode):
        self.encode_batch_fast = encode


def test_a_tokenizer_that_does_not_end_is_given_up(monkeypatch):
    monkeypatch.setattr(tokenizer_limits, "LIMIT_S", 0.05)
    is_let = threading.Event()
    with pytest.raises(UserError, match="does not finish"):
        refuse_wild_tokenizer(Faked(lambda texts: is_let.wait(20) and []), name="m")
    is_let.set()


def test_a_panic_is_refused():
    class PanicError(BaseException):
        pass

    def encode(texts):
        raise PanicError("called `Result::unwrap()`\non an `Err` value")

    with pytest.raises(UserError, match=r"panics on an ordinary text \(called `Result::unwrap\(\)` on an `Err` value\)"):
        refuse_wild_tokenizer(Faked(encode), name="m")


def test_very_many_tokens_of_one_character_are_refused():
    class Found:
        ids = [0] * 1000

    with pytest.raises(UserError, match="makes 1,000 tokens of one character"):
        refuse_wild_tokenizer(Faked(lambda texts: [Found] * len(texts)), name="m")


def test_padding_to_a_fixed_length_is_no_growth_and_stays_as_it_was():
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1}, unk_token="[UNK]"))
    tokenizer.enable_padding(length=128, pad_id=1, pad_token="[PAD]")
    tokenizer.enable_truncation(max_length=64)
    settings = tokenizer.padding, tokenizer.truncation
    refuse_wild_tokenizer(tokenizer, name="x")
    assert (tokenizer.padding, tokenizer.truncation) == settings
