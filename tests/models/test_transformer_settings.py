"""Settings of sentence-transformers' Transformer module give the same vectors here, or are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.transformer_settings import SETTINGS_FILES
from tiny_models import randomise

LONG = "the sea is deep and the stars are far away, " * 40


@pytest.fixture
def folder(bert_folder: Path, tmp_path: Path) -> Path:
    SentenceTransformer(modules=[Transformer(str(bert_folder)), Pooling(32)], device="cpu").save(str(tmp_path / "theirs"))
    return tmp_path / "theirs"


@pytest.fixture
def rotary_folder(tiny_tokenizer: Callable[..., Any], tmp_path: Path) -> Path:
    """A model that computes its positions, 40 according to its config, beside a tokenizer with a limit of 30 tokens."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
    config = transformers.EuroBertConfig(vocab_size=120, max_position_embeddings=40, **sizes, **special)
    randomise(transformers.AutoModel.from_config(config)).eval().save_pretrained(tmp_path / "bare")
    tiny_tokenizer(model_max_length=30).save_pretrained(tmp_path / "bare")
    SentenceTransformer(modules=[Transformer(str(tmp_path / "bare")), Pooling(32)], device="cpu").save(str(tmp_path / "rotary"))
    return tmp_path / "rotary"


def set_to(folder: Path, settings: dict[str, Any]) -> None:
    (folder / SETTINGS_FILES[0]).write_text(json.dumps(settings))


def refuse_difference(folder: Path, texts: list[str]) -> Embedder:
    ours = Embedder.load(folder, device="cpu", dtype="float32")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(texts)
    np.testing.assert_allclose(ours.encode(texts), theirs, atol=1e-5, rtol=1e-5)
    return ours


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"max_seq_length": 9, "do_lower_case": False}, 9),
        ({"max_seq_length": None, "tokenizer_args": {"model_max_length": 8, "use_fast": True}}, 8),
        ({"max_seq_length": 9, "processor_kwargs": {"model_max_length": 8}, "config_args": {"use_cache": False}}, 8),
        ({"max_seq_length": 9, "processing_kwargs": {"text": {"max_length": 7, "truncation": True}, "other": {"max_length": 5}}}, 7),
        ({"processing_kwargs": {"text": {"max_length": 7}, "common": {"max_length": 6, "padding": "longest"}}}, 6),
        ({"query_length": None, "document_length": None, "query_expansion": None, "unpad_inputs": False, "model_args": {}}, 40),
        ({"module_output_name": "anything"}, 40),  # ignored where there is no modality_config
        ({}, 40),
    ],
    ids=str,
)
def test_settings_that_have_an_effect_are_applied(settings: dict[str, Any], limit: int, folder: Path, sentences: list[str]):
    kept = json.loads((folder / SETTINGS_FILES[0]).read_text())
    assert kept["modality_config"]
    set_to(folder, settings)
    assert refuse_difference(folder, [*sentences[:3], LONG]).max_tokens == limit


REFUSED: dict[str, dict[str, Any]] = {
    "processing_kwargs.text.truncation": {"processing_kwargs": {"text": {"truncation": False}}},
    "processing_kwargs.common.add_special_tokens": {"processing_kwargs": {"common": {"add_special_tokens": False}}},
    "processing_kwargs.text.padding": {"processing_kwargs": {"text": {"padding": "max_length"}}},
    "processing_kwargs.text.max_length": {"processing_kwargs": {"text": {"max_length": "long"}}},
    "query_length": {"query_length": 12},
    "document_length": {"document_length": 12},
    "query_expansion": {"query_expansion": {"strategy": "fixed", "length": 12}},
    "transformer_task 'fill-mask'": {"transformer_task": "fill-mask"},
    "modality_config.message, a chat template,": {
        "modality_config": {
            "text": {"method": "forward", "method_output_name": "last_hidden_state"},
            "message": {"method": "forward", "method_output_name": "last_hidden_state", "format": "flat"},
        },
        "module_output_name": "token_embeddings",
    },
    "modality_config.text": {
        "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
        "module_output_name": "token_embeddings",
    },
    "module_output_name": {
        "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        "module_output_name": "sentence_embedding",
    },
    "tokenizer_args.truncation_side": {"tokenizer_args": {"truncation_side": "left"}},
    "config_args.num_hidden_layers": {"config_args": {"num_hidden_layers": 1}},
    "model_kwargs.quantization_config": {"model_kwargs": {"quantization_config": {}}},
    "tokenizer_name_or_path": {"tokenizer_name_or_path": "other"},
}


@pytest.mark.parametrize("key", REFUSED)
def test_settings_that_tain_does_not_apply_are_refused_by_name(key: str, folder: Path):
    set_to(folder, REFUSED[key])
    with pytest.raises(UserError) as caught:
        Embedder.load(folder)
    assert f"sets {key} in sentence_bert_config.json, which tain does not apply" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_settings_of_a_folder_that_does_not_pool_are_not_refused(folder: Path):
    """A cross-encoder saved by sentence-transformers still gives the vectors below its head."""
    set_to(folder, {"transformer_task": "sequence-classification", "max_seq_length": 9})
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:1]))
    assert Embedder.load(folder, pooling="mean").max_tokens == 9


@pytest.mark.parametrize("file", SETTINGS_FILES[1:])
def test_settings_under_their_early_names_are_read(file: str, folder: Path, sentences: list[str]):
    (folder / SETTINGS_FILES[0]).unlink()
    (folder / file).write_text('{"max_seq_length": 7}')
    assert refuse_difference(folder, sentences[:3]).max_tokens == 7


@pytest.mark.parametrize("limit", [35, 60])
def test_a_stored_limit_replaces_those_of_tokenizer_and_config(limit: int, rotary_folder: Path, sentences: list[str], tmp_path: Path):
    assert refuse_difference(rotary_folder, [*sentences[:3], LONG]).max_tokens == 30
    set_to(rotary_folder, {"max_seq_length": limit})
    ours = refuse_difference(rotary_folder, [*sentences[:3], LONG])
    assert ours.max_tokens == limit
    (tmp_path / "saved").mkdir()
    ours.save(tmp_path / "saved", record={"kind": "encoder"}, card="# test\n")
    assert refuse_difference(tmp_path / "saved", [LONG]).max_tokens == limit


def test_a_stored_limit_stays_within_the_table_of_positions(folder: Path, sentences: list[str]):
    set_to(folder, {"max_seq_length": 60})
    ours = refuse_difference(folder, sentences[:3])  # sentence-transformers fails with longer texts
    assert ours.max_tokens == 40
    assert np.isfinite(ours.encode(LONG)).all()


def test_a_stored_limit_above_512_holds_without_any_other_limit(rotary_folder: Path):
    file = rotary_folder / "tokenizer_config.json"
    file.write_text(json.dumps({key: value for key, value in json.loads(file.read_text()).items() if key != "model_max_length"}))
    set_to(rotary_folder, {"max_seq_length": 700})
    assert refuse_difference(rotary_folder, [LONG * 3]).max_tokens == 700
