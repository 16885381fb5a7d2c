"""Gradient variance of a tiny model."""

import numpy as np
import pytest
import torch

from tain.batches.masking import corrupted
from tain.encoders.masked_lm import MaskedLanguageModel
from tain.foundation.errors import UserError
from tain.inspection.gradients.probe import probe_gradients
from tain.models.masked_lm import load_masked_lm

TINY = {"blocks": 8, "block_tokens": 18, "masking_rate": 0.25, "device": "cpu", "resamples": 100}


@pytest.fixture(scope="module")
def corpus(sentences, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    path.write_text("\n".join(sentences * 10), encoding="utf-8")
    return path


@pytest.mark.parametrize("folder", ["bert_folder", "modernbert_folder"])
def test_a_model_is_measured_from_its_folder(folder, corpus, request):
    found = probe_gradients(request.getfixturevalue(folder), [corpus], **TINY)
    assert found.variance.texts == 8
    assert found.disjoint == 4
    assert found.kept == found.parameters > 10_000
    assert found.variance.mask_variance.value > 0
    assert found.variance.correlations[0].value > found.variance.correlations[-1].value
    assert found.verdict()


def test_the_same_seed_gives_the_same_report_and_another_does_not(bert_folder, corpus):
    first, again = (probe_gradients(bert_folder, [corpus], **TINY).to_dict() for _ in range(2))
    assert first == again
    assert probe_gradients(bert_folder, [corpus], **TINY, seed=14).to_dict() != first


def test_folding_keeps_the_figures(bert_folder, corpus):
    exact = probe_gradients(bert_folder, [corpus], **TINY)
    folded = probe_gradients(bert_folder, [corpus], **TINY, elements=8192)
    assert folded.kept == 8192 < exact.kept
    assert folded.variance.mask_variance.value == pytest.approx(exact.variance.mask_variance.value, rel=0.05)
    for left, right in zip(folded.variance.correlations, exact.variance.correlations, strict=True):
        assert left.value == pytest.approx(right.value, abs=0.05)


def test_squares_are_those_of_a_gradient_taken_the_plain_way(bert_folder, corpus, monkeypatch):
    """Every place shows the mask token here, so that a mask has one gradient, and all masks of one place can be tried."""
    from tain.inspection.gradients import probe as gradient_probe
    from tain.recipes.pretrain import objectives as pretrain_objectives

    monkeypatch.setattr(pretrain_objectives, "corrupted", lambda *a, **k: corrupted(*a, **{**k, "mask_share": 1.0, "random_share": 0.0}))
    blocks = []
    drawn = gradient_probe._drawn_blocks
    monkeypatch.setattr(gradient_probe, "_drawn_blocks", lambda *a, **k: blocks.append(drawn(*a, **k)) or blocks[-1])
    found = probe_gradients(bert_folder, [corpus], blocks=8, block_tokens=12, masking_rate=0.1, masks=2, rounds=20, resamples=100)
    loaded = load_masked_lm(bert_folder)
    network = MaskedLanguageModel(loaded.model)
    special = torch.tensor(loaded.tokenizer.all_special_ids)
    variances, squared_means = [], []
    for row in blocks[0]:
        gradients = []
        for index in (~torch.isin(row, special)).nonzero().flatten():
            ids = row.clone()
            ids[index] = loaded.tokenizer.mask_token_id
            loss = torch.nn.functional.cross_entropy(network(ids[None], index[None]), row[index][None])
            parts = torch.autograd.grad(loss, list(network.parameters()), materialize_grads=True)
            gradients.append(torch.cat([part.flatten() for part in parts]).double())
        gradients = torch.stack(gradients)
        squared_means.append(gradients.mean(0).square().sum().item())
        variances.append((gradients - gradients.mean(0)).square().sum(1).mean().item())
    assert found.variance.mask_variance.value == pytest.approx(np.mean(variances), rel=0.15)
    assert found.variance.products.means.mean() == pytest.approx(np.mean(squared_means), rel=0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking_rate": 0.7}, "masking_rate is 0.7: give a share above 0 and up to 0.5"),
        ({"blocks": 7}, "blocks is 7, but fewer than 8 give no reliable interval: give 64"),
        ({"block_tokens": 41}, "block_tokens is 41, but model .* reads at most 40 tokens: give 40 or fewer"),
        ({"block_tokens": 4}, "block_tokens is 4, too little context"),
        ({"elements": 10}, "elements is 10, too few"),
        ({"resamples": 3}, "resamples is 3, too few"),
        ({"masks": 9}, "9 disjoint masks of 25% each are more than the whole text"),
        ({"masks": 1}, "masks is 1, but covariance needs at least two masks"),
        ({"rounds": 1}, "rounds is 1, but a squared mean"),
        ({"blocks": 5000}, r"the texts have [\d,]+ tokens, which make \d+ blocks of 18, fewer than 5000"),
    ],
)
def test_what_cannot_work_is_refused(settings, message, bert_folder, corpus):
    with pytest.raises(UserError, match=message):
        probe_gradients(bert_folder, [corpus], **{**TINY, **settings})


def test_an_encoder_without_a_head_is_refused(tiny_encoder, tiny_tokenizer, corpus, tmp_path):
    tiny_encoder("bert").save_pretrained(tmp_path / "encoder")
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match="has no prediction head, and gradients of a random head are meaningless"):
        probe_gradients(tmp_path / "encoder", [corpus], **TINY)


def test_a_missing_file_is_refused(bert_folder, tmp_path):
    with pytest.raises(UserError, match=r"nothing\.txt"):
        probe_gradients(bert_folder, [tmp_path / "nothing.txt"], **TINY)
