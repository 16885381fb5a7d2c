"""Texts beyond the length limit: cut, refused, or encoded in chunks, in torch, in onnxruntime and by students."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tain.batches.tokenizing import bare_ids
from tain.exported.encoder import ExportedEncoder
from tain.foundation.errors import UserError
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.embedder import Embedder
from tain.models.encode_to_file import encode_to_file
from tain.recipes.export.recipe import export
from tain.text.token_ids import chunk_ids, token_ids

Encoder = Embedder | ExportedEncoder
LIMIT = 9


@pytest.fixture(scope="module")
def texts(sentences: list[str]) -> list[str]:
    """Texts of one to several chunks, and one that fills a chunk exactly."""
    return ["mirror", " ".join(sentences[:3]), sentences[0], "a " * (LIMIT - 2), " ".join(sentences), "a " * (2 * LIMIT - 4)]


@pytest.fixture(scope="module")
def exported_folder(bert_folder: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "bert"
    export(bert_folder, folder, texts=sentences, int8=False)
    return folder


@pytest.fixture(params=["torch", "onnx"])
def encoder(request: pytest.FixtureRequest, bert_folder: Path, exported_folder: Path) -> Encoder:
    if request.param == "onnx":
        return ExportedEncoder.load(exported_folder, max_tokens=LIMIT)
    return Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=LIMIT)


def naive_chunks(tokenizer: Any, text: str, limit: int) -> list[list[int]]:
    (ids,) = bare_ids(tokenizer, [text])
    room = limit - 2
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [[first, *ids[start : start + room], last] for start in range(0, max(1, len(ids)), room)]


def test_chunks_are_those_of_splitting_by_hand(tiny_tokenizer: Callable[..., Any], texts: list[str]):
    tokenizer = tiny_tokenizer()
    assert chunk_ids(tokenizer.backend_tokenizer, texts, max_tokens=LIMIT) == [naive_chunks(tokenizer, text, LIMIT) for text in texts]


def test_the_first_chunk_is_what_cutting_keeps(tiny_tokenizer: Callable[..., Any], texts: list[str]):
    backend = tiny_tokenizer().backend_tokenizer
    ids, is_cut = token_ids(backend, texts, max_tokens=LIMIT)
    chunks = chunk_ids(backend, texts, max_tokens=LIMIT)
    assert [each[0] for each in chunks] == ids
    assert [len(each) > 1 for each in chunks] == is_cut


@torch.inference_mode()
def naive_mean(embedder: Embedder, text: str, *, scales: bool) -> np.ndarray:
    """The mean of the vectors of all chunks, each computed alone, weighted by its tokens."""
    vectors, weights = [], []
    for ids in naive_chunks(embedder.tokenizer, text, embedder.max_tokens):
        vector = embedder.encoder.model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0).numpy()
        vectors.append(vector / np.linalg.norm(vector) if scales else vector)
        weights.append(len(ids))
    mean = np.average(vectors, axis=0, weights=weights)
    return mean / np.linalg.norm(mean) if scales else mean


@pytest.mark.parametrize("scales", [False, True])
def test_a_long_text_becomes_the_mean_of_its_chunks(encoder: Encoder, bert_folder: Path, texts: list[str], scales: bool):
    reference = Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=LIMIT, layout="padded")
    found = encoder.encode(texts, truncation="mean-of-chunks", normalize=scales or None)
    assert (encoder.truncated, encoder.chunked) == (0, 4)
    for text, vector in zip(texts, found, strict=True):
        np.testing.assert_allclose(vector, naive_mean(reference, text, scales=scales), atol=1e-5)


def test_short_texts_have_the_same_bits_in_chunks(encoder: Encoder):
    texts = ["glass", "sand and glass", "a " * (LIMIT - 2)]
    np.testing.assert_array_equal(encoder.encode(texts, truncation="mean-of-chunks"), encoder.encode(texts))
    assert encoder.chunked == 0


def test_both_backends_mean_the_same(bert_folder: Path, exported_folder: Path, texts: list[str]):
    torch = Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=LIMIT)
    onnx = ExportedEncoder.load(exported_folder, max_tokens=LIMIT)
    options = {"truncation": "mean-of-chunks"}
    np.testing.assert_allclose(onnx.encode(texts, **options), torch.encode(texts, **options), atol=1e-5)
    assert torch.chunked == onnx.chunked == 4


@pytest.mark.parametrize("batch_tokens", [1, 40, 10_000])
def test_chunks_come_back_to_their_texts_whatever_the_batches(encoder: Encoder, texts: list[str], batch_tokens: int):
    whole = encoder.encode(texts, truncation="mean-of-chunks")
    alone = np.concatenate([encoder.encode([text], truncation="mean-of-chunks") for text in texts])
    np.testing.assert_allclose(encoder.encode(texts, truncation="mean-of-chunks", batch_tokens=batch_tokens), whole, atol=1e-5)
    np.testing.assert_allclose(alone, whole, atol=1e-5)


def test_chunks_across_windows(encoder: Encoder, texts: list[str], monkeypatch: pytest.MonkeyPatch):
    from tain.text import token_encoding

    whole = encoder.encode(texts, truncation="mean-of-chunks")
    monkeypatch.setattr(token_encoding, "_WINDOW_CHARACTERS", 30)
    np.testing.assert_allclose(encoder.encode(texts, truncation="mean-of-chunks"), whole, atol=1e-5)
    assert encoder.chunked == 4


def test_a_correction_of_the_chunks_is_one_of_their_mean(bert_folder: Path, texts: list[str], rng: np.random.Generator):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=LIMIT)
    plain = embedder.encode(texts, truncation="mean-of-chunks")
    matrix, shift = rng.standard_normal((7, 32)).astype(np.float32), rng.standard_normal(7).astype(np.float32)
    embedder.correction = LinearCorrection(matrix, shift)
    np.testing.assert_allclose(embedder.encode(texts, truncation="mean-of-chunks"), plain @ matrix.T + shift, atol=1e-3, rtol=1e-4)


def test_each_chunk_has_the_language_of_its_text(bert_folder: Path, texts: list[str], rng: np.random.Generator):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=LIMIT)
    directions = {code: np.linalg.qr(rng.standard_normal((32, 2)))[0].T.astype(np.float32) for code in ("en", "de")}
    embedder.correction = LanguageCorrection(directions)
    languages = ["en", "de"] * 3
    found = embedder.encode(texts, truncation="mean-of-chunks", language=languages)
    for text, language, vector in zip(texts, languages, found, strict=True):
        alone = embedder.encode([text], truncation="mean-of-chunks", language=language)[0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)


def test_a_text_that_is_too_long_can_be_an_error(encoder: Encoder, texts: list[str]):
    with pytest.raises(UserError, match=rf"text 1 \('a thin layer.*\) has more than {LIMIT} tokens: split it, raise max_tokens"):
        encoder.encode(texts, truncation="error")
    np.testing.assert_array_equal(encoder.encode(["glass"], truncation="error"), encoder.encode(["glass"]))


def test_a_wrong_truncation_is_refused(encoder: Encoder, unchecked: None):
    with pytest.raises(UserError, match="truncation is 'tail': give cut, error, mean-of-chunks"):
        encoder.encode(["glass"], truncation="tail")


def test_a_file_counts_chunked_texts_and_names_the_row_that_is_too_long(encoder: Encoder, texts: list[str], tmp_path: Path):
    made = encode_to_file(encoder, texts, tmp_path / "means.npy", truncation="mean-of-chunks", window_texts=2)
    assert (made.truncated, made.chunked) == (0, 4)
    np.testing.assert_allclose(np.load(tmp_path / "means.npy"), encoder.encode(texts, truncation="mean-of-chunks"), atol=1e-5)
    with pytest.raises(UserError, match="text 4 "):
        encode_to_file(encoder, ["sea", "sand", "glass", "stars", texts[1]], tmp_path / "none.npy", truncation="error", window_texts=2)
    assert not (tmp_path / "none.npy").exists()


def test_a_tokenizer_written_in_python_has_no_chunks(bert_folder: Path, texts: list[str]):
    class Slow:
        backend_tokenizer = None

    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=LIMIT)
    embedder.tokenizer = Slow()
    with pytest.raises(UserError, match="needs a fast tokenizer"):
        embedder.encode(texts, truncation="mean-of-chunks")


def test_limits_change_without_loading_again(exported_folder: Path, texts: list[str]):
    encoder = ExportedEncoder.load(exported_folder)
    shorter = encoder.with_limits(max_tokens=LIMIT)
    assert shorter.graph is encoder.graph and (encoder.max_tokens, shorter.max_tokens) == (40, LIMIT)
    np.testing.assert_array_equal(shorter.encode(texts), ExportedEncoder.load(exported_folder, max_tokens=LIMIT).encode(texts))
    assert shorter.truncated == 4 and encoder.truncated == 0
    ends = encoder.with_limits(max_tokens=LIMIT, side="left").encode(["sea " * 20 + "glass"])
    assert np.abs(ends - encoder.with_limits(max_tokens=LIMIT).encode(["sea " * 20 + "glass"])).max() > 1e-3
    for wrong, message in (({"max_tokens": 41}, "reads 3 to 40"), ({"max_tokens": 2}, "reads 3 to 40"), ({"side": "top"}, "side is 'top'")):
        with pytest.raises(UserError, match=message):
            encoder.with_limits(**wrong)
