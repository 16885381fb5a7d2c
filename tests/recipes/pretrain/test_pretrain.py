"""Pretraining end to end on a few sentences: it learns, resumes exactly, continues foreign models, and refuses what cannot work."""

import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tain.batches.ahead import Ahead
from tain.encoders import transformer
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.recipes.pretrain import objectives as pretrain_objectives
from tain.recipes.pretrain import trainer as pretrain_trainer
from tain.recipes.pretrain.config import NEW_MODEL, PretrainConfig
from tain.recipes.pretrain.preparing import Preparation
from tain.recipes.pretrain.recipe import pretrain
from tain.recipes.pretrain.start import SPECIAL_TOKENS, alphabet_of, train_wordpiece

TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "heads": 2,
    "intermediate_size": 48,
    "layers": 2,
    "block_tokens": 16,
    "batch_blocks": 8,
    "warmup_steps": 2,
}
TINY |= {"dtype": "float32", "device": "cpu", "tokens": 16.0 * 8 * 12}


@pytest.fixture(scope="module")
def corpus(sentences, tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "texts.txt"
    rng = np.random.default_rng(0)
    path.write_text("\n".join(sentences[index] for index in rng.integers(0, len(sentences), size=600)), encoding="utf-8")
    return path


@pytest.mark.parametrize("architecture", ["modernbert", "bert"])
def test_a_new_model_learns_and_loads_as_a_masked_lm_and_as_an_encoder(corpus, tmp_path, architecture):
    result = pretrain(
        "scratch",
        [corpus],
        tmp_path / "model",
        **{**TINY, "tokens": 16.0 * 8 * 60},
        architecture=architecture,
        validation=(corpus,),
        validate_every_tokens=16.0 * 8 * 30,
    )
    assert result.finished
    assert result.steps == 60
    assert [tokens for tokens, _ in result.validation] == [30 * 128, 60 * 128]
    assert result.validation[-1][1] < result.losses[0] - 0.1
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for name, parameter in result.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], parameter), name
    assert tokenizer("glass")["input_ids"][0] == tokenizer.cls_token_id
    assert Embedder.load(tmp_path / "model", dtype="float32").encode(["a red house"]).shape == (1, 32)
    record = json.loads((tmp_path / "model" / "tain.json").read_text())
    assert record["kind"] == "masked language model"
    assert record["tokens"] == 60 * 128


def test_a_model_that_cannot_compute_in_bfloat16_is_trained_in_float32(corpus, tmp_path, tiny_masked_lm, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(transformer, "fastest_dtype", lambda device_type: torch.bfloat16)
    tiny_masked_lm("fnet").save_pretrained(tmp_path / "fnet")
    tiny_tokenizer().save_pretrained(tmp_path / "fnet")
    settings: dict[str, Any] = {"optimizer": "adamw", "block_tokens": 16, "batch_blocks": 8, "tokens": 16.0 * 8 * 3, "device": "cpu"}
    assert np.isfinite(pretrain(tmp_path / "fnet", [corpus], tmp_path / "model", **settings).losses).all()
    with pytest.raises(UserError, match=r"dtype is 'bfloat16', which FNetForMaskedLM does not support: give float32 or auto"):
        pretrain(tmp_path / "fnet", [corpus], tmp_path / "other", **settings, dtype="bfloat16")
    assert not (tmp_path / "other").exists()


def test_an_interrupted_run_resumes_bit_for_bit(corpus, tmp_path):
    pretrain("scratch", [corpus], tmp_path / "whole", **TINY)
    # training a tokenizer breaks ties between equally frequent pieces at random, so both runs take the first one's
    settings = {**TINY, "decay_share": 0.0, "tokenizer": str(tmp_path / "whole")}
    whole = pretrain("scratch", [corpus], tmp_path / "again", **settings)
    longer = {**settings, "tokens": 16.0 * 8 * 100, "minutes": 1e-9}  # ends after a step, long before a checkpoint is due
    cut = pretrain("scratch", [corpus], tmp_path / "cut", **longer)
    assert not cut.finished
    assert not (tmp_path / "cut").exists()
    with pytest.raises(UserError, match="would be lost"):
        pretrain("scratch", [corpus], tmp_path / "cut", **longer)
    resumed = pretrain("scratch", [corpus], tmp_path / "cut", **settings, resume=True)
    assert resumed.losses == whole.losses
    for name, parameter in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], parameter), name


