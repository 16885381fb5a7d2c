"""Requests select the prompts of a model, by name or by what the vectors are for."""

import json
import shutil

import numpy as np
import pytest

from tain.models.embedder import Embedder
from tain.serving.served import load_served

PROMPTS = {"query": "the sea ", "passage": "a red ", "clustering": "stars and "}


@pytest.fixture(scope="module")
def prompted(bert_folder, tmp_path_factory):
    """A model with prompts, of which ``passage`` is the default."""
    folder = tmp_path_factory.mktemp("prompted") / "model"
    shutil.copytree(bert_folder, folder)
    content = {"prompts": PROMPTS, "default_prompt_name": "passage"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def client(serve, prompted, load_model):
    options = {"device": "cpu", "dtype": "float32", "trust_remote_code": False}
    return serve([load_served("prompted", str(prompted), **options), load_model("encoder"), load_model("student")])


@pytest.fixture(scope="module")
def vectors(prompted, sentences):
    """The vectors of the sentences after a prompt."""
    embedder = Embedder.load(prompted, device="cpu", dtype="float32")
    return lambda prompt: embedder.encode(sentences, prompt=prompt, normalize=True)


def of_openai(client, sentences, **options):
    status, said = client.post("/v1/embeddings", input=sentences, **options)
    assert status == 200, said
    return np.array([row["embedding"] for row in said["data"]])


@pytest.mark.parametrize(
    ("input_type", "prompt"),
    [
        ("search_query", "the sea "),
        ("search_document", "a red "),
        ("clustering", "stars and "),
        ("classification", "a red "),
        (None, "a red "),
    ],
)
def test_input_type_selects_a_prompt_and_else_the_default(client, sentences, vectors, input_type, prompt):
    status, said = client.post("/v2/embed", texts=sentences, input_type=input_type)
    assert status == 200
    np.testing.assert_allclose(said["embeddings"]["float"], vectors(prompt), atol=1e-5)
    assert np.abs(vectors(prompt) - vectors("")).max() > 1e-2


@pytest.mark.parametrize(
    ("options", "prompt"),
    [
        ({}, "a red "),
        ({"prompt_name": "query"}, "the sea "),
        ({"task": "retrieval.query"}, "the sea "),
        ({"task": "retrieval.passage"}, "a red "),
        ({"task": "separation"}, "stars and "),
        ({"task": "text-matching"}, "a red "),
        ({"prompt_name": "query", "truncation": "mean-of-chunks"}, "the sea "),
    ],
)
def test_openai_takes_prompt_name_and_jinas_task(client, sentences, vectors, options, prompt):
    np.testing.assert_allclose(of_openai(client, sentences, **options), vectors(prompt), atol=1e-5)


def test_tei_takes_prompt_name(client, sentences, vectors):
    _, said = client.post("/embed", inputs=sentences, prompt_name="clustering")
    np.testing.assert_allclose(said, vectors("stars and "), atol=1e-5)
    _, said = client.post(
        "/similarity", inputs={"source_sentence": sentences[0], "sentences": sentences}, parameters={"prompt_name": "query"}
    )
    np.testing.assert_allclose(said, vectors("the sea ") @ vectors("the sea ")[0], atol=1e-5)


def test_tokens_of_a_prompt_are_counted(client, prompted):
    embedder = Embedder.load(prompted, device="cpu", dtype="float32")
    _, said = client.post("/v1/embeddings", input="a b", prompt_name="query")
    assert said["usage"]["prompt_tokens"] == embedder.count_tokens(["the sea a b"])[0]


def test_an_encoder_ranks_documents_for_a_query(client, sentences, vectors):
    _, said = client.post("/v1/rerank", query=sentences[0], documents=sentences)
    found = {row["index"]: row["relevance_score"] for row in said["results"]}
    np.testing.assert_allclose([found[row] for row in range(len(sentences))], vectors("a red ") @ vectors("the sea ")[0], atol=1e-5)


def test_a_model_without_prompts_reads_the_text_alone(client, sentences):
    np.testing.assert_array_equal(
        of_openai(client, sentences, model="encoder", task="retrieval.query"), of_openai(client, sentences, model="encoder")
    )
    assert of_openai(client, sentences, model="student", task="retrieval.query").shape[0] == len(sentences)


def test_an_unknown_prompt_is_refused_with_those_there_are(client):
    error = client.refusal("/v1/embeddings", 400, input="a", prompt_name="question")
    assert error["message"] == "prompt_name is 'question', but model 'prompted' has no such prompt: it has clustering, passage, query"
    assert (error["param"], error["code"]) == ("prompt_name", "prompt_not_found")
    error = client.refusal("/v1/embeddings", 400, input="a", prompt_name="query", model="encoder")
    assert error["message"].endswith("has no such prompt: it has none")
    status, said = client.post("/embed", inputs="a", prompt_name="question")
    assert (status, said["error_type"]) == (400, "Validation")
    status, said = client.post("/v2/embed", texts=["a"], input_type="question")
    assert status == 400
    assert said["message"] == "input_type: Input should be 'search_query', 'search_document', 'classification' or 'clustering'"
    error = client.refusal("/v1/embeddings", 400, input="a", prompt_name="query", task="clustering")
    assert error["message"] == "prompt_name and task are given, which both select a prompt: give one of them"


def test_models_list_their_prompts(client):
    assert client.ask("/v1/models/prompted")[1]["prompts"] == ["clustering", "passage", "query"]
    assert client.ask("/v1/models/encoder")[1]["prompts"] == []
