"""What a model's folder can be: refused in one line where it cannot work, before anything is computed with it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from tain.batches.packing import pack
from tain.encoders.transformer import TransformerEncoder
from tain.foundation.errors import NotFiniteError, UserError
from tain.models.embedder import Embedder
from tain.models.kinds import kind_of
from tain.models.labeller import Labeller
from tain.models.loading import load_pretrained, load_tokenizer, max_length, refuse_by_config
from tain.models.masked_lm import load_masked_lm
from tain.models.rankers import Ranker
from tiny_models import randomise, tiny_config

Save = Callable[..., Path]


@pytest.fixture
def copied(bert_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_folder, tmp_path / "copy"))


def embed(folder: Path) -> Embedder:
    return Embedder.load(folder, device="cpu", dtype="float32")


LOADERS = [embed, load_masked_lm, lambda folder: Ranker.load(folder, device="cpu")]


# ---- tokenizers


@pytest.mark.parametrize("load", LOADERS)
def test_a_folder_without_a_tokenizer_is_refused_and_the_files_named(load: Callable[[Path], Any], copied: Path):
    for file in copied.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no tokenizer: tokenizer.json, or vocab.txt, is missing; copy the tokenizer's files"):
        load(copied)


def test_a_classifier_without_a_tokenizer_is_refused(save_labeller: Save):
    folder = save_labeller("SequenceClassification", ["no", "yes"])
    for file in folder.glob("*token*"):
        file.unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        Labeller.load(folder)


def test_a_tokenizer_of_special_tokens_alone_is_refused(copied: Path, tiny_tokenizer: Callable[..., Any]):
    content = json.loads((copied / "tokenizer.json").read_text())
    content["model"]["vocab"] = {token: index for token, index in content["model"]["vocab"].items() if index < 5}
    (copied / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="tokenizer with nothing but 5 special tokens"):
        embed(copied)


@pytest.mark.parametrize("load", LOADERS)
def test_a_tokenizer_that_is_larger_than_the_model_is_refused(load: Callable[[Path], Any], copied: Path):
    tokenizer = transformers.AutoTokenizer.from_pretrained(copied)
    tokenizer.add_tokens(["mirror-bert"])
    tokenizer.save_pretrained(copied)
    with pytest.raises(UserError, match="has vectors for 120 tokens, but its tokenizer has 121: give a folder whose model and tokenizer"):
        load(copied)


def test_a_tokenizer_with_code_is_refused_without_a_question_and_runs_with_the_flag(
    tiny_tokenizer: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")  # what transformers asks with
    folder = tmp_path / "tokenizer_with_code"
    tiny_tokenizer().save_pretrained(folder)
    code = "from transformers import PreTrainedTokenizerFast\n\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    is_own = True\n"
    (folder / "tokenization_own.py").write_text(code)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="contains its own Python code: review it, then give --trust-remote-code"):
        load_tokenizer(folder)
    assert asked == []
    assert not (tmp_path / "modules").exists()
    loaded = load_tokenizer(folder, trust_remote_code=True)
    assert loaded.is_own
    assert loaded("a red house")["input_ids"] == tiny_tokenizer()("a red house")["input_ids"]


def test_a_larger_table_than_the_tokenizer_needs_is_fine(save_masked_lm: Save):
    assert embed(save_masked_lm("bert", vocab_size=128)).encode(["a text"]).any()


@pytest.mark.parametrize("token", ["mask_token", "sep_token", "pad_token"])
def test_a_special_token_outside_the_vocabulary_is_refused(token: str, bert_folder: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    monkeypatch.setitem(tokenizer._special_tokens_map, token, "<elsewhere>")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: tokenizer)
    with pytest.raises(UserError, match=f"has a tokenizer whose {token}, '<elsewhere>', is not in its vocabulary"):
        embed(bert_folder)


# ---- weights


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("load", LOADERS)
def test_weights_that_are_not_finite_are_refused_by_name(load: Callable[[Path], Any], number: float, copied: Path):
    weights = load_file(copied / "model.safetensors")
    name = "bert.encoder.layer.1.output.dense.weight"
    weights[name][3, 4] = number
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has weights that are not finite \(1 of 1,536 numbers in .*layer.1.output.dense.weight\)"):
        load(copied)


def test_numbers_that_overflow_on_the_way_are_told_apart_from_bad_requests(copied: Path):
    weights = load_file(copied / "model.safetensors")
    weights["bert.encoder.layer.1.output.LayerNorm.weight"].fill_(3e38)
    weights["bert.encoder.layer.1.output.LayerNorm.bias"].fill_(3e38)
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NotFiniteError, match="gave numbers that are not finite for 2 of 2 texts"):
        embed(copied).encode(["a text", "another"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_of_any_number_type_load_in_float32(dtype: torch.dtype, copied: Path, sentences: list[str]):
    weights = {name: tensor.to(dtype) for name, tensor in load_file(copied / "model.safetensors").items()}
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    model, _ = load_pretrained("AutoModel", str(copied))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        model.embeddings.word_embeddings.weight.detach(), weights["bert.embeddings.word_embeddings.weight"].float(), atol=0, rtol=0
    )
    assert np.isfinite(embed(copied).encode(sentences)).all()


# ---- kinds of models


def save(model: Any, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def t5(class_name: str) -> Any:
    sizes = {"vocab_size": 120, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
    return randomise(getattr(transformers, class_name)(transformers.T5Config(**sizes)))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: t5("T5ForConditionalGeneration"), "is of the type t5, an encoder-decoder"),
        (lambda: t5("T5Model"), "is of the type t5, an encoder-decoder"),
        (
            lambda: transformers.GPT2LMHeadModel(
                transformers.GPT2Config(vocab_size=120, n_embd=32, n_layer=2, n_head=4, bos_token_id=2, eos_token_id=3)
            ),
            "GPT2Model is a decoder|is of the type gpt2, for which transformers has no MaskedLM class",
        ),
        (lambda: transformers.BertLMHeadModel(tiny_config("bert", is_decoder=True)), "BertModel is a decoder"),
        (
            lambda: transformers.CLIPModel(
                transformers.CLIPConfig(
                    text_config={"vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4},
                    vision_config={"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "image_size": 32, "patch_size": 16},
                )
            ),
            "is of the type clip, which has no single vocabulary",
        ),
    ],
    ids=["t5 with a head", "t5", "gpt2", "bert as decoder", "clip"],
)
def test_what_is_no_encoder_is_refused_in_one_line(
    build: Callable[[], Any], reason: str, load: Callable[[Path], Any], tiny_tokenizer: Callable[..., Any], tmp_path: Path
):
    with pytest.raises(UserError, match=reason) as refused:
        load(save(build(), tiny_tokenizer(), tmp_path))
    assert "\n" not in str(refused.value)
    assert "give an encoder such as BERT" in str(refused.value)


def test_the_encoder_of_t5_alone_is_an_encoder_and_no_masked_lm(tiny_tokenizer: Callable[..., Any], sentences: list[str], tmp_path: Path):
    folder = save(t5("T5EncoderModel"), tiny_tokenizer(), tmp_path / "t5")
    embedder = embed(folder)
    together = embedder.encode(sentences)
    np.testing.assert_allclose(np.concatenate([embedder.encode([text]) for text in sentences]), together, atol=1e-5)
    (tmp_path / "again").mkdir()
    embedder.save(tmp_path / "again", record={}, card="a card")
    np.testing.assert_array_equal(embed(tmp_path / "again").encode(sentences), together)
    with pytest.raises(UserError, match="is of the type t5, for which transformers has no MaskedLM class"):
        load_masked_lm(folder)


def test_a_position_limit_below_zero_is_none(tiny_tokenizer: Callable[..., Any], sentences: list[str], tmp_path: Path):
    config = transformers.XLNetConfig(vocab_size=120, d_model=32, n_layer=2, n_head=4, d_inner=48, pad_token_id=0)
    assert config.max_position_embeddings == -1
    model = randomise(transformers.XLNetModel(config))
    assert max_length(model, tiny_tokenizer(model_max_length=40)) == 40
    embedder = embed(save(model, tiny_tokenizer(), tmp_path))
    together = embedder.encode(sentences)
    np.testing.assert_allclose(np.concatenate([embedder.encode([text]) for text in sentences]), together, atol=1e-4)


def test_a_sentence_transformers_folder_is_an_encoder_whatever_class_its_weights_had(
    save_labeller: Save, sentences: list[str], tmp_path: Path
):
    embedder = Embedder.load(save_labeller("SequenceClassification", ["no", "yes"]), pooling="mean", device="cpu", dtype="float32")
    embedder.save(tmp_path, record={}, card="a card")
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["BertForSequenceClassification"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert kind_of(str(tmp_path)).head == "none"
    np.testing.assert_array_equal(embed(tmp_path).encode(sentences), embedder.encode(sentences))


@pytest.mark.parametrize("with_mask_id_in_config", [True, False])
def test_a_model_that_counts_mask_tokens_of_a_row_gives_each_text_its_own_vector(
    with_mask_id_in_config: bool, tiny_encoder: Callable[..., Any]
):
    model = tiny_encoder("esm", token_dropout=True, mask_token_id=4)
    if not with_mask_id_in_config:
        del model.config.mask_token_id
    encoder = TransformerEncoder(model, mask_id=4)
    texts = [[2, 4, 11, 4, 3], [2, 12, 13, 14, 15, 16, 3], [2, 17, 4, 18, 19, 3]]
    with torch.no_grad():
        together = encoder(pack(texts))
        for text, found in zip(texts, together, strict=True):
            plain = model(input_ids=torch.tensor([text]), attention_mask=torch.ones(1, len(text))).last_hidden_state.mean(1)[0]
            torch.testing.assert_close(found, plain, atol=1e-5, rtol=1e-4)


# ---- every class that transformers registers

_SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "emb_dim", "dim", "embedding_size", "attention_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "hidden_dim", "ffn_dim"), 48),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "seq_length"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "q_lora_rank", "kv_lora_rank"), 16),
    "vocab_size": 120,
    "entity_vocab_size": 8,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "cls_token_id": 2,
    "sep_token_id": 3,
}
_OWN_SIZES: dict[str, dict[str, Any]] = {
    "XLNetConfig": {"vocab_size": 120, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    "FunnelConfig": {"vocab_size": 120, "block_sizes": [1, 1], "d_model": 32, "n_head": 4, "d_head": 8, "d_inner": 48},
    "ReformerConfig": {"vocab_size": 120, "hidden_size": 32, "num_attention_heads": 2, "attention_head_size": 16, "axial_pos_embds": False},
    "DistilBertConfig": {"vocab_size": 120, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48},
    "RoCBertConfig": {"pronunciation_vocab_size": 20, "shape_vocab_size": 20},
}
_MOST_NUMBERS = 2_000_000  # of a tiny model
_ENCODERS = {  # what must work, so that a refusal of everything does not pass
    *(
        "Albert",
        "Bert",
        "BertGeneration",
        "BigBird",
        "Camembert",
        "ConvBert",
        "Data2VecText",
        "Deberta",
        "DebertaV2",
        "DistilBert",
        "Electra",
    ),
    *(
        "Ernie",
        "Esm",
        "EuroBert",
        "Flaubert",
        "FNet",
        "IBert",
        "Longformer",
        "MegatronBert",
        "MobileBert",
        "ModernBert",
        "MPNet",
        "NomicBert",
    ),
    *(
        "Nystromformer",
        "RemBert",
        "Roberta",
        "RobertaPreLayerNorm",
        "RoFormer",
        "SqueezeBert",
        "XLM",
        "XLMRoberta",
        "XLMRobertaXL",
        "XLNet",
    ),
}


def tiny(config_class: Any) -> Any:
    """A small model of a registered class; None where its config makes none."""
    name = config_class.__name__
    try:
        plain = config_class()
        known = vars(plain).keys() | set(getattr(plain, "attribute_map", ()))
        sizes = {} if name in ("XLNetConfig", "FunnelConfig", "ReformerConfig", "DistilBertConfig") else _SIZES
        config = config_class(**{key: value for key, value in sizes.items() if key in known} | _OWN_SIZES.get(name, {}))
        refuse_by_config("tiny", config, transformers.AutoModel)
        with torch.device("meta"):
            numbers = sum(parameter.numel() for parameter in transformers.AutoModel.from_config(config).parameters())
        return transformers.AutoModel.from_config(config).eval() if numbers <= _MOST_NUMBERS else None
    except UserError:
        raise
    except Exception:  # a config wants more than sizes; what it is told in the message is of no use here
        return None


def test_every_registered_class_works_or_is_refused_in_one_line():
    """Text encoders give a text the same vector alone and beside others; all else is refused with a reason."""
    works, differ, refused, not_built = set(), set(), {}, set()
    texts = [[2, 11, 3], [2, 5, 6, 7, 8, 9, 3], [2, 4, 3], [2, 30, 31, 32, 33, 3]]
    for config_class in list(MODEL_MAPPING.keys()):
        name = config_class.__name__.removesuffix("Config")
        try:
            model = tiny(config_class)
            if model is None:
                not_built.add(name)
                continue
            torch.manual_seed(1)
            encoder = TransformerEncoder(randomise(model))
            with torch.no_grad():
                together = encoder(pack(texts))
                alone = torch.cat([encoder(pack([text])) for text in texts])
            (works if torch.allclose(together, alone, atol=1e-4, rtol=1e-4) else differ).add(name)
        except UserError as error:
            refused[name] = str(error)
    assert not differ, "these give a text another vector beside others"
    registered = {config_class.__name__.removesuffix("Config") for config_class in MODEL_MAPPING}  # older versions have fewer
    assert len(_ENCODERS & registered) > 0.9 * len(_ENCODERS)
    assert not ((_ENCODERS & registered) - works), "these encoders do not work"
    assert not any("\n" in message for message in refused.values())
    assert {name for name in refused if "encoder-decoder" in refused[name]} >= {"T5", "Bart", "Pegasus"}
    assert {name for name in refused if "is a decoder" in refused[name]} >= {"GPT2", "Llama", "Mistral"}
    assert {name for name in refused if "not texts" in refused[name]} >= {"Wav2Vec2"}
    assert len(works) + len(refused) > 3 * len(not_built)
