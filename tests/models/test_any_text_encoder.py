"""Any text encoder of sentence-transformers gives the same vectors here; each folder is made and saved by sentence-transformers."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    LSTM,
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
    StaticEmbedding,
    Transformer,
    WeightedLayerPooling,
    WordWeights,
)
from tokenizers import processors

from tain.exported.encoder import ExportedEncoder
from tain.exported.rankers import load_exported_ranker
from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.rankers import Ranker
from tain.recipes.export.recipe import export
from tiny_models import randomise

Modules = list[torch.nn.Module]
PROMPTS = {"query": "search the sea: ", "passage": "a book: ", "plain": ""}


@pytest.fixture(autouse=True, scope="module")
def _quiet() -> None:
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def transformer(bert_folder: Path) -> Callable[..., Transformer]:
    return lambda **options: Transformer(str(bert_folder), max_seq_length=14, **options)


def ours_and_theirs(modules: Modules, folder: Path, **options: Any) -> tuple[Embedder, SentenceTransformer]:
    """Save with sentence-transformers, load in both."""
    SentenceTransformer(modules=modules, device="cpu", **options).save(str(folder))
    theirs = SentenceTransformer(str(folder), device="cpu")
    return Embedder.load(folder, device="cpu", dtype="float32"), theirs


def refuse_difference(ours: Any, theirs: SentenceTransformer, texts: list[str]) -> None:
    expected = theirs.encode(texts)
    assert ours.dim == expected.shape[1]
    np.testing.assert_allclose(ours.encode(texts), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours.encode(texts[:1]), expected[:1], atol=1e-5, rtol=1e-5)


def randomised(module: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + (0.5 if parameter.ndim == 1 else 0.0))
    return module


def word_weights(tokenizer: Any) -> WordWeights:
    vocabulary = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    weights = {token: 0.1 + (index % 7) / 3 for index, token in enumerate(vocabulary)}
    return WordWeights(vocabulary, weights, unknown_word_weight=0.5)


@pytest.mark.parametrize(
    "mode",
    [
        *("cls", "mean", "max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens"),
        ("cls", "mean"),
        ("mean", "cls"),
        ("max", "weightedmean", "lasttoken"),
    ],
)
@pytest.mark.parametrize("weighs", [False, True])
def test_every_pooling(mode: Any, weighs: bool, transformer: Any, sentences: list[str], tmp_path: Path):
    first = transformer()
    weights = [word_weights(first.tokenizer)] if weighs else []
    ours, theirs = ours_and_theirs([first, *weights, Pooling(32, pooling_mode=mode)], tmp_path / "theirs")
    refuse_difference(ours, theirs, sentences)
    # and what tain saves is read by both
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours", record={"kind": "encoder"}, card="# test\n")
    refuse_difference(Embedder.load(tmp_path / "ours", device="cpu", dtype="float32"), theirs, sentences)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(sentences), theirs.encode(sentences), atol=1e-5
    )


AFTER: dict[str, Callable[[], Modules]] = {
    "tanh": lambda: [randomised(Dense(32, 12))],
    "gelu-without-bias": lambda: [randomised(Dense(32, 12, bias=False, activation_function=torch.nn.GELU()))],
    "two-dense": lambda: [
        randomised(Dense(32, 20, activation_function=torch.nn.ReLU())),
        randomised(Dense(20, 7, activation_function=None)),
    ],
    "linear": lambda: [randomised(Dense(32, 12, activation_function=torch.nn.Identity()))],
    "residual": lambda: [randomised(Dense(32, 32, use_residual=True))],
    "projected-residual": lambda: [randomised(Dense(32, 9, use_residual=True))],
    "layer-norm": lambda: [randomised(LayerNorm(32))],
    "unit-then-dense": lambda: [Normalize(), randomised(Dense(32, 12)), Normalize()],
    "norm-dense-dropout-unit": lambda: [randomised(LayerNorm(32)), randomised(Dense(32, 5)), Dropout(0.3), Normalize()],
    "dropout": lambda: [Dropout(0.5)],
}


@pytest.mark.parametrize("layers", AFTER)
def test_layers_after_pooling(layers: str, transformer: Any, sentences: list[str], tmp_path: Path):
    ours, theirs = ours_and_theirs([transformer(), Pooling(32, "mean"), *AFTER[layers]()], tmp_path / "theirs")
    theirs.eval()
    refuse_difference(ours, theirs, sentences)
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours", record={"kind": "encoder"}, card="# test\n")
    refuse_difference(Embedder.load(tmp_path / "ours", device="cpu", dtype="float32"), theirs, sentences)
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "ours"), device="cpu").eval().encode(sentences), theirs.encode(sentences), atol=1e-5
    )


def test_a_mix_of_layers(bert_folder: Path, sentences: list[str], tmp_path: Path):
    first = Transformer(str(bert_folder), max_seq_length=14, config_kwargs={"output_hidden_states": True})
    mix = WeightedLayerPooling(32, num_hidden_layers=2, layer_start=1)
    with torch.no_grad():
        mix.layer_weights.copy_(torch.tensor([0.3, 1.7]))
    ours, theirs = ours_and_theirs([first, mix, Pooling(32, "mean")], tmp_path / "theirs")
    refuse_difference(ours, theirs, sentences)
    plain = Embedder.load(bert_folder, device="cpu", dtype="float32", max_tokens=14).encode(sentences)
    assert np.abs(ours.encode(sentences) - plain).max() > 1e-2
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours", record={"kind": "encoder"}, card="# test\n")
    refuse_difference(Embedder.load(tmp_path / "ours", device="cpu", dtype="float32"), theirs, sentences)
    with pytest.raises(UserError, match="mixes several layers"):
        export(tmp_path / "theirs", tmp_path / "out")


def test_static_token_vectors(tiny_tokenizer: Any, sentences: list[str], tmp_path: Path):
    static = StaticEmbedding(tiny_tokenizer(), embedding_weights=np.random.default_rng(4).standard_normal((120, 24)).astype(np.float32))
    ours, theirs = ours_and_theirs([static, randomised(Dense(24, 10)), Normalize()], tmp_path / "theirs")
    texts = [*sentences, " ".join(sentences * 30)]  # no length limit
    refuse_difference(ours, theirs, texts)
    assert ours.truncated == 0
    np.testing.assert_array_equal(ours.encode(texts, deterministic=True)[3], ours.encode([texts[3]], deterministic=True)[0])
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours", record={"kind": "encoder"}, card="# test\n")
    refuse_difference(Embedder.load(tmp_path / "ours", device="cpu", dtype="float32"), theirs, texts)
    np.testing.assert_allclose(SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(texts), theirs.encode(texts), atol=1e-5)
    with pytest.raises(UserError, match="has static token vectors"):
        ours.refuse_unusual("mirroring")


def test_truncation_within_a_static_tokenizer_is_kept(tiny_tokenizer: Any, sentences: list[str], tmp_path: Path):
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(5, direction="left")
    table = np.random.default_rng(4).standard_normal((120, 24)).astype(np.float32)
    ours, theirs = ours_and_theirs([StaticEmbedding(tokenizer.backend_tokenizer, embedding_weights=table)], tmp_path / "theirs")
    refuse_difference(ours, theirs, sentences)
    assert ours.max_tokens == 5
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours", record={"kind": "encoder"}, card="# test\n")
    again = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    refuse_difference(Embedder.load(tmp_path / "ours", device="cpu", dtype="float32"), again, sentences)
    np.testing.assert_allclose(again.encode(sentences), theirs.encode(sentences), atol=1e-5)
    assert Embedder.load(tmp_path / "theirs", max_tokens=3).max_tokens == 3
    with pytest.raises(UserError, match=r"max_tokens is 6, but model .* accepts 1 to 5"):
        Embedder.load(tmp_path / "theirs", max_tokens=6)


@pytest.mark.parametrize("parts", [("mapping", "weights"), ("mapping",), ("weights",), ()])
def test_token_vectors_of_model2vec(parts: tuple[str, ...], tiny_tokenizer: Any, sentences: list[str], tmp_path: Path):
    rng = np.random.default_rng(4)
    tensors = {"embeddings": rng.standard_normal((30 if "mapping" in parts else 120, 24)).astype(np.float32)}
    tensors |= {"mapping": rng.integers(0, 30, 120)} if "mapping" in parts else {}
    tensors |= {"weights": rng.random(120)} if "weights" in parts else {}
    folder = tmp_path / "model2vec"  # as model2vec writes it
    folder.mkdir()
    save_arrays(tensors, folder / "model.safetensors")
    tiny_tokenizer().backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text('{"model_type": "model2vec", "architectures": ["StaticModel"], "normalize": true}')
    kinds = {".": "StaticEmbedding", "1_Normalize": "Normalize"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (folder / "modules.json").write_text(json.dumps([{"idx": index, "name": str(index), **each} for index, each in enumerate(modules)]))
    refuse_difference(Embedder.load(folder, device="cpu"), SentenceTransformer(str(folder), device="cpu"), sentences)
    for wrong, message in (
        ({"mapping": np.array([0, 999])}, "mapping or weights of tokens that do not fit"),
        ({"weights": np.ones(7)}, "mapping or weights of tokens that do not fit"),
        ({"mapping": np.arange(20)}, "has vectors for 20 tokens, but its tokenizer has 120"),
    ):
        save_arrays({"embeddings": tensors["embeddings"], **wrong}, folder / "model.safetensors")
        with pytest.raises(UserError, match=message):
            Embedder.load(folder)
    save_arrays({"table": tensors["embeddings"]}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"without embedding\.weight \(or model2vec's embeddings\)"):
        Embedder.load(folder)


def test_token_weights_do_not_need_the_spare_rows_of_the_table(
    tiny_tokenizer: Any, tiny_encoder: Any, sentences: list[str], tmp_path: Path
):
    tiny_encoder("bert", vocab_size=128).save_pretrained(tmp_path / "bare")
    tiny_tokenizer().save_pretrained(tmp_path / "bare")
    first = Transformer(str(tmp_path / "bare"), max_seq_length=14)
    ours, theirs = ours_and_theirs([first, word_weights(first.tokenizer), Pooling(32, "mean")], tmp_path / "theirs")
    refuse_difference(ours, theirs, sentences)
    (tmp_path / "ours").mkdir()
    ours.save(tmp_path / "ours", record={"kind": "encoder"}, card="# test\n")
    np.testing.assert_allclose(
        SentenceTransformer(str(tmp_path / "ours"), device="cpu").encode(sentences), theirs.encode(sentences), atol=1e-5
    )


@pytest.fixture(scope="module")
def decoder_folder(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 whose tokenizer ends each text with its last special token, as decoder-only embedding models have it."""
    folder = tmp_path_factory.mktemp("decoder")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
    config = transformers.Qwen2Config(vocab_size=128, max_position_embeddings=40, pad_token_id=0, bos_token_id=2, eos_token_id=3, **sizes)
    randomise(transformers.AutoModel.from_config(config)).eval().save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 3)])
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mode", ["lasttoken", "mean", "weightedmean"])
def test_decoders(mode: Any, side: str, decoder_folder: Path, sentences: list[str], tmp_path: Path):
    first = Transformer(str(decoder_folder), max_seq_length=20)
    first.tokenizer.padding_side = side
    ours, theirs = ours_and_theirs([first, Pooling(32, mode), Normalize()], tmp_path / "theirs")
    refuse_difference(ours, theirs, sentences)
    assert ours.encoder.is_decoder and ours.layout == "padded"


