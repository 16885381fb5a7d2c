"""Codes and scores of poly-encoders: the paper's equations one by one, and a toy problem that they must solve."""

import itertools
import math
import statistics

import pytest
import torch
from torch import nn

from tain.batches.packing import pack
from tain.encoders.heads import CODE_SPREAD, DualHead, PairHead, attended, mixed_scores, poly_scores, rows_of_tokens
from tain.encoders.pooling import first_token, masked_mean
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import ShapeError
from tain.objectives.ranking import candidate_cross_entropy


def by_the_letter(tokens, codes, candidate):
    """The three equations of section 4.4 as written, for one context without padding."""
    vectors = []
    for code in codes:
        weights = torch.softmax(torch.stack([code @ token for token in tokens]), 0)
        vectors.append(sum(weight * token for weight, token in zip(weights, tokens, strict=True)))
    weights = torch.softmax(torch.stack([candidate @ vector for vector in vectors]), 0)
    context = sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))
    return context @ candidate


def made(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def head(kind, codes, dim=8, scale=1.0):
    return DualHead(kind, codes=codes, dim=dim, scale=scale, is_scale_learned=False)


# ---- the score


def test_scores_equal_a_literal_loop_over_the_papers_equations(generator):
    tokens, codes, candidates = made(3, 7, 8, generator=generator), made(5, 8, generator=generator), made(4, 8, generator=generator)
    lengths = [7, 4, 1]
    is_token = torch.arange(7) < torch.tensor(lengths)[:, None]
    found = poly_scores(attended(codes, tokens, is_token), candidates)
    for context, length in enumerate(lengths):
        for number, candidate in enumerate(candidates):
            expected = by_the_letter(tokens[context, :length], codes, candidate)
            torch.testing.assert_close(found[context, number], expected)


def test_a_score_is_the_softmax_mixture_of_similarities_and_lies_between_their_mean_and_maximum(generator):
    contexts, candidates = made(6, 5, 8, generator=generator), made(9, 8, generator=generator)
    similarities = torch.einsum("cmd,nd->cmn", contexts, candidates)
    scores = poly_scores(contexts, candidates)
    torch.testing.assert_close(scores, (similarities.softmax(1) * similarities).sum(1))
    assert (scores >= similarities.mean(1) - 1e-12).all()
    assert (scores <= similarities.amax(1) + 1e-12).all()


# ---- 2: limits


def test_one_code_gives_the_dot_product_with_its_vector(generator):
    context, candidates = made(2, 1, 8, generator=generator), made(3, 8, generator=generator)
    torch.testing.assert_close(poly_scores(context, candidates), context[:, 0] @ candidates.T)


def test_codes_of_zeros_are_a_bi_encoder_with_mean_pooling(generator):
    tokens = made(2, 5, 8, generator=generator)
    is_token = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    vectors = attended(torch.zeros(3, 8, dtype=torch.float64), tokens, is_token)
    means = torch.stack([tokens[0].mean(0), tokens[1, :2].mean(0)])
    torch.testing.assert_close(vectors, means[:, None].expand(-1, 3, -1))
    candidates = made(4, 8, generator=generator)
    torch.testing.assert_close(poly_scores(vectors, candidates), means @ candidates.T)


@pytest.mark.parametrize(("kind", "pooling"), [("learned", "mean"), ("first", "cls")])
def test_packed_contexts_meet_the_encoders_own_pooling(tiny_encoder, token_ids, kind, pooling):
    encoder = TransformerEncoder(tiny_encoder("bert"), pooling=pooling)
    packed = pack(token_ids(9, 3, 6, 3))
    poly = head(kind, 1, dim=32)
    with torch.no_grad():
        if poly.codes is not None:
            poly.codes.zero_()
        vectors = poly.contexts(*rows_of_tokens(encoder.tokens(packed), packed))
        torch.testing.assert_close(vectors[:, 0], encoder(packed), atol=1e-5, rtol=1e-5)


def test_rows_of_shared_packing_hold_each_texts_own_tokens(tiny_encoder, token_ids):
    encoder = TransformerEncoder(tiny_encoder("bert"))
    ids = token_ids(*range(2, 20), 3, 4, 5, 6)
    packed = pack(ids, share_rows=True)
    assert packed.shared_owners is not None
    with torch.no_grad():
        rows, is_token = rows_of_tokens(encoder.tokens(packed), packed)
        assert is_token.sum(1).tolist() == [len(text) for text in ids]
        for index in (0, 7, 19):
            alone = pack([ids[index]])
            torch.testing.assert_close(rows[index, : len(ids[index])], encoder.tokens(alone), atol=1e-5, rtol=1e-4)


# ---- 3: what changes nothing


def test_doubled_and_permuted_codes_change_nothing(generator):
    tokens, candidates = made(2, 6, 8, generator=generator), made(3, 8, generator=generator)
    codes, is_token = made(4, 8, generator=generator), torch.ones(2, 6, dtype=torch.bool)
    expected = poly_scores(attended(codes, tokens, is_token), candidates)
    for same in (torch.cat([codes, codes]), codes[[2, 0, 3, 1]]):
        torch.testing.assert_close(poly_scores(attended(same, tokens, is_token), candidates), expected)


def test_padding_changes_nothing(generator):
    tokens, codes = made(1, 4, 8, generator=generator), made(3, 8, generator=generator)
    padded = torch.cat([tokens, 100 * made(1, 3, 8, generator=generator)], dim=1)
    is_token = torch.arange(7)[None] < 4
    for kind in ("learned", "first", "last", "last-and-first"):
        poly = head(kind, 3).double()
        if poly.codes is not None:
            poly.codes.data.copy_(codes)
        torch.testing.assert_close(poly.contexts(padded.float(), is_token), poly.contexts(tokens.float(), is_token[:, :4]))


def test_candidate_order_changes_nothing(generator):
    contexts, candidates = made(2, 4, 8, generator=generator), made(6, 8, generator=generator)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(poly_scores(contexts, candidates[order]), poly_scores(contexts, candidates)[:, order])


# ---- outputs as codes


def test_first_last_and_last_with_first_take_these_outputs_and_short_contexts_have_fewer():
    tokens = torch.arange(1.0, 6.0)[None, :, None].expand(2, 5, 2).contiguous()  # token j is (j, j)
    is_token = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    lengths = is_token.sum(1)
    expected = {
        "first": ([[1, 2, 3], [1, 2, 0]], [[True, True, True], [True, True, False]]),
        "last": ([[5, 4, 3], [2, 1, 0]], [[True, True, True], [True, True, False]]),
        "last-and-first": ([[5, 4, 3, 1], [2, 1, 0, 0]], [[True, True, True, True], [True, True, False, False]]),
    }
    for kind, (values, are_there) in expected.items():
        poly = head(kind, 3, dim=2)
        assert poly.contexts(tokens, is_token)[:, :, 0].tolist() == values
        assert poly.is_vector(lengths).tolist() == are_there


def test_absent_vectors_take_no_part_in_a_score(generator):
    contexts, candidates = made(1, 4, 8, generator=generator), made(3, 8, generator=generator)
    is_vector = torch.tensor([[True, True, False, False]])
    torch.testing.assert_close(poly_scores(contexts, candidates, is_vector=is_vector), poly_scores(contexts[:, :2], candidates))


# ---- 5: half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_contexts_without_tokens_or_vectors_never_become_nan(dtype, generator):
    tokens = torch.randn(2, 5, 8, generator=generator).to(dtype)
    is_token = torch.tensor([[True] * 5, [False] * 5])
    vectors = attended(torch.randn(3, 8, generator=generator).to(dtype), tokens, is_token)
    candidates = torch.randn(4, 8, generator=generator).to(dtype)
    scores = poly_scores(vectors, candidates, is_vector=torch.tensor([[True] * 3, [False] * 3]))
    assert torch.isfinite(scores).all()


def test_the_scale_multiplies_both_sides_before_anything_else(generator):
    tokens, is_token = torch.randn(2, 5, 8, generator=generator), torch.ones(2, 5, dtype=torch.bool)
    pooled = torch.randn(3, 8, generator=generator)
    scaled, plain = head("learned", 4, scale=0.06), head("learned", 4)
    scaled.load_state_dict({"codes": plain.codes, "log_scale": scaled.log_scale})
    found = poly_scores(scaled.contexts(tokens, is_token), scaled.candidates(pooled))
    expected = poly_scores(plain.contexts(0.06 * tokens, is_token), 0.06 * pooled)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_drawn_codes_have_no_mean_and_products_of_the_spread_it_says(generator):
    poly = head("learned", 400, dim=64, scale=0.5)
    poly.draw_codes(token_length=10.0, generator=generator)
    tokens = torch.randn(200, 64, generator=generator)
    tokens = 10.0 * 0.5 * tokens / tokens.norm(dim=1, keepdim=True)
    assert abs(poly.codes.mean().item()) < 0.003
    assert (tokens @ poly.codes.T).std().item() == pytest.approx(CODE_SPREAD, rel=0.1)


def test_a_pooled_head_refuses_tokens():
    with pytest.raises(ShapeError, match="takes pooled vectors, not tokens"):
        head("pooled", 1).contexts(torch.ones(1, 2, 8), torch.ones(1, 2, dtype=torch.bool))


def test_the_pair_head_is_a_linear_score(generator):
    pair, first = PairHead(8, generator=generator), torch.randn(3, 8, generator=generator)
    torch.testing.assert_close(pair(first), first @ pair.weight + pair.bias)


def test_poolings_are_what_heads_start_from(token_ids):
    hidden = torch.randn(10, 8)
    packed = pack(token_ids(4, 6))
    rows, _ = rows_of_tokens(hidden, packed)
    torch.testing.assert_close(rows[:, 0], first_token(hidden, packed))
    torch.testing.assert_close(rows[0, :4].mean(0), masked_mean(hidden, packed)[0])


# ---- 7: the bag of facts

FACTS, VALUES, WIDTH = 6, 5, 3  # a context says one of five values for each of six things; vectors have three numbers


def facts(rng, contexts):
    """Token numbers (contexts, FACTS), a right candidate each, and a wrong one: another value for the same thing."""
    values = torch.randint(VALUES, (contexts, FACTS), generator=rng)
    thing = torch.randint(FACTS, (contexts,), generator=rng)
    tokens = values + VALUES * torch.arange(FACTS)
    true = values[torch.arange(contexts), thing]
    wrong = (true[:, None] + torch.arange(1, VALUES)) % VALUES
    return tokens, VALUES * thing[:, None] + torch.cat([true[:, None], wrong], dim=1)


def share_right(kind, codes, *, seed=1, steps=500):
    """Train a table of token vectors with the head of this kind, and count how often it tells the true value from all others."""
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(2)
    context, candidate = nn.Embedding(FACTS * VALUES, WIDTH), nn.Embedding(FACTS * VALUES, WIDTH)
    pairs = nn.Embedding(FACTS * VALUES, FACTS * VALUES)  # the cross-encoder: a number for each two facts that meet
    poly = DualHead("pooled" if kind == "bi" else "learned", codes=codes, dim=WIDTH, scale=1.0, is_scale_learned=True)
    if poly.codes is not None:
        poly.codes.data.normal_(std=2.0, generator=rng)

    def scores(tokens, listed):
        if kind == "cross":
            return pairs(tokens).gather(2, listed[:, None].expand(-1, FACTS, -1)).sum(1)
        states = context(tokens)
        if kind == "bi":
            vectors = poly.pooled_contexts(states.mean(1))
        else:
            vectors = poly.contexts(states, torch.ones(tokens.shape, dtype=torch.bool))
        found = poly.candidates(candidate(listed.reshape(-1))).view(*listed.shape, WIDTH)
        return mixed_scores(torch.einsum("cmd,cnd->cmn", vectors, found))

    parameters = [*context.parameters(), *candidate.parameters(), *pairs.parameters(), *poly.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        candidate_cross_entropy(scores(*facts(rng, 128)), torch.zeros(128, dtype=torch.long)).backward()
        optimizer.step()
    with torch.no_grad():
        found = scores(*facts(rng, 2000))
    is_best = found == found.amax(dim=1, keepdim=True)
    return (is_best[:, 0] / is_best.sum(dim=1)).mean().item()  # ties count by expectation


def test_a_bag_of_facts_is_held_by_cross_and_poly_but_not_by_bi_and_every_further_code_helps():
    bi, cross = share_right("bi", 1), share_right("cross", 1)
    by_codes = [statistics.mean(share_right("poly", codes, seed=seed) for seed in (1, 2, 3)) for codes in (1, 2, 4, FACTS)]
    assert cross >= by_codes[-1] - 0.002
    assert all(more > fewer for fewer, more in itertools.pairwise(by_codes))  # up to as many codes as facts
    assert by_codes[-1] > by_codes[1] + 0.05
    assert by_codes[1] > bi + 0.02
    assert bi < 0.9
    assert math.isclose(cross, 1.0, abs_tol=0.02)
