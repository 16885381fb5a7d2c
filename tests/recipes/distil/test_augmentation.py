"""Changed copies of texts: slots stay whole, tags stay with their tokens, and values come from the texts at hand."""

import numpy as np
import pytest

from tain.recipes.distil.augmentation import augmented, exchange_words, recombine, slot_values, swap_spans
from tain.text.records import Example
from tain.text.tags import slots_of, tokens_of

EXAMPLES = [
    Example("fly to new york today", "go", ("O", "O", "B-city", "I-city", "B-day")),
    Example("is it cold in oslo", "weather", ("O", "O", "O", "O", "B-city")),
    Example("good morning to you all", "greet"),
]


def spelt(example):
    """Each token with its tag."""
    return list(zip(tokens_of(example.text), example.tags, strict=True))


def values_of(example):
    tokens = tokens_of(example.text)
    return [(slot, tuple(tokens[begin:end])) for begin, end, slot in slots_of(example.tags)]


@pytest.mark.parametrize(
    ("tags", "slots"),
    [
        ("O B-a I-a O", [(1, 3, "a")]),
        ("B-a B-a I-b", [(0, 1, "a"), (1, 2, "a"), (2, 3, "b")]),
        ("I-a I-a O I-a", [(0, 2, "a"), (3, 4, "a")]),
        ("O O", []),
        ("NOUN O VERB VERB", [(0, 1, "NOUN"), (2, 3, "VERB"), (3, 4, "VERB")]),  # marks nothing: each a slot of its own
    ],
)
def test_slots_are_read_as_the_conlleval_script_does(tags, slots):
    assert slots_of(tags.split()) == slots


def test_tags_without_marks_stay_without_them(rng):
    tagged = [Example("old dogs sleep", None, ("ADJ", "NOUN", "VERB")), Example("big cats run", None, ("ADJ", "NOUN", "VERB"))]
    values = slot_values(tagged)
    made = [recombine(tagged[0], values, rng=rng) for _ in range(20)]
    assert {one.tags for one in made} == {("ADJ", "NOUN", "VERB")}
    assert "big dogs run" in {one.text for one in made}


def test_tags_of_a_value_come_with_it_whatever_their_marks(rng):
    tagged = [Example("go to oslo now", None, ("O", "O", "I-city", "O")), Example("see new york", None, ("O", "B-city", "I-city"))]
    made = {recombine(tagged[0], slot_values(tagged), rng=rng) for _ in range(30)}
    assert made == {tagged[0], Example("go to new york now", None, ("O", "O", "B-city", "I-city", "O"))}


def test_spans_change_places_with_their_tags_and_no_slot_is_cut(rng):
    for _ in range(100):
        moved = swap_spans(EXAMPLES[0], rng=rng)
        assert moved.text != EXAMPLES[0].text
        assert sorted(spelt(moved)) == sorted(spelt(EXAMPLES[0]))
        assert sorted(values_of(moved)) == sorted(values_of(EXAMPLES[0]))
        assert moved.label == "go"


def test_short_texts_stay_as_they_are(rng):
    short = Example("fly to oslo", "go", ("O", "O", "B-city"))
    assert swap_spans(short, rng=rng) == short


def test_slot_values_come_from_the_texts_and_keep_their_slot(rng):
    values = slot_values(EXAMPLES)
    assert values == {"city": [(("new", "york"), ("B-city", "I-city")), (("oslo",), ("B-city",))], "day": [(("today",), ("B-day",))]}
    seen = set()
    for _ in range(60):
        changed = recombine(EXAMPLES[0], values, rng=rng)
        seen.add(changed.text)
        assert len(tokens_of(changed.text)) == len(changed.tags)
        assert [slot for slot, _ in values_of(changed)] == ["city", "day"]
        assert all(value in [tokens for tokens, _ in values[slot]] for slot, value in values_of(changed))
    assert seen == {"fly to new york today", "fly to oslo today"}


def test_copies_are_changed_and_texts_without_tags_have_some_too(rng):
    made = augmented(EXAMPLES, copies=20, rng=rng)
    assert 40 < len(made) <= 60
    assert not {example.text for example in made} & {example.text for example in EXAMPLES}
    assert {example.label for example in made} == {"go", "weather", "greet"}
    assert all(example.tags is None for example in made if example.label == "greet")
    again = augmented(EXAMPLES, copies=20, rng=np.random.default_rng(13))
    assert again == augmented(EXAMPLES, copies=20, rng=np.random.default_rng(13))
    assert augmented(EXAMPLES, copies=0, rng=rng) == []


def test_words_give_way_to_near_ones_and_tags_stay(rng):
    near = {"fly": ["travel", "go"], "york": ["jersey"], "today": ["tonight"]}
    seen = [exchange_words(EXAMPLES[0], near, chance=1.0, rng=rng) for _ in range(40)]
    assert {one.text for one in seen} == {"travel to new jersey tonight", "go to new jersey tonight"}
    assert all((one.label, one.tags) == (EXAMPLES[0].label, EXAMPLES[0].tags) for one in seen)
    assert exchange_words(EXAMPLES[0], near, chance=0.0, rng=rng) == EXAMPLES[0]
    assert exchange_words(Example("FLY home"), near, chance=1.0, rng=rng).text in {"travel home", "go home"}


def test_the_share_of_words_that_give_way_is_the_chance(rng):
    text = Example(" ".join(["fly"] * 5000))
    assert abs(exchange_words(text, {"fly": ["go"]}, chance=0.3, rng=rng).text.split().count("go") / 5000 - 0.3) < 0.03


def test_copies_exchange_words_where_near_ones_are_given(rng):
    made = augmented(EXAMPLES, copies=30, rng=rng, near={"good": ["fine"], "cold": ["icy"]}, exchange=0.5)
    words = {word for one in made for word in tokens_of(one.text)}
    assert {"fine", "icy", "good", "cold"} <= words
    for one in made:
        assert one.tags is None or len(one.tags) == len(tokens_of(one.text))