def test_a_decoder_is_refused_where_it_cannot_work(decoder_folder: Path, sentences: list[str], tmp_path: Path):
    import tain

    with pytest.raises(UserError, match="is a decoder, whose tokens see only those before them"):
        Embedder.load(decoder_folder)
    bare = Embedder.load(decoder_folder, pooling="lasttoken", device="cpu", dtype="float32", max_tokens=20)
    folder = tmp_path / "theirs"
    first = Transformer(str(decoder_folder), max_seq_length=20)
    ours, _ = ours_and_theirs([first, Pooling(32, "lasttoken")], folder)
    np.testing.assert_allclose(bare.encode(sentences[:2]), ours.encode(sentences[:2]), atol=1e-5)
    with pytest.raises(UserError, match=r"is a decoder, .* so it cannot be used for mirroring"):
        tain.mirror(folder, sentences, batch_texts=4, held_out=0, erased_chars=0, progress=False)
    with pytest.raises(UserError, match=r"is a decoder, .* so it cannot be used for norm analysis"):
        tain.inspect_model(folder, sentences[:1])


def test_decoders_rank_and_teach(decoder_folder: Path, sentences: list[str], tmp_path: Path):
    from tain.foundation.progress import Progress
    from tain.recipes.distil.teacher import load_teacher

    folder = tmp_path / "theirs"
    ours, _ = ours_and_theirs([Transformer(str(decoder_folder)), Pooling(32, "lasttoken"), Normalize()], folder)
    ranker = Ranker.load(folder, device="cpu", dtype="float32")
    short = [sentence[:20] for sentence in sentences]  # contexts lose their beginning, encoders their end
    vectors = ours.encode(short)
    np.testing.assert_allclose(ranker.score(short[:2], short), vectors[:2] @ vectors.T, atol=1e-5)
    teacher = load_teacher(folder, task="embed", given=3, labels=None, tags=None, device=torch.device("cpu"), trust_remote_code=False)
    np.testing.assert_allclose(teacher.teach(short[:3], indices=None, progress=Progress.mute()).text, vectors[:3], atol=1e-5)


