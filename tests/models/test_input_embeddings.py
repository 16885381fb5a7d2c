from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tain.models.input_embeddings as module
from tain.foundation.errors import UserError
from tain.models.input_embeddings import read_input_embeddings

KNOWN = ["bert", "roberta", "electra", "albert", "distilbert", "modernbert", "eurobert", "mpnet", "deberta-v2", "fnet", "convbert"]


def loaded(folder: Path) -> tuple[np.ndarray, Any]:
    model = transformers.AutoModel.from_pretrained(folder)
    return model.get_input_embeddings().weight.detach().float().numpy(), transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("architecture", KNOWN)
def test_the_table_is_that_of_transformers_and_no_model_is_built(
    architecture: str, save_masked_lm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, sentences: list[str]
):
    folder = save_masked_lm(architecture)
    table, tokenizer = loaded(folder)
    monkeypatch.setattr(module, "_loaded", lambda *_, **__: pytest.fail("a model was built"))
    found = read_input_embeddings(folder)
    np.testing.assert_array_equal(found.table, table)
    assert found.tokenise(sentences) == tokenizer(sentences, add_special_tokens=False)["input_ids"]


def test_a_table_of_another_name_is_read_through_transformers(save_masked_lm: Callable[..., Path], sentences: list[str]):
    folder = save_masked_lm("xlm")  # calls it transformer.embeddings
    table, tokenizer = loaded(folder)
    found = read_input_embeddings(folder)
    np.testing.assert_array_equal(found.table, table)
    assert found.tokenise(sentences) == tokenizer(sentences, add_special_tokens=False)["input_ids"] and found.tokenise([]) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_number_types_are_read(dtype: torch.dtype, save_masked_lm: Callable[..., Path], sentences: list[str]):
    folder = save_masked_lm("bert")
    table, _ = loaded(folder)
    file = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    found = read_input_embeddings(folder)
    assert found.table.dtype == np.float32
    np.testing.assert_allclose(found.table, table, rtol=1e-2)


def test_a_sentence_transformers_folder_keeps_its_model_below(bert_folder: Path, tmp_path: Path):
    import json
    import shutil

    shutil.copytree(bert_folder, tmp_path / "0_Transformer")
    modules = [{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    np.testing.assert_array_equal(read_input_embeddings(tmp_path).table, read_input_embeddings(bert_folder).table)


def test_the_built_in_model_is_read():
    found = read_input_embeddings("tain-mini")
    assert found.table.shape == (16_384, 384)
    (ids,) = found.tokenise(["a thin layer of metal"])
    assert len(ids) == 5  # no special tokens


def test_long_texts_are_not_cut(bert_folder: Path):
    (ids,) = read_input_embeddings(bert_folder).tokenise(["glass " * 1000])
    assert len(ids) == 1000


def test_damaged_files_are_told_in_one_line(save_masked_lm: Callable[..., Path]):
    folder = save_masked_lm("bert")
    whole = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"tokenizer\.json' is not a tokenizer"):
        read_input_embeddings(folder)
    (folder / "tokenizer.json").write_text(whole)
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"model\.safetensors' cannot be read"):
        read_input_embeddings(folder)


@pytest.mark.parametrize("name", ["lexical", "static:tain-mini"])
def test_a_baseline_is_no_model(name: str):
    with pytest.raises(UserError, match="a baseline that only tain evaluate"):
        read_input_embeddings(name)
