"""Each dialect's requests, answered in its own form with the numbers that the model gives in Python."""

import base64
import json

import numpy as np
import pytest

from tain.exported.encoder import ExportedEncoder
from tain.foundation.vectors import unit_length
from tain.models.embedder import Embedder
from tain.models.labeller import Labeller
from tain.models.rankers import Ranker
from tain.models.vector_forms import shortened
from tain.students.student import Student


@pytest.fixture(scope="module")
def client(serve, load_model):
    return serve([load_model(name) for name in ("encoder", "exported", "cross", "student", "classifier")])


@pytest.fixture(scope="module")
def embedder(folders):
    return Embedder.load(folders["encoder"], device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def long_text(embedder):
    """A text that is longer than the model reads, with another end than start."""
    return " ".join(["a b"] * embedder.max_tokens) + " c d e"


def vectors_at(said):
    return np.array([row["embedding"] for row in said["data"]])


# ---- OpenAI


def test_dimensions_are_the_first_ones_scaled_to_length_one(client, embedder, sentences):
    status, said = client.post("/v1/embeddings", model="encoder", input=sentences, dimensions=8)
    assert status == 200
    np.testing.assert_allclose(vectors_at(said), shortened(embedder.encode(sentences), 8), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors_at(said), axis=1), 1, atol=1e-6)


def test_floats_are_written_with_the_digits_of_float32(client, sentences):
    _, plain = client.post("/v1/embeddings", model="encoder", input=sentences)
    _, packed = client.post("/v1/embeddings", model="encoder", input=sentences, encoding_format="base64")
    exact = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in packed["data"]])
    assert (vectors_at(plain).astype(np.float32) == exact).all()  # no bit is lost
    assert max(len(repr(number)) for row in plain["data"] for number in row["embedding"]) < 18  # and no digit is made up


def test_a_large_answer_is_the_same_as_small_ones(client, sentences):
    many = [sentences[index % len(sentences)] for index in range(1024)]  # written in a thread
    _, said = client.post("/v1/embeddings", model="encoder", input=many)
    _, few = client.post("/v1/embeddings", model="encoder", input=sentences)
    np.testing.assert_allclose(vectors_at(said)[: len(sentences)], vectors_at(few), atol=1e-5)
    assert [row["index"] for row in said["data"]] == list(range(1024))


@pytest.mark.parametrize("name", ["encoder", "exported", "student"])
def test_texts_that_were_cut_are_counted(client, folders, long_text, name):
    texts = ["a", long_text, "b", long_text * 2]
    expected = 0 if name == "student" and Student.load(folders[name]).max_tokens is None else 2
    status, said, headers = client.ask("/v1/embeddings", {"model": name, "input": texts})
    if name == "student":
        student = Student.load(folders[name])
        student.encode(texts)
        expected = student.truncated
    assert (status, headers["X-Tain-Truncated"]) == (200, str(expected))
    assert said["usage"]["truncated_texts"] == expected
    _, said, headers = client.ask("/v1/embeddings", {"model": name, "input": ["a", "b"]})
    assert (headers["X-Tain-Truncated"], said["usage"]["truncated_texts"]) == ("0", 0)


@pytest.mark.parametrize("name", ["encoder", "exported"])
def test_a_text_of_just_the_limit_is_not_cut(client, embedder, name):
    (whole,) = embedder.count_tokens(["a " * (embedder.max_tokens - 2)])
    assert whole == embedder.max_tokens
    assert client.ask("/v1/embeddings", {"model": name, "input": "a " * (whole - 2)})[2]["X-Tain-Truncated"] == "0"
    assert client.ask("/v1/embeddings", {"model": name, "input": "a " * (whole - 1)})[2]["X-Tain-Truncated"] == "1"


def test_a_text_that_may_not_be_cut_is_refused(client, embedder, long_text):
    error = client.refusal("/v1/embeddings", 400, model="encoder", input=["a", long_text], truncation="error")
    assert error["message"] == (
        f"text 1 is longer than the {embedder.max_tokens} tokens that model 'encoder' reads: shorten it, or let it be cut"
    )
    assert (error["param"], error["code"]) == ("input", "text_too_long")
    assert client.post("/v1/embeddings", model="encoder", input=["a"], truncation="error")[0] == 200