def test_norm_analysis_shows_what_it_can(transformer: Any, sentences: list[str], tmp_path: Path):
    import tain

    ours_and_theirs([transformer(), Pooling(32, "mean"), randomised(Dense(32, 12))], tmp_path / "theirs")
    found = tain.inspect_model(tmp_path / "theirs", sentences[:2])
    assert not found.similarities and "layers that are not linear" in found.why_no_similarity


def test_layers_after_pooling_rank_too(transformer: Any, sentences: list[str], tmp_path: Path):
    ours, _ = ours_and_theirs([transformer(), Pooling(32, ("cls", "max")), randomised(Dense(64, 12)), Normalize()], tmp_path / "theirs")
    ranker = Ranker.load(tmp_path / "theirs", device="cpu", dtype="float32")
    short = [sentence[:20] for sentence in sentences]  # contexts lose their beginning, encoders their end
    vectors = ours.encode(short)
    np.testing.assert_allclose(ranker.score(short[:2], short), vectors[:2] @ vectors.T, atol=1e-5)


def test_bigbird_keeps_its_sparse_attention(tiny_tokenizer: Any, sentences: list[str], tmp_path: Path):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = transformers.BigBirdConfig(
        vocab_size=120, max_position_embeddings=200, block_size=4, num_random_blocks=1, attention_type="block_sparse", **sizes, **special
    )
    randomise(transformers.AutoModel.from_config(config)).eval().save_pretrained(tmp_path / "bare")
    tiny_tokenizer(model_max_length=200).save_pretrained(tmp_path / "bare")
    SentenceTransformer(modules=[Transformer(str(tmp_path / "bare")), Pooling(32)], device="cpu").save(str(tmp_path / "theirs"))
    texts = [sentences[0], " ".join(sentences[:4]), " ".join(sentences[:6]), "glass", " ".join(sentences[2:9])]
    ours = Embedder.load(tmp_path / "theirs", device="cpu", dtype="float32")
    assert ours.encoder.full_attention_tokens == 28 < len(ours.token_rows(texts[1:2]).ids[0])
    # in sentence-transformers too a short text switches to full attention for good, so each text has its own copy of the model
    expected = np.concatenate([SentenceTransformer(str(tmp_path / "theirs"), device="cpu").encode([text]) for text in texts])
    np.testing.assert_allclose(ours.encode(texts), expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(ours.encode(texts[::-1])[::-1], expected, atol=1e-5, rtol=1e-5)
    ours.encoder.full_attention_tokens = None
    assert np.abs(ours.encode(texts) - expected).max() > 1e-3
    with pytest.raises(UserError, match="sparse attention for texts of more than 28 tokens, which tain export does not support"):
        export(tmp_path / "theirs", tmp_path / "out", int8=False, progress=False)


# ---- prompts and lower case


@pytest.fixture
def prompted(transformer: Any, tmp_path: Path) -> tuple[Embedder, SentenceTransformer]:
    modules = [transformer(), Pooling(32, "mean", include_prompt=False)]
    return ours_and_theirs(modules, tmp_path / "theirs", prompts=PROMPTS, default_prompt_name="passage")


@pytest.mark.parametrize("mode", ["mean", "cls", "max", "weightedmean", "lasttoken", "mean_sqrt_len_tokens"])
@pytest.mark.parametrize("include", [True, False])
def test_prompts_are_applied_and_left_out_of_the_pooling(mode: Any, include: bool, transformer: Any, sentences: list[str], tmp_path: Path):
    modules = [transformer(), Pooling(32, mode, include_prompt=include)]
    ours, theirs = ours_and_theirs(modules, tmp_path / "theirs", prompts=PROMPTS, default_prompt_name="passage")
    for options in ({}, {"prompt_name": "query"}, {"prompt": "stars and "}, {"prompt_name": "plain"}, {"prompt": ""}):
        np.testing.assert_allclose(ours.encode(sentences, **options), theirs.encode(sentences, **options), atol=1e-5, err_msg=str(options))
    np.testing.assert_allclose(ours.encode_query(sentences), theirs.encode_query(sentences), atol=1e-5)
    np.testing.assert_allclose(ours.encode_document(sentences), theirs.encode_document(sentences), atol=1e-5)
    query = ours.encode_query("glass", prompt="a red ")
    np.testing.assert_allclose(query, theirs.encode_query("glass", prompt="a red "), atol=1e-5)


def test_without_prompts_queries_and_documents_are_texts(bert_folder: Path, sentences: list[str]):
    ours = Embedder.load(bert_folder, device="cpu", dtype="float32")
    np.testing.assert_array_equal(ours.encode_query(sentences), ours.encode(sentences))
    np.testing.assert_array_equal(ours.encode_document(sentences), ours.encode(sentences))


def test_a_prompt_that_does_not_exist_is_named(prompted: tuple[Embedder, SentenceTransformer], sentences: list[str], bert_folder: Path):
    with pytest.raises(UserError, match="no such prompt: it has document, passage, plain, query"):
        prompted[0].encode(sentences, prompt_name="question")
    with pytest.raises(UserError, match="no such prompt: it has none"):
        Embedder.load(bert_folder).encode(sentences, prompt_name="query")
    with pytest.raises(UserError, match="leaves its prompt out of the pooling, which chunks cannot do"):
        prompted[0].encode(sentences, truncation="mean-of-chunks")


def test_rankers_and_mirroring_refuse_a_default_prompt(prompted: tuple[Embedder, SentenceTransformer], tmp_path: Path):
    with pytest.raises(UserError, match="puts the prompt 'a book: ' before each text, which rankers do not do"):
        Ranker.load(tmp_path / "theirs")
    with pytest.raises(UserError, match="puts the prompt 'a book: ' before each text, so it cannot be used for mirroring"):
        prompted[0].refuse_unusual("mirroring")


def test_the_command_line_applies_prompts(prompted: tuple[Embedder, SentenceTransformer], sentences: list[str], tmp_path: Path):
    from tain.cli.main import main

    (tmp_path / "texts.txt").write_text("\n".join(sentences) + "\n")
    options = ["--compute-dtype", "float32", "--device", "cpu", "--quiet"]
    for name, more in (("query", ["--prompt-name", "query"]), ("own", ["--prompt", "stars "]), ("passage", [])):
        main(["encode", str(tmp_path / "theirs"), str(tmp_path / "texts.txt"), "-o", str(tmp_path / f"{name}.npy"), *more, *options])
        asked = {"prompt": "stars "} if name == "own" else {"prompt_name": name}
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), prompted[1].encode(sentences, **asked), atol=1e-5)


