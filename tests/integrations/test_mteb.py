"""The mteb adapters on a local task, without a download."""

from typing import Any

import numpy as np
import pytest

from tain.models.embedder import Embedder
from tain.models.rankers import DualRanker

mteb = pytest.importorskip("mteb", reason="mteb is not installed")


@pytest.fixture(scope="module")
def encoder(bert_folder):
    return Embedder.load(bert_folder, dtype="float32")


def local_sts(sentences):
    """An STS task whose pairs are here."""
    from datasets import Dataset
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    rng = np.random.default_rng(1)
    rows = {"sentence1": sentences, "sentence2": sentences[::-1], "score": rng.uniform(0, 5, size=len(sentences)).tolist()}

    class LocalSts(AbsTaskSTS):
        metadata = TaskMetadata(
            name="LocalSts",
            description="pairs of the test",
            dataset={"path": "local/none", "revision": "1"},
            type="STS",
            category="t2t",
            modalities=["text"],
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="cosine_spearman",
        )
        min_score, max_score = 0, 5

        def load_data(self, *args, **kwargs):
            self.dataset = {"test": Dataset.from_dict(rows)}
            self.data_loaded = True

    return LocalSts(), rows


def test_a_task_gives_the_score_of_the_encoders_own_vectors(encoder, sentences):
    from scipy.stats import spearmanr

    from tain.integrations.mteb import MtebEncoder

    task, rows = local_sts(sentences)
    results = mteb.evaluate(MtebEncoder(encoder), task, cache=None, co2_tracker=False)
    left, right = (encoder.encode(rows[side], normalize=True) for side in ("sentence1", "sentence2"))
    expected: Any = spearmanr((left * right).sum(axis=1), rows["score"])
    assert results.task_results[0].get_score() == pytest.approx(expected.statistic, abs=1e-4)


def test_a_ranker_scores_pairs(encoder, sentences):
    from tain.integrations.mteb import MtebRanker

    ranker = DualRanker.around(encoder, name="local")
    made = MtebRanker(ranker)
    queries, documents = [sentences[0], sentences[1], sentences[0]], sentences[3:6]
    found = made.predict(
        [{"text": queries[:2]}, {"text": queries[2:]}], [{"text": documents}], task_metadata=None, hf_split="test", hf_subset="default"
    )
    scores = ranker.score(queries, documents)
    np.testing.assert_allclose(found, np.diagonal(scores), atol=1e-5)
