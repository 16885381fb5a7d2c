"""The decomposition equals the naive one with all n x n x dim vectors, for every architecture; then invariants of any block."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tain.batches.packing import pack
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import UserError
from tain.inspection.blocks import Affine, Block, Normalisation, find_blocks
from tain.inspection.capturing import BlockStates, Watched, recomputed
from tain.inspection.norms import METHODS, expansion_rate, mixing_ratios, text_norms

PRECISIONS = [(torch.float32, 1e-5), (torch.float64, 1e-12)]
LENGTHS = (3, 14, 9, 1, 9)  # ModernBERT's window is 6

Build = Callable[..., Any]


def packed_index(ids: list[list[int]], text: int) -> tuple[int, slice]:
    """A text's place in packed order, and that of its tokens."""
    packed = pack(ids)
    index = packed.order.tolist().index(text)
    start = int(packed.starts[index])
    return index, slice(start, start + len(ids[text]))


def normed_parts(states: BlockStates, parts: Tensor) -> tuple[Tensor, Tensor]:
    """Every F_i(x_j) of a single text, and what belongs to no token."""
    block = states.block
    constant = torch.zeros_like(states.inputs) if block.output.bias is None else block.output.bias.expand_as(states.inputs)
    if block.norm is not None:
        spread = block.norm.spread(parts.sum(1) + constant)
        parts, constant = block.norm.shaped(parts) / spread[:, None], block.norm.shaped(constant) / spread
        constant = constant if block.norm.shift is None else constant + block.norm.shift
    return parts, constant


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
def test_parts_and_bias_sum_to_the_blocks_real_output(
    family: str, dtype: torch.dtype, within: float, watched: Build, token_ids: Build, states_of: Build, full_parts: Build
):
    shown = states_of(watched(family, dtype=dtype), token_ids(14))
    assert len(shown) == (3 if family == "modernbert" else 2)
    for states in shown:
        parts, constant = normed_parts(states, full_parts(states))
        assert parts.dtype == dtype
        assert off(parts.sum(1) + constant, states.outputs) < within
        assert off(recomputed(states), states.outputs) < within


@pytest.mark.parametrize("family", ["bert", "distilbert", "eurobert"])
def test_without_the_output_bias_parts_do_not_sum_to_the_output(
    family: str, watched: Build, token_ids: Build, states_of: Build, full_parts: Build
):
    for states in states_of(watched(family), token_ids(14)):
        parts, _ = normed_parts(states, full_parts(states))
        shift = 0.0 if states.block.norm is None else states.block.norm.shift
        assert off(parts.sum(1) + shift, states.outputs) > 0.01


@pytest.mark.parametrize(("dtype", "within"), PRECISIONS)
def test_the_plain_reference_sums_to_the_plain_models_output(
    family: str, dtype: torch.dtype, within: float, tiny_encoder: Build, plain_blocks: Build, token_ids: Build
):
    model = tiny_encoder(family, attn_implementation="eager").to(dtype)
    for block in plain_blocks(model, family, token_ids(14)[0]):
        assert off(block.normed.sum(1) + block.constant, block.outputs) < within


def test_norms_and_ratios_equal_those_of_the_full_tensors(
    family: str, watched: Build, tiny_encoder: Build, plain_blocks: Build, token_ids: Build, states_of: Build
):
    ids = token_ids(*LENGTHS)
    shown = states_of(watched(family), ids)
    plain_model = tiny_encoder(family, attn_implementation="eager")
    for text in (1, 2, 3):
        index, tokens = packed_index(ids, text)
        for states, plain in zip(shown, plain_blocks(plain_model, family, ids[text]), strict=True):
            found = text_norms(states)[index]
            head_parts = plain.weights[..., None] * plain.sources[:, None]  # (heads, tokens, tokens, dim)
            torch.testing.assert_close(found.head_norms, head_parts.norm(dim=-1), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.attention, plain.attention.norm(dim=-1), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.with_residual, plain.with_residual.norm(dim=-1), atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found.normed, plain.normed.norm(dim=-1), atol=1e-5, rtol=1e-5)
            ratios = mixing_ratios(states)[:, tokens]
            for method, row in zip(METHODS, ratios, strict=True):
                torch.testing.assert_close(
                    row, plain.ratios(method), atol=1e-5, rtol=1e-5, msg=lambda text, method=method: f"{method}: {text}"
                )


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_padding_changes_no_ratio(
    family: str, watched: Build, tiny_encoder: Build, plain_blocks: Build, token_ids: Build, states_of: Build
):
    (ids,) = token_ids(9)
    padded = plain_blocks(tiny_encoder(family, attn_implementation="eager"), family, ids, padding=7)
    for states, plain in zip(states_of(watched(family), [ids]), padded, strict=True):
        for method, row in zip(METHODS, mixing_ratios(states), strict=True):
            torch.testing.assert_close(row, plain.ratios(method)[:9], atol=1e-5, rtol=1e-5)


