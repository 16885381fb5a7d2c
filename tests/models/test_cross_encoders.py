"""Cross-encoders of transformers and sentence-transformers: scored as CrossEncoder scores them, refused where vectors are wanted."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tain.foundation.errors import UserError
from tain.models.cross_encoders import SavedCrossEncoder
from tain.models.embedder import Embedder
from tain.models.kinds import kind_of
from tain.models.labeller import Labeller, is_labeller
from tain.models.rankers import Ranker
from tiny_models import randomise, tiny_config

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def save_cross(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Callable[..., Any]) -> Save:
    def save(architecture: str = "bert", *, labels: int = 1, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp("cross")
        config = tiny_config(architecture, num_labels=labels, **changes)
        randomise(transformers.AutoModelForSequenceClassification.from_config(config)).save_pretrained(folder)
        # sentence-transformers forgets that RoBERTa's positions begin behind the padding id
        tokenizer = tiny_tokenizer(pad_id=config.pad_token_id, model_max_length=40 if architecture != "roberta" else 38)
        tokenizer.model_input_names = (
            ["input_ids", "token_type_ids", "attention_mask"] if architecture == "bert" else ["input_ids", "attention_mask"]
        )
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def cross_folder(save_cross: Save) -> Path:
    return save_cross()


def load(folder: Path) -> Ranker:
    return Ranker.load(folder, device="cpu")


@pytest.mark.parametrize("architecture", ["bert", "roberta", "electra", "modernbert", "deberta-v2"])
def test_scores_are_those_of_sentence_transformers(architecture: str, save_cross: Save, sentences: list[str]):
    from sentence_transformers import CrossEncoder

    folder = save_cross(architecture)
    pairs = [(left, right) for left in sentences[:4] for right in sentences[4:9]]  # some are longer than the model reads
    expected = CrossEncoder(str(folder), device="cpu").predict(pairs)
    ranker = load(folder)
    assert isinstance(ranker, SavedCrossEncoder)
    found = ranker.score(sentences[:4], sentences[4:9])
    np.testing.assert_allclose(found.reshape(-1), expected, atol=1e-5)
    assert np.ptp(found) > 0.01  # not all the same
    assert ranker.truncated > 0


@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_what_sentence_transformers_saves_is_scored_with_its_activation(
    activation: str, cross_folder: Path, sentences: list[str], tmp_path: Path
):
    from sentence_transformers import CrossEncoder

    theirs = CrossEncoder(str(cross_folder), device="cpu", activation_fn=getattr(torch.nn, activation)())
    theirs.save_pretrained(str(tmp_path / "saved"))
    expected = theirs.predict([(sentences[0], text) for text in sentences[1:]])
    np.testing.assert_allclose(load(tmp_path / "saved").score(sentences[:1], sentences[1:])[0], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [
        ("bert", {"max_seq_length": 12}),
        ("modernbert", {"max_seq_length": 64}),  # above its tokenizer's limit
        ("bert", {"do_lower_case": True}),
        ("bert", {"processing_kwargs": {"text": {"max_length": 9}}}),
    ],
)
def test_stored_settings_apply_as_in_sentence_transformers(
    architecture: str, settings: dict[str, Any], save_cross: Save, sentences: list[str], tmp_path: Path
):
    from sentence_transformers import CrossEncoder

    folder = tmp_path / "saved"
    CrossEncoder(str(save_cross(architecture)), device="cpu").save_pretrained(str(folder))
    edit(folder / "tokenizer.json", normalizer=None)  # else the tokenizer lower-cases anyway
    texts = [sentences[0], sentences[1].upper(), " ".join(sentences[2:5]).title()]
    pairs = [(left, right) for left in texts for right in texts]
    plain = CrossEncoder(str(folder), device="cpu").predict(pairs)
    edit(folder / "sentence_bert_config.json", **settings)
    expected = CrossEncoder(str(folder), device="cpu").predict(pairs)
    assert np.abs(expected - plain).max() > 1e-3
    ranker = load(folder)
    np.testing.assert_allclose(ranker.score(texts, texts).reshape(-1), expected, atol=1e-5)
    if settings.get("max_seq_length") != 64:  # a saved copy has no setting of its own, and is cut at the positions of its config
        ranker.save(tmp_path, record={"kind": "cross-encoder"}, card="a card")
        np.testing.assert_allclose(load(tmp_path).score(texts, texts).reshape(-1), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"processing_kwargs": {"text": {"add_special_tokens": False}}}, "processing_kwargs.text.add_special_tokens"),
        ({"transformer_task": "fill-mask"}, "transformer_task 'fill-mask'"),
        ({"module_output_name": "token_embeddings"}, "module_output_name"),
        ({"model_kwargs": {"num_labels": 1}}, "model_kwargs.num_labels"),
    ],
)
def test_settings_that_would_change_scores_are_refused(settings: dict[str, Any], named: str, cross_folder: Path, tmp_path: Path):
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(cross_folder), device="cpu").save_pretrained(str(tmp_path))
    load(tmp_path)
    edit(tmp_path / "sentence_bert_config.json", **settings)
    with pytest.raises(UserError, match=f"sets {named} in sentence_bert_config.json, .* so its scores would differ"):
        load(tmp_path)


def test_a_second_module_is_refused(cross_folder: Path, tmp_path: Path):
    from sentence_transformers import CrossEncoder

    CrossEncoder(str(cross_folder), device="cpu").save_pretrained(str(tmp_path))
    modules = json.loads((tmp_path / "modules.json").read_text())
    dense = {"idx": 1, "name": "1", "path": "1_Dense", "type": "sentence_transformers.base.modules.dense.Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([*modules, dense]))
    with pytest.raises(UserError, match="is a cross-encoder with a Dense module, which tain does not support"):
        load(tmp_path)


def test_bigbird_scores_long_pairs_in_sparse_attention(tiny_tokenizer: Callable[..., Any], sentences: list[str], tmp_path: Path):
    from sentence_transformers import CrossEncoder

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": 120}
    special = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    sparse = {"block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse", "max_position_embeddings": 200}
    config = transformers.BigBirdConfig(**sizes, **special, **sparse, num_labels=1)
    randomise(transformers.AutoModelForSequenceClassification.from_config(config)).save_pretrained(tmp_path)
    tiny_tokenizer(model_max_length=200).save_pretrained(tmp_path)
    texts = [sentences[0], " ".join(sentences[:4]), " ".join(sentences[2:9])]
    # a short pair switches to full attention for good, so each pair has its own copy of the model
    expected = [CrossEncoder(str(tmp_path), device="cpu").predict([("glass", text)])[0] for text in texts]
    ranker = load(tmp_path)
    assert isinstance(ranker, SavedCrossEncoder)
    np.testing.assert_allclose(ranker.score(["glass"], texts)[0], expected, atol=1e-5)
    np.testing.assert_allclose(ranker.score(["glass"], texts[::-1])[0][::-1], expected, atol=1e-5)
    ranker.network.full_attention_tokens = None
    assert np.abs(ranker.score(["glass"], texts)[0] - expected).max() > 1e-4


def test_an_activation_in_the_models_config_counts_too(save_cross: Save, sentences: list[str]):
    folder = save_cross()
    probabilities = load(folder).score(sentences[:2], sentences[2:])
    edit(folder / "config.json", sbert_ce_default_activation_function="torch.nn.modules.linear.Identity")
    logits = load(folder).score(sentences[:2], sentences[2:])
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), probabilities, atol=1e-5)
    edit(folder / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.activation.GELU"})
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.activation\.GELU, which tain does not support"):
        load(folder)


def test_lists_are_scored_as_all_pairs_are_alone_and_beside_others(cross_folder: Path, sentences: list[str]):
    ranker = load(cross_folder)
    scores = ranker.score(sentences[:3], sentences[3:7])
    lists = ranker.score_lists(sentences[:3], [sentences[3:5], [], sentences[6:2:-1]])
    for found, expected in zip(lists, (scores[0, :2], scores[1, :0], scores[2, ::-1]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(ranker.score([sentences[2]], [sentences[5]])[0, 0], scores[2, 2], atol=1e-5)
    assert ranker.score_lists([], []) == []


def test_tokens_are_counted_as_they_are_read(cross_folder: Path):
    ranker = load(cross_folder)
    assert ranker.count_tokens(["a b", "c"], [["d", "e f"], []]) == [6 + 7, 0]  # [CLS] a b [SEP] d [SEP], and one more


@pytest.mark.parametrize("activation", [torch.nn.Sigmoid, torch.nn.Identity])
def test_it_is_saved_as_sentence_transformers_reads_it(activation: Any, cross_folder: Path, sentences: list[str], tmp_path: Path):
    from sentence_transformers import CrossEncoder

    ranker = load(cross_folder)
    assert isinstance(ranker, SavedCrossEncoder)
    ranker.activation = activation()
    ranker.save(tmp_path, record={"kind": "cross-encoder"}, card="a card")
    expected = ranker.score(sentences[:1], sentences[1:])[0]
    theirs = CrossEncoder(str(tmp_path), device="cpu").predict([(sentences[0], text) for text in sentences[1:]])
    np.testing.assert_allclose(theirs, expected, atol=1e-5)
    np.testing.assert_allclose(load(tmp_path).score(sentences[:1], sentences[1:])[0], expected, atol=1e-6)


def test_other_weights_have_another_fingerprint(cross_folder: Path, save_cross: Save):
    assert load(cross_folder).fingerprint == load(cross_folder).fingerprint
    assert load(cross_folder).fingerprint != load(save_cross("electra")).fingerprint


def test_a_cross_encoder_of_several_outputs_has_no_score(save_cross: Save):
    folder = save_cross(labels=3)
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    for used in (load, Labeller.load, Embedder.load):
        with pytest.raises(UserError, match="cross-encoder"):
            used(folder)


def test_a_new_head_is_no_cross_encoder(bert_folder: Path, tmp_path: Path):
    transformers.AutoModelForMaskedLM.from_pretrained(bert_folder).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(bert_folder).save_pretrained(tmp_path)
    edit(tmp_path / "config.json", architectures=["BertForSequenceClassification"], id2label={"0": "LABEL_0"})
    with pytest.raises(UserError, match="has no trained scoring head"):
        load(tmp_path)


def test_heads_are_refused_where_vectors_are_wanted(cross_folder: Path, save_labeller: Save):
    classifier, tagger = save_labeller("SequenceClassification", ["no", "yes"]), save_labeller("TokenClassification", ["O", "B"])
    for folder, what in ((cross_folder, "cross-encoder"), (classifier, "classifier"), (tagger, "tagger")):
        assert kind_of(str(folder)).head == what
        with pytest.raises(UserError, match=f"is a {what} model .* and outputs .*, not vectors"):
            Embedder.load(folder)
        assert Embedder.load(folder, pooling="mean", device="cpu", dtype="float32").encode(["a text"]).any()
    for folder in (classifier, tagger):
        with pytest.raises(UserError, match="not vectors"):
            load(folder)
    with pytest.raises(UserError, match="is a cross-encoder, which scores pairs of texts: use tain rank score"):
        Labeller.load(cross_folder)
    assert [is_labeller(folder) for folder in (cross_folder, classifier, tagger)] == [False, True, True]


def test_it_is_served_as_a_ranker(cross_folder: Path, sentences: list[str]):
    from tain.serving.served import Query, load_served

    served = load_served("x", str(cross_folder), device="cpu", dtype="auto", trust_remote_code=False)
    assert served.uses == ("rerank",)
    assert served.estimate_pair_tokens(sentences[0], sentences[1:3])  # within the model's limit
    query = Query(sentences[0])
    found = served.rerank([(query, document) for document in sentences[1:4]])
    expected = load(cross_folder).score(sentences[:1], sentences[1:4])[0]
    np.testing.assert_allclose([one.score for one in found], expected, atol=1e-5)
    assert sum(one.document_tokens for one in found) == load(cross_folder).count_tokens(sentences[:1], [sentences[1:4]])[0]


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


# ---- the command line


def run(*arguments: object) -> None:
    from tain.cli.main import main

    main(["rank", *map(str, arguments)])


@pytest.fixture
def pairs_file(sentences: list[str], tmp_path: Path) -> Path:
    rows = [f"{context}\t{answer}" for context in sentences[:2] for answer in sentences[2:5]]
    (tmp_path / "pairs.tsv").write_text("\n".join(["context\tanswer", *rows]) + "\n", encoding="utf-8")
    return tmp_path / "pairs.tsv"


def test_rank_score_prints_the_scores_of_sentence_transformers(
    cross_folder: Path, pairs_file: Path, sentences: list[str], capsys: pytest.CaptureFixture[str]
):
    from sentence_transformers import CrossEncoder

    run("score", cross_folder, pairs_file, "--device", "cpu", "--json", "--quiet")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = CrossEncoder(str(cross_folder), device="cpu").predict([(row["context"], row["answer"]) for row in printed])
    np.testing.assert_allclose([row["score"] for row in printed], expected, atol=1e-5)


def test_rank_search_lets_it_order_the_hits_and_evaluate_compares_it(
    cross_folder: Path, bert_folder: Path, sentences: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "asked.txt").write_text(sentences[0] + "\n", encoding="utf-8")
    (tmp_path / "answers.txt").write_text("\n".join(sentences[1:]) + "\n", encoding="utf-8")
    files = ("--index", tmp_path / "index", "--candidates", tmp_path / "answers.txt")
    here = ("--device", "cpu", "--quiet", "--json")
    run("search", bert_folder, tmp_path / "asked.txt", *files, "--rerank", cross_folder, "-k", 3, *here)
    hits = json.loads(capsys.readouterr().out)["hits"]
    scores = load(cross_folder).score(sentences[:1], sentences[1:])[0]
    best = np.argsort(-scores, kind="stable")[:3]
    assert [hit["text"] for hit in hits] == [sentences[1:][index] for index in best]
    np.testing.assert_allclose([hit["score"] for hit in hits], scores[best], atol=1e-5)
    rows = [f"{text} a\t{text}" for text in sentences]
    (tmp_path / "held.tsv").write_text("\n".join(["context\tanswer", *rows]) + "\n", encoding="utf-8")
    run(
        "evaluate", bert_folder, cross_folder, "--pairs", tmp_path / "held.tsv", "--candidates", 3, "--no-latency", "--resamples", 20, *here
    )
    assert [ranker["type"] for ranker in json.loads(capsys.readouterr().out)["rankers"]] == ["bi", "cross"]
    with pytest.raises(SystemExit):
        run("search", cross_folder, tmp_path / "asked.txt", *files, *here)
    assert "is a cross-encoder, which has no vectors to search" in capsys.readouterr().err
