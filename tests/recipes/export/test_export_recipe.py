"""An exported graph gives torch's vectors for every family, batch and length; what does not agree is never written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from sentence_transformers import SentenceTransformer

import tain
from tain.exported.encoder import ExportedEncoder
from tain.exported.folder import EXPORT_FILE, FLOAT_FILE, INT8_FILES, read_export
from tain.foundation.errors import NotFiniteError, UserError
from tain.foundation.progress import Progress
from tain.models.correction import LanguageCorrection, LinearCorrection
from tain.models.embedder import Embedder
from tain.recipes.export.recipe import export
from tiny_models import tiny_config

Build = Callable[..., Any]

FAMILIES = [
    *("bert", "roberta", "xlm-roberta", "electra", "albert", "distilbert", "modernbert", "eurobert", "roberta-prelayernorm", "mpnet"),
    *("deberta", "fnet", "convbert", "xlm", "esm", "deberta-v2"),
]
OF_ONE_LENGTH = ("fnet", "convbert")  # padding changes their vectors, in torch too
SEGMENTS = ("bert", "electra", "albert", "fnet", "convbert")


@pytest.fixture(scope="session")
def save_encoder(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Build, tiny_tokenizer: Build) -> Callable[..., Path]:
    def save(architecture: str, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(architecture)
        tiny_encoder(architecture, **changes).save_pretrained(folder)
        tiny_tokenizer(pad_id=tiny_config(architecture).pad_token_id).save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="session")
def exported_bert(bert_folder: Path, sentences: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with both graphs. Shared by all tests: read only."""
    folder = tmp_path_factory.mktemp("exported") / "bert"
    export(bert_folder, folder, texts=sentences, min_cosine=0.9)
    return folder


@pytest.mark.parametrize("architecture", FAMILIES)
def test_vectors_are_those_of_torch(architecture: str, save_encoder: Build, sentences: list[str], tmp_path: Path):
    source = save_encoder(architecture)
    result = export(source, tmp_path / "out", texts=[*sentences, "a", " ".join(sentences)], int8=False, progress=Progress.mute())
    expected = Embedder.load(source, device="cpu", dtype="float32").encode(sentences)
    exported = ExportedEncoder.load(tmp_path / "out")
    np.testing.assert_allclose(exported.encode(sentences), expected, atol=1e-5, rtol=1e-4)
    for row, text in enumerate(sentences[:3]):
        np.testing.assert_allclose(exported.encode([text])[0], expected[row], atol=1e-5, rtol=1e-4)
    assert exported.export.pads == (architecture not in OF_ONE_LENGTH)
    assert result.check["float32"]["largest_difference"] <= 1e-4
    assert ("token_type_ids" in exported.graph.inputs) == (architecture in SEGMENTS)


def test_a_model_whose_code_follows_the_length_of_the_example_is_refused(save_encoder: Build, sentences: list[str], tmp_path: Path):
    source = save_encoder("longformer")
    with pytest.raises(UserError, match=r"cannot be exported|does not run"):
        export(source, tmp_path / "out", texts=sentences, int8=False)
    assert list(tmp_path.iterdir()) == []


