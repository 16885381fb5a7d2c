import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tain.foundation.errors import UserError
from tain.models import saved
from tain.models.embedder import Embedder
from tain.models.kinds import kind_of
from tain.models.saved import FORMAT, locate, read_layout, refuse_pickles, write_layout

Save = Callable[..., Path]

LONG = "the sea is deep and the stars are far away, " * 6  # longer than every limit here


def encoder_of(folder: Path, **settings: Any) -> Embedder:
    return Embedder.load(folder, device="cpu", dtype="float32", **settings)


def write(embedder: Embedder, folder: Path) -> Path:
    folder.mkdir()
    embedder.save(folder, record={"kind": "encoder", "seed": 13}, card="# A model\n")
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def copied(bert_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert_folder, tmp_path / "copied"))


@pytest.fixture
def encoder_folder(bert_folder: Path, tmp_path: Path) -> Path:
    return write(encoder_of(bert_folder, pooling="cls", max_tokens=16), tmp_path / "encoder")


# ---- there and back


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta", "albert", "distilbert", "mpnet"])
def test_save_then_load_gives_equal_bits(architecture: str, pooling: Any, save_masked_lm: Save, sentences: list[str], tmp_path: Path):
    before = encoder_of(save_masked_lm(architecture), pooling=pooling, max_tokens=20)
    after = encoder_of(write(before, tmp_path / "encoder"))
    texts = [*sentences, LONG, ""]
    assert np.array_equal(after.encode(texts), before.encode(texts))
    assert (after.pooling, after.max_tokens, after.layout) == (pooling, 20, before.layout)
    assert after.truncated == before.truncated > 0


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta", "albert", "distilbert", "electra", "mpnet"])
def test_sentence_transformers_gives_the_same_vectors(
    architecture: str, pooling: Any, save_masked_lm: Save, sentences: list[str], tmp_path: Path
):
    from sentence_transformers import SentenceTransformer

    ours = encoder_of(save_masked_lm(architecture), pooling=pooling, max_tokens=20)
    theirs = SentenceTransformer(str(write(ours, tmp_path / "encoder")), device="cpu")
    texts = [*sentences, LONG, "Ein Wort", ""]
    np.testing.assert_allclose(theirs.encode(texts), ours.encode(texts), atol=1e-5)
    assert theirs.max_seq_length == 20
    assert theirs.similarity_fn_name == "cosine"


