"""Searching an index finds what scoring everything finds, and a second ranker has the last word."""

import io
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tain.foundation.errors import UserError
from tain.foundation.progress import Progress
from tain.models.embedder import Embedder
from tain.models.rankers import CrossRanker, DualRanker
from tain.ranking.index import CandidateIndex, digest_of
from tain.ranking.rerank import Upserted, add_candidates, rerank, search, sync_index, upsert_candidates
from tain.text.records import Candidate

LIMITS = {"context_tokens": 20, "candidate_tokens": 20}


@pytest.fixture(params=["pooled", "learned", "learned, cosine"])
def ranker(request, bert_folder, generator):
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    kind, _, similarity = request.param.partition(", ")
    settings = {"kind": kind, "codes": 9 if kind == "learned" else 1, "normalize": similarity == "cosine"}
    return DualRanker.start(embedder, **settings, scale=0.3, is_scale_learned=True, is_shared=True, generator=generator, **LIMITS)


@pytest.fixture
def index(ranker, tmp_path):
    return CandidateIndex.create(tmp_path / "index", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name)


def test_a_search_finds_the_best_of_all_scores(ranker, index, sentences):
    assert add_candidates(ranker, index, sentences[2:] * 2) == 10
    scores = ranker.score(sentences[:2], sentences[2:])
    for hits, row in zip(search(ranker, index, sentences[:2], k=4), scores, strict=True):
        order = np.argsort(-row)[:4]
        assert [hit.text for hit in hits] == [sentences[2 + position] for position in order]
        np.testing.assert_allclose([hit.score for hit in hits], row[order], atol=1e-4)


def test_candidates_are_encoded_once(ranker, index, sentences, monkeypatch):
    add_candidates(ranker, index, sentences[:6])
    asked = []
    encode = DualRanker.encode_candidates
    monkeypatch.setattr(DualRanker, "encode_candidates", lambda self, texts, **more: asked.extend(texts) or encode(self, texts, **more))
    assert add_candidates(ranker, index, sentences[4:8]) == 2
    assert asked == sentences[6:8]


def test_an_index_is_brought_in_line_with_a_changed_file(ranker, index, sentences):
    assert sync_index(ranker, index, sentences[:8], name="first.txt") == (8, 0)
    assert sync_index(ranker, index, sentences[2:10], name="second.txt") == (2, 2)
    assert index.source["name"] == "second.txt"
    assert sorted(text for _, text in index.live_texts()) == sorted(sentences[2:10])
    found = search(ranker, index, sentences[:1], k=100)
    assert len(found[0]) == 8
    assert sentences[0] not in [hit.text for hit in found[0]]


def test_an_index_that_was_cut_off_is_not_searched_until_it_is_finished(ranker, index, sentences, monkeypatch):
    assert not index.is_complete
    append, calls = CandidateIndex.append, []

    def cut_off(self, texts, vectors, **more):
        calls.append(texts)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return append(self, texts, vectors, **more)

    monkeypatch.setattr(CandidateIndex, "append", cut_off)
    with pytest.raises(KeyboardInterrupt):
        sync_index(ranker, index, sentences, name="answers.txt", batch_texts=5)
    again = CandidateIndex.open(index.folder)
    assert again.live == 5
    assert not again.is_complete
    with pytest.raises(
        UserError, match=r"lacks candidates: adding those of 'answers.txt' is not finished; .* give --candidates answers.txt to continue"
    ):
        search(ranker, again, sentences[:1], k=3)
    again.refuse_changed_source(name="answers.txt", digest=digest_of(sentences))
    assert sync_index(ranker, again, sentences, name="answers.txt") == (7, 0)
    assert again.is_complete
    assert len(search(ranker, again, sentences[:1], k=100)[0]) == 12