@pytest.mark.parametrize("layers", [[], [Normalize()]])
def test_vectors_are_shortened(layers: Modules, transformer: Any, sentences: list[str], tmp_path: Path):
    modules = [transformer(), Pooling(32, "mean"), *layers]
    ours, theirs = ours_and_theirs(modules, tmp_path / "theirs", truncate_dim=8)
    refuse_difference(ours, theirs, sentences)
    assert ours.dim == 8
    expected = theirs.encode(sentences, normalize_embeddings=True)
    np.testing.assert_allclose(ours.encode(sentences, normalize=True), expected, atol=1e-5)
    np.testing.assert_array_equal(ours.encode(sentences, deterministic=True)[2], ours.encode(sentences[2], deterministic=True))
    export(tmp_path / "theirs", tmp_path / "out", texts=sentences, int8=False, progress=False)
    refuse_difference(ExportedEncoder.load(tmp_path / "out"), theirs, sentences)
    for load in (lambda: Ranker.load(tmp_path / "theirs"), lambda: load_exported_ranker(tmp_path / "out")):
        with pytest.raises(UserError, match="keeps the first 8 numbers of its vectors, which rankers do not do"):
            load()


def test_texts_are_lower_cased(decoder_folder: Path, bert_folder: Path, sentences: list[str], tmp_path: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    cased = tmp_path / "cased"
    transformers.AutoModel.from_pretrained(bert_folder).save_pretrained(cased)
    tokenizer.backend_tokenizer.normalizer = None
    tokenizer.save_pretrained(cased)
    upper = [sentence.title() for sentence in sentences]
    ours, theirs = ours_and_theirs([Transformer(str(cased), do_lower_case=True), Pooling(32, "mean")], tmp_path / "theirs")
    refuse_difference(ours, theirs, upper)
    settings = tmp_path / "theirs" / "sentence_bert_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_lower_case": True}))
    refuse_difference(Embedder.load(tmp_path / "theirs", device="cpu", dtype="float32"), theirs, upper)
    assert np.abs(ours.encode(upper) - Embedder.load(cased, device="cpu", dtype="float32").encode(upper)).max() > 1e-2


