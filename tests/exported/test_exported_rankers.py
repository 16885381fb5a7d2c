"""Exported rankers score as torch does: bi, poly of every kind, cross of both makes."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tain.evaluation.backends import measure_backends
from tain.exported.encoder import ExportedEncoder
from tain.exported.rankers import ExportedCross, ExportedDual, load_exported_ranker
from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker, DualRanker, Ranker
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import add_candidates, search
from tain.recipes.export.recipe import export
from tiny_models import randomise, tiny_config

CONTEXTS = ["a thin layer of metal behind the glass makes a mirror", "sea", "two trains leave the station at the same hour"]


def started(bert_folder: Path, **settings: Any) -> DualRanker:
    given = {"kind": "pooled", "codes": 1, "scale": 0.06, "is_scale_learned": False, "is_shared": True, "context_tokens": 9} | settings
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    return DualRanker.start(embedder, candidate_tokens=6, generator=torch.Generator().manual_seed(1), **given)


def on_one_core(exported: ExportedCross, sentences: list[str]) -> list[np.ndarray]:
    """Scores from two threads at once, each with a ranker on one core."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: exported.on_one_core().score(CONTEXTS, sentences), range(4)))


def saved(ranker: Ranker, folder: Path) -> Path:
    folder.mkdir()
    ranker.save(folder, record={"base_model": "bert"}, card="")
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_shared": False, "normalize": True},
        {"kind": "learned", "codes": 3},
        {"kind": "learned", "codes": 3, "normalize": True, "is_shared": False},
        {"kind": "first", "codes": 4},
        {"kind": "last", "codes": 4},
        {"kind": "last-and-first", "codes": 4},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "bi",
)
def test_a_dual_ranker_scores_as_in_torch(settings: dict[str, Any], bert_folder: Path, sentences: list[str], tmp_path: Path):
    ranker = started(bert_folder, **settings)
    if not ranker.is_shared:
        randomise(ranker.candidate.encoder.model, seed=9)
    source = saved(ranker, tmp_path / "source")
    export(source, tmp_path / "out", texts=sentences, int8=False)
    exported = load_exported_ranker(tmp_path / "out")
    assert isinstance(exported, ExportedDual) and exported.type == ranker.type
    expected = Ranker.load(source, device="cpu", dtype="float32").score(CONTEXTS, sentences)
    np.testing.assert_allclose(exported.score(CONTEXTS, sentences), expected, rtol=1e-3, atol=1e-5)
    lists = exported.score_lists(CONTEXTS, [sentences[:2], [], sentences[3:6]])
    np.testing.assert_allclose(lists[2], expected[2, 3:6], rtol=1e-3, atol=1e-5)
    assert exported.truncated_contexts == 2 and exported.count_tokens(CONTEXTS[:1], [[]]) == [9]


def test_a_cross_encoder_scores_as_in_torch(bert_folder: Path, sentences: list[str], tmp_path: Path):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    ranker = CrossRanker.start(embedder, context_tokens=9, candidate_tokens=6, generator=torch.Generator().manual_seed(1))
    export(saved(ranker, tmp_path / "source"), tmp_path / "out", texts=sentences, min_cosine=0.5)
    exported = load_exported_ranker(tmp_path / "out")
    assert isinstance(exported, ExportedCross)
    expected = ranker.score(CONTEXTS, sentences)
    for scores in (exported.score(CONTEXTS, sentences), *on_one_core(exported, sentences)):
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-4)
    assert (
        np.corrcoef(load_exported_ranker(tmp_path / "out", dtype="int8").score(CONTEXTS, sentences).ravel(), expected.ravel())[0, 1] > 0.5
    )


def test_a_cross_encoder_of_sentence_transformers_scores_as_in_torch(tiny_tokenizer: Any, sentences: list[str], tmp_path: Path):
    model = randomise(transformers.AutoModelForSequenceClassification.from_config(tiny_config("bert", num_labels=1)))
    model.save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    export(tmp_path / "source", tmp_path / "out", texts=sentences, int8=False)
    expected = Ranker.load(tmp_path / "source", device="cpu", dtype="float32").score(CONTEXTS, sentences)
    np.testing.assert_allclose(load_exported_ranker(tmp_path / "out").score(CONTEXTS, sentences), expected, rtol=1e-3, atol=1e-5)