def test_the_graph_names_what_readers_look_for(exported_bert: Path):
    graph = onnx.load(exported_bert / FLOAT_FILE).graph
    assert [each.name for each in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {each.type.tensor_type.elem_type for each in graph.input} == {onnx.TensorProto.INT64}
    assert [each.name for each in graph.output] == ["last_hidden_state", "sentence_embedding"]
    assert [dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim] == ["batch", "tokens"]
    files = sorted(path.name for path in (exported_bert / "onnx").iterdir())
    assert files == ["export.json", "model.onnx", "model_qint8_avx512_vnni.onnx", "model_quantized.onnx"]


def test_onnxruntime_alone_gives_the_vectors(exported_bert: Path, sentences: list[str]):
    session = onnxruntime.InferenceSession(str(exported_bert / FLOAT_FILE), providers=["CPUExecutionProvider"])
    embedder = Embedder.load(exported_bert, device="cpu", dtype="float32")
    encoded = embedder.tokenizer(sentences, padding=True, return_tensors="np", return_token_type_ids=True)
    tokens, vectors = session.run(None, {name: encoded[name].astype(np.int64) for name in encoded})
    assert np.asarray(tokens).shape == (*encoded["input_ids"].shape, embedder.dim)
    np.testing.assert_allclose(vectors, embedder.encode(sentences), atol=1e-5, rtol=1e-4)


def test_sentence_transformers_reads_the_folder_and_gives_equal_vectors(exported_bert: Path, sentences: list[str]):
    theirs = SentenceTransformer(str(exported_bert), device="cpu").encode(sentences)
    np.testing.assert_allclose(ExportedEncoder.load(exported_bert).encode(sentences), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("parts", ["cls", "normalize", "matrix", "token-weights", "all"])
def test_everything_after_the_encoder_is_inside_the_graph(parts: str, bert_folder: Path, sentences: list[str], tmp_path: Path):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32", pooling="cls" if parts == "cls" else None)
    rng = np.random.default_rng(3)
    embedder.normalize = parts in ("normalize", "all")
    if parts in ("matrix", "all"):
        embedder.correction = LinearCorrection(
            rng.standard_normal((12, embedder.encoder.dim), dtype=np.float32), rng.standard_normal(12, dtype=np.float32)
        )
    if parts in ("token-weights", "all"):
        import torch

        embedder.encoder.token_weights = torch.rand(120)
    (tmp_path / "source").mkdir()
    embedder.save(tmp_path / "source", record={"kind": "encoder"}, card="")
    export(tmp_path / "source", tmp_path / "out", texts=sentences, int8=False)
    exported = ExportedEncoder.load(tmp_path / "out")
    assert exported.dim == (12 if parts in ("matrix", "all") else 32)
    np.testing.assert_allclose(exported.encode(sentences), embedder.encode(sentences), atol=1e-5, rtol=1e-4)
    theirs = SentenceTransformer(str(tmp_path / "out"), device="cpu").encode(sentences)
    np.testing.assert_allclose(exported.encode(sentences), theirs, atol=1e-5, rtol=1e-3)


def test_the_correction_of_one_language_is_baked_in(bert_folder: Path, sentences: list[str], tmp_path: Path):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    directions = np.linalg.qr(np.random.default_rng(4).standard_normal((32, 2)))[0].T.astype(np.float32)
    embedder.correction = LanguageCorrection({"de": directions, "en": directions[:1].copy()})
    (tmp_path / "source").mkdir()
    embedder.save(tmp_path / "source", record={"kind": "encoder", "correction": {"method": "languages"}}, card="")
    with pytest.raises(UserError, match="give --language, one of de, en"):
        export(tmp_path / "source", tmp_path / "out", texts=sentences, int8=False)
    export(tmp_path / "source", tmp_path / "out", texts=sentences, int8=False, language="de")
    expected = embedder.encode(sentences, language="de")
    np.testing.assert_allclose(ExportedEncoder.load(tmp_path / "out").encode(sentences), expected, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(Embedder.load(tmp_path / "out", dtype="float32").encode(sentences), expected, atol=1e-5, rtol=1e-4)


def test_the_int8_graph_is_smaller_and_reports_how_well_it_agrees(exported_bert: Path, sentences: list[str]):
    made = read_export(exported_bert, name="bert")
    assert (exported_bert / INT8_FILES[0]).read_bytes() == (exported_bert / INT8_FILES[1]).read_bytes()
    assert (exported_bert / INT8_FILES[0]).stat().st_size < (exported_bert / FLOAT_FILE).stat().st_size
    agreement = made.check["int8"]
    assert 0.9 <= agreement["mean_cosine"] <= 1.0 and agreement["worst_cosine"] <= agreement["mean_cosine"]
    left = ExportedEncoder.load(exported_bert, dtype="int8").encode(sentences, normalize=True)
    right = ExportedEncoder.load(exported_bert).encode(sentences, normalize=True)
    assert (left * right).sum(1).mean() == pytest.approx(agreement["mean_cosine"], abs=1e-4)
    assert np.abs(left - right).max() > 1e-4  # it is another graph


def test_an_int8_graph_that_disagrees_leaves_nothing(bert_folder: Path, sentences: list[str], tmp_path: Path):
    with pytest.raises(UserError, match=r"loses too much in int8.*--no-int8"):
        export(bert_folder, tmp_path / "out", texts=sentences, min_cosine=1.0)
    assert list(tmp_path.iterdir()) == []


def test_the_worst_products_are_found_and_left_in_float32(save_encoder: Build, sentences: list[str], tmp_path: Path):
    import torch
    from transformers import AutoModel

    source = save_encoder("bert")
    model = AutoModel.from_pretrained(source)
    with torch.no_grad():  # one feature a thousand times the others: per-tensor steps leave nothing of the rest
        layer = model.encoder.layer[0]
        layer.intermediate.dense.weight[0] *= 3000
        layer.output.dense.weight[:, 0] /= 3000
    model.save_pretrained(tmp_path / "source")
    Embedder.load(source, device="cpu").tokenizer.save_pretrained(tmp_path / "source")
    result = export(tmp_path / "source", tmp_path / "out", texts=sentences, min_cosine=0.98)
    assert "/model/encoder/layer.0/output/dense/MatMul" in result.check["int8"]["left_in_float32"]
    assert 0 < len(result.check["int8"]["left_in_float32"]) < result.check["int8"]["products"]


def test_a_joined_encoder_is_exported_without_its_zeros(save_encoder: Build, sentences: list[str], tmp_path: Path):
    import torch

    from tain.encoders.joining import join_static
    from tain.encoders.zero_blocks import skip_zero_blocks

    source = Embedder.load(save_encoder("modernbert"), device="cpu", dtype="float32")
    model = source.encoder.model
    table = torch.randn(tuple(model.get_input_embeddings().weight.shape), generator=torch.Generator().manual_seed(3))
    join_static(model, table).save_pretrained(tmp_path / "source")
    source.tokenizer.save_pretrained(tmp_path / "source")
    result = export(tmp_path / "source", tmp_path / "out", texts=sentences, min_cosine=0.5)
    assert result.check["int8"]["products"] == 4 * len(model.layers)
    weights = {weight.name: weight for weight in onnx.load(tmp_path / "out" / FLOAT_FILE).graph.initializer}
    own = sum(each.numel() for each in model.parameters())
    assert sum(int(np.prod(weight.dims)) for weight in weights.values()) < 1.1 * own + table.numel()
    whole = Embedder.load(tmp_path / "source", device="cpu", dtype="float32")
    assert skip_zero_blocks(whole.encoder.model)
    np.testing.assert_allclose(ExportedEncoder.load(tmp_path / "out").encode(sentences), whole.encode(sentences), atol=1e-4, rtol=1e-4)


def test_numbers_that_are_not_finite_are_refused(bert_folder: Path, sentences: list[str], tmp_path: Path):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    embedder.correction = LinearCorrection(np.full((4, 32), 3e38, dtype=np.float32), np.zeros(4, dtype=np.float32))
    (tmp_path / "source").mkdir()
    embedder.save(tmp_path / "source", record={"kind": "encoder"}, card="")
    with pytest.raises(NotFiniteError), np.errstate(all="ignore"):
        export(tmp_path / "source", tmp_path / "out", texts=sentences)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("file", [FLOAT_FILE, "tokenizer.json", "model.safetensors"])
def test_a_file_that_was_changed_afterwards_is_refused(file: str, bert_folder: Path, sentences: list[str], tmp_path: Path):
    export(bert_folder, tmp_path / "out", texts=sentences, int8=False)
    content = bytearray((tmp_path / "out" / file).read_bytes())
    content[-2] ^= 1
    (tmp_path / "out" / file).write_bytes(content)
    with pytest.raises(UserError, match=f"{file}.* that was changed after the export"):
        ExportedEncoder.load(tmp_path / "out")


def test_the_public_name_exports_too(bert_folder: Path, sentences: list[str], tmp_path: Path):
    tain.export(bert_folder, tmp_path / "out", texts=sentences, int8=False, progress=True)
    assert (tmp_path / "out" / EXPORT_FILE).is_file()
    encoder = tain.load(tmp_path / "out")
    assert isinstance(encoder, tain.ExportedEncoder)
    assert encoder.encode(sentences[:2]).shape == (2, 32) and encoder.encode("one text").shape == (32,)
    np.testing.assert_allclose(encoder.encode(sentences, batch_size=2), encoder.encode(sentences), atol=1e-5)
    with pytest.raises(UserError, match="language is 'de'"):
        encoder.encode(sentences, language="de")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_cosine": 1.5}, "min_cosine is 1.5"),
        ({"pooling": "mean-with-padding"}, "pooling is 'mean-with-padding'"),
        ({"language": "de"}, "language is 'de'"),
        ({"texts": ["one"]}, "1 texts are given"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str, bert_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        export(bert_folder, tmp_path / "out", **settings)
    assert list(tmp_path.iterdir()) == []
