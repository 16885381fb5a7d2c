"""The built-in model is there, fits the package, and is as good as its card says."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tain.encoders.masked_lm import MaskedLanguageModel
from tain.models.embedder import Embedder
from tain.models.saved import locate
from tain.recipes.pretrain.config import PretrainConfig
from tain.recipes.pretrain.validation import HeldOut

PARTS = ("enwiki_core", "enwiki_sample", "novels", "simplewiki")


def test_it_loads_by_name_and_runs_packed():
    embedder = Embedder.load("tain-mini", dtype="float32", device="cpu")
    assert embedder.layout == "packed"
    vectors = embedder.encode(["a river", "a stream", "an invoice"], normalize=True)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]


def test_its_weights_fit_the_package():
    assert (Path(locate("tain-mini")) / "model.safetensors").stat().st_size <= 40 * 2**20


def test_it_guesses_masked_words_better_than_by_frequency():
    folder = locate("tain-mini")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    masked = tokenizer("he was born in london , [MASK] , in 1901 .", return_tensors="pt")
    index = int((masked["input_ids"][0] == tokenizer.mask_token_id).nonzero())
    logits = model(**masked).logits[0, index].detach()
    ranks = (-logits).argsort().argsort()
    assert ranks[tokenizer.convert_tokens_to_ids("england")] < 20
    assert model.decoder.bias.argsort(descending=True)[:20].tolist().count(tokenizer.convert_tokens_to_ids("england")) == 0


@pytest.mark.real_data
def test_its_validation_loss_is_the_one_on_its_card(real_data):
    files = tuple(real_data.parent / "corpus" / f"valid_{part}.txt.xz" for part in PARTS)
    missing = [str(file) for file in files if not file.exists()]
    if missing:
        pytest.skip(f"the validation text is not there: {', '.join(missing)}")
    folder = locate("tain-mini")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    record = json.loads((Path(folder) / "tain.json").read_text())
    held = HeldOut(files, tokenizer, PretrainConfig(validation=files))
    loss = held.loss(MaskedLanguageModel(model.eval()), torch.device("cpu"))
    assert loss == pytest.approx(record["second_stage"]["validation_loss"], abs=0.02)
    assert np.isfinite(loss)