def test_a_tokenizer_of_other_texts_is_not_taken_again(corpus, tmp_path):
    pretrain("scratch", [corpus], tmp_path / "model", **TINY)
    other = tmp_path / "other.txt"
    other.write_text("\n".join(f"зеркало {index} показывает комнату" for index in range(400)), encoding="utf-8")
    made = pretrain("scratch", [other], tmp_path / "model", overwrite=True, **TINY)
    assert made.tokenizer.unk_token_id not in made.tokenizer("зеркало")["input_ids"]
    pretrain("scratch", [corpus], tmp_path / "model", overwrite=True, **TINY | {"vocab_size": 320})  # nor one of another size
    assert len(list((tmp_path / ".model.pretrain").glob("tokenizer-*"))) == 3


@pytest.mark.parametrize("where", ["nowhere", "."])
def test_a_tokenizer_that_is_not_there_is_refused(corpus, tmp_path, where):
    with pytest.raises(UserError, match="cannot be read"):
        pretrain("scratch", [corpus], tmp_path / "model", **TINY, tokenizer=str(tmp_path / where))


def test_masks_made_ahead_change_nothing(corpus, tmp_path, monkeypatch):
    pretrain("scratch", [corpus], tmp_path / "first", **TINY)
    settings = {**TINY, "tokenizer": str(tmp_path / "first")}
    expected = pretrain("scratch", [corpus], tmp_path / "plain", **settings)
    monkeypatch.setattr(pretrain_objectives, "Ahead", lambda make, *, workers: Ahead(make, workers=3))
    found = pretrain("scratch", [corpus], tmp_path / "ahead", **settings)
    assert found.steps == 12
    assert found.losses == expected.losses


def test_resuming_with_another_rate_names_it(corpus, tmp_path):
    pretrain("scratch", [corpus], tmp_path / "model", **TINY, minutes=1e-9, checkpoint_every_s=0.0)
    with pytest.raises(UserError, match=r"masking_rate was 0\.3 and is 0\.5"):
        pretrain("scratch", [corpus], tmp_path / "model", **TINY, masking_rate=0.5, resume=True)