def test_a_search_finds_what_scoring_finds(bert_folder: Path, sentences: list[str], tmp_path: Path):
    export(saved(started(bert_folder, kind="learned", codes=3), tmp_path / "source"), tmp_path / "out", texts=sentences, int8=False)
    exported = load_exported_ranker(tmp_path / "out")
    assert isinstance(exported, ExportedDual)
    index = CandidateIndex.create(tmp_path / "index", dim=exported.dim, fingerprint=exported.fingerprint, model=exported.name)
    add_candidates(exported, index, sentences)
    found = search(exported, index, CONTEXTS, k=4)
    for hits, scores in zip(found, exported.score(CONTEXTS, sentences), strict=True):
        assert [hit.text for hit in hits] == [sentences[row] for row in np.argsort(-scores, kind="stable")[:4]]


def test_a_changed_head_is_refused(bert_folder: Path, sentences: list[str], tmp_path: Path):
    export(saved(started(bert_folder, kind="learned", codes=3), tmp_path / "source"), tmp_path / "out", texts=sentences, int8=False)
    head = bytearray((tmp_path / "out" / "head.safetensors").read_bytes())
    head[-1] ^= 1
    (tmp_path / "out" / "head.safetensors").write_bytes(head)
    with pytest.raises(UserError, match=r"head\.safetensors that was changed"):
        load_exported_ranker(tmp_path / "out")


@pytest.mark.parametrize("lacking", ["kind", "codes", "shared", "context_tokens"])
def test_a_damaged_record_is_refused_in_one_line(lacking: str, bert_folder: Path, sentences: list[str], tmp_path: Path):
    export(saved(started(bert_folder), tmp_path / "source"), tmp_path / "out", texts=sentences, int8=False)
    record = json.loads((tmp_path / "out" / "tain.json").read_text())
    del record["ranker"][lacking]
    (tmp_path / "out" / "tain.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"damaged tain\.json"):
        load_exported_ranker(tmp_path / "out")


def test_a_record_of_a_newer_format_is_refused(bert_folder: Path, sentences: list[str], tmp_path: Path):
    export(saved(started(bert_folder), tmp_path / "source"), tmp_path / "out", texts=sentences, int8=False)
    record = json.loads((tmp_path / "out" / "tain.json").read_text())
    (tmp_path / "out" / "tain.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(UserError, match="newer than this tain reads"):
        load_exported_ranker(tmp_path / "out")


def test_a_ranker_is_named_where_one_encoder_is_wanted(bert_folder: Path, sentences: list[str], tmp_path: Path):
    export(saved(started(bert_folder, kind="first", codes=2), tmp_path / "source"), tmp_path / "out", texts=sentences, int8=False)
    with pytest.raises(UserError, match="is an exported ranker, not one encoder"):
        ExportedEncoder.load(tmp_path / "out")
    with pytest.raises(UserError, match="is an exported ranker, not one encoder"):
        measure_backends(str(tmp_path / "out"), texts=10, repeats=1, progress=Progress.mute())


def test_two_sides_that_share_a_tokenizer_keep_their_own_limits(bert_folder: Path, sentences: list[str], tmp_path: Path):
    """Contexts are cut at 9 tokens on the left, candidates at 6 on the right, also at the same time."""
    export(saved(started(bert_folder), tmp_path / "source"), tmp_path / "out", texts=sentences, int8=False)
    exported = load_exported_ranker(tmp_path / "out")
    assert isinstance(exported, ExportedDual)
    assert exported.context.tokenizer is exported.candidate.tokenizer
    texts = sentences * 20
    expected = [side.token_rows(texts).ids for side in (exported.context, exported.candidate)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda side: side.token_rows(texts).ids, [exported.context, exported.candidate] * 10))
    assert found == expected * 10
