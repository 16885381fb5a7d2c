"""Packing and masking on batches that nobody thought of."""

import pytest
import torch

from tain.batches.masking import disjoint_indices, indices_of_each_text, mask_at_random
from tain.batches.packing import batches_by_tokens, pack, pad

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import given, settings
from hypothesis import strategies as st

MASK, VOCABULARY, FIRST = 4, 200, 5
TEXTS = st.lists(st.lists(st.integers(FIRST, VOCABULARY - 1), min_size=1, max_size=70), min_size=1, max_size=30)
MASKABLE = st.integers(1, 6).flatmap(
    lambda tokens: st.lists(st.lists(st.booleans(), min_size=tokens, max_size=tokens), min_size=1, max_size=6).filter(
        lambda rows: any(map(any, rows))
    )
)
many = settings(max_examples=100, deadline=None)


@many
@given(ids=TEXTS, share_rows=st.booleans())
def test_a_packed_batch_holds_every_text_once_and_leads_back(ids, share_rows):
    packed = pack(ids, share_rows=share_rows)
    starts, back = packed.starts.tolist(), packed.order.argsort().tolist()
    assert sorted(packed.order.tolist()) == list(range(len(ids)))
    for text, place in enumerate(back):
        span = slice(starts[place], starts[place] + packed.lengths[place])
        assert packed.ids[span].tolist() == ids[text]
        assert packed.positions[span].tolist() == list(range(len(ids[text])))
        assert packed.owners[span].tolist() == [place] * len(ids[text])
    assert int((packed.owners < packed.texts).sum()) == sum(map(len, ids))


@many
@given(ids=TEXTS)
def test_padding_shows_the_tokens_of_each_text_and_nothing_else(ids):
    packed = pack(ids)
    rows, is_token = pad(packed, pad_id=0)
    assert [row[kept].tolist() for row, kept in zip(rows, is_token, strict=True)] == [ids[text] for text in packed.order.tolist()]
    assert (rows[~is_token] == 0).all()


@many
@given(lengths=st.lists(st.integers(0, 500), max_size=60), batch_tokens=st.integers(1, 600))
def test_batches_hold_every_text_once_and_only_single_texts_exceed_the_budget(lengths, batch_tokens):
    batches = list(batches_by_tokens(lengths, batch_tokens=batch_tokens))
    assert sorted(text for batch in batches for text in batch) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[text] for text in batch) <= batch_tokens for batch in batches)


@many
@given(rows=MASKABLE, rate=st.floats(0, 1), seed=st.integers(0, 1000))
def test_random_masks_have_the_wanted_size_and_touch_nothing_else(rows, rate, seed):
    is_maskable, generator = torch.tensor(rows), torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST, VOCABULARY, is_maskable.shape, generator=generator)
    masked = mask_at_random(
        ids, is_maskable=is_maskable, rate=rate, mask_id=MASK, vocabulary=VOCABULARY, first_ordinary_id=FIRST, generator=generator
    )
    assert len(masked.indices) == max(1, round(rate * int(is_maskable.sum())))
    assert is_maskable.flatten()[masked.indices].all()
    restored = masked.ids.flatten().clone()
    restored[masked.indices] = masked.targets
    assert torch.equal(restored.view(ids.shape), ids)


@many
@given(rows=MASKABLE, rate=st.floats(0, 1), seed=st.integers(0, 1000))
def test_every_text_with_a_maskable_token_gets_a_share(rows, rate, seed):
    is_maskable = torch.tensor(rows)
    owners = torch.arange(len(rows)).repeat_interleave(len(rows[0]))
    found = indices_of_each_text(is_maskable.flatten(), owners=owners, rate=rate, generator=torch.Generator().manual_seed(seed))
    counts = torch.bincount(owners[found], minlength=len(rows))
    sizes = is_maskable.sum(1)
    assert is_maskable.flatten()[found].all() and len(found.unique()) == len(found)
    assert ((counts >= (rate * sizes).floor()) & (counts <= (rate * sizes).ceil().clamp(min=1)))[sizes > 0].all()
    assert (counts[sizes == 0] == 0).all()


@many
@given(rows=MASKABLE, parts=st.integers(1, 6), each_row=st.booleans(), seed=st.integers(0, 1000))
def test_parts_that_share_everything_out_cover_each_position_once(rows, parts, each_row, seed):
    is_maskable = torch.tensor(rows)
    draws = torch.rand(is_maskable.shape, generator=torch.Generator().manual_seed(seed))
    found = disjoint_indices(draws, is_maskable=is_maskable, parts=parts, rate=1 / parts, each_row=each_row, may_be_empty=True)
    assert sorted(torch.cat(found).tolist()) == is_maskable.flatten().nonzero().flatten().tolist()