def test_a_model_is_continued_with_its_own_tokenizer(bert_folder, corpus, tmp_path):
    settings = {"block_tokens": 16, "batch_blocks": 8, "dtype": "float32", "device": "cpu", "tokens": 16.0 * 8 * 40, "warmup_steps": 2}
    result = pretrain(bert_folder, [corpus], tmp_path / "more", optimizer="adamw", learning_rate=3e-3, **settings)
    assert np.mean(result.losses[-5:]) < np.mean(result.losses[:5])
    before = AutoTokenizer.from_pretrained(bert_folder)
    assert AutoTokenizer.from_pretrained(tmp_path / "more")("a red house")["input_ids"] == before("a red house")["input_ids"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_snapshots_and_the_saved_type_change_nothing_of_the_model(corpus, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(pretrain_trainer, "doubling_steps", lambda step_tokens: {2, 4})
    pretrain("scratch", [corpus], tmp_path / "tokenizer", **TINY)
    settings = {**TINY, "dtype": dtype, "tokenizer": str(tmp_path / "tokenizer")}
    plain = pretrain("scratch", [corpus], tmp_path / "plain", **settings)
    kept = pretrain("scratch", [corpus], tmp_path / "kept", **settings, snapshots=True, save_dtype="float16")
    assert kept.losses == plain.losses
    for name, parameter in plain.model.state_dict().items():
        assert torch.equal(kept.model.state_dict()[name], parameter), name
    saved = AutoModelForMaskedLM.from_pretrained(tmp_path / "kept")
    assert next(saved.parameters()).dtype == torch.float16


def test_a_resumed_run_remembers_what_was_measured_and_computes_in_the_same_type(corpus, tmp_path, monkeypatch):
    pretrain("scratch", [corpus], tmp_path / "tokenizer", **TINY)
    settings = {**TINY, "tokenizer": str(tmp_path / "tokenizer"), "decay_share": 0.0, "dtype": "auto"}
    settings |= {"validation": (corpus,), "validate_every_tokens": 16.0 * 8}
    monkeypatch.setattr(transformer, "fastest_dtype", lambda _: torch.bfloat16)
    whole = pretrain("scratch", [corpus], tmp_path / "whole", **settings)
    assert len(whole.validation) == 12
    pretrain("scratch", [corpus], tmp_path / "cut", **{**settings, "minutes": 1e-9})
    monkeypatch.setattr(transformer, "fastest_dtype", lambda _: torch.float32)  # as a busy machine may find
    resumed = pretrain("scratch", [corpus], tmp_path / "cut", **settings, resume=True)
    assert resumed.validation == whole.validation
    assert resumed.losses == whole.losses
    assert json.loads((tmp_path / "cut" / "tain.json").read_text())["validation"] == [list(pair) for pair in whole.validation]
    log = tmp_path / ".cut.pretrain" / "log.jsonl"
    assert len(log.read_text().splitlines()) == 12
    pretrain("scratch", [corpus], tmp_path / "cut", **settings, overwrite=True)
    assert len(log.read_text().splitlines()) == 12  # another run's begins anew


def test_a_run_is_not_resumed_with_other_words_of_the_same_number(bert_folder, corpus, tmp_path):
    settings = {"block_tokens": 16, "batch_blocks": 8, "dtype": "float32", "device": "cpu", "tokens": 16.0 * 8 * 12, "optimizer": "adamw"}
    words = tmp_path / "words.txt"
    words.write_text("zithering")
    pretrain(bert_folder, [corpus], tmp_path / "model", **settings, words=words, minutes=1e-9)
    words.write_text("xylophones")
    with pytest.raises(UserError, match="tokenizer's content was '"):
        pretrain(bert_folder, [corpus], tmp_path / "model", **settings, words=words, resume=True)


def test_nothing_to_resume_is_told_before_the_texts_are_read(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(Preparation, "new", lambda self: pytest.fail("begun"))
    with pytest.raises(UserError, match="there is nothing to resume"):
        pretrain("scratch", [corpus], tmp_path / "model", **TINY, resume=True)


def test_writing_with_many_characters_is_learnt_and_what_stays_unknown_is_told(tmp_path, bert_folder, capsys):
    rng = np.random.default_rng(0)
    lines = ["".join(map(chr, rng.integers(0x4E00, 0x4E00 + 900, size=30))) for _ in range(200)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = {**TINY, "vocab_size": 3000, "tokens": 16.0 * 8}
    result = pretrain("scratch", [tmp_path / "texts.txt"], tmp_path / "model", **settings, progress=Progress.for_terminal(json=True))
    pieces = result.tokenizer(lines, add_special_tokens=False)["input_ids"]
    assert np.mean([piece == result.tokenizer.unk_token_id for row in pieces for piece in row]) < 0.01
    assert "unknown" not in capsys.readouterr().err
    few = {**settings, "vocab_size": 1800}  # room for 600 of the 900
    pretrain("scratch", [tmp_path / "texts.txt"], tmp_path / "few", **few, progress=Progress.for_terminal(json=True))
    assert "of the texts' tokens are unknown to the tokenizer, and are not masked or learned" in capsys.readouterr().err
    (tmp_path / "other.txt").write_text("\n".join("ж " * 30 for _ in range(200)), encoding="utf-8")
    with pytest.raises(UserError, match="of the texts' tokens are unknown to the tokenizer, and cannot be learned"):
        pretrain(bert_folder, [tmp_path / "other.txt"], tmp_path / "none", block_tokens=16, batch_blocks=8, tokens=128.0, device="cpu")


def test_an_alphabet_of_few_characters_is_not_counted_closely():
    assert alphabet_of(["Gl\u00e0ss and sand"] * 9, most=5000) == sorted("glasnd")
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 1000)))
    assert alphabet_of([many] * 9, most=5000) == list(many[:999])
    assert alphabet_of([many] * 9, most=500) == list(many[:500])  # of equal counts those that come first
    assert len(alphabet_of([many[:300], *["glass"] * 9], most=20)) == 256
    assert alphabet_of([], most=500) == []


def _many_ties() -> list[str]:
    rng = np.random.default_rng(3)
    return [" ".join("".join(rng.choice(list("abcdefgh"), size=4)) for _ in range(6)) for _ in range(200)]


_TOKENIZER = """
import json, sys
from tain.recipes.pretrain.start import alphabet_of, train_wordpiece
texts = json.load(sys.stdin)
tokenizer = train_wordpiece(iter(texts), vocabulary=300, alphabet=alphabet_of(texts, most=100))
print(tokenizer.backend_tokenizer.to_str())
"""


def test_the_same_texts_give_the_same_tokenizer_in_every_process():
    texts = json.dumps(_many_ties())
    made = [
        subprocess.run([sys.executable, "-c", _TOKENIZER], input=texts, capture_output=True, text=True, check=True).stdout for _ in range(3)
    ]
    assert made[0] == made[1] == made[2]
    assert len(json.loads(made[0])["model"]["vocab"]) == 300


def test_a_trained_tokenizer_knows_the_characters_and_words_of_the_plain_trainers():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    texts = ["low"] * 50 + ["lower"] * 23 + ["newest"] * 61 + ["widest"] * 31 + ["Caf\u00e9, low-new!"] * 7 + ["\u93e1\u5b50"] * 3
    plain = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    plain.normalizer, plain.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=200, min_frequency=2, special_tokens=list(SPECIAL_TOKENS), show_progress=False)
    plain.train_from_iterator(texts, trainer)
    ours = train_wordpiece(iter(texts), vocabulary=200, alphabet=alphabet_of(texts, most=100))
    wanted = {piece for piece in plain.get_vocab() if len(piece.removeprefix("##")) == 1}
    assert wanted | {"low", "lower", "newest", "widest", "cafe"} <= set(ours.get_vocab())
    assert not {"##,", "##!", "##-", "##\u93e1"} & set(ours.get_vocab())
    assert ours.all_special_tokens == list(dict.fromkeys(ours.all_special_tokens))
    assert set(ours.all_special_tokens) == set(SPECIAL_TOKENS)
    assert [ours.get_vocab()[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert ours("newest low")["input_ids"][1:-1] == [ours.get_vocab()["newest"], ours.get_vocab()["low"]]
    assert ours.tokenize("a ##b") != ["a", "##b"]  # pieces are no special tokens


def test_snapshots_are_whole_models_at_doubling_counts(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_trainer, "doubling_steps", lambda step_tokens: {2, 4})
    pretrain("scratch", [corpus], tmp_path / "model", **TINY, snapshots=True)
    kept = sorted(path for path in (tmp_path / ".model.pretrain").iterdir() if path.name.startswith("snapshot"))
    assert kept
    assert AutoModelForMaskedLM.from_pretrained(kept[0], dtype=torch.float32).config.hidden_size == 32


def test_float16_weights_are_half_the_size_and_nearly_the_same(corpus, tmp_path):
    result = pretrain("scratch", [corpus], tmp_path / "model", **TINY, save_dtype="float16")
    saved = AutoModelForMaskedLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for name, parameter in result.model.state_dict().items():
        torch.testing.assert_close(saved.state_dict()[name], parameter, atol=1e-3, rtol=1e-3)
    weights = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert weights < 2.2 * sum(parameter.numel() for parameter in result.model.parameters()) + 10_000


def test_the_cooccurrence_start_beats_a_random_one_at_equal_steps(corpus, tmp_path):
    losses = {}
    for start in (True, False):
        settings = {**TINY, "tokens": 16.0 * 8 * 20, "cooccurrence_init": start, "validation": (corpus,), "validate_every_tokens": 1e9}
        losses[start] = pretrain("scratch", [corpus], tmp_path / f"model-{start}", **settings).validation[-1][1]
    assert losses[True] < losses[False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"masking_rate": 1.0}, "masking_rate is 1.0: give a share above 0 and below 1"),
        ({"hidden_size": 250, "heads": 4}, "hidden_size 250 cannot be divided among 4 heads"),
        ({"tokens": 0}, "tokens is 0: give 1 or more"),
        ({"optimizer": "AdamW"}, "optimizer is 'AdamW': give muon, adamw"),
        ({"architecture": "roberta"}, "architecture is 'roberta': give modernbert, bert"),
        ({"objective": "wholeword"}, "objective is 'wholeword': give random, whole-word, span, fully-explored, cmlm"),
        ({"dtype": "float64"}, "dtype is 'float64': give auto, float32, bfloat16"),
        ({"block_tokens": 4}, "block_tokens is 4, too little context"),
        ({"vocab_size": 10}, "vocab_size is 10, hardly more than the letters"),
        ({"weight_decay": -0.1}, "weight_decay is -0.1: give 0 or more"),
        ({"max_grad_norm": 0.0}, "max_grad_norm is 0.0, which would leave no gradient"),
        ({"decay_share": 2.0}, "decay_share is 2.0: give a share of the run"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, message, unchecked):
    with pytest.raises(UserError, match=message):
        PretrainConfig(**settings)


def test_one_file_is_no_list_of_files(corpus, tmp_path, unchecked):
    with pytest.raises(UserError, match="one file: give a list of files"):
        pretrain("scratch", str(corpus), tmp_path / "model", **TINY)


def test_too_little_text_is_refused_with_the_counts(tmp_path):
    (tmp_path / "short.txt").write_text("a few words only\n" * 3, encoding="utf-8")
    with pytest.raises(UserError, match=r"the texts have \d+ tokens, fewer than one step takes \(144\)"):
        pretrain("scratch", [tmp_path / "short.txt"], tmp_path / "model", **TINY)
    assert not (tmp_path / "model").exists()


def test_blocks_longer_than_the_model_reads_are_refused_before_tokenising(bert_folder, corpus, tmp_path):
    with pytest.raises(UserError, match=r"block_tokens is 600, but model 'scratch' reads 512 tokens at most: give 512 or fewer"):
        pretrain("scratch", [corpus], tmp_path / "model", **{**TINY, "block_tokens": 600})
    with pytest.raises(UserError, match=r"block_tokens is 4096, but model .* reads \d+ tokens at most"):
        pretrain(bert_folder, [corpus], tmp_path / "model", **CONTINUED | {"block_tokens": 4096})
    assert not list(tmp_path.glob(".model.pretrain/shards*"))


CONTINUED: dict[str, Any] = {"block_tokens": 16, "batch_blocks": 8, "dtype": "float32", "device": "cpu", "tokens": 16.0 * 8 * 4}
CONTINUED |= {"optimizer": "adamw", "learning_rate": 1e-4, "warmup_steps": 2}


def test_words_of_the_texts_become_tokens_that_start_as_the_mean_of_their_pieces(bert_folder, tmp_path, sentences):
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{sentence} the zanzibar kiosks" for sentence in sentences * 30), encoding="utf-8")
    (tmp_path / "words.txt").write_text("obelisk\nred\n", encoding="utf-8")
    settings = {**CONTINUED, "learning_rate": 1e-30, "weight_decay": 0.0, "add_words": 2, "words": tmp_path / "words.txt"}
    result = pretrain(bert_folder, [texts], tmp_path / "grown", **settings)
    old_tokenizer, old = AutoTokenizer.from_pretrained(bert_folder), AutoModelForMaskedLM.from_pretrained(bert_folder)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "grown")
    model = AutoModelForMaskedLM.from_pretrained(tmp_path / "grown")
    assert tokenizer.tokenize("the zanzibar kiosks and obelisk") == ["the", "zanzibar", "kiosks", "and", "obelisk"]
    assert len(tokenizer) == model.config.vocab_size == 120 + 3
    assert json.loads((tmp_path / "grown" / "tain.json").read_text())["added_words"] == 3
    for word in ("zanzibar", "kiosks", "obelisk"):
        pieces = old_tokenizer(word, add_special_tokens=False)["input_ids"]
        assert len(pieces) >= 3
        index = tokenizer.convert_tokens_to_ids(word)
        expected = old.get_input_embeddings().weight[pieces].mean(0)
        torch.testing.assert_close(model.get_input_embeddings().weight[index], expected)
        torch.testing.assert_close(model.get_output_embeddings().weight[index], expected)
        torch.testing.assert_close(model.get_output_embeddings().bias[index], old.get_output_embeddings().bias[pieces].mean())
    assert torch.equal(result.model.get_input_embeddings().weight[:120], old.get_input_embeddings().weight)