# ---- export


@pytest.mark.parametrize("mode", ["max", "lasttoken", "weightedmean", "mean_sqrt_len_tokens", ("cls", "mean")])
@pytest.mark.parametrize("weighs", [False, True])
def test_poolings_and_layers_are_exported(mode: Any, weighs: bool, transformer: Any, sentences: list[str], tmp_path: Path):
    first = transformer()
    width = 32 * (2 if isinstance(mode, tuple) else 1)
    weights = [word_weights(first.tokenizer)] if weighs else []
    layers = [randomised(LayerNorm(width)), randomised(Dense(width, 12)), Normalize()]
    _, theirs = ours_and_theirs([first, *weights, Pooling(32, pooling_mode=mode), *layers], tmp_path / "theirs", prompts=PROMPTS)
    export(tmp_path / "theirs", tmp_path / "out", texts=sentences, int8=False, progress=False)
    exported = ExportedEncoder.load(tmp_path / "out")
    refuse_difference(exported, theirs, sentences)
    np.testing.assert_allclose(exported.encode_query(sentences), theirs.encode_query(sentences), atol=1e-5)


def test_an_exported_prompt_outside_of_the_pooling_is_refused(
    prompted: tuple[Embedder, SentenceTransformer], sentences: list[str], tmp_path: Path
):
    export(tmp_path / "theirs", tmp_path / "out", texts=sentences, int8=False, progress=False)
    exported = ExportedEncoder.load(tmp_path / "out")
    with pytest.raises(UserError, match="leaves its prompt out of the pooling, which its exported graph cannot do"):
        exported.encode(sentences)
    np.testing.assert_allclose(exported.encode(sentences, prompt=""), prompted[1].encode(sentences, prompt=""), atol=1e-5)