def test_of_a_single_token_nothing_comes_from_others(family: str, watched: Build, token_ids: Build, states_of: Build):
    for states in states_of(watched(family), token_ids(1, 5)):
        _, tokens = packed_index(token_ids(1, 5), 0)
        assert torch.equal(mixing_ratios(states)[:, tokens], torch.zeros(5, 1))


def without_values(model: Any) -> None:
    for block in find_blocks(model):
        block.value.weight.zero_()
        if block.value.bias is not None:
            block.value.bias.zero_()


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_without_values_nothing_is_mixed_in(family: str, watched: Build, token_ids: Build, states_of: Build):
    model = watched(family)
    without_values(model.encoder.model)
    for states in states_of(model, token_ids(8)):
        by_weight, attention, _, with_residual, normed = mixing_ratios(states)
        assert (by_weight > 0).all()
        for row in (attention, with_residual, normed):
            assert torch.equal(row, torch.zeros(8))


def test_without_a_residual_connection_it_makes_no_difference(watched: Build, token_ids: Build, states_of: Build):
    for states in states_of(watched("bert"), token_ids(8)):
        _, attention, _, with_residual, _ = mixing_ratios(replace(states, inputs=torch.zeros_like(states.inputs)))
        torch.testing.assert_close(with_residual, attention)


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert"])
def test_a_normalisation_that_only_rescales_leaves_the_ratio_as_it_is(family: str, watched: Build, token_ids: Build, states_of: Build):
    for states in states_of(watched(family), token_ids(8)):
        even = Normalisation(torch.full((32,), 0.7), None, 1e-12, centres=False)
        _, _, _, with_residual, normed = mixing_ratios(replace(states, block=replace(states.block, norm=even)))
        torch.testing.assert_close(normed, with_residual)


@pytest.mark.parametrize("family", ["bert", "albert", "distilbert"])
def test_scaling_gamma_and_shifting_beta_change_no_ratio(family: str, watched: Build, token_ids: Build, states_of: Build):
    for states in states_of(watched(family), token_ids(8)):
        norm = states.block.norm
        changed = replace(states.block, norm=replace(norm, scale=3.0 * norm.scale, shift=norm.shift + 5.0))
        torch.testing.assert_close(mixing_ratios(replace(states, block=changed)), mixing_ratios(states))


def test_evenly_mixed_equal_tokens_take_all_but_one_nth_from_others(watched: Build, states_of: Build):
    (states, *_) = states_of(watched("bert"), [[7] * 6])
    _, values = states.groups[0]
    even = torch.full((1, 4, 6, 6), 1 / 6)
    alike = values[:, :, :1].expand_as(values)
    mixed = (even @ alike).transpose(1, 2).flatten(2)[0]
    attended = states.block.output.linear(mixed) + states.block.output.bias
    uniform = replace(states, groups=((even, alike),), mixed=mixed, attended=attended)
    torch.testing.assert_close(mixing_ratios(uniform)[1], torch.full((6,), 5 / 6))


def test_with_a_residual_the_weights_ratio_is_half_and_never_above(family: str, watched: Build, token_ids: Build, states_of: Build):
    for states in states_of(watched(family), token_ids(*LENGTHS)):
        ratios = mixing_ratios(states)
        assert torch.equal(ratios[2], ratios[0] / 2)
        assert (ratios[2] <= 0.5).all()
        assert ((ratios >= 0) & (ratios <= 1)).all()


