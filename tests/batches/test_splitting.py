"""Lines split into sentences by token."""

import re

import numpy as np
import pytest

from tain.batches import splitting
from tain.batches.splitting import SentenceEnds, SplitSentences


class Words:
    """A tokenizer whose tokens are what blanks part."""

    def __init__(self, *texts):
        words = sorted({word for text in texts for word in text.split()})
        self.ids = {word: index for index, word in enumerate(words)}
        self.words = words

    def get_vocab(self):
        return self.ids

    def encode(self, text):
        return np.array([self.ids[word] for word in text.split()], dtype=np.uint16)

    def decode(self, ids):
        return " ".join(self.words[index] for index in ids)


def split(*lines, starts=(0,)):
    tokenizer = Words(*lines)
    made = SplitSentences([tokenizer.encode(line) for line in lines], np.array(starts), SentenceEnds.of(tokenizer))
    return [tokenizer.decode(sentence) for sentence in made], made


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("it rains . we stay", ["it rains .", "we stay"]),
        ("it rains . we stay .", ["it rains .", "we stay ."]),
        ("why ? ! because", ["why ? !", "because"]),
        ('" it rains . " he said', ['" it rains . "', "he said"]),
        ('( it rains . " ) he said', ['( it rains . " )', "he said"]),
        ("j . smith of the u . s . army left . he ran", ["j . smith of the u . s . army left .", "he ran"]),
        ("it costs 3 . 50 now . we pay", ["it costs 3 . 50 now .", "we pay"]),
        ("no end at all", ["no end at all"]),
        ("雨 。 好 。", ["雨 。", "好 。"]),
        ("雨 。 2020 好 。", ["雨 。", "2020 好 。"]),  # only a full stop belongs to a number or a letter
        ("is it vitamin c ? yes .", ["is it vitamin c ?", "yes ."]),
        ("а . с . пушкин пишет . он поэт .", ["а . с . пушкин пишет .", "он поэт ."]),
        ("il part . « oui » dit il .", ["il part .", "« oui » dit il ."]),
        ("##ing . word", ["##ing .", "word"]),
    ],
)
def test_a_line_is_cut_behind_its_full_stops(line, expected):
    assert split(line)[0] == expected


@pytest.mark.parametrize("scan_tokens", [1, 7, 10**6])
def test_lines_and_documents_stay_apart_and_no_token_is_lost(scan_tokens, monkeypatch):
    monkeypatch.setattr(splitting, "_SCAN_TOKENS", scan_tokens)
    lines = ["one ends . two", ") three . four . five", "six", "seven ! . eight ."]
    found, made = split(*lines, starts=(0, 1, 3))
    assert found == ["one ends .", "two", ") three .", "four .", "five", "six", "seven ! .", "eight ."]
    assert made.document_starts.tolist() == [0, 2, 6]
    assert made[0:2][1].tolist() == made[1].tolist()
    assert " ".join(found) == " ".join(lines)


def test_random_text_is_cut_as_a_regular_expression_cuts_it(rng):
    words = ["rain", "falls", ".", "?", ")"]
    lines = [" ".join(rng.choice(words, size=int(rng.integers(1, 30)))) for _ in range(50)]
    expected = []
    for line in lines:
        # behind a run of ends, with two closers at most, unless an end or a closer follows
        marked = re.sub(r"((?:^| )[.?](?: \))?(?: \))?) (?=rain|falls)", r"\1|", line)
        expected += marked.split("|")
    assert split(*lines)[0] == expected


@pytest.mark.parametrize(
    ("words", "ends", "closers", "letters", "digits"),
    [
        ('. ? " a b ##b ##9 12th word ##', ". ?", '"', "a b", "##9 12th"),  # WordPiece: ##b ends a word, and no initial has one
        ('Ġ. . ." ãĢĤ âĢĿ Ġ" .) a Ġa Ġ7 12 Ġword', 'Ġ. . ." ãĢĤ .)', 'âĢĿ Ġ"', "Ġa", "Ġ7 12"),  # bytes: a full stop of Chinese, a quote
        ("▁. . ▁a a ▁7 。 ▁word ▁", "▁. . 。", "", "▁a", "▁7"),
    ],
)
def test_marks_of_all_kinds_of_tokenizers_are_seen_through(words, ends, closers, letters, digits):
    tokenizer = Words(words)
    found = SentenceEnds.of(tokenizer)
    told = [{tokenizer.words[index] for index in indices} for indices in (found.ends, found.closers, found.letters, found.digits)]
    assert told == [set(expected.split()) for expected in (ends, closers, letters, digits)]


def test_a_word_that_ends_in_a_letter_of_its_own_may_end_a_sentence():
    assert split("z ##ither ##s . it rained")[0] == ["z ##ither ##s .", "it rained"]
