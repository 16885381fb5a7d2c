import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tain.batches.tokenizing import bare_ids, continues_word
from tain.foundation.errors import UserError
from tain.recipes.pretrain.vocabulary import add_words, count_words, words_cut_up

TEXTS = ["The kalimba, the Kalimba-player and the zither.", "kalimba music", "zither and zithers"] * 3


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "</s>", "<mask>"], show_progress=False)
    tokenizer.train_from_iterator(["the red house and the music"] * 10, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", mask_token="<mask>")


def sentence_piece() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "</s>", "<mask>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(["the red house and the music abcdefghijklmnopqrstuvwxyzKT"] * 10, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token="<s>", sep_token="</s>", mask_token="<mask>", unk_token="<unk>")


def test_words_are_counted_as_the_tokenizer_sees_them(tiny_tokenizer):
    assert count_words(TEXTS, tiny_tokenizer())["kalimba"] == 9  # uncased, cut at hyphens
    assert count_words(TEXTS, byte_level())["kalimba"] == 6
    assert count_words(["ab1 2ab co-op"], tiny_tokenizer()) == {"ab1": 1, "ab": 1, "co": 1, "op": 1}


def test_the_most_frequent_words_of_many_pieces_are_chosen(tiny_tokenizer):
    tokenizer = tiny_tokenizer()
    counts = count_words(TEXTS, tokenizer)
    assert words_cut_up(counts, tokenizer, words=2) == ["kalimba", "zither"]
    assert "the" not in words_cut_up(counts, tokenizer, words=100, occurrences=1)
    assert "zithers" not in words_cut_up(counts, tokenizer, words=100, occurrences=4)


@pytest.mark.parametrize("kind", ["word pieces", "byte level", "sentence piece"])
def test_an_added_word_is_one_token_wherever_it_stands_alone(kind, tiny_tokenizer, tmp_path):
    tokenizer = {"word pieces": tiny_tokenizer, "byte level": byte_level, "sentence piece": sentence_piece}[kind]()
    before = len(tokenizer)
    text, inside = "the kalimba and kalimba, red", "the kalimbas"
    old_inside = bare_ids(tokenizer, [inside])
    new = add_words(tokenizer, ["kalimba", "kalimba", "zither", "a"])
    assert sorted(new) == [before, before + 1]
    assert bare_ids(tokenizer, [text])[0].count(before) == 2
    assert bare_ids(tokenizer, [inside]) == old_inside  # part of another word stays what it was
    assert all(len(pieces) > 1 and max(pieces) < before for pieces in new.values())
    tokenizer.save_pretrained(tmp_path)
    assert bare_ids(AutoTokenizer.from_pretrained(tmp_path), [text]) == bare_ids(tokenizer, [text])


def test_no_blank_is_left_alone_before_an_added_word():
    tokenizer = byte_level()
    (plain,) = bare_ids(tokenizer, ["the red house"])
    add_words(tokenizer, ["kalimba"])
    assert len(bare_ids(tokenizer, ["the kalimba house"])[0]) == len(plain)


def test_every_kind_of_tokenizer_tells_which_tokens_go_on_with_a_word(tiny_tokenizer):
    for tokenizer, text in ((tiny_tokenizer(), "the zq red"), (byte_level(), "the zq red"), (sentence_piece(), "the zq red")):
        add_words(tokenizer, ["kalimba"])
        continuing = continues_word(tokenizer)
        (ids,) = bare_ids(tokenizer, [f" {text} kalimba"])
        starts = [not continuing[index] for index in ids]
        assert starts.count(True) == 4, text  # three words and the added one
        assert not continuing[tokenizer.convert_tokens_to_ids("kalimba")]


def test_a_tokenizer_without_word_marks_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"a": 0, "b": 1, "[UNK]": 2}, unk_token="[UNK]"))
    with pytest.raises(UserError, match="marks neither where words begin"):
        continues_word(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))
