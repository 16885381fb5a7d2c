"""Token vectors trained as a bag of words, and the objective that keeps an encoder near them."""

import numpy as np
import pytest
import torch

from tain.batches.same_texts import id_keys, same_numbers
from tain.batches.types import KeptTexts
from tain.foundation.errors import ShapeError
from tain.foundation.progress import Progress
from tain.objectives.contrastive import paired_info_nce, similarity_gap
from tain.recipes.mirror.static import TokenVectors, combined_with_embeddings, taken, train_token_vectors


def kept(texts: list[list[int]]) -> KeptTexts:
    return KeptTexts(np.concatenate(texts).astype(np.int32), np.cumsum([0, *map(len, texts)], dtype=np.int64), 0)


@pytest.fixture(scope="module")
def topics():
    """Pairs of texts (2 and 3 are special tokens): both sides of a pair draw from the six tokens of one of fifty topics."""
    rng = np.random.default_rng(5)
    left, right, topic = [], [], rng.integers(50, size=1200)
    for each in topic:
        own = 4 + 6 * each + np.arange(6)
        for side in (left, right):
            side.append([2, *rng.choice(own, size=3).tolist(), 3])
    return left, right, topic


def trained(topics, *, pairs: int, seed: int = 1) -> TokenVectors:
    left, right, _ = topics
    embeddings = torch.randn(304, 16, generator=torch.Generator().manual_seed(0))
    return train_token_vectors(embeddings, kept(left), kept(right), special=[2, 3], max_pairs=pairs, seed=seed, progress=Progress.silent())


def topic_margin(vectors: TokenVectors, topics) -> float:
    """Mean cosine within topics minus that between them."""
    left, _, topic = topics
    units = torch.nn.functional.normalize(vectors.encode(left), dim=1)
    cosines = (units @ units.T).numpy()
    same = topic[:, None] == topic[None, :]
    return float(cosines[same].mean() - cosines[~same].mean())


def test_training_draws_the_tokens_of_one_topic_together(topics):
    untrained, after = trained(topics, pairs=0), trained(topics, pairs=4800)
    assert untrained.losses == [] and len(after.losses) == 4
    assert topic_margin(after, topics) > topic_margin(untrained, topics) + 0.05


def test_fewer_pairs_than_a_batch_are_repeated_in_it(topics):
    few = [side[:300] for side in topics]
    after = trained(few, pairs=2400)
    assert len(after.losses) == 1 and np.isfinite(after.losses).all()
    assert not torch.equal(after.table, trained(few, pairs=0).table)


def test_special_tokens_count_nothing(topics):
    vectors = trained(topics, pairs=2400)
    assert (vectors.table[[2, 3]] == 0).all()
    torch.testing.assert_close(vectors.encode([[2, 7, 9, 3]]), vectors.encode([[7, 9]]))
    assert (vectors.encode([[2, 3]]) == 0).all()


def test_the_same_seed_gives_the_same_vectors(topics):
    assert torch.equal(trained(topics, pairs=2400).table, trained(topics, pairs=2400).table)
    assert not torch.equal(trained(topics, pairs=2400).table, trained(topics, pairs=2400, seed=2).table)


def test_untrained_vectors_are_whitened(topics):
    left, right, _ = topics
    vectors = trained(topics, pairs=0)
    counts = np.bincount(np.concatenate([*left, *right]), minlength=304)
    counts[[2, 3]] = 0
    weights = 1e-3 / (1e-3 + counts / counts.sum())
    directions = vectors.table.double() / torch.from_numpy(weights)[:, None]
    means = torch.stack([directions[text[1:-1]].mean(dim=0) for text in left])
    covariance = torch.cov(means.T)
    expected = torch.eye(16, dtype=torch.float64) - 1 / 16  # normalised rows have a mean of 0, and so no variance along (1, ..., 1)
    torch.testing.assert_close(covariance / covariance.trace() * 15, expected, atol=1e-3, rtol=0)


# ---- the objective


