"""A server on this machine, asked over HTTP: what it answers is what the models say, and what it refuses."""

import base64
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from tain.foundation.errors import UserError
from tain.models.embedder import Embedder
from tain.models.rankers import Ranker
from tain.serving import batching, bodies, service
from tain.serving.served import Query, Served, load_served
from tain.students.inputs import HashedReader
from tain.students.student import Student

OPTIONS = {"device": "cpu", "dtype": "float32", "trust_remote_code": False}


@pytest.fixture(scope="module")
def client(serve, load_model):
    return serve([load_model(name) for name in ("encoder", "cross", "student", "tagger", "classifier")])


# ---- answers


@pytest.mark.parametrize("name", ["encoder", "student"])
def test_vectors_are_the_models_own(client, folders, sentences, name):
    model = Student.load(folders[name]) if name == "student" else Embedder.load(folders[name], device="cpu", dtype="float32")
    status, said = client.post("/v1/embeddings", model=name, input=sentences)
    assert (status, said["object"], said["model"]) == (200, "list", name)
    assert [(row["object"], row["index"]) for row in said["data"]] == [("embedding", index) for index in range(len(sentences))]
    np.testing.assert_allclose([row["embedding"] for row in said["data"]], model.encode(sentences, normalize=True), atol=1e-5)
    tokens = sum(model.count_tokens(sentences))
    assert said["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens, "truncated_texts": 0}


def test_one_text_comes_alone_and_base64_carries_the_same_numbers(client, sentences):
    _, plain = client.post("/v1/embeddings", input=sentences[0])
    _, packed = client.post("/v1/embeddings", input=sentences[0], encoding_format="base64", dimensions=32, user="somebody")
    assert (len(plain["data"]), plain["model"]) == (1, "encoder")  # the first model that gives vectors
    numbers = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype="<f4")
    np.testing.assert_allclose(numbers, plain["data"][0]["embedding"], atol=1e-6)


def test_tokens_are_counted_as_they_are_read(folders):
    encoder, student, tagger = (load_served("x", str(folders[name]), **OPTIONS) for name in ("encoder", "student", "tagger"))
    assert encoder.embedder is not None
    assert encoder.embedder.count_tokens(["a b", "a"]) == [4, 3]  # and two special ones
    assert isinstance(student.embedder, Student)
    assert isinstance(tagger.labeller, Student)
    projection = student.embedder._reader
    assert isinstance(projection, HashedReader)
    ends = len(projection.before) + len(projection.behind)
    assert student.embedder.count_tokens(["the sea", "sand"]) == [2 + ends, 1 + ends]
    assert tagger.labeller.count_tokens(["go " * 1000]) == [projection.max_tokens + ends]


@pytest.mark.parametrize("name", ["encoder", "student", "cross"])
def test_documents_come_by_score_best_first(client, folders, sentences, name):
    query, documents = sentences[0], [*sentences[1:6], {"text": sentences[0]}]
    texts = [*sentences[1:6], sentences[0]]
    if name == "cross":
        expected = Ranker.load(folders[name], device="cpu", dtype="float32").score([query], texts)[0]
    else:
        model = load_served(name, str(folders[name]), **OPTIONS).embedder
        expected = model.encode(texts, normalize=True) @ model.encode([query], normalize=True)[0]
        assert expected.argmax() == 5  # a text is nearest to itself
    status, said = client.post("/v1/rerank", model=name, query=query, documents=documents, return_documents=True)
    assert (status, said["model"]) == (200, name)
    order = [result["index"] for result in said["results"]]
    assert order == np.argsort(-expected).tolist()
    np.testing.assert_allclose([result["relevance_score"] for result in said["results"]], expected[order], atol=1e-4)
    assert [result["document"]["text"] for result in said["results"]] == [texts[index] for index in order]
    assert said["usage"]["total_tokens"] > 0
    _, few = client.post("/v1/rerank", model=name, query=query, documents=documents, top_n=2)
    assert few["results"] == [{name: value for name, value in result.items() if name != "document"} for result in said["results"][:2]]


def pairs(query, documents):
    asked = Query(query)
    return [(asked, document) for document in documents]


def tokens_of(found):
    return found[0].query_tokens + sum(one.document_tokens for one in found)


