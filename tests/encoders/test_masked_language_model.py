from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import nn

from tain.encoders.masked_lm import MaskedLanguageModel, grow_embeddings, start_embeddings, tied_names
from tain.foundation.errors import UserError
from tiny_models import randomise

Build = Callable[..., Any]

ALL = ["bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "modernbert", "mpnet", "deberta", "deberta-v2"]
PLACES = torch.tensor([0, 5, 11, 12, 29])  # flat places in three rows of ten


@pytest.mark.parametrize("architecture", ALL)
def test_logits_and_gradients_at_the_places_equal_the_whole_models(architecture: str, tiny_masked_lm: Build, token_ids: Build):
    ids = torch.tensor(token_ids(10, 10, 10))
    plain, ours = tiny_masked_lm(architecture), tiny_masked_lm(architecture)
    expected = plain(input_ids=ids).logits.flatten(0, 1)[PLACES]
    found = MaskedLanguageModel(ours)(ids, PLACES)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    weights = torch.randn(found.shape)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for (name, left), right in zip(ours.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-3, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def test_the_head_sees_the_wanted_places_only(tiny_masked_lm: Build, token_ids: Build):
    model = tiny_masked_lm("bert")
    shapes: list[torch.Size] = []
    model.cls.register_forward_pre_hook(lambda module, inputs: shapes.append(inputs[0].shape))
    MaskedLanguageModel(model)(torch.tensor(token_ids(10, 10)), torch.tensor([3, 17]))
    assert shapes == [(1, 2, 32)]


def test_the_model_itself_still_answers_everywhere(tiny_masked_lm: Build, token_ids: Build):
    model = tiny_masked_lm("bert")
    ids = torch.tensor(token_ids(10, 10))
    wrapped = MaskedLanguageModel(model)
    before = model(input_ids=ids).logits
    wrapped(ids, torch.tensor([3]))
    assert torch.equal(model(input_ids=ids).logits, before)
    with pytest.raises(IndexError):
        wrapped(ids, torch.tensor([99]))
    assert torch.equal(model(input_ids=ids).logits, before)  # after a failed call too


def test_a_bare_encoder_is_refused(tiny_encoder: Build):
    with pytest.raises(UserError, match="BertModel is not a masked language model with a separate encoder"):
        MaskedLanguageModel(tiny_encoder("bert"))


@pytest.mark.parametrize("architecture", ["bert", "albert", "modernbert", "distilbert", "roberta"])
def test_the_token_table_is_named_once(architecture: str, tiny_masked_lm: Build):
    model = tiny_masked_lm(architecture)
    names = tied_names(model)
    assert len(names) == 1
    assert dict(model.named_parameters())[names[0]] is model.get_input_embeddings().weight


def test_an_output_table_of_its_own_is_named_too(tiny_masked_lm: Build):
    model = tiny_masked_lm("bert", tie_word_embeddings=False)
    parameters = dict(model.named_parameters())
    assert {id(parameters[name]) for name in tied_names(model)} == {
        id(model.get_input_embeddings().weight),
        id(model.get_output_embeddings().weight),
    }
    assert len(tied_names(model)) == 2


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_embeddings_start_from_the_table_at_the_models_own_length(architecture: str, tiny_masked_lm: Build):
    model = tiny_masked_lm(architecture)
    weight = model.get_input_embeddings().weight
    before = weight.detach().clone()
    table = torch.randn(120, 32)
    table[:5] = 0  # special tokens have no vector
    start_embeddings(model, table, torch.arange(120.0))
    torch.testing.assert_close(weight[:5], before[:5])
    torch.testing.assert_close(torch.cosine_similarity(weight[5:], table[5:]), torch.ones(115))
    torch.testing.assert_close(weight[5:].norm(dim=1), before.norm(dim=1).mean().expand(115))
    assert model.get_output_embeddings().weight is weight  # still tied


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_the_output_bias_starts_from_log_frequencies(architecture: str, tiny_masked_lm: Build):
    model = tiny_masked_lm(architecture)
    unigram = torch.arange(120.0)
    start_embeddings(model, torch.zeros(120, 32), unigram)
    bias = model.get_output_embeddings().bias.detach()
    torch.testing.assert_close(bias.exp().sum(), torch.tensor(1.0))
    assert (bias[90] - bias[30]).item() == pytest.approx(torch.tensor(3.0).log().item(), rel=1e-4)
    assert bias[0] == bias[1]  # never seen counts as seen once
    # with nothing to go by, the model predicts how often tokens occur
    model.get_input_embeddings().weight.data.zero_()
    logits = MaskedLanguageModel(model)(torch.tensor([[2, 7, 3]]), torch.tensor([1]))
    torch.testing.assert_close(logits[0].softmax(0), unigram.clamp(min=1) / unigram.clamp(min=1).sum())


def test_the_wrapper_is_an_ordinary_module(tiny_masked_lm: Build):
    wrapped = MaskedLanguageModel(tiny_masked_lm("bert"))
    assert isinstance(wrapped, nn.Module)
    assert wrapped.train().model.training


@pytest.mark.parametrize("architecture", ["bert", "albert", "electra", "modernbert", "distilbert", "roberta"])
def test_new_tokens_start_as_the_mean_of_their_pieces(architecture: str, tiny_masked_lm: Build):
    model, before = tiny_masked_lm(architecture), tiny_masked_lm(architecture)
    grow_embeddings(model, {120: [7, 9, 11], 121: [20]})
    old, new = before.get_input_embeddings().weight, model.get_input_embeddings().weight
    assert new.shape[0] == 122
    assert torch.equal(new[:120], old)
    torch.testing.assert_close(new[120], old[[7, 9, 11]].mean(0))
    torch.testing.assert_close(new[121], old[20])
    ids = torch.tensor([[2, 120, 121, 3]])
    logits = model(input_ids=ids).logits[0]
    assert logits.shape == (4, 122)
    # output rows and biases are means too, so a new word's logit is the mean of its pieces'
    torch.testing.assert_close(logits[:, 120], logits[:, [7, 9, 11]].mean(1), atol=1e-4, rtol=1e-4)


def test_rows_that_a_model_has_in_store_are_used_before_it_grows(tiny_masked_lm: Build):
    model = tiny_masked_lm("bert")
    grow_embeddings(model, {118: [7, 9]})
    weight = model.get_input_embeddings().weight
    assert weight.shape[0] == 120
    torch.testing.assert_close(weight[118], weight[[7, 9]].mean(0))
    grow_embeddings(model, {})


@torch.no_grad()
def test_bigbird_reads_long_rows_in_sparse_attention(token_ids: Any):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 120}
    sparse = {"block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse", "max_position_embeddings": 64}

    def build() -> Any:
        return randomise(transformers.BigBirdForMaskedLM(transformers.BigBirdConfig(**sizes, **sparse, pad_token_id=0))).eval()

    ours, indices = MaskedLanguageModel(build()), torch.tensor([3, 45])
    for tokens in (40, 12, 40):  # the short row switches to full attention for good
        ids = torch.tensor(token_ids(tokens, tokens))
        expected = build()(input_ids=ids).logits.flatten(0, 1)[indices % ids.numel()]
        torch.testing.assert_close(ours(ids, indices % ids.numel()), expected, atol=1e-5, rtol=1e-5)
