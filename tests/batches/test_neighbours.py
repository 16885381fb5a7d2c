"""Pairs of neighbouring sentences equal those of a naive version: joined, deduplicated, cut and ordered."""

import numpy as np
import pytest
import torch

from tain.batches import neighbours as module
from tain.batches.masking import mask_at_random
from tain.batches.neighbours import NeighbourOrder, Neighbours, conditional_batch
from tain.batches.packing import pack
from tain.foundation.errors import UserError

CLS, SEP, MASK = 1, 2, 3


def arrays(*sentences):
    return [np.array(sentence, dtype=np.uint16) for sentence in sentences]


def build(sentences, starts, **settings):
    return Neighbours(sentences, np.array(starts), **{"first_id": CLS, "last_id": SEP, "min_tokens": 1, **settings})


@pytest.fixture
def corpus(rng):
    """Forty documents of one to nine sentences of one to twenty tokens, some near-copies of the one before."""
    sentences, starts = [], []
    for _ in range(40):
        starts.append(len(sentences))
        for index in range(int(rng.integers(1, 10))):
            if index and rng.random() < 0.2:
                copy = sentences[-1].copy()
                copy[int(rng.integers(len(copy)))] = 99
                sentences.append(copy)
            else:
                sentences.append(rng.integers(10, 99, size=int(rng.integers(1, 21))).astype(np.uint16))
    return sentences, starts


def naive_units(sentences, starts, least):
    """Documents as lists of units, each a list of tokens."""
    documents = []
    for begin, end in zip(starts, [*starts[1:], len(sentences)], strict=True):
        units, current = [], []
        for sentence in sentences[begin:end]:
            current = current + sentence.tolist()
            if len(current) >= least:
                units.append(current)
                current = []
        if current and units:
            units[-1] = units[-1] + current
        elif current:
            units.append(current)
        documents.append(units)
    return documents


def naive_pairs(documents, max_overlap, side):
    def is_pair(left, right):
        left, right = set(left), set(right)
        return len(left & right) / len(left | right) <= max_overlap

    found = []
    for units in documents:
        for index, unit in enumerate(units):
            left = units[index - 1] if index and is_pair(units[index - 1], unit) else None
            right = units[index + 1] if index + 1 < len(units) and is_pair(unit, units[index + 1]) else None
            conditions = {"left": [left], "right": [right], "both": [left, right]}[side]
            if None not in conditions:
                found.append((unit, *conditions))
    return found


@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("least", [1, 6])
@pytest.mark.parametrize("scan_tokens", [10, 10**6])
def test_targets_and_conditions_equal_a_naive_loop(side, least, scan_tokens, corpus, monkeypatch):
    monkeypatch.setattr(module, "_SCAN_TOKENS", scan_tokens)
    sentences, starts = corpus
    built = build(sentences, starts, side=side, min_tokens=least, max_tokens=1000)
    expected = naive_pairs(naive_units(sentences, starts, least), 0.7, side)
    texts, conditions = built.texts(built.targets), built.conditions_of(built.targets)
    count = len(built.targets)
    assert len(conditions) == count * built.conditions
    found = [(texts[index], *(conditions[index + count * number] for number in range(built.conditions))) for index in range(count)]
    assert found == [tuple([CLS, *unit, SEP] for unit in row) for row in expected]
    assert built.mean_tokens(with_neighbours=True) == pytest.approx(np.mean([sum(map(len, row)) for row in found]))
    assert built.mean_tokens(with_neighbours=False) == pytest.approx(np.mean([len(row[0]) for row in found]))


def test_counts_say_what_became_of_the_corpus():
    sentences = arrays(
        [10, 11, 12, 13],
        [10, 11, 12, 14],  # 3 of 5 tokens in common with the one before
        [20, 21],  # short: joined to the next
        [22, 23, 24],
        [30],  # short, at the end: joined to the one before
        [40, 41, 42, 43, 44],  # alone in its document
        [50, 51, 52, 53],
        [50, 51, 52, 53],  # the same again
    )
    built = build(sentences, [0, 5, 6], min_tokens=4, max_overlap=0.6, max_tokens=7)
    assert built.counts.to_dict() == {
        "documents": 3,
        "lone_documents": 1,
        "sentences": 8,
        "joined": 2,
        "near_duplicates": 1,
        "cut": 1,
        "targets": 2,
    }
    assert built.texts(built.targets) == [[CLS, 10, 11, 12, 14, SEP], [CLS, 20, 21, 22, 23, 24, SEP]]
    assert built.conditions_of(built.targets) == [[CLS, 10, 11, 12, 13, SEP], [CLS, 10, 11, 12, 14, SEP]]


def test_no_pair_crosses_documents(corpus):
    sentences, starts = corpus
    built = build(sentences, starts, max_overlap=1.0)
    targets = built.targets.tolist()
    assert not set(targets) & set(starts)  # a document's first sentence has no left neighbour
    assert len(targets) == len(sentences) - len(starts)
    assert built.documents_of(built.targets).tolist() == [int(np.searchsorted(starts, target, side="right")) - 1 for target in targets]


