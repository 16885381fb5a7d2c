from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder, load_pretrained, max_length
from tain.text.token_encoding import TokenRows

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def embedder(bert_folder: Path) -> Embedder:
    return Embedder.load(bert_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def many(sentences: list[str]) -> list[str]:
    """Forty texts of very different lengths, one of them empty."""
    words = " ".join(sentences).split()
    rng = np.random.default_rng(2)
    return ["", *(" ".join(rng.choice(words, size=size)) for size in rng.integers(1, 12, size=39))]


def test_vectors_come_in_order_as_float32(embedder: Embedder, many: list[str]):
    vectors = embedder.encode(many)
    assert vectors.shape == (40, embedder.dim) == (40, 32)
    assert vectors.dtype == np.float32
    for index in (0, 7, 39):
        np.testing.assert_allclose(vectors[index], embedder.encode([many[index]])[0], atol=1e-5)


@pytest.mark.parametrize("architecture", ["bert", "roberta", "modernbert", "mpnet", "deberta-v2"])
def test_vectors_never_depend_on_batching_or_order(architecture: str, save_masked_lm: Save, many: list[str]):
    embedder = Embedder.load(save_masked_lm(architecture), device="cpu", dtype="float32")
    many = many[:12]
    vectors = embedder.encode(many)
    for batch_tokens in (1, 60):
        np.testing.assert_allclose(embedder.encode(many, batch_tokens=batch_tokens), vectors, atol=1e-5)
    order = np.random.default_rng(5).permutation(len(many))
    np.testing.assert_allclose(embedder.encode([many[index] for index in order]), vectors[order], atol=1e-5)


def test_windows_of_texts_leave_no_seam(embedder: Embedder, many: list[str], monkeypatch: pytest.MonkeyPatch):
    from tain.text import token_encoding as module

    vectors = embedder.encode(many)
    monkeypatch.setattr(module, "WINDOW_TEXTS", 7)
    np.testing.assert_allclose(embedder.encode(many), vectors, atol=1e-5)


def test_no_texts_give_no_vectors(embedder: Embedder):
    assert embedder.encode([]).shape == (0, 32)


def test_dropout_is_off_and_the_mode_comes_back(bert_folder: Path, sentences: list[str]):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    vectors = embedder.encode(sentences)
    embedder.encoder.train()
    assert np.array_equal(embedder.encode(sentences), vectors)
    assert embedder.encoder.training


def test_a_partly_frozen_encoder_stays_so(bert_folder: Path, sentences: list[str]):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    parts = dict(embedder.encoder.named_modules())
    embedder.encoder.train()
    frozen = next(part for name, part in parts.items() if name.endswith("layer.0"))
    frozen.eval()
    modes = {name: part.training for name, part in parts.items()}
    embedder.encode(sentences)
    assert {name: part.training for name, part in parts.items()} == modes
    assert len(set(modes.values())) == 2


def test_cut_texts_are_counted_anew_each_time(bert_folder: Path, many: list[str]):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=8)
    embedder.encode(many)
    assert 0 < embedder.truncated < len(many)
    embedder.encode(["glass"])
    assert embedder.truncated == 0


def test_a_text_of_the_models_own_limit_is_read_whole(save_masked_lm: Save):
    """RoBERTa's kin have two positions fewer than their table has rows."""
    for architecture, limit in (("bert", 40), ("roberta", 38), ("mpnet", 38)):
        embedder = Embedder.load(save_masked_lm(architecture), device="cpu", dtype="float32")
        assert embedder.max_tokens == limit
        embedder.encode(["a " * 100, "a " * (limit - 2)])
        assert embedder.truncated == 1


