"""Searching an index finds what scoring everything finds, and a second ranker has the last word."""

import numpy as np
import pytest
import torch

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker, DualRanker
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import add_candidates, bring_in_line, rerank, search

LIMITS = {"context_tokens": 20, "candidate_tokens": 20}


@pytest.fixture(params=["pooled", "learned"])
def ranker(request, bert_folder, generator):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    settings = {"kind": request.param, "codes": 9 if request.param == "learned" else 1, "scale": 0.3, "is_scale_learned": True}
    return DualRanker.start(embedder, **settings, is_shared=True, generator=generator, **LIMITS)


@pytest.fixture
def index(ranker, tmp_path):
    return CandidateIndex.create(tmp_path / "index", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name)


def test_a_search_finds_the_best_of_all_scores(ranker, index, sentences):
    assert add_candidates(ranker, index, sentences[2:] * 2) == 10
    scores = ranker.score(sentences[:2], sentences[2:])
    for hits, row in zip(search(ranker, index, sentences[:2], k=4), scores, strict=True):
        order = np.argsort(-row)[:4]
        assert [hit.text for hit in hits] == [sentences[2 + place] for place in order]
        np.testing.assert_allclose([hit.score for hit in hits], row[order], atol=1e-4)


def test_candidates_are_encoded_once(ranker, index, sentences, monkeypatch):
    add_candidates(ranker, index, sentences[:6])
    asked = []
    encode = DualRanker.encode_candidates
    monkeypatch.setattr(DualRanker, "encode_candidates", lambda self, texts, **more: asked.extend(texts) or encode(self, texts, **more))
    assert add_candidates(ranker, index, sentences[4:8]) == 2
    assert asked == sentences[6:8]


def test_an_index_is_brought_in_line_with_a_changed_file(ranker, index, sentences):
    assert bring_in_line(ranker, index, sentences[:8]) == (8, 0)
    assert bring_in_line(ranker, index, sentences[2:10]) == (2, 2)
    assert sorted(text for _, text in index.living_texts()) == sorted(sentences[2:10])
    found = search(ranker, index, sentences[:1], k=100)
    assert len(found[0]) == 8
    assert sentences[0] not in [hit.text for hit in found[0]]


def test_a_second_ranker_orders_the_hits_anew(ranker, index, sentences, bert_folder):
    add_candidates(ranker, index, sentences)
    generator = torch.Generator().manual_seed(1)
    cross = CrossRanker.start(Embedder.load(bert_folder, device="cpu", dtype="float32"), **LIMITS, generator=generator)
    hits = search(ranker, index, sentences[:2], k=6)
    ordered = rerank(cross, sentences[:2], hits, k=3)
    for context, first, found in zip(sentences[:2], hits, ordered, strict=True):
        theirs = cross.score([context], [hit.text for hit in first])[0]
        assert [hit.text for hit in found] == [first[place].text for place in np.argsort(-theirs)[:3]]


def test_searching_without_candidates_or_with_another_model_is_refused(ranker, index, sentences):
    with pytest.raises(UserError, match="holds no candidates: give --candidates FILE with --update"):
        search(ranker, index, sentences[:1], k=3)
    add_candidates(ranker, index, sentences)
    with pytest.raises(UserError, match="k is 0, but something must be looked for"):
        search(ranker, index, sentences[:1], k=0)
    ranker.head.log_scale.data.add_(1.0)
    ranker.weights_changed()
    for use in (lambda: search(ranker, index, sentences[:1], k=3), lambda: add_candidates(ranker, index, ["new"])):
        with pytest.raises(UserError, match="was made by another version of this model"):
            use()
