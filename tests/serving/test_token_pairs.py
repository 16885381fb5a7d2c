"""The pairs of tokens that make two texts similar, over HTTP: those of ``tain inspect`` where a text is the mean of its tokens."""

import numpy as np
import pytest

from tain.exported.encoder import ExportedEncoder
from tain.foundation.vectors import unit_length
from tain.inspection.run import inspect
from tain.models.embedder import Embedder
from tain.serving.served import Served


@pytest.fixture(scope="module")
def cls(bert_folder):
    return Embedder.load(bert_folder, pooling="cls", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def client(serve, load_model, cls):
    return serve([load_model("encoder"), load_model("exported"), load_model("student"), Served("cls", embedder=cls)])


@pytest.mark.parametrize("name", ["encoder", "exported"])
def test_contributions_are_those_of_inspect(client, bert_folder, sentences, name):
    left, right = sentences[:2]
    found = inspect(bert_folder, [left, right], dtype="float32", device="cpu")
    (expected,) = found.similarities
    status, said = client.post("/v1/token-pairs", model=name, left=left, right=right)
    assert (status, said["kind"], said["model"]) == (200, "contributions", name)
    np.testing.assert_allclose(said["parts"], expected.contributions, atol=1e-5)
    assert np.sum(said["parts"]) == pytest.approx(said["cosine"], abs=1e-5)
    assert said["cosine"] == pytest.approx(expected.cosine, abs=1e-5)
    assert [token["special"] for token in said["left"]] == [True, *[False] * (len(said["left"]) - 2), True]
    assert (len(said["left"]), len(said["right"])) == expected.contributions.shape


def test_cosines_of_tokens_are_given_where_a_text_is_not_the_mean_of_its_tokens(client, cls, folders, sentences):
    left, right = sentences[:2]
    status, said = client.post("/v1/token-pairs", model="cls", left=left, right=right)
    assert (status, said["kind"]) == (200, "cosines")
    graph = ExportedEncoder.load(folders["exported"])  # the same encoder
    expected = unit_length(graph.token_vectors(left).tokens) @ unit_length(graph.token_vectors(right).tokens).T
    np.testing.assert_allclose(said["parts"], expected, atol=1e-5)
    assert said["cosine"] == pytest.approx(float(cls.similarity(cls.encode([left]), cls.encode([right]))[0, 0]), abs=1e-5)
    assert said["parts"][0][0] == pytest.approx(said["cosine"], abs=1e-5)  # the first token is the vector


def test_tokens_behind_the_limit_are_left_out(client, cls):
    long = "a b " * 200
    status, said = client.post("/v1/token-pairs", model="encoder", left=long, right="a")
    assert status == 200
    assert len(said["left"]) == len(said["parts"]) == cls.max_tokens


def test_texts_that_cannot_be_shown_are_refused(client):
    error = client.refusal("/v1/token-pairs", 413, left="a", right="b" * 1001)
    assert (error["message"], error["param"]) == ("right has 1,001 characters, but the limit is 1,000: shorten it", "right")
    assert client.refusal("/v1/token-pairs", 400, model="student", left="a", right="b")["param"] == "model"
