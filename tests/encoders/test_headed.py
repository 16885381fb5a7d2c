"""Models with a head: a text has the same logits alone and in a batch."""

import pytest
import torch
import transformers

from tain.encoders.headed import HeadedModel
from tain.foundation.errors import UserError
from tiny_models import randomise, tiny_config

ROWS = [{"input_ids": ids} for ids in ([2, 11, 3], [2, 5, 6, 7, 8, 9, 3], [2, 4, 3], [2, 30, 31, 32, 33, 3])]


def headed(architecture: str, head: str = "SequenceClassification", **changes) -> HeadedModel:
    torch.manual_seed(3)
    config = tiny_config(architecture, num_labels=3, **changes)
    model = getattr(transformers, f"AutoModelFor{head}").from_config(config)
    return HeadedModel(randomise(model), pad_id=config.pad_token_id, probe=ROWS)


@pytest.mark.parametrize("head", ["SequenceClassification", "TokenClassification"])
@pytest.mark.parametrize(
    "architecture", ["bert", "roberta", "electra", "distilbert", "modernbert", "deberta-v2", "fnet", "convbert", "xlm"]
)
@torch.inference_mode()
def test_logits_are_the_models_own_alone_and_beside_others(architecture: str, head: str):
    network = headed(architecture, head)
    alone = [network.model(input_ids=torch.tensor([row["input_ids"]])).logits[0] for row in ROWS]
    for found, expected in zip(network(ROWS), alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_head_that_reads_the_last_place_is_run_without_padding():
    config = transformers.XLNetConfig(vocab_size=120, d_model=32, n_layer=2, n_head=4, d_inner=48, num_labels=3, pad_token_id=0)
    network = HeadedModel(randomise(transformers.XLNetForSequenceClassification(config)), pad_id=0, probe=ROWS)
    assert not network.pads
    for found, row in zip(network(ROWS), ROWS, strict=True):
        torch.testing.assert_close(found, network([row])[0], atol=1e-5, rtol=1e-5)


def test_bert_is_padded_and_fnet_is_not():
    assert headed("bert").pads
    assert not headed("fnet").pads


def test_no_rows_give_no_logits():
    assert headed("bert")([]) == []


def test_a_model_that_needs_more_than_texts_is_refused_in_one_line():
    class Needy(transformers.BertForSequenceClassification):
        def forward(self, input_ids, boxes, **more):  # pyright: ignore[reportIncompatibleMethodOverride]
            raise AssertionError("is not reached")

    with pytest.raises(UserError, match="Needy cannot run on the tokens of a text alone") as refused:
        HeadedModel(Needy(tiny_config("bert")), pad_id=0, probe=ROWS)
    assert "\n" not in str(refused.value)
