"""Loading masked language models, and the loss that hides every token once."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from tain.batches.masking import mask_at_random
from tain.encoders import transformer
from tain.foundation.errors import UserError
from tain.models.masked_lm import MaskedPredictor, load_masked_lm


@pytest.fixture(scope="module")
def predictor(bert_folder):
    return MaskedPredictor.load(bert_folder, device="cpu", dtype="float32")


def test_a_full_models_head_is_its_own(bert_folder):
    assert load_masked_lm(bert_folder).new_head == ()


def test_an_encoders_missing_head_is_named_and_cannot_be_measured(bert_folder, tiny_encoder, tmp_path):
    tiny_encoder("bert").save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    names = load_masked_lm(tmp_path).new_head
    assert names
    assert all(name.startswith("cls.") for name in names)
    with pytest.raises(UserError, match="is an encoder without the head that predicts tokens"):
        MaskedPredictor.load(tmp_path)


def test_a_model_that_cannot_compute_in_bfloat16_is_measured_in_float32(tiny_masked_lm, tiny_tokenizer, sentences, tmp_path, monkeypatch):
    monkeypatch.setattr(transformer, "fastest_dtype", lambda device_type: torch.bfloat16)
    tiny_masked_lm("fnet").save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    fourier = MaskedPredictor.load(tmp_path, device="cpu")
    assert fourier.explored_loss(sentences, block_tokens=16, passes=2, seed=3).loss > 0.0
    assert {parameter.dtype for parameter in fourier.network.model.parameters()} == {torch.float32}
    with pytest.raises(UserError, match=r"dtype is 'bfloat16', which FNetForMaskedLM does not support: give float32 or auto"):
        MaskedPredictor.load(tmp_path, device="cpu", dtype="bfloat16")


def test_rows_hold_every_token_once_and_differ_in_length_by_one_at_most(predictor, sentences):
    batches = predictor.blocks(sentences, block_tokens=16)
    tokenizer = predictor.tokenizer
    expected = [token for text in sentences for token in (*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id)]
    rows = [row for batch in batches for row in batch.tolist()]
    assert all(row[0] == tokenizer.cls_token_id and row[-1] == tokenizer.sep_token_id for row in rows)
    assert sorted(token for row in rows for token in row[1:-1]) == sorted(expected)
    lengths = sorted({len(row) for row in rows})
    assert lengths[-1] <= 16
    assert lengths[-1] - lengths[0] <= 1


def test_every_token_but_special_ones_is_counted_once(predictor, sentences):
    found = predictor.explored_loss(sentences, block_tokens=16, passes=5, seed=3)
    batches = predictor.blocks(sentences, block_tokens=16)
    assert found.tokens.sum() == sum(int(predictor.is_maskable(batch).sum()) for batch in batches)
    assert len(found.tokens) == len(found.nats) == sum(map(len, batches))
    assert found.passes == 5
    assert found.bytes == sum(len(text.encode()) for text in sentences)


def test_hidden_one_at_a_time_it_is_the_pseudo_likelihood(predictor):
    text = "the sea is deep"
    ids = predictor.tokenizer(text)["input_ids"]
    expected = 0.0
    for index in range(1, len(ids) - 1):
        seen = torch.tensor([[*ids[:-1], ids[-1], ids[-1]]])  # a separator ends the sentence, another one the block
        seen[0, index] = predictor.tokenizer.mask_token_id
        logits = predictor.network.model(input_ids=seen).logits[0, index]
        expected -= torch.log_softmax(logits, -1)[ids[index]].item()
    found = predictor.explored_loss([text], block_tokens=len(ids) + 1, passes=len(ids) - 2)
    assert found.nats.sum() == pytest.approx(expected, rel=1e-5)


def test_a_uniform_model_has_the_loss_of_chance_and_bits_follow(bert_folder, sentences):
    uniform = MaskedPredictor.load(bert_folder, device="cpu", dtype="float32")
    with torch.no_grad():
        uniform.network.model.get_output_embeddings().weight.zero_()
        uniform.network.model.get_output_embeddings().bias.zero_()
    found = uniform.explored_loss(sentences, block_tokens=16)
    assert found.loss == pytest.approx(np.log(120), rel=1e-6)
    assert found.bits_per_byte == pytest.approx(np.log2(120) * found.tokens.sum() / found.bytes, rel=1e-6)


def test_the_same_seed_gives_the_same_bits_and_another_a_close_figure(predictor, sentences):
    losses = [predictor.explored_loss(sentences, block_tokens=24, seed=seed).loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert losses[0] == pytest.approx(losses[2], rel=0.05)


def test_the_explored_loss_varies_less_from_seed_to_seed_than_random_masks_do(predictor, sentences):
    batches, passes = predictor.blocks(sentences, block_tokens=24), 7

    def random_loss(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        found = []
        for rows in batches:
            for _ in range(passes):
                is_maskable = predictor.is_maskable(rows)
                masked = mask_at_random(rows, is_maskable=is_maskable, rate=1 / passes, mask_id=0, vocabulary=1, generator=generator)
                found.append(predictor.nats(rows, masked.indices))
        return torch.cat(found).mean().item()

    explored = [predictor.explored_loss(sentences, block_tokens=24, passes=passes, seed=seed).loss for seed in range(12)]
    assert 1.5 * np.std(explored) < np.std([random_loss(seed) for seed in range(12)])


def test_blocks_with_fewer_known_tokens_than_passes_are_measured(predictor):
    texts = ["glass " + "ж " * 60 + "sand", "ж " * 40]
    loss = predictor.explored_loss(texts, block_tokens=20)
    assert loss.tokens.sum() == 2
    assert (loss.tokens > 0).all() and np.isfinite(loss.nats).all()
    alone = predictor.explored_loss(texts, block_tokens=20, passes=1)
    assert alone.tokens.sum() == 2


def test_too_little_text_is_refused(predictor):
    with pytest.raises(UserError, match=r"the texts have 4 tokens, fewer than a block of 16: give more text"):
        predictor.blocks(["a a a"], block_tokens=16)
