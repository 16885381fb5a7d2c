"""Adapters for LangChain, LlamaIndex, Haystack and spaCy give the encoder's own vectors; skipped where a package is absent."""

import numpy as np
import pytest

from tain.foundation.errors import UserError
from tain.integrations.encoding import Encoding
from tain.models.embedder import Embedder

TEXTS = ["a mirror of glass", "the sea is deep"]


@pytest.fixture(scope="module")
def encoder(bert_folder):
    return Embedder.load(bert_folder, dtype="float32")


@pytest.fixture(scope="module")
def expected(encoder):
    return encoder.encode(TEXTS, normalize=True)


def test_queries_and_documents_use_the_encoders_own_methods_if_it_has_them():
    class Prompted:
        def encode(self, texts, *, normalize):
            return np.zeros((len(texts), 1), dtype=np.float32)

        def encode_query(self, texts, *, normalize):
            return np.ones((len(texts), 1), dtype=np.float32)

        def encode_document(self, texts, *, normalize):
            return np.full((len(texts), 1), 2, dtype=np.float32)

    found = Encoding(Prompted())
    assert found.queries(["a"])[0, 0] == 1 and found.documents(["a"])[0, 0] == 2


def test_a_model_without_vectors_is_refused(save_labeller):
    with pytest.raises(UserError, match="which has no vectors"):
        Encoding(save_labeller("SequenceClassification", ["good", "bad"]))


def test_one_string_in_the_place_of_a_list_is_refused(encoder, unchecked):
    with pytest.raises(UserError, match="one string, which would be read character by character"):
        Encoding(encoder).documents("a mirror of glass")


def test_langchain(encoder, expected):
    pytest.importorskip("langchain_core", reason="langchain-core is not installed")
    from langchain_core.embeddings import Embeddings

    from tain.integrations.langchain import TainEmbeddings

    made = TainEmbeddings(encoder)
    assert isinstance(made, Embeddings)
    np.testing.assert_allclose(made.embed_documents(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(made.embed_query(TEXTS[0]), expected[0], atol=1e-6)


def test_llama_index(encoder, expected):
    pytest.importorskip("llama_index.core", reason="llama-index-core is not installed")
    from tain.integrations.llama_index import TainEmbedding

    made = TainEmbedding(encoder, embed_batch_size=1)
    assert made.embed_batch_size == 1 and made.class_name() == "TainEmbedding"
    np.testing.assert_allclose(made.get_text_embedding_batch(TEXTS), expected, atol=1e-6)
    np.testing.assert_allclose(made.get_query_embedding(TEXTS[1]), expected[1], atol=1e-6)


def test_haystack(bert_folder, expected):
    pytest.importorskip("haystack", reason="haystack-ai is not installed")
    from haystack import Document

    from tain.integrations.haystack import TainDocumentEmbedder, TainTextEmbedder

    options = {"dtype": "float32"}
    given = [Document(content=text, meta={"number": number}) for number, text in enumerate(TEXTS)]
    made = TainDocumentEmbedder(str(bert_folder), options=options)
    found = made.run(given)["documents"]
    np.testing.assert_allclose([document.embedding for document in found], expected, atol=1e-6)
    assert [document.meta["number"] for document in found] == [0, 1] and given[0].embedding is None
    again = TainTextEmbedder.from_dict(TainTextEmbedder(str(bert_folder), options=options).to_dict())
    np.testing.assert_allclose(again.run(TEXTS[0])["embedding"], expected[0], atol=1e-6)
    assert made.run([]) == {"documents": []}


def test_spacy(bert_folder, expected):
    spacy = pytest.importorskip("spacy", reason="spacy is not installed")
    import tain.integrations.spacy  # noqa: F401 - registers the pipe

    nlp = spacy.blank("en")
    nlp.add_pipe("tain", config={"model": str(bert_folder), "options": {"dtype": "float32"}})
    docs = list(nlp.pipe([*TEXTS, " "], batch_size=2))
    np.testing.assert_allclose([doc.vector for doc in docs[:2]], expected, atol=1e-6)
    np.testing.assert_allclose(nlp(TEXTS[0]).vector, expected[0], atol=1e-6)
    assert docs[0].similarity(docs[1]) == pytest.approx(float(expected[0] @ expected[1]), abs=1e-5)
    span = docs[0][1:4]
    assert span.text == "mirror of glass" and span.vector.shape == expected[0].shape
    assert not docs[2].vector.any()