def test_normalised_vectors_have_length_one(embedder: Embedder, many: list[str]):
    vectors = embedder.encode(many, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    plain = embedder.encode(many)
    np.testing.assert_allclose(vectors, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_bfloat16_vectors_are_close(bert_folder: Path, embedder: Embedder, many: list[str]):
    rounded = Embedder.load(bert_folder, device="cpu", dtype="bfloat16").encode(many)
    exact = embedder.encode(many)
    cosines = (rounded * exact).sum(1) / np.linalg.norm(rounded, axis=1) / np.linalg.norm(exact, axis=1)
    assert cosines.min() > 0.999


def test_the_number_type_is_chosen_by_measurement(bert_folder: Path, monkeypatch: pytest.MonkeyPatch):
    from tain.encoders import transformer as module

    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(module, "fastest_dtype", lambda device_type, dtype=dtype: dtype)
        assert next(Embedder.load(bert_folder, device="cpu").encoder.parameters()).dtype == dtype


@pytest.mark.parametrize(("layout", "pooling"), [("padded", "mean"), ("packed", "cls")])
def test_layout_and_pooling_are_as_asked(layout: Any, pooling: Any, bert_folder: Path):
    embedder = Embedder.load(bert_folder, device="cpu", layout=layout, pooling=pooling)
    assert (embedder.layout, embedder.pooling, embedder.name) == (layout, pooling, str(bert_folder))


def test_it_can_be_had_from_the_package_itself(bert_folder: Path):
    import tain

    assert tain.Embedder.load(str(bert_folder), device="cpu").dim == 32


def test_real_sentences_get_the_plain_models_vectors(real_data: Path, bert_folder: Path):
    file = real_data / "mirror_corpus" / "stsbenchmark_train_10k_sents_random_sampled.txt"
    texts = file.read_text(encoding="utf-8").splitlines()[:300]
    packed, padded = (Embedder.load(bert_folder, device="cpu", dtype="float32", layout=layout) for layout in ("packed", "padded"))
    np.testing.assert_allclose(packed.encode(texts), padded.encode(texts, batch_tokens=500), atol=1e-5)


# ---- refusals


def test_what_is_no_text_is_refused_by_its_place(embedder: Embedder, unchecked: None):
    wrong: Any = ["glass", None]
    with pytest.raises(UserError, match="text 1 is NoneType, not text: give strings"):
        embedder.encode(wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "float16"}, "dtype is 'float16': give auto, float32 or bfloat16"),
        ({"pooling": "sum"}, "pooling is 'sum': give one of cls, mean, mean-with-padding, max, lasttoken"),
        ({"max_tokens": 2}, "max_tokens is 2, but model .* accepts 3 to 40: give a number"),
        ({"max_tokens": 41}, "max_tokens is 41, but model .* accepts 3 to 40"),
        ({"device": "meta"}, "device is 'meta', which tain does not run on: give cpu, cuda or cuda:N"),
        ({"device": "toaster"}, "device is 'toaster', which torch does not know: give cpu, cuda or cuda:N"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(settings: dict[str, Any], message: str, bert_folder: Path, unchecked: None):
    with pytest.raises(UserError, match=message):
        Embedder.load(bert_folder, **settings)


def test_a_gpu_that_is_not_there_is_refused(bert_folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device is 'cuda', but torch finds no GPU here"):
        Embedder.load(bert_folder, device="cuda")


# ---- loading


def test_a_masked_lm_loads_in_float32_and_eval_mode(bert_folder: Path):
    model, tokenizer = load_pretrained("AutoModelForMaskedLM", str(bert_folder))
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert tokenizer.mask_token == "[MASK]"
    assert max_length(model, tokenizer) == 40


def test_the_tokenizers_limit_holds_where_it_is_lower(tiny_encoder: Callable[..., Any], tiny_tokenizer: Callable[..., Any]):
    assert max_length(tiny_encoder("bert"), tiny_tokenizer(model_max_length=24)) == 24
    assert max_length(tiny_encoder("bert"), tiny_tokenizer(model_max_length=10**30)) == 40


def test_an_encoder_without_a_head_starts_a_masked_lm_with_a_new_head(bert_folder: Path, tmp_path: Path):
    encoder, tokenizer = load_pretrained("AutoModel", str(bert_folder))
    encoder.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_pretrained("AutoModelForMaskedLM", str(tmp_path))
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, encoder.embeddings.word_embeddings.weight)


def test_a_mean_over_padding_does_not_depend_on_the_neighbours(bert_folder: Path):
    embedder = Embedder.load(bert_folder, dtype="float32", device="cpu", pooling="mean-with-padding")
    alone = embedder.encode(["a mirror"])
    beside = embedder.encode(["a mirror", "a thin layer of metal behind the glass makes a mirror"])
    np.testing.assert_allclose(beside[:1], alone, atol=1e-5)


def test_a_text_without_tokens_is_named(bert_folder: Path, monkeypatch: pytest.MonkeyPatch):
    embedder = Embedder.load(bert_folder, dtype="float32", device="cpu")
    rows = TokenRows.one_each([[5, 6], []], [False, False])
    monkeypatch.setattr("tain.models.embedder.tokenise_rows", lambda *_, **__: rows)
    with pytest.raises(UserError, match=r"text 1 \(''\) has no tokens: remove it"):
        embedder.encode(["glass", ""])