@pytest.mark.parametrize("name", ["encoder", "exported"])
def test_a_long_text_can_be_read_in_chunks(client, embedder, long_text, name):
    status, said, headers = client.ask("/v1/embeddings", {"model": name, "input": ["a", long_text], "truncation": "mean-of-chunks"})
    assert (status, headers["X-Tain-Truncated"], said["usage"]["truncated_texts"]) == (200, "0", 0)
    expected = unit_length(embedder.encode(["a", long_text], truncation="mean-of-chunks"))
    np.testing.assert_allclose(vectors_at(said), expected, atol=1e-4)
    assert said["usage"]["prompt_tokens"] > 2 * embedder.max_tokens  # all tokens were read
    (_, cut) = vectors_at(client.post("/v1/embeddings", model=name, input=["a", long_text])[1])
    assert np.abs(cut - expected[1]).max() > 1e-3


def test_models_tell_their_limits(client, embedder):
    about = client.ask("/v1/models/encoder")[1]
    assert (about["max_tokens"], about["dimensions"], about["normalized"]) == (embedder.max_tokens, embedder.dim, True)
    assert "dimensions" not in client.ask("/v1/models/cross")[1]


# ---- rerank


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_are_ranked_on_every_path(client, folders, sentences, path):
    expected = Ranker.load(folders["cross"], device="cpu", dtype="float32").score([sentences[0]], sentences)[0]
    status, said = client.post(path, model="cross", query=sentences[0], documents=sentences, top_n=3)
    assert (status, [row["index"] for row in said["results"]]) == (200, np.argsort(-expected, kind="stable")[:3].tolist())
    assert said["meta"]["api_version"]["version"] == ("2" if path == "/v2/rerank" else "1")
    assert said["id"] and said["usage"]["total_tokens"] == said["meta"]["tokens"]["input_tokens"] > 0
    has_documents = path == "/rerank"  # as vLLM
    assert all(("document" in row) == has_documents for row in said["results"])
    if has_documents:
        assert [row["document"]["text"] for row in said["results"]] == [sentences[row["index"]] for row in said["results"]]


def test_texts_are_ranked_as_by_text_embeddings_inference(client, folders, sentences):
    expected = Ranker.load(folders["cross"], device="cpu", dtype="float32").score([sentences[0]], sentences)[0]
    order = np.argsort(-expected, kind="stable")
    status, raw = client.post("/rerank", model="cross", query=sentences[0], texts=sentences, raw_scores=True, return_text=True)
    assert (status, [row["index"] for row in raw]) == (200, order.tolist())
    np.testing.assert_allclose([row["score"] for row in raw], expected[order], atol=1e-4)
    assert [row["text"] for row in raw] == [sentences[index] for index in order]
    _, probable = client.post("/rerank", model="cross", query=sentences[0], texts=sentences)
    assert [row["index"] for row in probable] == order.tolist()
    np.testing.assert_allclose([row["score"] for row in probable], 1 / (1 + np.exp(-expected[order])), atol=1e-4)
    _, cosines = client.post("/rerank", model="encoder", query=sentences[0], texts=[sentences[0]])
    assert cosines == [{"index": 0, "score": pytest.approx(1.0, abs=1e-5)}]


def test_rerank_needs_one_kind_of_documents(client):
    assert client.refusal("/rerank", 400, query="a", documents=["b"], texts=["b"])["message"] == "give either documents or texts"
    assert client.refusal("/rerank", 400, query="a")["message"] == "give either documents or texts"


@pytest.mark.parametrize("name", ["encoder", "cross"])
def test_documents_and_queries_that_were_cut_are_counted(client, long_text, name):
    def cut(query, documents):
        _, said, headers = client.ask("/v1/rerank", {"model": name, "query": query, "documents": documents})
        assert headers["X-Tain-Truncated"] == str(said["usage"]["truncated_texts"])
        return said["usage"]["truncated_texts"]

    assert cut("a", ["b", "c"]) == 0
    assert cut("a", ["b", long_text, long_text]) == 2
    assert cut(long_text, ["b", "c", long_text]) == 2  # the query once


