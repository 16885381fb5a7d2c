import numpy as np
import pytest
import torch
from torch import Tensor

from tain.encoders import cooccurrence
from tain.encoders.cooccurrence import cooccurrence_vectors
from tain.foundation.errors import UserError

SEPARATOR = 0
CLUSTERS, WORDS = 6, 8  # six topics of eight words each: ids 1 to 48
VOCABULARY = 1 + CLUSTERS * WORDS
WINDOW = 3


def toy_stream(texts: int = 4000, length: int = 8) -> np.ndarray:
    """Texts of one topic each, with a stray word now and then, and a separator behind each."""
    rng = np.random.default_rng(2)
    topics = rng.integers(CLUSTERS, size=(texts, 1))
    topics = np.where(rng.random((texts, length)) < 0.15, rng.integers(CLUSTERS, size=(texts, length)), topics)
    popular = rng.choice(WORDS, p=np.arange(1, WORDS + 1) / 36, size=(texts, length))  # words of a topic are not alike in number
    rows = np.full((texts, length + 1), SEPARATOR, dtype=np.uint16)
    rows[:, :-1] = 1 + topics * WORDS + popular
    return rows.ravel()


def naive_information(stream: np.ndarray, window: int) -> np.ndarray:
    """Positive pointwise mutual information by counting one pair at a time."""
    counts = np.zeros((VOCABULARY, VOCABULARY))
    for index in range(len(stream)):
        for distance in range(1, window + 1):
            if index + distance >= len(stream) or SEPARATOR in stream[index : index + distance + 1]:
                break
            weight = (window + 1 - distance) / window
            counts[stream[index], stream[index + distance]] += weight
            counts[stream[index + distance], stream[index]] += weight
    occurs = counts.sum(1)
    contexts = occurs**0.75 / (occurs**0.75).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        information = np.log(counts / (occurs[:, None] * contexts))
    return np.where(counts > 0, np.maximum(information, 0), 0)


def vectors_of(stream: np.ndarray, *, dim: int = 12, seed: int = 1, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return cooccurrence_vectors(stream, vocabulary=vocabulary, dim=dim, special_ids=[SEPARATOR], window=WINDOW, generator=generator)


@pytest.fixture
def factored(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The tables that were factored, as they were."""
    tables: list[Tensor] = []
    leading = cooccurrence._leading_vectors

    def recorded(matrix: Tensor, dim: int, generator: torch.Generator) -> Tensor:
        tables.append(matrix.clone())
        return leading(matrix, dim, generator)

    monkeypatch.setattr(cooccurrence, "_leading_vectors", recorded)
    return tables


def test_the_factored_table_is_the_positive_information(factored: list[Tensor]):
    stream = toy_stream(texts=300)
    vectors_of(stream)
    np.testing.assert_allclose(factored[0].numpy(), naive_information(stream, WINDOW), atol=1e-4)


@pytest.mark.parametrize("chunk_tokens", [50, 333])
def test_cutting_the_stream_into_chunks_loses_no_pair(chunk_tokens: int, factored: list[Tensor], monkeypatch: pytest.MonkeyPatch):
    stream = toy_stream(texts=200)
    vectors_of(stream)
    monkeypatch.setattr(cooccurrence, "_CHUNK_TOKENS", chunk_tokens)
    vectors_of(stream)
    torch.testing.assert_close(factored[1], factored[0])


def test_pairs_at_the_very_end_count_too(factored: list[Tensor]):
    stream = np.array([1, 2, 0, 3, 4], dtype=np.uint16)
    vectors_of(stream)
    np.testing.assert_allclose(factored[0].numpy(), naive_information(stream, WINDOW), atol=1e-4)


def test_no_window_crosses_a_separator(factored: list[Tensor]):
    vectors_of(np.array([1, 2, 0, 3, 4, 0, 1, 2, 0, 3, 4, 0], dtype=np.uint16))
    assert factored[0][1, 2] > 0
    assert factored[0][2, 3] == 0


def test_words_of_a_topic_point_the_same_way():
    vectors, _ = vectors_of(toy_stream())
    words = torch.nn.functional.normalize(vectors[1:], dim=1)
    cosines = (words @ words.T).view(CLUSTERS, WORDS, CLUSTERS, WORDS)
    inside = torch.stack([cosines[topic, :, topic] for topic in range(CLUSTERS)])
    across = torch.stack([cosines[left, :, right] for left in range(CLUSTERS) for right in range(left)])
    assert inside.mean() > 0.8
    assert across.mean() < 0.0  # centred: six topics point away from one another
    assert inside.amin() > across.amax()


def test_products_follow_the_information():
    """With all dimensions kept, the left and right factors give the table back; their symmetric stand-in stays close."""
    stream = toy_stream()
    vectors, _ = vectors_of(stream, dim=VOCABULARY)
    information = torch.from_numpy(naive_information(stream, WINDOW)).float()[1:, 1:]
    centred = information - information.mean(0) - information.mean(1, keepdim=True) + information.mean()
    products = vectors[1:] @ vectors[1:].T
    pairs = torch.triu(torch.ones(VOCABULARY - 1, VOCABULARY - 1, dtype=torch.bool), diagonal=1)
    assert torch.corrcoef(torch.stack([products[pairs], centred[pairs]]))[0, 1] > 0.95


def test_the_leading_vectors_span_the_exact_decomposition(factored: list[Tensor]):
    vectors, _ = vectors_of(toy_stream(), dim=5)
    left, values, _ = torch.linalg.svd(factored[0])
    exact = left[:, :5] * values[:5].sqrt()
    exact -= exact[1:].mean(0)
    exact[SEPARATOR] = 0
    torch.testing.assert_close(vectors @ vectors.T, exact @ exact.T, atol=1e-3, rtol=1e-3)  # equal up to a rotation


def test_vectors_are_centred_and_no_dimension_is_first():
    vectors, _ = vectors_of(toy_stream())
    torch.testing.assert_close(vectors[1:].mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    spread = vectors.std(0)
    assert spread.max() / spread.min() < 4  # without the rotation: singular values 5 times apart


def test_special_and_unseen_tokens_have_no_vector_and_do_not_move_the_centre():
    stream = toy_stream()
    vectors, unigram = vectors_of(stream, vocabulary=VOCABULARY + 20)
    assert not vectors[SEPARATOR].any()
    assert not vectors[VOCABULARY:].any()
    assert bool((vectors[1:VOCABULARY].norm(dim=1) > 0).all())
    torch.testing.assert_close(vectors[1:VOCABULARY].mean(0), torch.zeros(12), atol=1e-4, rtol=0)
    assert unigram.tolist() == np.bincount(stream, minlength=VOCABULARY + 20).tolist()


def test_more_dimensions_than_words_are_filled_up():
    vectors, _ = vectors_of(toy_stream(texts=200), dim=64)
    assert vectors.shape == (VOCABULARY, 64)
    assert torch.isfinite(vectors).all()


def test_the_same_seed_gives_the_same_vectors_and_leaves_torchs_own_alone():
    state = torch.get_rng_state()
    stream = toy_stream(texts=200)
    torch.testing.assert_close(vectors_of(stream)[0], vectors_of(stream)[0])
    assert not torch.allclose(vectors_of(stream)[0], vectors_of(stream, seed=2)[0])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_vocabulary_too_large_for_a_table_is_refused():
    with pytest.raises(UserError, match=r"the vocabulary has 250,000 tokens, too many .* give --no-cooccurrence-init"):
        vectors_of(toy_stream(texts=10), vocabulary=250_000)