def test_a_cross_encoder_reads_the_query_with_every_document(folders):
    cross, encoder = (load_served(name, str(folders[name]), **OPTIONS) for name in ("cross", "encoder"))
    once, with_three = pairs("a b", ["c"]), pairs("a b", ["c", "c", "c"])
    found = cross.rerank([*once, *with_three])
    assert tokens_of(found[:1]) == len(["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"])
    assert tokens_of(found[1:]) == 3 * tokens_of(found[:1])
    found = encoder.rerank([*pairs("a b", ["c", "c"]), *once])
    assert tokens_of(found[:2]) - tokens_of(found[2:]) == encoder.embedder.count_tokens(["c"])[0]


@pytest.mark.parametrize("name", ["encoder", "cross"])
def test_requests_of_many_lists_keep_them_apart(folders, sentences, name):
    served = load_served(name, str(folders[name]), **OPTIONS)
    lists = [(sentences[0], sentences[1:4]), (sentences[0], sentences[2:3]), (sentences[7], sentences[:6])]
    together = served.rerank([pair for one in lists for pair in pairs(*one)])
    start = 0
    for query, documents in lists:
        alone, found = served.rerank(pairs(query, documents)), together[start : start + len(documents)]
        np.testing.assert_allclose([one.score for one in found], [one.score for one in alone], atol=1e-5)
        assert tokens_of(found) == tokens_of(alone)
        start += len(documents)


@pytest.mark.parametrize("name", ["encoder", "cross"])
def test_slices_of_a_request_change_neither_scores_nor_counts(serve, folders, sentences, monkeypatch, name):
    asked = {"query": sentences[0], "documents": sentences * 4}
    served = load_served(name, str(folders[name]), **OPTIONS)
    _, whole = serve([served]).post("/v1/rerank", **asked)
    monkeypatch.setattr(batching, "_FIRST_BATCH_TOKENS", 20)
    monkeypatch.setattr(batching, "_BATCH_TOKENS", (20, 20))
    calls = []
    rerank = Served.rerank
    probe, _ = service._USES["rerank"]
    monkeypatch.setitem(service._USES, "rerank", (probe, lambda served, pairs: calls.append(len(pairs)) or rerank(served, pairs)))
    _, sliced = serve([served]).post("/v1/rerank", **asked)
    assert len(calls) > 4 and sum(calls) == 48
    assert sliced["usage"] == whole["usage"]
    assert [one["index"] for one in sliced["results"]] == pytest.approx([one["index"] for one in whole["results"]])
    scores = [[one["relevance_score"] for one in said["results"]] for said in (sliced, whole)]
    np.testing.assert_allclose(*scores, atol=1e-5)


def test_classes_and_tags_are_told(client, folders):
    _, said = client.post("/v1/classify", model="classifier", input=["a", "b"])
    assert [row["index"] for row in said["data"]] == [0, 1]
    assert {row["label"] for row in said["data"]} <= {"no", "maybe", "yes"}
    assert all(1 / 3 <= row["probability"] <= 1 and "tags" not in row for row in said["data"])
    _, said = client.post("/v1/classify", model="tagger", input="go to a")
    (expected,) = Student.load(folders["tagger"]).predict(["go to a"])
    assert (said["data"][0]["label"], said["data"][0]["tags"]) == (expected.label, expected.tags)


def test_models_are_listed_with_what_they_answer(client):
    _, said, _ = client.ask("/v1/models")
    assert {row["id"]: row["uses"] for row in said["data"]} == {
        "encoder": ["embeddings", "rerank"],
        "cross": ["rerank"],
        "student": ["embeddings", "rerank"],
        "tagger": ["classify"],
        "classifier": ["classify"],
    }
    assert client.ask("/health")[:2] == (200, {"status": "ok"})


def test_many_at_once_each_get_their_own(client, folders, sentences):
    expected = Embedder.load(folders["encoder"], device="cpu", dtype="float32").encode(sentences, normalize=True)

    def ask(index):
        status, said = client.post("/v1/embeddings", input=[sentences[index], sentences[index - 1]])
        assert status == 200
        return np.array([row["embedding"] for row in said["data"]])

    with ThreadPoolExecutor(8) as threads:
        for index, found in enumerate(threads.map(ask, list(range(12)) * 3)):
            np.testing.assert_allclose(found, expected[[index % 12, index % 12 - 1]], atol=1e-5)


# ---- refusals


