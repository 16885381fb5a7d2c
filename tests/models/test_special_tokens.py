"""Padding tokens spelled in a text, and token types of a tokenizer's template, as sentence-transformers has them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from tokenizers import processors

from tain.batches.packing import pack
from tain.encoders.transformer import SegmentTemplate
from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.recipes.export.recipe import export
from tiny_models import randomise, tiny_config


def ours_and_theirs(folder: Path, bare: Path, **settings: Any) -> tuple[Embedder, SentenceTransformer]:
    SentenceTransformer(modules=[Transformer(str(bare)), Pooling(32)], device="cpu").save(str(folder))
    return Embedder.load(folder, device="cpu", dtype="float32", **settings), SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("architecture", ["roberta", "xlm-roberta", "mpnet", "bert"])
def test_special_tokens_spelled_in_a_text_count_as_in_transformers(
    architecture: str, save_masked_lm: Callable[..., Path], sentences: list[str], tmp_path: Path
):
    ours, theirs = ours_and_theirs(tmp_path / "theirs", save_masked_lm(architecture))
    texts = [sentences[0], "a [PAD] red [PAD][PAD] house", "[PAD] glass", "the [MASK] [SEP] sea", "the sea [PAD]", sentences[1]]
    assert ours.tokenizer.pad_token_id in ours.token_rows(texts).ids[1]
    np.testing.assert_allclose(ours.encode(texts), theirs.encode(texts), atol=1e-5, rtol=1e-5)
    shared = pack([[2, 1, 9, 3], [2, 8, 1, 1, 9, 3], [2, 7, 3]] * 9, share_rows=True)
    if ours.layout == "packed":
        assert shared.shared_owners is not None
        plain = torch.cat([ours.encoder(pack([ids])) for ids in [[2, 1, 9, 3], [2, 8, 1, 1, 9, 3], [2, 7, 3]]])
        torch.testing.assert_close(ours.encoder(shared), plain.repeat(9, 1), atol=1e-5, rtol=1e-5)


def save_typed(folder: Path, model: Any, tokenizer: Any, template: str) -> Path:
    special = [("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    randomise(model).eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("template", ["[CLS]:1 $A:0 [SEP]:0", "[CLS]:0 [CLS]:1 $A:1 [SEP]:1", "$A:0 [SEP]:1"])
def test_token_types_of_a_template_reach_the_model(
    template: str, layout: Any, tiny_tokenizer: Callable[..., Any], sentences: list[str], tmp_path: Path
):
    bare = save_typed(tmp_path / "bare", transformers.AutoModel.from_config(tiny_config("bert")), tiny_tokenizer(), template)
    ours, theirs = ours_and_theirs(tmp_path / "theirs", bare, layout=layout)
    texts = [*sentences, "glass", sentences[0] * 4]
    np.testing.assert_allclose(ours.encode(texts), theirs.encode(texts), atol=1e-5, rtol=1e-5)
    ours.encoder.segment_template = None
    assert np.abs(ours.encode(texts) - theirs.encode(texts)).max() > 1e-2
    with pytest.raises(UserError, match="token types of its own, which tain export does not support"):
        export(tmp_path / "theirs", tmp_path / "out", int8=False, progress=False)


def test_xlnet_is_told_its_token_types(tiny_tokenizer: Callable[..., Any], sentences: list[str], tmp_path: Path):
    config = transformers.XLNetConfig(vocab_size=120, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=0)
    bare = save_typed(tmp_path / "bare", transformers.AutoModel.from_config(config), tiny_tokenizer(), "$A:0 [SEP]:0 [CLS]:2")
    ours, theirs = ours_and_theirs(tmp_path / "theirs", bare)
    np.testing.assert_allclose(ours.encode(sentences), theirs.encode(sentences), atol=1e-5, rtol=1e-5)


def test_a_token_type_that_the_model_does_not_have_is_refused(tiny_tokenizer: Callable[..., Any], tmp_path: Path):
    model = transformers.AutoModel.from_config(tiny_config("bert"))
    with pytest.raises(UserError, match="has 2 token types, but its tokenizer gives the type 3"):
        Embedder.load(save_typed(tmp_path / "bare", model, tiny_tokenizer(), "[CLS]:3 $A:0"))


def test_segments_of_a_template_follow_the_length_of_each_text():
    packed = pack([[5, 6, 7], [5, 7], [5, 6, 6, 6, 7]])
    assert SegmentTemplate((4,), 0, (2,)).of(packed).tolist() == [4, 2, 4, 0, 2, 4, 0, 0, 0, 2]
