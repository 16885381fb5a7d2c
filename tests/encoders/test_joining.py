"""Joined encoders: a wider ModernBERT with a model's vectors in its first half and token vectors in its second."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tain.batches.packing import pack
from tain.encoders.depth import drop_context, install_token_vectors, scale_residuals
from tain.encoders.joining import can_join, join_static
from tain.encoders.transformer import TransformerEncoder
from tain.encoders.zero_blocks import HalfLinear, skip_zero_blocks
from tain.foundation.errors import UserError

Build = Callable[..., Any]

TEXTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15, 16], [7, 5]]


@pytest.fixture
def table(tiny_encoder: Build) -> torch.Tensor:
    model = tiny_encoder("modernbert")
    rows = torch.randn(tuple(model.get_input_embeddings().weight.shape), generator=torch.Generator().manual_seed(3))
    return rows * torch.rand(len(rows), 1, generator=torch.Generator().manual_seed(4)).add(0.5)


@torch.no_grad()
def test_the_first_half_is_the_models_own_vector_and_the_second_the_tokens_row(tiny_encoder: Build, table: torch.Tensor):
    model = tiny_encoder("modernbert").eval()
    joined = TransformerEncoder(join_static(model, table))
    assert joined.layout == "packed"
    packed = pack(TEXTS)
    found = joined.tokens(packed)
    width = table.shape[1]
    own = TransformerEncoder(model).tokens(packed)
    assert torch.nn.functional.cosine_similarity(found[:, :width], own).min() > 0.999
    torch.testing.assert_close(found[:, :width].norm(dim=1), own.norm(dim=1), rtol=1e-2, atol=0)
    carried = found[:, width:] - found[:, width:].mean(dim=1, keepdim=True)
    rows = table[packed.ids] - table[packed.ids].mean(dim=1, keepdim=True)
    assert torch.nn.functional.cosine_similarity(carried, rows).min() > 0.999


def test_the_model_that_is_joined_stays_as_it_was(tiny_encoder: Build, table: torch.Tensor):
    model = tiny_encoder("modernbert")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    join_static(model, table)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_other_models_and_tables_are_refused(tiny_encoder: Build, table: torch.Tensor):
    assert not can_join(tiny_encoder("bert"))
    with pytest.raises(UserError, match="BertModel cannot be joined with token vectors"):
        join_static(tiny_encoder("bert"), table)
    with pytest.raises(UserError, match="they must be equal"):
        join_static(tiny_encoder("modernbert"), table[:, :-1])


# ---- models whose layers add less, or nothing


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta", "distilbert"])
def test_without_context_each_token_has_the_direction_of_its_row(architecture: str, tiny_encoder: Build):
    model = tiny_encoder(architecture).eval()
    rows = torch.randn(tuple(model.get_input_embeddings().weight.shape), generator=torch.Generator().manual_seed(3))
    drop_context(model)
    lengths = install_token_vectors(model, rows)
    centred = rows - rows.mean(dim=1, keepdim=True)
    torch.testing.assert_close(lengths, centred.norm(dim=1))
    found = TransformerEncoder(model).tokens(pack(TEXTS))
    assert torch.nn.functional.cosine_similarity(found, centred[pack(TEXTS).ids]).min() > 0.9999


@torch.no_grad()
def test_layers_that_add_less_leave_token_vectors_nearer_to_the_embeddings(tiny_encoder: Build):
    packed, distances = pack(TEXTS), []
    for factor in (1.0, 0.5, 0.1):
        model = tiny_encoder("modernbert").eval()
        scale_residuals(model, factor)
        found = TransformerEncoder(model).tokens(packed)
        drop_context(model)
        distances.append(float((found - TransformerEncoder(model).tokens(packed)).norm()))
    assert distances[0] > distances[1] > distances[2]


# ---- zero blocks


@torch.no_grad()
def test_a_joined_encoder_skips_its_zero_blocks_and_gives_the_same_vectors(tiny_encoder: Build, table: torch.Tensor):
    joined = join_static(tiny_encoder("modernbert"), table)
    encoder = TransformerEncoder(joined).eval()
    packed, expected = pack(TEXTS), encoder.tokens(pack(TEXTS))
    names = {name: tensor.clone() for name, tensor in joined.state_dict().items()}
    assert skip_zero_blocks(joined)
    halved = [module for module in joined.modules() if isinstance(module, HalfLinear)]
    assert len(halved) == 4 * len(joined.layers)
    assert sum(module.part.numel() for module in halved if module.part is not None) < 0.4 * sum(module.weight.numel() for module in halved)
    torch.testing.assert_close(encoder.tokens(packed), expected, rtol=0, atol=1e-5)
    padded = TransformerEncoder(joined, layout="padded").eval()
    torch.testing.assert_close(padded.tokens(packed), expected, rtol=0, atol=1e-4)
    assert all(torch.equal(names[name], tensor) for name, tensor in joined.state_dict().items())  # what is saved stays
    encoder.train()
    torch.testing.assert_close(encoder.tokens(packed), expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"])
def test_a_block_that_is_no_longer_zero_is_computed(tiny_encoder: Build, table: torch.Tensor, name: str):
    changed, plain = (join_static(tiny_encoder("modernbert"), table).eval() for _ in range(2))
    assert skip_zero_blocks(changed)
    for model in (changed, plain):
        for parameter in (model.get_submodule(f"layers.0.{name}").weight, model.get_submodule("layers.1.attn.Wo").weight):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(5)), alpha=0.1)
    found, expected = (model(input_ids=torch.tensor([[5, 6, 7, 8]])).last_hidden_state for model in (changed, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert changed.get_submodule(f"layers.0.{name}").part is None


@torch.no_grad()
def test_attention_is_captured_with_all_heads(tiny_encoder: Build, table: torch.Tensor):
    joined = join_static(tiny_encoder("modernbert"), table)
    encoder, heads = TransformerEncoder(joined).eval(), []

    def capture(_module: torch.nn.Module, weights: torch.Tensor, _values: torch.Tensor) -> None:
        heads.append(weights.shape[1])

    encoder.tokens(pack(TEXTS), capture=capture)
    expected, heads[:] = list(heads), []
    assert skip_zero_blocks(joined)
    encoder.tokens(pack(TEXTS), capture=capture)
    assert heads == expected
    assert set(heads) == {joined.config.num_attention_heads}


def test_other_models_keep_their_layers(tiny_encoder: Build):
    for kind in ("bert", "modernbert"):
        model = tiny_encoder(kind)
        assert not skip_zero_blocks(model)
        assert not any(isinstance(module, HalfLinear) for module in model.modules())


def test_fused_optimizers_change_what_is_computed(tiny_encoder: Build, table: torch.Tensor):
    """They do not count their changes of a parameter as other operations do."""
    joined = join_static(tiny_encoder("modernbert"), table)
    assert skip_zero_blocks(joined)
    encoder, packed = TransformerEncoder(joined).eval(), pack(TEXTS)
    for parameter in joined.parameters():
        parameter.requires_grad_()
    with torch.no_grad():
        before = encoder.tokens(packed)
    optimizer = torch.optim.AdamW(joined.parameters(), lr=0.1, fused=True)
    encoder.train()
    encoder.tokens(packed).square().sum().backward()
    optimizer.step()
    encoder.eval()
    fresh = join_static(tiny_encoder("modernbert"), table)
    fresh.load_state_dict(joined.state_dict())
    with torch.no_grad():
        after, expected = encoder.tokens(packed), TransformerEncoder(fresh).eval().tokens(packed)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, expected, rtol=1e-5, atol=1e-4)
    encoder.tokens(packed).square().sum().backward()  # gradients in eval mode
    assert joined.layers[0].mlp.Wi.weight.grad is not None
