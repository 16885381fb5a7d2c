from collections.abc import Callable
from typing import Any

import pytest
import torch

from tain.batches.packing import pack
from tain.encoders.pooling import first_token, masked_mean, sif_weights
from tain.encoders.transformer import TransformerEncoder

Build = Callable[..., Any]


def test_the_mean_is_over_each_texts_own_tokens():
    packed = pack([[1, 2, 3], [4], [5, 6], [7], [8, 9, 10]])
    hidden = torch.randn(len(packed.ids), 6)
    expected = [hidden[start : start + length].mean(0) for start, length in zip(packed.starts.tolist(), packed.lengths, strict=True)]
    torch.testing.assert_close(masked_mean(hidden, packed), torch.stack(expected))


def test_pooling_leaves_out_the_fillers_of_shared_rows():
    packed = pack([[1] * length for length in range(2, 20)], share_rows=True)
    hidden = packed.ids[:, None] * torch.ones(1, 2)  # 0 at fillers
    assert (packed.ids == 0).any()
    assert (masked_mean(hidden, packed) == 1).all()
    assert (first_token(hidden, packed) == 1).all()


def test_the_first_token_is_each_texts_own():
    packed = pack([[1, 2, 3], [4], [5, 6]])
    hidden = packed.ids[:, None] * torch.ones(1, 2)
    assert first_token(hidden, packed)[:, 0].tolist() == [4, 5, 1]  # shortest first


@pytest.mark.parametrize("pool", [first_token, masked_mean])
def test_pooling_answers_in_float32(pool: Callable[..., torch.Tensor]):
    packed = pack([[1, 2, 3], [4]])
    assert pool(torch.ones(4, 2, dtype=torch.bfloat16), packed).dtype == torch.float32


def test_a_bfloat16_mean_is_summed_in_float32():
    packed = pack([list(range(1000))])
    hidden = torch.full((1000, 1), 1.0078125, dtype=torch.bfloat16)  # a running sum in bfloat16 would stick at 256
    assert masked_mean(hidden, packed).item() == 1.0078125


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@torch.no_grad()
def test_padded_length_never_changes_a_masked_vector(pooling: Any, tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder("bert")
    short = TransformerEncoder(model, pooling=pooling, layout="padded", padded_to=8)
    long = TransformerEncoder(model, pooling=pooling, layout="padded", padded_to=30)
    ids = token_ids(4, 7)
    with_neighbour = pack([*ids, *token_ids(38)])
    torch.testing.assert_close(short(pack(ids)), long(pack(ids)))
    torch.testing.assert_close(short(pack(ids)), long(with_neighbour)[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "mpnet"])
@torch.no_grad()
def test_mean_with_padding_is_the_references_own_and_depends_on_padded_length(architecture: str, tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder(architecture)
    pad_id = model.config.pad_token_id
    ids = token_ids(4, 7)

    def reference(length: int) -> torch.Tensor:
        rows = torch.tensor([text + [pad_id] * (length - len(text)) for text in ids])
        is_token = torch.tensor([[index < len(text) for index in range(length)] for text in ids])
        return plain(input_ids=rows, attention_mask=is_token.long()).last_hidden_state.mean(1)

    plain = tiny_encoder(architecture)
    found = {
        length: TransformerEncoder(model, pooling="mean-with-padding", pad_id=pad_id, padded_to=length)(pack(ids)) for length in (10, 30)
    }
    torch.testing.assert_close(found[10], reference(10), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[30], reference(30), atol=1e-5, rtol=1e-5)
    assert (found[10] - found[30]).abs().max() > 0.01


@torch.no_grad()
def test_mean_with_padding_is_never_shorter_than_the_longest_text(tiny_encoder: Build, token_ids: Build):
    model = tiny_encoder("bert")
    ids = token_ids(12, 12)
    vectors = TransformerEncoder(model, pooling="mean-with-padding", padded_to=5)(pack(ids))
    torch.testing.assert_close(vectors, TransformerEncoder(model)(pack(ids)), atol=1e-5, rtol=1e-5)  # nothing is padded here


@torch.no_grad()
def test_cls_is_the_first_tokens_vector(tiny_encoder: Build, token_ids: Build):
    ids = token_ids(9, 3, 9)
    found = TransformerEncoder(tiny_encoder("bert"), pooling="cls")(pack(ids))
    plain = tiny_encoder("bert")
    expected = torch.stack([plain(input_ids=torch.tensor([text])).last_hidden_state[0, 0] for text in ids])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


# ---- weighted means


def test_equal_weights_change_nothing():
    packed = pack([[1, 2, 3], [4], [5, 6], [7], [8, 9, 10]])
    hidden = torch.randn(len(packed.ids), 6)
    torch.testing.assert_close(masked_mean(hidden, packed, token_weights=torch.full((11,), 0.25)), masked_mean(hidden, packed))


def test_a_weighted_mean_is_each_texts_own_and_a_text_without_weight_is_zero():
    packed = pack([[1, 2, 2], [0, 0]])
    hidden = torch.randn(len(packed.ids), 6)
    weights = torch.tensor([0.0, 3.0, 0.5])
    found = masked_mean(hidden, packed, token_weights=weights)[packed.order.argsort()]
    first = hidden[packed.starts[packed.order.argsort()[0]] :][:3]
    torch.testing.assert_close(found[0], (3 * first[0] + 0.5 * first[1] + 0.5 * first[2]) / 4)
    assert (found[1] == 0).all()


def test_weights_leave_out_the_fillers_of_shared_rows():
    packed = pack([[1] * length for length in range(2, 20)], share_rows=True)
    hidden = packed.ids[:, None] * torch.ones(1, 2)
    assert (packed.ids == 0).any()
    torch.testing.assert_close(masked_mean(hidden, packed, token_weights=torch.tensor([5.0, 0.1])), torch.ones(packed.texts, 2))


def test_smooth_inverse_frequencies_have_their_closed_form():
    weights = sif_weights(torch.tensor([0, 1, 9, 90]), smoothing=0.01)
    torch.testing.assert_close(weights, torch.tensor([1.0, 0.5, 0.01 / 0.1, 0.01 / 0.91]))
    assert sif_weights(torch.zeros(3, dtype=torch.long), smoothing=0.01).tolist() == [1, 1, 1]
