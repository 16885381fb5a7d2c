"""An index after any sequence of appends and deletions holds what a plain dictionary holds."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tain.ranking.index import CandidateIndex

pytest.importorskip("hypothesis", reason="hypothesis is not installed")
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

TEXTS = st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0\n\r"), min_size=1, max_size=12), max_size=5)
DIM = 3


class IndexMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.index = CandidateIndex.create(self.folder / "index", dim=DIM, fingerprint="f", model="m")
        self.live: dict[int, str] = {}
        self.rows: list[np.ndarray] = []

    @rule(texts=TEXTS, seed=st.integers(0, 100))
    def append(self, texts: list[str], seed: int) -> None:
        vectors = np.random.default_rng(seed).normal(size=(len(texts), DIM)).astype(np.float32)
        found = self.index.append(texts, vectors)
        assert found == range(len(self.rows), len(self.rows) + len(texts))
        self.live |= dict(zip(found, texts, strict=True))
        self.rows += list(vectors)

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        if self.live:
            chosen = data.draw(st.lists(st.sampled_from(sorted(self.live)), unique=True))
            assert self.index.delete(chosen) == len(chosen)
            self.live = {row: text for row, text in self.live.items() if row not in chosen}

    @rule(texts=TEXTS)
    def delete_texts(self, texts: list[str]) -> None:
        gone = {row for row, text in self.live.items() if text in texts}
        assert self.index.delete_texts(texts) == len(gone)
        self.live = {row: text for row, text in self.live.items() if row not in gone}

    @rule()
    def compact(self) -> None:
        assert self.index.compact() == len(self.rows) - len(self.live)
        self.rows = [self.rows[row] for row in sorted(self.live)]
        self.live = dict(enumerate(self.live[row] for row in sorted(self.live)))

    @rule()
    def reopen(self) -> None:
        self.index = CandidateIndex.open(self.index.folder)

    @invariant()
    def holds_the_same(self) -> None:
        assert dict(self.index.live_texts()) == self.live
        assert (len(self.index), self.index.live) == (len(self.rows), len(self.live))
        np.testing.assert_array_equal(self.index.vectors, np.array(self.rows, np.float32).reshape(-1, DIM))

    def teardown(self) -> None:
        shutil.rmtree(self.folder)


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=25, stateful_step_count=15, deadline=None)
