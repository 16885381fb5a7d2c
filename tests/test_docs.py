import importlib
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HISTORY = ROOT / "docs" / "LOG.md"  # kept as it was written
CHANGES = ROOT / "CHANGELOG.md"  # names flags of earlier versions
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
    *sorted((ROOT / "skills").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`")


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_lines_have_at_most_120_characters(page):
    if page == HISTORY:
        pytest.skip("history is not wrapped again")
    lines = page.read_text(encoding="utf-8").splitlines()
    long = [number for number, line in enumerate(lines, 1) if len(line) > 120 and not line.lstrip().startswith("|")]
    assert not long, f"{page.name}: wrap lines {long}"


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        found.add(re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "llms.txt"], ids=page_name)
def test_links_lead_to_files_and_headings(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(CODE.sub("", text)):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(found), f"{page.name} links to {target}, which has no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY and "decisions" not in page.parts], ids=page_name)
def test_named_modules_and_objects_exist(page):
    text = " ".join(page.read_text(encoding="utf-8").split())
    names = re.findall(r"`(tain(?:\.\w+)+)(?:\(.*?\))?`", text) + re.findall(r"from (tain[\w.]*) import", text)
    for name in set(names) - {"tain.json"}:
        assert exists(name), f"{page.name} names {name}"


def exists(name: str) -> bool:
    parts = name.split(".")
    found = importlib.import_module(parts[0])
    for at, part in enumerate(parts[1:], 2):
        if hasattr(found, part):
            found = getattr(found, part)
            continue
        try:
            found = importlib.import_module(".".join(parts[:at]))
        except ImportError:  # an adapter whose framework is not installed
            return (ROOT / "src" / Path(*parts[:3])).with_suffix(".py").is_file() and parts[1] == "integrations"
    return True


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY and "decisions" not in page.parts], ids=page_name)
def test_named_files_of_the_repository_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"\b(?:tests|benchmarks|src|docs)/[\w/.-]+\.(?:py|toml|md|svg|json)\b", text)):
        assert (ROOT / name).exists(), f"{page.name} names {name}"


@cache
def flags_of(verb: str) -> frozenset[str]:
    """Every flag that a command's help shows."""
    from tain.cli.main import build_app

    return frozenset(re.findall(r"--[a-z][a-z0-9-]*", build_app(verb)[verb].generate_docs())) | {"--help"}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page not in (HISTORY, CHANGES) and "decisions" not in page.parts], ids=page_name
)
def test_commands_use_flags_that_exist(page):
    from tain.cli.main import VERBS

    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        for verb, rest in re.findall(r"(?:^|[ `])tain ([a-z]+)\b([^`|#]*)", line):
            if verb in VERBS:
                unknown = set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest)) - flags_of(verb)
                assert not unknown, f"{page.name}: tain {verb} has no {', '.join(sorted(unknown))}"


GUIDES = [page for page in PAGES if page.parent.name == "docs" and page.name not in ("LOG.md", "performance.md")]


@pytest.mark.parametrize("page", GUIDES, ids=page_name)
def test_flags_named_in_guides_exist(page):
    from tain.cli.main import VERBS

    known = frozenset().union(*map(flags_of, VERBS))
    text = " ".join(FENCE.sub("", page.read_text(encoding="utf-8")).split())
    named = {match for code in CODE.findall(text) for match in re.findall(r"^--[a-z][a-z0-9-]*", code)}
    assert named <= known, f"{page.name} names {', '.join(sorted(named - known))}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != HISTORY], ids=page_name)
def test_python_examples_are_valid_python(page):
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        assert compile(block, page.name, "exec")


def test_the_api_page_lists_every_public_name():
    import tain

    listed = re.findall(r"^::: tain\.(\w+)$", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    earlier_names = {"inspect", "rank"}  # of inspect_model and train_ranker; the page says so in words
    assert sorted(listed) == sorted(set(tain.__all__) - {"__version__"} - earlier_names)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_pages_have_no_diagrams_that_the_site_would_load_a_script_for(page):
    assert "```mermaid" not in page.read_text(encoding="utf-8")


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 140