@pytest.mark.parametrize(("max_overlap", "kept"), [(1.0, 1), (0.6, 1), (0.59, 0)])
def test_the_overlap_at_the_limit_is_kept(max_overlap, kept):
    sentences = arrays([10, 11, 12, 13], [10, 11, 12, 14, 14], [80], [90])  # 3 of 5 in common; a pair apart in a second document
    built = build(sentences, [0, 2], max_overlap=max_overlap)
    assert len(built.targets) == 1 + kept
    assert built.counts.near_duplicates == 1 - kept


def order(built, seed=7, batch_targets=8):
    return NeighbourOrder(built, batch_targets=batch_targets, seed=seed)


def test_steps_are_a_pure_function_of_seed_and_number(corpus):
    built = build(*corpus)
    straight, jumped = order(built), order(built)
    every = [straight.targets(step).tolist() for step in range(2 * straight.steps_per_epoch)]
    for step in (5, 2 * straight.steps_per_epoch - 1, 0):
        assert jumped.targets(step).tolist() == every[step]
    assert order(built, seed=8).targets(0).tolist() != every[0]
    assert every[: straight.steps_per_epoch] != every[straight.steps_per_epoch :]


def test_an_epoch_restores_each_sentence_once_at_most(corpus):
    built = build(*corpus)
    ordered = order(built)
    seen = [target for step in range(ordered.steps_per_epoch) for target in ordered.targets(step).tolist()]
    assert set(seen) <= set(built.targets.tolist())
    assert len(seen) == len(set(seen)) == ordered.steps_per_epoch * 8
    assert len(built.targets) - len(seen) < 8


def test_a_batch_shows_whole_neighbours_and_corrupted_targets(corpus):
    built = build(*corpus, side="both")
    targets = built.targets[:8]

    def mask(ids, owners):
        assert torch.equal(torch.bincount(owners), torch.tensor(pack(built.texts(targets)).lengths))
        is_maskable = ~torch.isin(ids, torch.tensor([CLS, SEP, MASK]))
        generator = torch.Generator().manual_seed(3)
        return mask_at_random(ids, is_maskable=is_maskable, rate=0.3, mask_id=MASK, vocabulary=100, generator=generator)

    batch = conditional_batch(built, targets, mask=mask)
    texts = built.texts(targets)
    flat = torch.tensor([token for index in batch.texts.order.tolist() for token in texts[index]])
    restored = batch.texts.ids.clone()
    restored[batch.indices] = batch.targets
    assert torch.equal(restored, flat)
    assert not torch.isin(batch.targets, torch.tensor([CLS, SEP, MASK])).any()
    maskable = sum(map(len, texts)) - 2 * len(texts)
    assert len(batch.indices) == round(0.3 * maskable)
    conditions = built.conditions_of(targets)
    assert batch.conditions.texts == 16
    assert batch.conditions.lengths == tuple(sorted(map(len, conditions)))
    assert batch.tokens == sum(map(len, texts)) + sum(map(len, conditions))


def test_long_sentences_are_cut_and_counted():
    built = build(arrays(range(10, 30), range(40, 45), [60], [70]), [0, 2], max_tokens=8)
    assert built.counts.cut == 1
    assert built.conditions_of(built.targets)[0] == [CLS, 10, 11, 12, 13, 14, 15, SEP]


def test_a_corpus_without_document_breaks_is_refused():
    with pytest.raises(UserError, match=r"no document breaks: all 3 sentences would be one document.*put an empty line between documents"):
        build(arrays([10], [11], [12]), [0])


def test_documents_of_one_sentence_are_refused():
    with pytest.raises(UserError, match="each of the 3 documents has a single sentence"):
        build(arrays([10], [11], [12]), [0, 1, 2])


def test_documents_that_joining_makes_one_sentence_are_refused_with_the_rule():
    with pytest.raises(UserError, match=r"single sentence \(shorter ones than 5 tokens are joined\)"):
        build(arrays([10, 11], [12, 13], [14, 15], [16, 17]), [0, 2], min_tokens=5)


def test_nothing_but_copies_is_refused():
    with pytest.raises(UserError, match=r"all neighbours are near-duplicates of each other \(token overlap above 0.7\)"):
        build(arrays([10, 11], [10, 11], [12], [12]), [0, 2])


def test_documents_of_two_sentences_have_no_sentence_with_two_neighbours():
    with pytest.raises(UserError, match="or at a document's edge"):
        build(arrays([10, 11], [12, 13], [14], [15]), [0, 2], side="both")


def test_fewer_targets_than_a_step_takes_are_refused():
    with pytest.raises(UserError, match=r"2 sentences with a neighbour, fewer than one step takes \(8\)"):
        order(build(arrays([10, 11], [12, 13], [14], [15]), [0, 2]))


def test_an_unknown_side_is_refused(unchecked):
    with pytest.raises(UserError, match="side is 'up': give one of left, right, both"):
        build(arrays([10], [11]), [0, 1], side="up")