def test_rerank_refuses_what_may_not_be_cut(client, long_text):
    error = client.refusal("/v1/rerank", 400, model="cross", query="a", documents=["b", long_text], truncation=False)
    assert error["message"] == "document 1 is longer than model 'cross' reads: shorten it, or let it be cut"
    status, said = client.post("/rerank", model="cross", query="a", texts=["b", long_text], truncate=False)
    assert (status, said["error_type"]) == (413, "Validation")
    assert client.post("/rerank", model="cross", query="a", texts=["b"], truncate=False)[0] == 200


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_pairs_are_scored(client, folders, sentences, path):
    ranker = Ranker.load(folders["cross"], device="cpu", dtype="float32")
    status, said = client.post(path, model="cross", text_1=sentences[0], text_2=sentences[1:4])
    assert (status, [row["index"] for row in said["data"]]) == (200, [0, 1, 2])
    np.testing.assert_allclose([row["score"] for row in said["data"]], ranker.score(sentences[:1], sentences[1:4])[0], atol=1e-5)
    _, said = client.post(path, model="cross", text_1=sentences[:3], text_2=sentences[3:6])
    np.testing.assert_allclose([row["score"] for row in said["data"]], ranker.score(sentences[:3], sentences[3:6]).diagonal(), atol=1e-5)
    assert said["usage"]["total_tokens"] == sum(ranker.count_tokens(sentences[:3], [[text] for text in sentences[3:6]]))
    error = client.refusal(path, 400, model="cross", text_1=["a", "b"], text_2=["c"])
    assert error["message"] == "text_1 has 2 texts and text_2 has 1: give one, or as many as in text_2"


# ---- Cohere


def test_embed_gives_every_type(client, folders, sentences):
    encoder = ExportedEncoder.load(folders["exported"])
    exact = encoder.encode(sentences)
    unit = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    kinds = ["float", "int8", "uint8", "binary", "ubinary", "base64"]
    status, said = client.post("/v2/embed", model="exported", texts=sentences, input_type="search_query", embedding_types=kinds)
    assert (status, list(said["embeddings"]), said["texts"]) == (200, kinds, sentences)
    found = {kind: np.array(said["embeddings"][kind]) for kind in kinds if kind != "base64"}
    np.testing.assert_allclose(found["float"], unit, atol=1e-5)
    low, high = (np.array(encoder.export.int8_ranges[each]) for each in ("low", "high"))
    np.testing.assert_allclose(np.clip((exact - low) / (high - low), 0, 1), (found["int8"] + 128) / 255, atol=0.5 / 255 + 1e-4)
    assert (found["uint8"] == found["int8"] + 128).all()
    assert (found["ubinary"] == np.packbits(unit > 0, axis=1)).all()
    assert (found["binary"] == found["ubinary"].astype(int) - 128).all()
    assert np.frombuffer(base64.b64decode(said["embeddings"]["base64"][0]), dtype="<f4") == pytest.approx(unit[0], abs=1e-5)
    assert said["meta"]["billed_units"]["input_tokens"] == sum(encoder.count_tokens(sentences))


def test_embed_takes_contents_and_fewer_dimensions(client, embedder, sentences):
    contents = [{"content": [{"type": "text", "text": sentence}]} for sentence in sentences]
    status, said = client.post("/v2/embed", model="encoder", inputs=contents, output_dimension=8)
    assert status == 200
    np.testing.assert_allclose(said["embeddings"]["float"], shortened(embedder.encode(sentences), 8), atol=1e-5)


