"""The lines of docs/serve.md, run with the clients from PyPI against a running server.

The file uses no fixture of the others, so that it runs where neither torch nor transformers is installed: see ``.ci/clients.sh``.
"""

import os
import re
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tain.exported.encoder import ExportedEncoder

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"
TEXTS = ["a first text", "a second text"]
NEEDED = "is not installed: .ci/clients.sh makes an environment with all clients (200 MB) and runs this file"
CLIENTS = ("openai", "cohere", "langchain_openai", "llama_index", "haystack")


@pytest.fixture(scope="module")
def address():
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TAIN_SERVE_PORT": "0", "TAIN_SERVE_BACKEND": "onnx"}
    command = [sys.executable, "-m", "tain", "serve", "tain-mini"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    try:
        said = ""
        while (found := re.search(r"http://127\.0\.0\.1:\d+", said)) is None:
            line = process.stderr.readline()
            assert line, said
            said += line
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found[0]
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def expected():
    return ExportedEncoder.load("tain-mini").encode(TEXTS, normalize=True)


def lines_with(package):
    """The block of the page that imports a package."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (found,) = [block for block in blocks if re.search(rf"^(from|import) {package}\b", block, re.MULTILINE)]
    return found


@pytest.mark.parametrize("package", CLIENTS)
def test_the_lines_of_the_page_give_the_models_vectors(package, address, expected, monkeypatch):
    if find_spec(package) is None:
        pytest.skip(f"{package} {NEEDED}")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    code, names = lines_with(package), {}
    assert code.count("http://127.0.0.1:8000") == 1
    exec(code.replace("http://127.0.0.1:8000", address), names)
    np.testing.assert_allclose(np.array(names["vectors"]), expected, atol=1e-5)
    if package == "cohere":
        assert names["best"] == 1


def test_openai_reads_refusals_and_retries_nothing_that_cannot_work(address):
    if find_spec("openai") is None:
        pytest.skip(f"openai {NEEDED}")
    import openai

    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
        client.embeddings.create(model="tain-mini", input=[[1, 2], [3]])
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here: tain-mini"):
        client.embeddings.create(model="other", input="a")
    short = client.embeddings.create(model="tain-mini", input="a", dimensions=8)
    assert np.linalg.norm(short.data[0].embedding) == pytest.approx(1.0, abs=1e-6)
    assert [one.id for one in client.models.list()] == ["tain-mini"]


def test_cohere_reads_bytes_and_refusals(address):
    if find_spec("cohere") is None:
        pytest.skip(f"cohere {NEEDED}")
    import cohere

    client = cohere.ClientV2(api_key="none", base_url=address)
    answer = client.embed(model="tain-mini", texts=TEXTS, input_type="search_query", embedding_types=["ubinary", "binary"])
    assert (np.array(answer.embeddings.ubinary) == np.array(answer.embeddings.binary) + 128).all()
    with pytest.raises(cohere.NotFoundError, match="there is no model 'other' here"):
        client.rerank(model="other", query="a", documents=["b"])


def test_every_client_of_the_page_is_tried():
    text = PAGE.read_text(encoding="utf-8").partition("## Clients")[2].partition("## Requests")[0]
    assert text.count("```python") == len(CLIENTS)