def test_an_index_stays_searchable_while_it_is_updated_and_when_that_is_cut_off(ranker, index, sentences, monkeypatch):
    sync_index(ranker, index, sentences[:6], name="answers.txt")
    opened_before = CandidateIndex.open(index.folder)
    append, seen = CandidateIndex.append, []

    def watched(self, texts, vectors, **more):
        for view in (opened_before, CandidateIndex.open(index.folder)):
            seen.append(len(search(ranker, view, sentences[:1], k=100)[0]))
        if len(seen) > 2:
            raise KeyboardInterrupt
        return append(self, texts, vectors, **more)

    monkeypatch.setattr(CandidateIndex, "append", watched)
    with pytest.raises(KeyboardInterrupt):
        sync_index(ranker, index, sentences, name="answers.txt", batch_texts=2)
    assert seen == [6, 6, 6, 8]
    again = CandidateIndex.open(index.folder)
    assert not again.is_complete and again.is_searchable
    monkeypatch.undo()
    assert sync_index(ranker, again, sentences, name="answers.txt") == (len(sentences) - 8, 0)
    assert again.is_complete


def test_two_that_bring_an_index_in_line_take_turns(ranker, index, sentences, monkeypatch):
    append, has_begun, second_waits = CandidateIndex.append, threading.Event(), threading.Event()

    def watched(self, texts, vectors, **more):
        if not has_begun.is_set():
            has_begun.set()
            second_waits.wait(20)
        return append(self, texts, vectors, **more)

    def bring(texts, name):
        return sync_index(ranker, CandidateIndex.open(index.folder), texts, name=name, batch_texts=3)

    monkeypatch.setattr(CandidateIndex, "append", watched)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(bring, sentences[:6], "first.txt")
        assert has_begun.wait(20)
        second = threads.submit(bring, sentences[6:10], "second.txt")
        with pytest.raises(TimeoutError):
            second.result(0.3)
        second_waits.set()
        assert (first.result(20), second.result(20)) == ((6, 0), (4, 6))
    again = CandidateIndex.open(index.folder)
    assert again.is_complete and again.source["name"] == "second.txt"
    assert sorted(text for _, text in again.live_texts()) == sorted(sentences[6:10])


def test_candidates_that_were_cut_are_counted_over_all_batches(ranker, index, sentences):
    long = [f"{letter} " * 30 for letter in "abc"]
    add_candidates(ranker, index, [*long, *sentences], batch_texts=2)
    counted = ranker.truncated_candidates
    assert counted >= 3
    assert counted == sum(len(ids) > 20 for ids in ranker.candidate.tokenizer([*long, *sentences])["input_ids"])
    search(ranker, index, [long[0], "short"], k=1)
    assert (ranker.truncated_contexts, ranker.truncated_candidates) == (1, counted)


def test_a_second_ranker_orders_the_hits_anew(ranker, index, sentences, bert_folder):
    add_candidates(ranker, index, sentences)
    generator = torch.Generator().manual_seed(1)
    cross = CrossRanker.start(Embedder.load(bert_folder, device="cpu", dtype="float32"), **LIMITS, generator=generator)
    hits = search(ranker, index, sentences[:2], k=6)
    ordered = rerank(cross, sentences[:2], hits, k=3)
    for context, first, found in zip(sentences[:2], hits, ordered, strict=True):
        theirs = cross.score([context], [hit.text for hit in first])[0]
        assert [hit.text for hit in found] == [first[position].text for position in np.argsort(-theirs)[:3]]


def test_searching_without_candidates_or_with_another_model_is_refused(ranker, index, sentences):
    with pytest.raises(UserError, match="holds no candidates: give --candidates FILE with --update"):
        search(ranker, index, sentences[:1], k=3)
    add_candidates(ranker, index, sentences)
    with pytest.raises(UserError, match="k is 0, but a search needs at least 1"):
        search(ranker, index, sentences[:1], k=0)
    ranker.head.log_scale.data.add_(1.0)
    ranker.weights_changed()
    for use in (lambda: search(ranker, index, sentences[:1], k=3), lambda: add_candidates(ranker, index, ["new"])):
        with pytest.raises(UserError, match="was made by another version of this model"):
            use()