@pytest.mark.parametrize("name", ["encoder", "exported"])
def test_embed_cuts_where_it_is_asked_to(client, name, embedder, long_text):
    def embed(text, **options):
        return client.post("/v2/embed", model=name, texts=["a", text], **options)

    _, end = embed(long_text, truncate="END")
    _, start = embed(long_text, truncate="START")
    room = embedder.max_tokens - 2
    words = long_text.split()
    _, expected_end = embed(" ".join(words[:room]))
    _, expected_start = embed(" ".join(words[-room:]))
    np.testing.assert_allclose(end["embeddings"]["float"], expected_end["embeddings"]["float"], atol=1e-5)
    np.testing.assert_allclose(start["embeddings"]["float"], expected_start["embeddings"]["float"], atol=1e-5)
    assert np.abs(np.array(start["embeddings"]["float"][1]) - np.array(end["embeddings"]["float"][1])).max() > 1e-3
    status, said = embed(long_text, truncate="NONE")
    assert status == 400
    assert said["message"] == said["error"]["message"]
    assert said["message"].startswith("text 1 is longer than the ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"texts": ["a"], "inputs": [{"content": [{"type": "text", "text": "a"}]}]}, "give either texts or inputs"),
        ({}, "give either texts or inputs"),
        ({"images": ["data:"]}, "images are given, but the models here read texts"),
        ({"inputs": [{"content": [{"type": "image_url"}]}]}, "inputs: each input must hold one text: the models here read no images"),
        (
            {"texts": ["a"], "embedding_types": ["float", "int8"]},
            "embedding_types has 'int8', but no ranges are recorded for model 'encoder'",
        ),
        (
            {"texts": ["a"], "embedding_types": ["uint8"], "output_dimension": 8, "model": "exported"},
            "embedding_types has 'uint8', but the ranges recorded for model 'exported' are those of whole vectors",
        ),
        ({"texts": ["a"], "output_dimension": 64}, "output_dimension is 64, but vectors of 'encoder' have 32: ask for no more"),
    ],
)
def test_embed_says_what_it_cannot_do(client, content, message):
    status, said = client.post("/v2/embed", **content)
    assert status == 400
    assert said["message"].startswith(message), said


def test_a_student_cannot_cut_the_start(client, folders):
    student = Student.load(folders["student"])
    long = "a " * (2 * (student.max_tokens or 0) + 2)
    status, said = client.post("/v2/embed", model="student", texts=[long], truncate="START")
    if student.max_tokens is None:
        assert status == 200
    else:
        assert status == 400
        assert "only its end can be cut" in said["message"]


# ---- text-embeddings-inference