def test_too_few_words_to_add_is_said(bert_folder, corpus, tmp_path, capsys):
    from tain.foundation.progress import Progress

    pretrain(bert_folder, [corpus], tmp_path / "grown", **CONTINUED, add_words=10_000, progress=Progress.for_terminal())
    said = capsys.readouterr().err
    assert "words of the texts are frequent and split into 3 or more pieces" in said
    assert re.search(rf"'{re.escape(str(tmp_path))}/\.grown\.pretrain' \(\d+\.\d MB\) is kept for later runs with this output", said)


def test_words_are_for_continued_models_only(corpus, tmp_path):
    with pytest.raises(UserError, match="only apply to a continued model; a new model's tokenizer is trained on the texts"):
        pretrain("scratch", [corpus], tmp_path / "model", **TINY, add_words=5)


@pytest.mark.parametrize("kind", ["bare", "sentence-transformers", "masked"])
def test_a_head_is_kept_where_there_is_one_and_else_made_and_said(kind, bert_folder, corpus, tmp_path, tiny_encoder, capsys):
    from tain.foundation.progress import Progress

    folder = bert_folder
    if kind == "bare":
        folder = tmp_path / "bare"
        tiny_encoder("bert").save_pretrained(folder)
        AutoTokenizer.from_pretrained(bert_folder).save_pretrained(folder)
    if kind == "sentence-transformers":
        folder = tmp_path / "encoder"
        folder.mkdir()
        Embedder.load(bert_folder, dtype="float32").save(folder, record={}, card="")
    before = AutoModelForMaskedLM.from_pretrained(folder).bert.embeddings.word_embeddings.weight
    settings = {**CONTINUED, "learning_rate": 1e-30, "weight_decay": 0.0}
    result = pretrain(folder, [corpus], tmp_path / "more", **settings, progress=Progress.for_terminal())
    record = json.loads((tmp_path / "more" / "tain.json").read_text())
    said = capsys.readouterr().err
    assert ("has no prediction head" in said) == (kind != "masked")
    assert bool(record["new_head"]) == (kind != "masked")
    assert torch.equal(result.model.bert.embeddings.word_embeddings.weight, before)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "more").config.vocab_size == 120