@pytest.mark.parametrize("probes", [None, 2])
def test_a_damaged_vector_is_told_and_not_left_out_of_the_search(index, ranker, sentences, probes):
    if probes is not None:
        pytest.importorskip("faiss")
    add_candidates(ranker, index, sentences[2:])
    vectors = np.fromfile(index.folder / "vectors.bin", dtype=np.float32)
    vectors[3 * ranker.dim + 1] = np.nan
    (index.folder / "vectors.bin").write_bytes(vectors.tobytes())
    with pytest.raises(UserError, match="is damaged: the vector of row 3 differs from its stored length; restore it, or rebuild it"):
        search(ranker, CandidateIndex.open(index.folder), sentences[:1], k=2, probes=probes)


# ---- ids, metadata and filters


@pytest.fixture
def tagged(ranker, tmp_path, sentences):
    index = CandidateIndex.create(tmp_path / "tagged", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name, has_metadata=True)
    given = [Candidate(text, f"id {place}", {"place": place, "even": place % 2 == 0}) for place, text in enumerate(sentences)]
    assert upsert_candidates(ranker, index, given) == Upserted(added=12, replaced=0, unchanged=0, deleted=0)
    return index


def test_a_refused_update_leaves_the_index_as_it_was(ranker, index, tagged, sentences):
    add_candidates(ranker, index, sentences)
    for target, vectors in ((index, None), (tagged, np.full((1, ranker.dim), np.nan)), (tagged, np.ones((1, ranker.dim + 1)))):
        source = target.source
        with pytest.raises(UserError):
            upsert_candidates(ranker, target, [Candidate("new", "n")], name="other", vectors=vectors)
        assert CandidateIndex.open(target.folder).source == source


def test_a_filtered_search_gives_the_best_of_what_matches(ranker, tagged, sentences):
    tagged.delete_ids(["id 1"])
    for filter in ("place<2", "even=true", "place!=5", "place in (1, 7, 8) or even=false"):  # few rows, and most rows
        matching = np.flatnonzero(tagged.matching(filter)).tolist()
        scores = ranker.score(sentences[:3], [tagged.text(row) for row in matching])
        for hits, row in zip(search(ranker, tagged, sentences[:3], k=3, filter=filter), scores, strict=True):
            order = np.argsort(-row, kind="stable")[:3]
            assert [hit.row for hit in hits] == [matching[place] for place in order]
            np.testing.assert_allclose([hit.score for hit in hits], row[order], atol=1e-4)
            assert all(hit.id == f"id {hit.row}" and hit.metadata == tagged.metadata(hit.row) for hit in hits)
            assert all(hit.metadata is not None and hit.metadata["place"] == hit.row for hit in hits)


def test_a_filter_that_nothing_matches_finds_nothing(ranker, tagged, sentences):
    assert search(ranker, tagged, sentences[:2], k=3, filter="place>100") == [[], []]


def test_a_filter_makes_an_approximate_search_exact(ranker, tagged, sentences):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    exact = search(ranker, tagged, sentences[:2], k=4, filter="even=true")
    assert search(ranker, tagged, sentences[:2], k=4, filter="even=true", probes=1) == exact


