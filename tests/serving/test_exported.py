"""Exported folders are served with the vectors and scores that they give."""

from pathlib import Path

import numpy as np
import pytest

from tain.exported.encoder import ExportedEncoder
from tain.foundation.errors import UserError
from tain.serving.served import Query, Text, load_served


def test_embeddings_are_those_of_the_graph(folders: dict[str, Path], sentences: list[str]):
    exported = folders["exported"]
    served = load_served("mine", str(exported), device=None, dtype="auto", trust_remote_code=False)
    assert served.uses == ("embeddings", "rerank")
    found = served.embed([Text(sentence) for sentence in sentences])
    expected = ExportedEncoder.load(exported).encode(sentences)
    np.testing.assert_allclose(np.stack([each.vector for each in found]), expected, atol=1e-5)
    assert [each.tokens for each in found] == ExportedEncoder.load(exported).count_tokens(sentences)
    assert served.rerank([(Query(sentences[0]), sentences[0])])[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_graph_that_is_not_there_is_refused(bert_folder: Path):
    with pytest.raises(UserError, match="holds no exported graph"):
        load_served("mine", str(bert_folder), backend="onnx", device=None, dtype="auto", trust_remote_code=False)