# ---- what is refused


def test_what_tain_does_not_run_is_named(transformer: Any, tmp_path: Path):
    def refused(modules: Modules, name: str) -> str:
        SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / name))
        with pytest.raises(UserError) as error:
            Embedder.load(tmp_path / name)
        return str(error.value)

    assert "has a LSTM layer after its encoder, which tain does not support" in refused([transformer(), LSTM(32, 8), Pooling(16)], "lstm")
    own = Dense(32, 32, module_input_name="token_embeddings")
    assert "has a Dense layer after its encoder, which tain does not support in this place" in refused(
        [transformer(), own, Pooling(32)], "tokens"
    )
    assert "has a Dense layer with the module_input_name token_embeddings" in refused([transformer(), Pooling(32), own], "tokens-late")


def test_layers_that_do_not_fit_are_refused(transformer: Any, tmp_path: Path):
    SentenceTransformer(modules=[transformer(), Pooling(32), Dense(32, 12), LayerNorm(12)], device="cpu").save(str(tmp_path / "a"))
    save_file({"norm.weight": torch.ones(11), "norm.bias": torch.zeros(11)}, tmp_path / "a" / "3_LayerNorm" / "model.safetensors")
    with pytest.raises(UserError, match="has a layer for vectors of dimension 11 after one that gives 12"):
        Embedder.load(tmp_path / "a")