def test_only_changed_texts_are_encoded(ranker, tagged, sentences, monkeypatch):
    asked = []
    encode = DualRanker.encode_candidates
    monkeypatch.setattr(DualRanker, "encode_candidates", lambda self, texts, **more: asked.extend(texts) or encode(self, texts, **more))
    kept = np.array(tagged.vectors[1])
    given = [
        Candidate(sentences[0], "id 0", {"even": True, "place": 0}),  # as it is; the order of names does not matter
        Candidate(sentences[1], "id 1", {"place": 100}),
        Candidate("a text of its own", "id 2", {"place": 2, "even": True}),
        Candidate("one more", "id 12"),
    ]
    assert upsert_candidates(ranker, tagged, given) == Upserted(added=1, replaced=2, unchanged=1, deleted=0)
    assert asked == ["a text of its own", "one more"]
    (row,) = tagged.rows_of_ids(["id 1"])
    np.testing.assert_array_equal(tagged.vectors[row], kept)
    assert tagged.metadata(row) == {"place": 100}
    assert upsert_candidates(ranker, tagged, given, delete_missing=True) == Upserted(added=0, replaced=0, unchanged=4, deleted=9)
    assert tagged.live == 4


def test_an_update_that_was_cut_off_goes_on(ranker, tmp_path, sentences, monkeypatch):
    index = CandidateIndex.create(tmp_path / "cut", dim=ranker.dim, fingerprint=ranker.fingerprint, model=ranker.name, has_metadata=True)
    given = [Candidate(text, str(place)) for place, text in enumerate(sentences)]
    upsert, calls = CandidateIndex.upsert, []

    def cut_off(self, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return upsert(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(CandidateIndex, "upsert", cut_off)
        with pytest.raises(KeyboardInterrupt):
            upsert_candidates(ranker, index, given, batch_texts=5)
    again = CandidateIndex.open(index.folder)
    with pytest.raises(UserError, match="lacks candidates"):
        search(ranker, again, sentences[:1], k=3)
    others = [Candidate("one more", "12")]
    with pytest.raises(
        UserError, match=r"holds only a part of 'candidates'.* finish that first, with --candidates candidates and the same"
    ):
        upsert_candidates(ranker, again, others, name="others")
    with pytest.raises(UserError, match="adding those of 'candidates' is not finished"):
        again.refuse_unfinished()
    shutil.copytree(index.folder, tmp_path / "alone")
    alone = CandidateIndex.open(tmp_path / "alone")
    assert upsert_candidates(ranker, alone, others, delete_missing=True) == Upserted(added=1, replaced=0, unchanged=0, deleted=5)
    assert [hit.id for hit in search(ranker, alone, sentences[:1], k=100)[0]] == ["12"]
    assert upsert_candidates(ranker, again, given) == Upserted(added=7, replaced=0, unchanged=5, deleted=0)
    assert len(search(ranker, again, sentences[:1], k=100)[0]) == 12


def test_an_update_does_not_hide_that_another_was_cut_off(ranker, tagged, sentences, monkeypatch):
    upsert_candidates(ranker, tagged, [Candidate("one more", "12")])

    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CandidateIndex, "upsert", cut_off)
        with pytest.raises(KeyboardInterrupt):
            upsert_candidates(ranker, tagged, [Candidate("cut", "cut")], name="cut.jsonl")
    said = io.StringIO()
    assert upsert_candidates(ranker, tagged, [Candidate("and more", "13")], progress=Progress("lines", said)).added == 1
    assert "an update of index" in said.getvalue() and "to 'cut.jsonl' was interrupted, and this one does not finish it" in said.getvalue()


def test_faiss_finds_what_a_search_finds(ranker, tagged, sentences, tmp_path):
    faiss = pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    from tain.ranking.faiss_files import write_flat

    tagged.delete_ids(["id 3"])
    rows = write_flat(tagged, tmp_path / "x.faiss")
    theirs = faiss.read_index(str(tmp_path / "x.faiss"))
    for _, window in ranker.windows(sentences[:4]):
        for place in range(len(window)):
            context = window.of(place)
            if len(context) > 1:
                continue  # a poly-encoder's context has several vectors, which FAISS does not mix
            (hits,) = search(ranker, tagged, [sentences[place]], k=6)
            _, found = theirs.search(context.numpy(), 6)
            assert rows[found[0]].tolist() == [hit.row for hit in hits]
