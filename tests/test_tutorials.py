"""Notebooks of the tutorials: valid, without outputs, and with a page in the navigation. ``.ci/notebooks.sh`` runs them."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))


def test_each_method_has_a_notebook():
    assert {path.stem for path in NOTEBOOKS} == {"mirror", "cmlm", "fully-explored-masking", "distil", "inspect", "rankers"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_outputs_and_its_code_uses_names_that_exist(path):
    import tain

    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert content["cells"][0]["source"][0].startswith("# ")
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    code = [cell for cell in content["cells"] if cell["cell_type"] == "code"]
    assert code and not any(cell["outputs"] or cell["execution_count"] for cell in code)
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in code))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tain"
    }
    assert used and used <= set(tain.__all__)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_a_page_in_the_navigation(path):
    assert f"tutorials/{path.stem}.md" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_lines_of_text_in_a_notebook_have_at_most_120_characters(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert all(len(line.rstrip("\n")) <= 120 for cell in content["cells"] if cell["cell_type"] == "markdown" for line in cell["source"])