@pytest.mark.parametrize("activation", [torch.nn.Identity(), torch.nn.Tanh()])
def test_a_damaged_dense_layer_is_refused(activation: Any, transformer: Any, tmp_path: Path):
    dense = Dense(32, 12, activation_function=activation, use_residual=True)
    SentenceTransformer(modules=[transformer(), Pooling(32), dense], device="cpu").save(str(tmp_path / "a"))
    folder = tmp_path / "a" / "2_Dense"
    config, whole = json.loads((folder / "config.json").read_text()), dense.state_dict()
    whole = {key: tensor.clone() for key, tensor in whole.items()}
    plain = {key: tensor for key, tensor in whole.items() if key != "residual.weight"}
    for settings, tensors, message in (
        ({}, whole | {"residual.weight": torch.ones(12, 31)}, r"whose residual\.weight is of the shape \(12, 31\), not \(12, 32\)"),
        ({}, plain, r"whose residual\.weight is missing"),
        ({"use_residual": False}, plain | {"linear.bias": torch.ones(11)}, r"whose linear\.bias has the shape \(11,\), not \(12,\)"),
        ({"use_residual": False}, {"linear.weight": whole["linear.weight"]}, "with a bias in its config.json, but none in its weights"),
        ({"use_residual": False, "bias": False}, plain, "with no bias in its config.json, but one in its weights"),
        ({"use_residual": False, "out_features": 13}, plain, "whose out_features is 13, but whose weights have 12"),
    ):
        (folder / "config.json").write_text(json.dumps(config | settings))
        save_file(tensors, folder / "model.safetensors")
        with pytest.raises(UserError, match=message):
            Embedder.load(tmp_path / "a")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has a Dense layer without 2_Dense/config\.json: copy the whole folder again"):
        Embedder.load(tmp_path / "a")


@pytest.mark.parametrize("kept", ["dot", "euclidean", None])
def test_saving_again_keeps_the_similarity_function(kept: Any, transformer: Any, tmp_path: Path):
    ours, _ = ours_and_theirs([transformer(), Pooling(32)], tmp_path / "theirs", similarity_fn_name=kept)
    for similarity, expected in ((None, kept or "cosine"), ("cosine", "cosine")):
        folder = tmp_path / str(similarity)
        folder.mkdir()
        ours.save(folder, record={"kind": "encoder"}, card="# test\n", similarity=similarity)
        assert SentenceTransformer(str(folder), device="cpu").similarity_fn_name == expected


def test_damaged_prompts_are_refused(prompted: tuple[Embedder, SentenceTransformer], tmp_path: Path):
    file = tmp_path / "theirs" / "config_sentence_transformers.json"
    whole = json.loads(file.read_text())
    for changes, message in (
        ({"prompts": ["query"]}, "damaged config_sentence_transformers.json"),
        ({"prompts": {"query": 3}}, "damaged config_sentence_transformers.json"),
        ({"default_prompt_name": "title"}, "has the default prompt 'title', which is not among its prompts"),
    ):
        file.write_text(json.dumps(whole | changes))
        with pytest.raises(UserError, match=message):
            Embedder.load(tmp_path / "theirs")