def test_tei_embeds(client, embedder, sentences):
    exact = embedder.encode(sentences)
    status, said = client.post("/embed", inputs=sentences)
    assert status == 200
    np.testing.assert_allclose(said, exact / np.linalg.norm(exact, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(client.post("/embed", inputs=sentences[0], normalize=False)[1], exact[:1], rtol=1e-4, atol=1e-4)


def test_tei_refuses_in_its_own_form(client, long_text):
    status, said = client.post("/embed", inputs=["a", long_text], truncate=False)
    assert (status, said["error_type"]) == (413, "Validation")
    assert said["error"].startswith("text 1 is longer than the ")
    assert client.ask("/embed", raw="{")[1]["error_type"] == "Validation"
    assert client.post("/embed", inputs=["a", long_text])[0] == 200
    left, right = (client.post("/embed", inputs=long_text, truncation_direction=side)[1][0] for side in ("Left", "Right"))
    assert np.abs(np.array(left) - np.array(right)).max() > 1e-3


def test_tei_compares_by_cosine(client, embedder, sentences):
    status, said = client.post("/similarity", inputs={"source_sentence": sentences[0], "sentences": sentences})
    assert status == 200
    np.testing.assert_allclose(said, embedder.similarity(embedder.encode(sentences[:1]), embedder.encode(sentences))[0], atol=1e-5)
    assert said[0] == pytest.approx(1.0, abs=1e-5)


def test_tei_predicts_the_chance_of_every_class(client, folders):
    labeller = Labeller.load(folders["classifier"], device="cpu")
    logits = np.stack(labeller.logits(["a", "b c"]))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    status, said = client.post("/predict", inputs=[["a"], ["b c"]])
    assert status == 200
    for row, chances in zip(said, expected, strict=True):
        assert [each["score"] for each in row] == sorted([each["score"] for each in row], reverse=True)
        assert {each["label"]: each["score"] for each in row} == pytest.approx(dict(zip(labeller.labels, chances, strict=True)), abs=1e-5)
    _, alone = client.post("/predict", inputs="a")
    assert [each["label"] for each in alone] == [each["label"] for each in said[0]]


def test_tei_predicts_pairs_by_a_ranker(client, folders):
    expected = Ranker.load(folders["cross"], device="cpu", dtype="float32").score(["a"], ["b"])[0, 0]
    _, alone = client.post("/predict", model="cross", inputs=["a", "b"], raw_scores=True)
    assert alone == [{"label": "LABEL_0", "score": pytest.approx(expected, abs=1e-4)}]
    _, said = client.post("/predict", model="cross", inputs=[["a", "b"], ["a", "b"]])
    assert [row[0]["score"] for row in said] == pytest.approx([1 / (1 + np.exp(-expected))] * 2, abs=1e-4)
    assert client.post("/predict", inputs=[["a"], ["b", "c"]])[0] == 400


@pytest.mark.parametrize("inputs", [[], [[]], ["a", "b", "c"], [["a", "b", "c"]], 3, ["a", ["b"]]])
def test_tei_predict_refuses_other_shapes(client, inputs):
    status, said = client.post("/predict", inputs=inputs)
    assert (status, said["error"][:12]) == (400, "inputs: give")


@pytest.mark.parametrize("name", ["encoder", "exported", "cross", "classifier"])
def test_tei_shows_tokens(client, folders, name):
    text = "a  b\u00e9"
    status, said = client.post("/tokenize", model=name, inputs=[text, "a"])
    assert status == 200
    tokens = said[0]
    assert [token["special"] for token in (tokens[0], tokens[-1])] == [True, True]
    assert tokens[0]["start"] is None
    assert all(token["text"] == text[token["start"] : token["stop"]] for token in tokens if not token["special"])
    _, bare = client.post("/tokenize", model=name, inputs=text, add_special_tokens=False)
    assert bare[0] == [token for token in tokens if not token["special"]]


def test_showing_tokens_changes_no_vectors(client, long_text):
    before = client.post("/embed", inputs=long_text)[1]
    client.post("/tokenize", inputs=long_text)
    assert client.post("/embed", inputs=long_text)[1] == before


def test_tokens_of_a_student_and_of_endless_texts_are_refused(client):
    status, said = client.post("/tokenize", model="student", inputs="a")
    assert (status, said["error"][:40]) == (400, "model 'student' does not answer tokenize")
    assert client.post("/tokenize", inputs="a" * 200_001)[0] == 413


def test_tei_describes_a_model(client, embedder):
    _, said, _ = client.ask("/info")
    assert (said["model_id"], said["max_input_length"], said["auto_truncate"]) == ("encoder", embedder.max_tokens, True)
    assert said["model_type"] == {"embedding": {"pooling": embedder.pooling}}
    assert client.ask("/info?model=classifier")[1]["model_type"]["classifier"]["id2label"] == {"0": "no", "1": "maybe", "2": "yes"}
    assert "reranker" in client.ask("/info?model=cross")[1]["model_type"]
    status, said, _ = client.ask("/info?model=other")
    assert (status, said["error"][:31]) == (404, "there is no model 'other' here:")


# ---- all


def test_every_endpoint_is_described_with_its_body(client):
    _, said, _ = client.ask("/openapi.json")
    posts = {path for path, methods in said["paths"].items() if "post" in methods}
    assert posts == {
        "/v1/embeddings",
        "/v1/rerank",
        "/v2/rerank",
        "/rerank",
        "/score",
        "/v1/score",
        "/v1/classify",
        "/v2/embed",
        "/embed",
        "/similarity",
        "/predict",
        "/tokenize",
        "/v1/token-pairs",
    }
    for path in posts:
        schema = said["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        assert said["components"]["schemas"][schema.rpartition("/")[2]]["properties"]
    references = {part.split('"')[0] for part in json.dumps(said).split('"$ref": "#/components/schemas/')[1:]}
    assert references <= set(said["components"]["schemas"])


def test_the_description_names_refusals_and_the_names_in_paths(client):
    _, said, _ = client.ask("/openapi.json")
    for path, methods in said["paths"].items():
        for method, operation in methods.items():
            wanted = {"200", "401", "503"} | ({"400", "404", "408", "413", "415", "429", "504"} if method == "post" else set())
            assert wanted <= set(operation["responses"]), path
            in_path = {name.partition("}")[0] for name in path.split("{")[1:]}
            assert {each["name"] for each in operation.get("parameters", []) if each["in"] == "path"} == in_path, path
            assert not in_path or "404" in operation["responses"]


def test_a_model_that_is_not_there_is_named_in_every_form(client):
    for path, content in (("/embed", {"inputs": "a"}), ("/v2/embed", {"texts": ["a"]}), ("/rerank", {"query": "a", "texts": ["b"]})):
        status, said = client.post(path, model="other", **content)
        message = said["message"] if "message" in said else said["error"]
        assert (status, message[:31]) == (404, "there is no model 'other' here:")
