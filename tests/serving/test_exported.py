"""Exported folders are served with the vectors and scores that they give."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tain.exported.encoder import ExportedEncoder
from tain.foundation.errors import UserError
from tain.serving.served import Query, Text, load_served
from tain.text.token_ids import token_ids


def test_embeddings_are_those_of_the_graph(folders: dict[str, Path], sentences: list[str]):
    exported = folders["exported"]
    served = load_served("mine", str(exported), device=None, dtype="auto", trust_remote_code=False)
    assert served.uses == ("embeddings", "rerank")
    found = served.embed([Text(sentence) for sentence in sentences])
    expected = ExportedEncoder.load(exported).encode(sentences)
    np.testing.assert_allclose(np.stack([each.vector for each in found]), expected, atol=1e-5)
    assert [each.tokens for each in found] == ExportedEncoder.load(exported).count_tokens(sentences)
    assert served.rerank([(Query(sentences[0]), sentences[0])])[0].score == pytest.approx(1.0, abs=1e-5)


def test_copies_on_one_core_run_beside_each_other(folders: dict[str, Path], sentences: list[str]):
    served = load_served("mine", str(folders["exported"]), device=None, dtype="auto", trust_remote_code=False)
    assert served.runs_on_one_core("embeddings") and not served.runs_on_one_core("rerank")
    expected = np.stack([each.vector for each in served.embed([Text(sentence) for sentence in sentences])])
    long = " ".join(sentences * 40)
    start_of_long, end_of_long = (served.embed([Text(long, cut)])[0] for cut in ("end", "start"))
    assert not np.allclose(start_of_long.vector, end_of_long.vector)

    def client(number: int) -> None:
        for _ in range(15):
            found = served.on_one_core().embed([Text(sentences[number % len(sentences)]), Text(long, "start" if number % 2 else "end")])
            np.testing.assert_allclose(found[0].vector, expected[number % len(sentences)], atol=1e-5)
            np.testing.assert_allclose(found[1].vector, (end_of_long if number % 2 else start_of_long).vector, atol=1e-5)
            assert found[1].is_cut

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(8)))


def test_texts_are_tokenized_once(folders: dict[str, Path], sentences: list[str], monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []

    def counted(backend: Any, texts: list[str], **options: Any) -> Any:
        asked.append(list(texts))
        return token_ids(backend, texts, **options)

    monkeypatch.setattr("tain.exported.tokenizer.token_ids", counted)
    served = load_served("mine", str(folders["exported"]), device=None, dtype="auto", trust_remote_code=False)
    served.embed([Text(sentence) for sentence in sentences])
    assert asked == [sentences]


def test_a_model_in_torch_does_not_run_on_one_core(bert_folder: Path):
    served = load_served("mine", str(bert_folder), backend="torch", device=None, dtype="auto", trust_remote_code=False)
    assert not served.runs_on_one_core("embeddings")


def test_a_graph_that_is_not_there_is_refused(bert_folder: Path):
    with pytest.raises(UserError, match="holds no exported graph"):
        load_served("mine", str(bert_folder), backend="onnx", device=None, dtype="auto", trust_remote_code=False)