def test_equal_cosines_have_no_gap_whatever_length_and_turn():
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(2)))[0]
    assert similarity_gap(3 * vectors, vectors @ turn).item() == pytest.approx(0, abs=1e-10)


def test_the_gap_has_its_closed_form():
    ours = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    theirs = torch.tensor([[1.0], [1.0], [-1.0]])
    # cosines of pairs (0, 1), (0, 2), (1, 2): ours 0, 1, 0; theirs 1, -1, -1
    assert similarity_gap(ours, theirs).item() == pytest.approx((1 + 4 + 1) / 3)


def test_one_text_has_no_gap():
    with pytest.raises(ShapeError, match="at least 2 texts"):
        similarity_gap(torch.ones(1, 2), torch.ones(1, 2))


def test_texts_are_the_same_only_where_their_tokens_are():
    numbers = same_numbers(id_keys(kept([[5, 6, 7], [], [7, 6, 5], [5, 6, 7], [5, 6], [5, 6, 7, 0], []]).arrays())).tolist()
    assert numbers[0] == numbers[3]
    assert numbers[1] == numbers[6]
    assert len(set(numbers)) == 5


def test_texts_are_taken_in_the_order_chosen():
    found = taken(kept([[5, 6], [], [7, 8, 9], [4]]), np.array([3, 1, 2, 3]))
    assert list(found) == [[4], [], [7, 8, 9], [4]]


def test_word_vectors_hold_both_what_occurs_together_and_the_input_embeddings():
    """Cosines of the sum of two unit vectors, from their closed form."""
    trained_rows, embeddings = torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(3))
    found = combined_with_embeddings(TokenVectors(trained_rows, []), embeddings, special=[2, 3])
    assert (found[[2, 3]] == 0).all()
    rows = torch.nn.functional.layer_norm(embeddings, (16,))
    rows = rows - rows[[0, 1, *range(4, 9)]].mean(dim=0)
    expected = trained_rows[5] / trained_rows[5].norm() + rows[5] / rows[5].norm()
    torch.testing.assert_close(found[5], expected)


def test_a_text_that_is_in_two_pairs_is_no_negative_of_itself(monkeypatch):
    """A ring of neighbours: every text is the left one of a pair and the right one of another."""
    seen = []

    def recording(left, right, *, temperature, is_same):
        seen.append(int((is_same & ~torch.eye(len(is_same), dtype=torch.bool)).sum()))
        return paired_info_nce(left, right, temperature=temperature, is_same=is_same)

    monkeypatch.setattr("tain.recipes.mirror.static.paired_info_nce", recording)
    texts = [[4 + 2 * number, 5 + 2 * number] for number in range(1024)]
    train_token_vectors(
        torch.randn(2 * 1024 + 4, 8, generator=torch.Generator().manual_seed(0)),
        kept(texts),
        kept(texts[1:] + texts[:1]),
        special=[2, 3],
        max_pairs=1024,
        seed=1,
        progress=Progress.silent(),
    )
    assert seen == [1024]


def test_few_pairs_are_whitened_and_weighted_with_the_users_other_texts(topics):
    left, right, _ = topics
    embeddings = torch.randn(304, 16, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, 1, 16)

    def table(own: KeptTexts | None) -> torch.Tensor:
        few = (kept(side[:8]) for side in (left, right))
        return train_token_vectors(embeddings, *few, special=[2, 3], max_pairs=0, seed=1, progress=Progress.silent(), own=own).table

    def unevenness(table: torch.Tensor) -> float:
        means = TokenVectors(table, []).encode(left)
        variances = torch.linalg.eigvalsh(torch.cov((means - means.mean(dim=0)).T))
        return float(variances[-1] / variances[1].clamp(min=1e-12))  # without the direction that layer normalization takes out

    assert unevenness(table(kept(left))) < 10 < 1000 < unevenness(table(None))
    weights = table(kept([[4, 4, 4, 5]] * 1000)).norm(dim=1)
    assert weights[4] < 0.1 * weights[200:].mean()  # frequent in the other texts
