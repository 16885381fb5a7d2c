"""Data augmentation for distillation: exchange slot values, swap neighbouring spans, replace words by similar ones.

Kaliamoorthi et al. 2021 (pQRNN) augment the training texts by translating them to another language and back. These edits need no
translation model. A teacher labels the results.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from tain.text.records import Example
from tain.text.tags import slots_of, tokens_of

_FEWEST_TOKENS = 4  # shorter texts lose their meaning when spans are swapped


def augmented(
    examples: Sequence[Example],
    *,
    copies: int,
    rng: np.random.Generator,
    near: Mapping[str, Sequence[str]] | None = None,
    exchange: float = 0.0,
) -> list[Example]:
    """Make augmented copies of each text with its labels and tags. A text that no edit applies to gets no copies.

    Args:
        examples: The texts.
        copies: Copies per text.
        rng: Random source of the edits.
        near: Possible replacements of each word, in lower case. They change the meaning, so the copies must be labelled again.
        exchange: Probability of replacing a word that has replacements.
    """
    values = slot_values(examples)
    made = []
    for example in examples:
        for _ in range(copies):
            changed = recombine(example, values, rng=rng) if example.tags else example
            if changed.text == example.text or rng.random() < 0.5:
                changed = swap_spans(changed, rng=rng)
            if near:
                changed = exchange_words(changed, near, chance=exchange, rng=rng)
            if changed.text != example.text:
                made.append(changed)
    return made


def slot_values(examples: Sequence[Example]) -> dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]]:
    """All values of each slot in the texts, with repeats: tokens and tags."""
    values: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    for example in examples:
        tokens = tokens_of(example.text)
        tags = example.tags or ()
        for begin, end, slot in slots_of(tags):
            values.setdefault(slot, []).append((tuple(tokens[begin:end]), tuple(tags[begin:end])))
    return values


def recombine(
    example: Example, values: Mapping[str, Sequence[tuple[tuple[str, ...], tuple[str, ...]]]], *, rng: np.random.Generator
) -> Example:
    """With probability one half per slot, replace its value by one from another text."""
    tokens, tags = tokens_of(example.text), list(example.tags or ())
    for begin, end, slot in reversed(slots_of(tags)):
        if rng.random() < 0.5:
            tokens[begin:end], tags[begin:end] = values[slot][int(rng.integers(len(values[slot])))]
    return Example(" ".join(tokens), example.label, tuple(tags) if example.tags else example.tags)


def exchange_words(example: Example, near: Mapping[str, Sequence[str]], *, chance: float, rng: np.random.Generator) -> Example:
    """Replace some words by similar ones, token by token, so that tags stay aligned."""
    tokens = tokens_of(example.text)
    for index in np.flatnonzero(rng.random(len(tokens)) < chance):
        if others := near.get(tokens[index].lower()):
            tokens[index] = others[int(rng.integers(len(others)))]
    return Example(" ".join(tokens), example.label, example.tags)


def swap_spans(example: Example, *, rng: np.random.Generator) -> Example:
    """Swap two neighbouring spans; slots stay whole, and tags move with their tokens."""
    tokens, tags = tokens_of(example.text), list(example.tags or ())
    inside = {index for begin, end, _ in slots_of(tags) for index in range(begin + 1, end)}
    cuts = [index for index in range(len(tokens) + 1) if index not in inside]
    if len(tokens) < _FEWEST_TOKENS or len(cuts) < 3:
        return example
    first, middle, last = sorted(int(cut) for cut in rng.choice(cuts, size=3, replace=False))
    order = [*range(first), *range(middle, last), *range(first, middle), *range(last, len(tokens))]
    moved = tuple(tags[index] for index in order) if example.tags else example.tags
    return Example(" ".join(tokens[index] for index in order), example.label, moved)
