import pytest
import torch
from torch import Tensor, nn

from tain.encoders import attention
from tain.encoders.attention import Packing, head_survival, packed_attention

GROUPS = ((2, 1), (3, 4), (1, 9))  # (texts, tokens a text): 23 tokens in 6 texts
SPANS = [(0, 1), (1, 2), (2, 6), (6, 10), (10, 14), (14, 23)]
HEADS, WIDTH = 4, 8


@pytest.fixture
def module() -> nn.Module:
    return nn.Module()


def states(key_heads: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(1, heads, 23, WIDTH, generator=generator) for heads in (HEADS, key_heads, key_heads))
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def text_by_text(query: Tensor, key: Tensor, value: Tensor, *, window: int | None = None) -> Tensor:
    """Attention as the textbook writes it, one text and one head at a time."""
    repeats = query.shape[1] // key.shape[1]
    mixed = torch.zeros(1, query.shape[2], query.shape[1], value.shape[3])
    for start, end in SPANS:
        for head in range(query.shape[1]):
            scores = query[0, head, start:end] @ key[0, head // repeats, start:end].T / query.shape[3] ** 0.5
            if window is not None:
                indices = torch.arange(end - start)
                scores = scores.masked_fill((indices[:, None] - indices).abs() >= window, -torch.inf)
            mixed[0, start:end, head] = scores.softmax(-1) @ value[0, head // repeats, start:end]
    return mixed


def run(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, packing: Packing | None, **settings) -> Tensor:
    return packed_attention(module, query, key, value, None, packing=packing, **settings)[0]


@pytest.mark.parametrize("way", ["fused", "products", "shown"])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_outputs_and_gradients_equal_attention_text_by_text(
    module: nn.Module, key_heads: int, window: int | None, way: str, monkeypatch: pytest.MonkeyPatch
):
    if way == "fused":
        monkeypatch.setattr(attention, "_MOST_SCORES", 0)
    packing = Packing(GROUPS, capture=(lambda *shown: None) if way == "shown" else None)
    ours, naive = states(key_heads), states(key_heads)
    found = run(module, *ours, packing, sliding_window=window)
    expected = text_by_text(*naive, window=window)
    torch.testing.assert_close(found, expected)
    weights = torch.randn(found.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for left, right in zip(ours, naive, strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-5)


def test_the_scale_is_the_models_own_where_it_names_one(module: nn.Module):
    query, key, value = states()
    found = run(module, query, key, value, Packing(GROUPS), scaling=1.0)
    torch.testing.assert_close(found, text_by_text(query * WIDTH**0.5, key, value))


def test_one_group_takes_the_same_path_as_many(module: nn.Module):
    query, key, value = states()
    whole = run(module, query, key, value, Packing(((1, 23),)))
    torch.testing.assert_close(whole, run(module, query, key, value, None))


def test_without_packing_a_window_still_holds(module: nn.Module):
    query, key, value = states()
    found = run(module, query, key, value, None, sliding_window=3)
    torch.testing.assert_close(found, run(module, query, key, value, Packing(((1, 23),)), sliding_window=3))


def draws_of_one_text(module: nn.Module, *, texts: int, drophead: float = 0.0, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
    """The plain output of a text of three tokens, and many texts of the very same states that each draw for themselves."""
    query, key, value = (state[:, :, :3].detach() for state in states())
    plain = run(module, query, key, value, Packing(((1, 3),)))
    query, key, value = (state.repeat(1, 1, texts, 1) for state in (query, key, value))
    many = run(module, query, key, value, Packing(((texts, 3),), drophead=drophead), dropout=dropout)
    return plain[0], many.unflatten(1, (texts, 3))[0]


def standard_errors_off(draws: Tensor, expected: Tensor) -> float:
    error = draws.std(0) / len(draws) ** 0.5
    return ((draws.mean(0) - expected).abs() / error).max().item()


def test_attention_dropout_acts_on_the_weights_and_expects_the_plain_output(module: nn.Module):
    plain, draws = draws_of_one_text(module, texts=20_000, dropout=0.3)
    assert standard_errors_off(draws, plain) < 5.0  # the worst of 96 numbers
    # a head's output is nothing only where all three of its weights are dropped
    assert (draws == 0).all(-1).float().mean().item() == pytest.approx(0.3**3, abs=0.002)


def test_drophead_zeroes_whole_heads_and_scales_the_others(module: nn.Module):
    query, key, value = states()
    plain = run(module, query, key, value, Packing(GROUPS))
    mixed = run(module.train(), query, key, value, Packing(GROUPS, drophead=0.5))
    for start, end in SPANS:
        ratios = (mixed / plain)[0, start:end]  # (tokens, heads, width)
        torch.testing.assert_close(ratios, ratios[:1, :, :1].expand_as(ratios))  # one number a head, for all of the text's tokens
        alive = int((ratios[0, :, 0] != 0).sum())
        assert alive >= 1
        torch.testing.assert_close(ratios[0, :, 0][ratios[0, :, 0] != 0], torch.full((alive,), HEADS / alive))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_drophead_of_zero_or_outside_training_changes_nothing(module: nn.Module, mode: str):
    query, key, value = states()
    plain = run(module, query, key, value, Packing(GROUPS))
    drophead = 0.0 if mode == "train" else 0.9
    assert torch.equal(run(module.train(mode == "train"), query, key, value, Packing(GROUPS, drophead=drophead)), plain)


def test_drophead_expects_the_plain_output(module: nn.Module):
    """Scaling by heads over living heads keeps the sum over heads at its full weight in every draw, given that one lives."""
    plain, draws = draws_of_one_text(module.train(), texts=20_000, drophead=0.3)
    assert standard_errors_off(draws, plain) < 5.0  # the worst of 96 numbers
    assert (draws == 0).all(-1).float().mean().item() == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("probability", [0.05, 0.2, 0.6])
def test_surviving_heads_are_scaled_by_all_over_living(probability: float):
    scales = head_survival(20_000, 12, probability)
    alive = (scales > 0).sum(1)
    torch.testing.assert_close(scales.sum(1), torch.full((20_000,), 12.0))
    torch.testing.assert_close(scales.amax(1), 12 / alive)
    # heads are alike: each expects 1
    torch.testing.assert_close(scales.mean(0), torch.ones(12), atol=0.05, rtol=0)
    assert (scales == 0).float().mean().item() == pytest.approx(probability, abs=0.01)


def test_never_are_all_heads_dropped():
    scales = head_survival(5000, 4, 0.99)
    assert bool(((scales > 0).sum(1) >= 1).all())
    torch.testing.assert_close(scales.sum(1), torch.full((5000,), 4.0))
    lone = scales[(scales > 0).sum(1) == 1].argmax(1)
    assert torch.bincount(lone, minlength=4).float().std() < 100  # whichever lives is a matter of chance


def test_each_text_draws_its_own_heads():
    scales = head_survival(500, 12, 0.5) > 0
    assert len(scales.unique(dim=0)) > 400  # of 4096 patterns


def test_no_head_is_dropped_at_zero():
    assert torch.equal(head_survival(7, 5, 0.0), torch.ones(7, 5))


def test_captured_weights_come_once_a_group_before_dropout_and_drophead(module: nn.Module):
    query, key, value = states()
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []
    run(module.train(), query, key, value, Packing(GROUPS, drophead=0.9, capture=lambda *shown: seen.append(shown)), dropout=0.9)
    assert [weights.shape for _, weights, _ in seen] == [(texts, HEADS, tokens, tokens) for texts, tokens in GROUPS]
    for shown_module, weights, values in seen:
        assert shown_module is module
        torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
        assert values.shape == (*weights.shape[:3], WIDTH)
    start, end = SPANS[3]
    torch.testing.assert_close(seen[1][2][1], value[0, :, start:end])


def test_the_function_is_found_by_its_name():
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert attention.NAME in ALL_ATTENTION_FUNCTIONS.valid_keys()
    assert attention.NAME in ALL_MASK_ATTENTION_FUNCTIONS.valid_keys()


@pytest.mark.parametrize("window", [None, 2])
def test_rows_without_packing_are_the_same_by_products_and_fused(module: nn.Module, window: int | None, monkeypatch: pytest.MonkeyPatch):
    found = []
    for most_scores in (0, 2**24):
        monkeypatch.setattr(attention, "_MOST_SCORES", most_scores)
        rows = [torch.randn(2, HEADS, 6, WIDTH, generator=torch.Generator().manual_seed(n)).requires_grad_() for n in range(3)]
        mixed = packed_attention(module, *rows, None, sliding_window=window)[0]
        mixed.square().sum().backward()
        found.append([mixed, *(row.grad for row in rows)])
    for fused, products in zip(*found, strict=True):
        torch.testing.assert_close(products, fused, atol=1e-5, rtol=1e-5)


def test_plain_products_are_for_training_of_what_fits_in_memory(monkeypatch: pytest.MonkeyPatch):
    def products(query: Tensor, dropout: float = 0.0) -> bool:
        return attention._products_are_faster(query, dropout)

    query = torch.zeros(2, HEADS, 6, WIDTH)
    assert not products(query)
    assert products(query, 0.1)
    assert products(query.requires_grad_())
    monkeypatch.setattr(attention, "_MOST_SCORES", 2 * HEADS * 36 - 1)
    assert not products(query)