def test_a_tokenizer_without_a_mask_token_is_refused(bert_folder, corpus, tmp_path):
    folder = tmp_path / "unmasked"
    AutoModelForMaskedLM.from_pretrained(bert_folder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    tokenizer.mask_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has no mask token: give a masked language model"):
        pretrain(folder, [corpus], tmp_path / "more", **CONTINUED)
    with pytest.raises(UserError, match="has no mask token: give a masked language model"):
        pretrain("scratch", [corpus], tmp_path / "new", **TINY, tokenizer=str(folder))
    assert not (tmp_path / "more").exists()


def test_a_model_that_knows_fewer_tokens_than_its_tokenizer_is_refused(bert_folder, corpus, tmp_path):
    folder = tmp_path / "apart"
    AutoModelForMaskedLM.from_pretrained(bert_folder).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(bert_folder)
    tokenizer.add_tokens(["kalimba"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="has vectors for 120 tokens, but its tokenizer has 121"):
        pretrain(folder, [corpus], tmp_path / "more", **CONTINUED)


def test_shards_are_kept_where_asked_and_shared_by_runs_of_one_tokenizer(bert_folder, corpus, tmp_path):
    first = pretrain(bert_folder, [corpus], tmp_path / "first", **CONTINUED, shards=tmp_path / "shards")
    assert (tmp_path / "shards" / "shards.json").exists()
    beside = pretrain(bert_folder, [corpus], tmp_path / "second", **CONTINUED)
    assert beside.losses == first.losses
    with pytest.raises(UserError, match="were made with another tokenizer"):
        pretrain("scratch", [corpus], tmp_path / "third", **TINY, shards=tmp_path / "shards")


def test_a_continued_model_with_dropout_resumes_bit_for_bit(bert_folder, corpus, tmp_path):
    settings = {**CONTINUED, "tokens": 16.0 * 8 * 12, "learning_rate": 1e-3, "decay_share": 0.0}
    assert AutoModelForMaskedLM.from_pretrained(bert_folder).config.hidden_dropout_prob > 0
    whole = pretrain(bert_folder, [corpus], tmp_path / "whole", **settings)
    pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, minutes=1e-9, checkpoint_every_s=0.0)
    assert pretrain(bert_folder, [corpus], tmp_path / "cut", **settings, resume=True).losses == whole.losses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"layers": 3, "tokenizer": "nowhere"},
            "layers, tokenizer shape a new model, but '.*' is continued: leave them out, or give scratch",
        ),
        ({"span_tokens": 4}, "span_tokens is 4, but no spans are masked"),
        (
            {"optimizer": "adamw", "matrix_learning_rate": 0.1},
            "matrix_learning_rate only applies to optimizer muon, but optimizer is 'adamw'",
        ),
    ],
)
def test_settings_that_would_say_nothing_are_refused(bert_folder, corpus, tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        pretrain(bert_folder, [corpus], tmp_path / "model", device="cpu", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_continued_models_record_says_nothing_of_a_new_ones_shape(bert_folder, corpus, tmp_path):
    settings = {"block_tokens": 16, "batch_blocks": 8, "dtype": "float32", "device": "cpu", "tokens": 16.0 * 8 * 2, "optimizer": "adamw"}
    pretrain(bert_folder, [corpus], tmp_path / "model", **settings)
    config = json.loads((tmp_path / "model" / "tain.json").read_text())["config"]
    assert config["optimizer"] == "adamw"
    assert not set(config) & set(NEW_MODEL)


def test_pretraining_passes_the_flag_to_its_tokenizer(bert_folder, sentences, tmp_path, monkeypatch):
    given = []

    def refusing(name, *, trust_remote_code=False):
        given.append(trust_remote_code)
        raise UserError("stop here")

    monkeypatch.setattr("tain.recipes.pretrain.preparing.load_tokenizer", refusing)
    (tmp_path / "texts.txt").write_text("\n".join(sentences))
    for flag in (False, True):
        with pytest.raises(UserError, match="stop here"):
            pretrain(
                "scratch", [tmp_path / "texts.txt"], tmp_path / "out", tokenizer=str(bert_folder), trust_remote_code=flag, device="cpu"
            )
    assert given == [False, True]
