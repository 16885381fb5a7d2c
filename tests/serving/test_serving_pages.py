"""The pages of a server in a browser: they work without a network, and show what the models compute."""

import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from html import unescape

import numpy as np
import pytest

from tain.inspection.run import inspect
from tain.models.embedder import Embedder
from tain.serving.served import load_served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
PAGES = ("/", "/docs")


@pytest.fixture(scope="module")
def models(bert_folder, save_labeller):
    options = {"device": "cpu", "dtype": "float32", "trust_remote_code": False}
    labeller = save_labeller("SequenceClassification", ["no", "yes"])
    return [load_served("encoder", str(bert_folder), **options), load_served("labels", str(labeller), **options)]


@pytest.fixture(scope="module")
def client(serve, models):
    return serve(models)


def page(client, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{client.port}{path}", timeout=20) as answer:
        return answer.read().decode(), answer.headers


def shown(client, path, folder):
    """The page after its script has run."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={folder / 'profile'}",
        "--virtual-time-budget=20000",
    ]
    done = subprocess.run(
        [*command, "--dump-dom", f"http://127.0.0.1:{client.port}{path}"], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def text_of(html):
    return unescape(re.sub(r"<[^>]+>", "", html))


@pytest.mark.parametrize("path", PAGES)
def test_a_page_loads_nothing_from_elsewhere(client, path):
    html, headers = page(client, path)
    assert not re.search(r"https?://|//[a-z]", html.replace("http://www.w3.org", ""))
    assert not re.search(r"<(link|img|iframe|object)\b|\bsrc=|\bstyle=|\bon[a-z]+=", html)
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy
    assert policy.count("sha256-") == 2  # its own script and style, and no other


@needs_browser
def test_similarities_tokens_and_ranks_are_shown(client, bert_folder, tmp_path):
    texts = ["a b", "b a c", "d <b>e</b> & 'f'"]
    given = urllib.parse.urlencode(
        {"texts": "\n".join(texts), "query": "a", "documents": "b\na\nc", "classify": "a b"}, quote_via=urllib.parse.quote
    )
    html = shown(client, f"/#{given}", tmp_path)
    embedder = Embedder.load(bert_folder, device="cpu", dtype="float32")
    vectors = embedder.encode(texts)
    expected = [f"{value:.2f}" for row in embedder.similarity(vectors, vectors) for value in row]
    assert re.findall(r'<td class="cell"[^>]*>(-?[\d.]+)</td>', html) == expected
    names = [unescape(name) for name in re.findall(r'<th class="short"[^>]*>\d+ ([^<]*)</th>', html)]
    assert names == texts  # as text, not as tags
    assert len(re.findall(r'class="token special"', html)) == 2 * len(texts)
    found = inspect(bert_folder, texts, dtype="float32", device="cpu")
    nearest = max(found.similarities, key=lambda each: each.cosine)
    assert f'<option value="{nearest.left} {nearest.right}">' in html  # the pair that is shown
    parts = [float(part) for part in re.findall(r'<td title="[^"]* and [^"]*: (-?[\d.]+)"', html)]
    np.testing.assert_allclose(parts, nearest.contributions.ravel(), atol=6e-5)
    assert f"contributions to the cosine {nearest.cosine:.4f}. Their sum is {nearest.cosine:.4f}." in html
    strongest = re.findall(r"<td[^>]*>(-?\d\.\d{4})</td>", html[html.index('class="strongest"') : html.index('class="map"')])
    assert strongest == [f"{part:.4f}" for part in sorted(nearest.contributions.ravel(), key=abs, reverse=True)[:8]]
    ranked = re.findall(r'<li>([abc])<span class="score">(-?[\d.]+)</span></li>', html)
    assert len(ranked) == 3 and ranked[0] == ("a", "1.000")
    assert re.search(r'<li>a b<span class="score">(no|yes) [\d.]+</span></li>', html)
    command = text_of(html[html.index('<pre id="curl">') :].partition("</pre>")[0])
    assert command.startswith(f"curl -s http://127.0.0.1:{client.port}/v1/embeddings \\\n  -d '")
    assert "'\\''f'\\''" in command  # quoted for a shell
    assert 'id="problem" class="error" role="alert" hidden' in html


@needs_browser
def test_a_model_without_tokens_shows_its_similarities_alone(serve, load_model, tmp_path):
    html = shown(serve([load_model("student")]), "/", tmp_path)
    assert "No pairs of tokens: model 'student' does not answer token-pairs" in unescape(html)
    assert "This model has no tokens to show." in html
    assert 'class="cell"' in html and 'class="map"' not in html


@needs_browser
def test_a_server_with_keys_asks_for_one(serve, models, tmp_path):
    html = shown(serve(models, api_key="secret"), "/", tmp_path)
    assert "the API key is missing or wrong" in html
    assert '<section id="access">' in html  # shown
    assert '<section id="similarity" hidden="">' in html


@needs_browser
def test_the_endpoints_are_listed_from_the_description(client, tmp_path):
    html = shown(client, "/docs", tmp_path)
    for path in ("POST /v1/embeddings", "POST /v2/embed", "POST /rerank", "GET /v1/models", "GET /metrics"):
        assert f"<code>{path}</code>" in html
    assert "Body: EmbeddingRequest" in html and "Answer: EmbeddingResponse" in html
    assert "number of dimensions to keep; shortened vectors are normalised to length 1" in html