@pytest.mark.parametrize("centres", [True, False])
def test_a_normalisation_of_a_sum_is_the_sum_of_its_parts_gone_through_it(centres: bool, generator: torch.Generator):
    parts, scale, shift = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((5, 7, 16), (16,), (16,)))
    norm = Normalisation(scale, shift if centres else None, 0.3, centres=centres)
    totals = parts.sum(1)
    if centres:
        real = nn.functional.layer_norm(totals, (16,), scale, shift, eps=0.3)
    else:
        real = nn.functional.rms_norm(totals, (16,), scale, eps=0.3)
    found = (norm.shaped(parts) / norm.spread(totals)[:, None]).sum(1) + (shift if centres else 0.0)
    torch.testing.assert_close(found, real, atol=1e-12, rtol=1e-12)


class LargestTensor(TorchDispatchMode):
    """Notes how many numbers the largest tensor had that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        self.numbers = max(self.numbers, *(each.numel() for each in tree_leaves(result) if isinstance(each, Tensor)), 0)
        return result


@pytest.mark.parametrize("family", ["bert", "modernbert", "eurobert"])
def test_no_tensor_holds_a_vector_for_every_pair_of_tokens(family: str, watched: Build, token_ids: Build, states_of: Build):
    tokens, heads, dim = 200, 4, 32
    (states, *_) = states_of(watched(family, max_position_embeddings=256), token_ids(tokens))
    with LargestTensor() as largest:
        text_norms(states)
        mixing_ratios(states)
    assert largest.numbers <= heads * tokens**2
    assert largest.numbers < tokens**2 * dim / 4


def affine_block(value: Affine, output: Affine) -> Block:
    """A block of which only the attention's weights are read."""
    (block,) = find_blocks(_one_layer())
    return replace(block, value=value, output=output)


def _one_layer() -> Any:
    import transformers

    return transformers.BertModel(
        transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, vocab_size=9)
    )


def test_the_expansion_rate_is_that_of_the_affine_map_in_homogeneous_coordinates(generator: torch.Generator):
    value, output = (Affine(torch.randn(6, 6, generator=generator), torch.randn(6, generator=generator)) for _ in range(2))

    def homogeneous(affine: Affine) -> Tensor:
        assert affine.bias is not None
        corner = torch.cat([affine.weight.T, affine.bias[None]])  # rows: features, then the bias
        return torch.cat([corner, torch.eye(7)[:, 6:]], dim=1)

    singular = torch.linalg.svdvals(homogeneous(value) @ homogeneous(output))
    expected = (singular.square().sum() / 7).sqrt()
    assert expansion_rate(affine_block(value, output)) == pytest.approx(float(expected), rel=1e-5)


def test_the_identity_neither_expands_nor_shrinks():
    same = Affine(torch.eye(8), None)
    assert expansion_rate(affine_block(same, same)) == pytest.approx(1.0)


@pytest.mark.parametrize("family", ["modernbert", "eurobert", "albert"])
def test_the_value_map_gives_what_attention_is_shown(family: str, watched: Build, token_ids: Build, states_of: Build):
    """Joint, shared and grouped value layers: the weights behind the expansion rate are those that were used."""
    model = watched(family)
    given: list[Tensor] = []
    for block in model.blocks:
        block.attention.register_forward_pre_hook(
            lambda _, positional, named: given.append((positional[0] if positional else named["hidden_states"])[0]), with_kwargs=True
        )
    for states, hidden in zip(states_of(model, token_ids(5)), given, strict=True):
        value = states.block.value
        expected = value.linear(hidden) + (0.0 if value.bias is None else value.bias)
        ((_, _, values),) = states.texts()
        torch.testing.assert_close(values.transpose(0, 1).flatten(1), expected)


def test_a_decoder_is_refused():
    import transformers

    model = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=20, n_positions=16))
    with pytest.raises(UserError, match="GPT2Model is a decoder"):
        Watched(TransformerEncoder(model))


@pytest.mark.parametrize(("architecture", "reason"), [("mpnet", "MPNetModel"), ("deberta-v2", "DebertaV2Model")])
def test_what_cannot_be_taken_apart_is_named_with_the_reason(architecture: str, reason: str, tiny_encoder: Build):
    with pytest.raises(UserError, match=reason):
        Watched(TransformerEncoder(tiny_encoder(architecture), pad_id=1))


def test_a_block_that_computes_something_else_is_refused(tiny_encoder: Build):
    model = tiny_encoder("bert")
    dense = model.encoder.layer[1].attention.output.dense
    dense.register_forward_hook(lambda _, __, result: 2.0 * result)
    with pytest.raises(UserError, match="cannot be decomposed"):
        Watched(TransformerEncoder(model))