@pytest.mark.parametrize(
    ("path", "content", "message", "param"),
    [
        ("/v1/embeddings", {}, "input: Field required", "input"),
        ("/v1/embeddings", {"input": []}, "at least 1 item", "input"),
        ("/v1/embeddings", {"input": ["a"] * 2049}, "at most 2048 items", "input"),
        (
            "/v1/embeddings",
            {"input": [1, 2]},
            "token ids differ between models: send texts (in LangChain, set check_embedding_ctx_length=False)",
            "input",
        ),
        ("/v1/embeddings", {"input": [[1, 2]]}, "token ids differ between models", "input"),
        ("/v1/embeddings", {"input": [["a"]]}, "input.0: Input should be a valid string", "input"),
        ("/v1/embeddings", {"input": ["a", None]}, "input.1: Input should be a valid string", "input"),
        (
            "/v1/embeddings",
            {"input": "a", "encoding_format": "int8"},
            "encoding_format: Input should be 'float' or 'base64'",
            "encoding_format",
        ),
        (
            "/v1/embeddings",
            {"input": "a", "dimensions": 64},
            "dimensions is 64, but vectors of 'encoder' have 32: ask for no more",
            "dimensions",
        ),
        (
            "/v1/embeddings",
            {"input": "a", "model": "tagger"},
            "model 'tagger' does not answer embeddings: encoder (embeddings, rerank);",
            "model",
        ),
        ("/v1/rerank", {"query": "a"}, "documents: Field required", "documents"),
        ("/v1/rerank", {"query": "a", "documents": [{"image": "b"}]}, "documents.0: Input should be a valid string", "documents"),
        ("/v1/rerank", {"query": "a", "documents": ["b"], "top_n": 0}, "top_n: Input should be greater than or equal to 1", "top_n"),
        ("/v1/classify", {"input": "a", "model": "encoder"}, "model 'encoder' does not answer classify", "model"),
    ],
)
def test_requests_that_cannot_work_are_told_why(client, path, content, message, param):
    error = client.refusal(path, 400, **content)
    assert message in error["message"]
    assert error["param"] == param


def test_a_model_or_path_that_is_not_there(client, serve, folders):
    error = client.refusal("/v1/embeddings", 404, input="a", model="other")
    assert error["message"].startswith("there is no model 'other' here: encoder (embeddings, rerank)")
    assert error["code"] == "model_not_found"
    status, said, _ = client.ask("/v1/nothing")
    assert (status, said["error"]["message"][:34]) == (404, "GET /v1/nothing is not an endpoint")
    status, said, headers = client.ask("/v1/embeddings")
    assert (status, said["error"]["message"], headers["Allow"]) == (405, "/v1/embeddings does not answer GET: use POST", "POST")
    alone = serve([load_served("tagger", str(folders["tagger"]), **OPTIONS)])
    assert alone.refusal("/v1/embeddings", 404, input="a")["message"].startswith("no model here answers embeddings: tagger (classify)")


def test_bodies_that_are_no_json_or_too_large(client, monkeypatch):
    status, said, _ = client.ask("/v1/embeddings", raw="{")
    assert (status, said["error"]["message"][:34]) == (400, "the request's body is not JSON (EO")
    status, said, _ = client.ask("/v1/embeddings", raw="[]")
    assert (status, said["error"]["message"]) == (400, "the request's body is JSON, but no object: send a JSON object")
    monkeypatch.setattr(bodies, "MAX_BYTES", 2**20)
    status, said, _ = client.ask("/v1/embeddings", {"input": "a" * 2**21})
    assert (status, said["error"]["message"]) == (413, "the request is larger than 1 MB: send fewer texts at a time")


def test_a_key_is_asked_for(serve, folders):
    client = serve([load_served("encoder", str(folders["encoder"]), **OPTIONS)], api_key="secret")
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        status, said, sent = client.ask("/v1/embeddings", {"input": "a"}, **headers)
        assert (status, said["error"]["code"], sent["WWW-Authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert client.ask("/v1/models")[0] == 401
    assert client.ask("/v1/embeddings", {"input": "a"}, Authorization="Bearer secret")[0] == 200
    assert client.ask("/health")[0] == 200  # says nothing of the models


def test_a_model_that_must_be_told_the_language_is_refused(folders, monkeypatch):
    monkeypatch.setattr(Embedder, "languages", property(lambda self: ("en",)))
    with pytest.raises(UserError, match="is corrected per language, but requests name no language"):
        load_served("x", str(folders["encoder"]), **OPTIONS)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_model_that_gives_nan_is_an_error_of_the_servers(serve, bert_folder, encoding):
    from tain.serving.served import Served

    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    with torch.no_grad():
        next(embedder.encoder.parameters()).fill_(float("nan"))  # after the check of the weights
    client = serve([Served("broken", embedder=embedder)])
    status, said = client.post("/v1/embeddings", input=["a text"], encoding_format=encoding)
    assert status == 500
    assert "gave numbers that are not finite for 1 of 1 texts" in said["error"]["message"]