def test_normalising_is_kept_here_and_in_sentence_transformers(bert_folder: Path, sentences: list[str], tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    ours = encoder_of(bert_folder)
    ours.normalize = True
    folder = write(ours, tmp_path / "encoder")
    theirs = SentenceTransformer(str(folder), device="cpu").encode(sentences)
    np.testing.assert_allclose(np.linalg.norm(theirs, axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(encoder_of(folder).encode(sentences), theirs, atol=1e-5)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_what_sentence_transformers_saves_loads_here(pooling: Any, bert_folder: Path, sentences: list[str], tmp_path: Path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(bert_folder), max_seq_length=14)
    theirs = SentenceTransformer(modules=[transformer, Pooling(32, pooling_mode=pooling), Normalize()], device="cpu")
    theirs.save(str(tmp_path / "theirs"))
    ours = encoder_of(tmp_path / "theirs")
    assert (ours.pooling, ours.normalize, ours.max_tokens) == (pooling, True, 14)
    texts = [*sentences, LONG]
    np.testing.assert_allclose(ours.encode(texts), theirs.encode(texts), atol=1e-5)


def test_an_encoder_run_in_bfloat16_is_saved_in_float32_and_goes_on_in_bfloat16(bert_folder: Path, sentences: list[str], tmp_path: Path):
    from safetensors import safe_open

    embedder = Embedder.load(bert_folder, device="cpu", dtype="bfloat16")
    before = embedder.encode(sentences)
    folder = write(embedder, tmp_path / "encoder")
    with safe_open(folder / "model.safetensors", framework="pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float32}  # noqa: SIM118 - no mapping
    assert next(embedder.encoder.parameters()).dtype == torch.bfloat16
    assert np.array_equal(embedder.encode(sentences), before)
    assert np.array_equal(Embedder.load(folder, device="cpu", dtype="bfloat16").encode(sentences), before)


# ---- what lies in the folder


def test_the_folder_has_the_old_key_layout_and_nothing_of_ours_in_the_models_config(encoder_folder: Path):
    def read(name: str) -> Any:
        return json.loads((encoder_folder / name).read_text())

    assert [(module["path"], module["type"]) for module in read("modules.json")] == [
        ("", "sentence_transformers.models.Transformer"),
        ("1_Pooling", "sentence_transformers.models.Pooling"),
    ]
    assert read("1_Pooling/config.json") == {
        "word_embedding_dimension": 32,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "include_prompt": True,
    }
    assert read("sentence_bert_config.json") == {"max_seq_length": 16, "do_lower_case": False}
    assert "tain" not in (encoder_folder / "config.json").read_text()
    record = read("tain.json")
    assert (record["format"], record["kind"], record["seed"]) == (FORMAT, "encoder", 13)
    assert {"python", "torch", "transformers"} <= set(record["versions"])
    assert (encoder_folder / "README.md").read_text() == "# A model\n"
    assert not [path.name for path in encoder_folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".pickle")]


def test_what_was_written_is_what_is_read(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    write_layout(tmp_path, pooling="mean", dim=8, max_tokens=9, normalize=True, record={"kind": "encoder"}, card="")
    layout = read_layout(tmp_path)
    assert (layout.pooling, layout.max_tokens, layout.normalize, layout.record["kind"]) == ("mean", 9, True, "encoder")


def test_a_bare_masked_lm_says_nothing_about_pooling(bert_folder: Path):
    layout = read_layout(bert_folder)
    assert (layout.path, layout.pooling, layout.max_tokens, layout.normalize, layout.record) == (str(bert_folder), None, None, False, {})


def test_an_encoder_below_its_folder_is_found(encoder_folder: Path):
    below = encoder_folder / "0_Transformer"
    below.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"):
        (encoder_folder / name).rename(below / name)
    modules = json.loads((encoder_folder / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (encoder_folder / "modules.json").write_text(json.dumps(modules))
    layout = read_layout(encoder_folder)
    assert (layout.path, layout.max_tokens) == (str(below), 16)
    assert encoder_of(encoder_folder).encode(["glass"]).shape == (1, 32)


# ---- refusals


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt"])
def test_pickled_weights_are_refused_with_the_reason(name: str, copied: Path):
    (copied / "model.safetensors").rename(copied / name)
    with pytest.raises(UserError, match=rf"weights in {name}, a pickle, which can run any code when loaded: convert it"):
        Embedder.load(copied)


def test_a_pickle_beside_safetensors_is_never_opened(copied: Path):
    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return pytest.fail, ("unpickled",)

    torch.save(Bomb(), copied / "pytorch_model.bin")
    refuse_pickles(str(copied))
    assert encoder_of(copied).encode(["glass"]).shape == (1, 32)


def test_missing_weights_are_named(copied: Path):
    (copied / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"has no weights: model.safetensors is missing"):
        Embedder.load(copied)


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "../nowhere", "a/b/c"])
def test_a_path_to_nothing_is_refused(name: str):
    with pytest.raises(UserError, match=rf"model '{name}' does not exist: give a model folder, a hub name, or tain-mini"):
        Embedder.load(name)


def test_a_hub_name_out_of_reach_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"model 'no-such-owner/no-such-model' cannot be loaded") as refused:
        Embedder.load("no-such-owner/no-such-model")
    assert "\n" not in str(refused.value)


def test_a_file_is_refused(tmp_path: Path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match=r"is a file: give the folder that holds config.json and model.safetensors"):
        locate(tmp_path / "model.safetensors")


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"has no config.json: give a folder written by transformers, sentence-transformers or tain"):
        locate(tmp_path)


def test_the_built_in_model_is_found_by_its_name_or_its_absence_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(saved.BUILT_IN, "tain-mini", "no_such_folder")
    with pytest.raises(UserError, match="the built-in model 'tain-mini' is not in this installation"):
        locate("tain-mini")


@pytest.mark.parametrize("content", ["not json", "", "\xff"])
def test_a_broken_json_file_is_named(content: str, encoder_folder: Path):
    (encoder_folder / "modules.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"model file '.*modules.json' is not JSON .*: save the model again"):
        read_layout(encoder_folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_broken_file_of_transformers_is_refused(name: str, copied: Path):
    (copied / name).write_text("{")
    with pytest.raises(UserError, match="cannot be loaded" if name == "tokenizer.json" else "is not JSON"):
        Embedder.load(copied)


def test_cut_off_weights_are_refused(copied: Path):
    weights = (copied / "model.safetensors").read_bytes()
    (copied / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        Embedder.load(copied)


def test_weights_of_another_shape_are_refused(copied: Path):
    edit(copied / "config.json", hidden_size=64)
    with pytest.raises(UserError, match="cannot be loaded"):
        Embedder.load(copied)


def test_weights_of_another_model_are_refused_and_not_drawn_at_random(copied: Path):
    edit(copied / "config.json", num_hidden_layers=3)
    with pytest.raises(UserError, match=r"lacks weights of its encoder \(16 of them, such as encoder.layer.2"):
        Embedder.load(copied)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config_sentence_transformers.json", "[]"),
        ("tain.json", "[]"),
        ("tain.json", '{"format": "x"}'),
        ("modules.json", '[{"idx": 0}]'),
        ("modules.json", "3"),
    ],
)
def test_json_that_says_something_else_is_refused(encoder_folder: Path, file: str, content: str):
    (encoder_folder / file).write_text(content)
    with pytest.raises(UserError, match=rf"has a damaged {file}: save the model again"):
        Embedder.load(encoder_folder)


def test_a_folder_of_a_later_format_is_refused(encoder_folder: Path):
    edit(encoder_folder / "tain.json", format=FORMAT + 1)
    with pytest.raises(UserError, match=r"was saved in format 2, newer than this tain reads \(1\): upgrade tain"):
        Embedder.load(encoder_folder)


def test_a_layer_that_tain_does_not_run_is_refused(encoder_folder: Path):
    modules = json.loads((encoder_folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_LSTM", "type": "sentence_transformers.models.LSTM"})
    (encoder_folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match="has a LSTM layer after its encoder, which tain does not support"):
        Embedder.load(encoder_folder)


@pytest.mark.parametrize("config", [{"pooling_mode": "attention"}, {"pooling_mode_attention": True}, {"pooling_mode": ["mean", 3]}])
def test_a_pooling_that_tain_does_not_run_is_refused(config: dict[str, Any], encoder_folder: Path):
    edit(encoder_folder / "1_Pooling" / "config.json", **config)
    with pytest.raises(UserError, match=r"which tain does not support: give one of cls, max, mean"):
        Embedder.load(encoder_folder)


def test_a_hub_name_is_read_as_its_folder_would_be(encoder_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Pooling and limits of a hub model are in files beside its weights: without them a cls model would silently be averaged."""

    def from_cache(name: str, file: str, **_: object) -> str | None:
        assert name == "somebody/encoder"
        return str(encoder_folder / file) if (encoder_folder / file).exists() else None

    monkeypatch.setattr("transformers.utils.hub.cached_file", from_cache)
    edit(encoder_folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    edit(encoder_folder / "sentence_bert_config.json", max_seq_length=17)
    found = read_layout("somebody/encoder")
    assert (found.path, found.pooling, found.max_tokens) == ("somebody/encoder", "cls", 17)


# ---- token weights


def weighted(folder: Path) -> Embedder:
    embedder = encoder_of(folder, pooling="mean")
    rows = embedder.encoder.model.config.vocab_size
    embedder.encoder.token_weights = torch.rand(rows, generator=torch.Generator().manual_seed(1)) + 0.01
    return embedder


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "roberta", "mpnet"])
def test_token_weights_are_saved_as_sentence_transformers_runs_them(
    architecture: str, save_masked_lm: Save, sentences: list[str], tmp_path: Path
):
    from sentence_transformers import SentenceTransformer

    before = weighted(save_masked_lm(architecture))
    folder = write(before, tmp_path / "encoder")
    after = encoder_of(folder)
    np.testing.assert_allclose(after.encode(sentences), before.encode(sentences), atol=1e-6)
    np.testing.assert_allclose(SentenceTransformer(str(folder), device="cpu").encode(sentences), before.encode(sentences), atol=1e-5)
    assert encoder_of(folder).fingerprint() == after.fingerprint() != encoder_of(save_masked_lm(architecture)).fingerprint()


def test_token_weights_that_cannot_be_right_are_refused(bert_folder: Path, tmp_path: Path):
    folder = write(weighted(bert_folder), tmp_path / "encoder")
    with pytest.raises(UserError, match="has token weights and pools by mean: remove it"):
        encoder_of(folder, pooling="cls")
    config = folder / "1_WordWeights" / "config.json"
    whole = json.loads(config.read_text())
    for changes, message in [
        ({"vocab": whole["vocab"][:5]}, "has weights for 5 tokens, but its vocabulary has"),
        ({"word_weights": None}, "token weights without vocab and word_weights"),
        ({"word_weights": {"the": "a"}}, "token weights that are not numbers"),
        ({"unknown_word_weight": -1, "word_weights": {}}, "token weights below 0, or not finite"),
    ]:
        config.write_text(json.dumps(whole | changes))
        with pytest.raises(UserError, match=message):
            encoder_of(folder)


# ---- what other tools wrote stays


PROMPTS = {"query": "query: ", "passage": "passage: "}


def with_prompts(folder: Path) -> None:
    """Make a saved encoder one with prompts, as e5 and its kin have them, and with entries that tain does not know."""
    edit(folder / "config_sentence_transformers.json", prompts=PROMPTS, default_prompt_name=None, of_tomorrow=[1, 2])
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)


def assert_prompts_are_kept(folder: Path) -> None:
    content = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert (content["prompts"], content["default_prompt_name"], content["of_tomorrow"]) == (PROMPTS, None, [1, 2])
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["include_prompt"] is False


def test_prompts_are_kept_when_an_encoder_is_saved_again(encoder_folder: Path, tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    with_prompts(encoder_folder)
    (tmp_path / "again").mkdir()
    Embedder.load(encoder_folder, device="cpu", dtype="float32").save(tmp_path / "again", record={}, card="a card")
    assert_prompts_are_kept(tmp_path / "again")
    assert SentenceTransformer(str(tmp_path / "again"), device="cpu").prompts["query"] == "query: "


def test_mirroring_and_correcting_keep_prompts(encoder_folder: Path, sentences: list[str], tmp_path: Path):
    import tain

    with_prompts(encoder_folder)
    edit(encoder_folder / "config_sentence_transformers.json", similarity_fn_name="dot")
    tain.mirror(encoder_folder, sentences, tmp_path / "mirrored", batch_texts=6, epochs=1, held_out=0, max_tokens=16, device="cpu")
    tain.correct(encoder_folder, sentences, tmp_path / "corrected", method="remove-top", device="cpu")
    assert_prompts_are_kept(tmp_path / "mirrored")
    assert_prompts_are_kept(tmp_path / "corrected")
    assert json.loads((tmp_path / "corrected" / "config_sentence_transformers.json").read_text())["similarity_fn_name"] == "dot"
    # trained by cosines
    assert json.loads((tmp_path / "mirrored" / "config_sentence_transformers.json").read_text())["similarity_fn_name"] == "cosine"


def test_rankers_keep_prompts_in_both_towers(encoder_folder: Path, tmp_path: Path, generator: torch.Generator):
    from tain.models.rankers import DualRanker

    with_prompts(encoder_folder)
    embedder = Embedder.load(encoder_folder, device="cpu", dtype="float32")
    settings = {"kind": "pooled", "codes": 1, "scale": 0.3, "is_scale_learned": True, "context_tokens": 20, "candidate_tokens": 12}
    for is_shared, towers in ((True, ("",)), (False, ("context", "candidate"))):
        folder = tmp_path / str(is_shared)
        folder.mkdir()
        DualRanker.start(embedder, **settings, is_shared=is_shared, generator=generator).save(folder, record={}, card="a card")
        assert json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"] == PROMPTS
        for tower in towers:
            assert_prompts_are_kept(folder / tower)


# ---- damaged folders, and folders that somebody else made


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("tain.json", {"format": -3}),
        ("tain.json", {"format": None}),
        ("tain.json", {"correction": []}),
        ("tain.json", {"ranker": "bi"}),
        ("tain.json", {"kind": 3}),
        ("sentence_bert_config.json", {"max_seq_length": -1}),
        ("sentence_bert_config.json", {"max_seq_length": "40"}),
        ("sentence_bert_config.json", {"max_seq_length": [40]}),
    ],
)
def test_a_field_of_another_kind_is_named_in_one_line(encoder_folder: Path, file: str, change: dict[str, object]):
    edit(encoder_folder / file, **change)
    name = next(iter(change))
    with pytest.raises(UserError, match=rf"has a damaged {file}: save the model again \({name} is "):
        Embedder.load(encoder_folder)


@pytest.mark.parametrize("file", ["sentence_bert_config.json", "tokenizer_config.json", "1_Pooling/config.json"])
def test_a_list_where_an_object_belongs_is_refused(encoder_folder: Path, file: str):
    if file == "tokenizer_config.json":
        edit(encoder_folder / "sentence_bert_config.json", do_lower_case=True)
    (encoder_folder / file).write_text("[1]")
    with pytest.raises(UserError, match=rf"has a damaged {file}: save the model again \(it is \[1\], not an object"):
        Embedder.load(encoder_folder)


@pytest.mark.parametrize("path", ["../other", "/etc", "1_Pooling/../../other", "..\\\\other", "C:/other", "outside"])
def test_a_module_outside_of_the_folder_is_refused(encoder_folder: Path, path: str, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (encoder_folder / "outside").symlink_to(tmp_path / "elsewhere")
    modules = json.loads((encoder_folder / "modules.json").read_text())
    modules[1]["path"] = path
    (encoder_folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"names the folder .* in modules\.json, which is outside the model folder: save the model again"):
        Embedder.load(encoder_folder)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 0},
        {"num_attention_heads": "four"},
        {"hidden_size": -32},
        {"hidden_size": None},
        {"num_hidden_layers": "two"},
        {"vocab_size": 0},
        {"vocab_size": -1},
        {"max_position_embeddings": [40]},
        {"hidden_act": 3},
        {"hidden_act": "no such"},
        {"layer_norm_eps": "small"},
        {"intermediate_size": 0},
    ],
    ids=str,
)
def test_a_config_with_values_that_cannot_work_is_refused_in_one_line(encoder_folder: Path, change: dict[str, object]):
    edit(encoder_folder / "config.json", **change)
    with pytest.raises(UserError) as caught:
        Embedder.load(encoder_folder, device="cpu", dtype="float32").encode(["a mirror"])
    assert "\n" not in str(caught.value)


def test_a_module_that_is_not_of_sentence_transformers_is_refused(encoder_folder):
    modules = json.loads((encoder_folder / "modules.json").read_text())
    modules[0]["type"] = "custom_st.Transformer"
    (encoder_folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(UserError, match=r"has the module custom_st\.Transformer, which is not part of sentence-transformers"):
        read_layout(encoder_folder)


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"word_embedding_dimension": 16, "pooling_mode_cls_token": 1, "pooling_mode_mean_tokens": 0}, "cls"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
)
def test_old_pooling_configs_are_read_as_sentence_transformers_reads_them(encoder_folder, config, pooling):
    (encoder_folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert read_layout(encoder_folder).pooling == pooling


def test_a_module_in_the_folder_itself_is_read_there(encoder_folder):
    modules = json.loads((encoder_folder / "modules.json").read_text())
    weights = encoder_folder / "0_Transformer"
    weights.mkdir()
    for file in [path for path in encoder_folder.iterdir() if path.is_file() and path.name != "modules.json"]:
        file.rename(weights / file.name)
    (encoder_folder / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, "pooling_mode_cls_token": True}))
    modules[0]["path"], modules[1]["path"] = "0_Transformer", ""
    (encoder_folder / "modules.json").write_text(json.dumps(modules[:2]))
    assert read_layout(encoder_folder).pooling == "cls"


@pytest.mark.parametrize("change", [{"architectures": 5}, {"architectures": ["BertForSequenceClassification"], "num_labels": "abc"}])
def test_a_config_with_wrong_kinds_is_refused(encoder_folder, change):
    edit(encoder_folder / "config.json", **change)
    with pytest.raises(UserError, match=r"damaged config\.json"):
        kind_of(str(encoder_folder))


def test_a_default_prompt_that_is_no_text_is_refused(encoder_folder):
    edit(encoder_folder / "config_sentence_transformers.json", default_prompt_name=["a"])
    with pytest.raises(UserError, match=r"damaged config_sentence_transformers\.json"):
        read_layout(encoder_folder)
