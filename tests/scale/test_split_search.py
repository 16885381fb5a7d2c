"""A split index gives the hits of a whole one; parts are kept, continued, and refused for other candidates."""

import shutil

import pytest

from tain.foundation.errors import UserError
from tain.ranking.index import CandidateIndex
from tain.ranking.rerank import search, sync_index
from tain.scale.split_search import SplitIndex, joined_hits, search_part

WORDS = "river sand glass mirror fox dog bread star sea house".split()  # noqa: SIM905 - read as a sentence
CANDIDATES = [f"{left} {right}" for left in WORDS for right in WORDS]
CONTEXTS = ["river sand", "star house", "fox"]


@pytest.fixture
def source(tmp_path) -> str:
    path = tmp_path / "candidates.txt"
    path.write_text("".join(f"{text}\n" for text in [*CANDIDATES, *CANDIDATES[:7]]))  # some again, in the last part
    return str(path)


def hits_of(ranker, index: SplitIndex, k: int) -> list[list[tuple[str, float]]]:
    parts = [search_part(ranker, index, number, contexts=CONTEXTS, k=k) for number in range(1, index.count + 1)]
    return [[(hit.text, hit.score) for hit in hits] for hits in joined_hits(parts, k=k)]


@pytest.mark.parametrize("count", [1, 3, 200])
def test_hits_are_those_of_a_whole_index(source, tmp_path, hash_ranker, count):
    """Also with candidates that several parts hold, and with parts that have none."""
    whole = CandidateIndex.create(tmp_path / "whole", dim=16, fingerprint="f", model="hash ranker")
    sync_index(hash_ranker(), whole, CANDIDATES, name="all")
    expected = search(hash_ranker(), whole, CONTEXTS, k=12)
    found = hits_of(hash_ranker(), SplitIndex(folder=tmp_path / "split", count=count, source=source), 12)
    for hits, theirs in zip(found, expected, strict=True):
        assert len({text for text, _ in hits}) == 12
        assert [score for _, score in hits] == pytest.approx([hit.score for hit in theirs])


def test_parts_are_built_once_and_found_again(source, tmp_path, hash_ranker, monkeypatch):
    made = SplitIndex(folder=tmp_path / "split", count=3, source=source)
    first = hits_of(hash_ranker(), made, 5)
    shutil.rmtree(made.part(2))  # lost, so that it alone is built again
    built: list[int] = []
    real = hash_ranker.encode_candidates
    monkeypatch.setattr(hash_ranker, "encode_candidates", lambda self, texts: built.append(len(texts)) or real(self, texts))
    assert hits_of(hash_ranker(), made, 5) == first
    assert built == [len(made.texts(2))]
    assert hits_of(hash_ranker(), SplitIndex.at(made.folder, count=None, source=None, column=None), 5) == first


def test_an_interrupted_part_is_continued(source, tmp_path, hash_ranker):
    made = SplitIndex(folder=tmp_path / "split", count=1, source=source)
    expected = hits_of(hash_ranker(), made, 5)
    shutil.rmtree(made.part(1))

    class Stopping(hash_ranker):
        def encode_candidates(self, texts, *, progress=None):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search_part(Stopping(), made, 1, contexts=CONTEXTS, k=5)
    with pytest.raises(UserError, match="lacks candidates"):
        search_part(hash_ranker(), SplitIndex(folder=made.folder, count=1), 1, contexts=CONTEXTS, k=5)
    assert hits_of(hash_ranker(), made, 5) == expected


def test_other_parts_and_other_candidates_are_refused(source, tmp_path, hash_ranker):
    made = SplitIndex(folder=tmp_path / "split", count=2, source=source)
    hits_of(hash_ranker(), made, 5)
    with pytest.raises(UserError, match="has 2 parts, not 3: give the same number, or another folder"):
        SplitIndex.at(made.folder, count=3, source=source, column=None)
    with pytest.raises(UserError, match="has no parts yet: give their number with --shards"):
        SplitIndex.at(tmp_path / "none", count=None, source=source, column=None)
    with pytest.raises(UserError, match="is not split: leave --shards and --ray out"):
        SplitIndex.at(made.part(1), count=2, source=source, column=None)
    with open(source, "a") as file:  # noqa: PTH123
        file.write("a new one\n")
    with pytest.raises(UserError, match="differs from the texts that index"):
        hits_of(hash_ranker(), made, 5)
