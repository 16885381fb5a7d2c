"""Every page of docs/integrations runs as it is printed, where its packages are installed."""

import re
import runpy
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
}
EXPECTED = {
    "langchain": "a mirror is made of glass\n",
    "llama-index": "a mirror is made of glass\n",
    "haystack": "a mirror is made of glass\n",
}


@pytest.mark.parametrize("page", sorted(PAGES.glob("*.md")), ids=lambda page: page.stem)
def test_the_page_runs_as_printed(page, tmp_path, monkeypatch, capsys):
    pytest.importorskip(NEEDED[page.stem], reason=f"{NEEDED[page.stem]} is not installed")
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
