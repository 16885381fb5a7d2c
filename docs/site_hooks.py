"""Hooks of the documentation site: the command-line reference, and pages that live outside ``docs/``."""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
# file in the repository -> page of the site
ROOT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "benchmarks/README.md": "benchmarks.md",
}
CLI_MARKER = "<!-- command-line reference -->"
_LOADED = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["']?(?:https?:)?//[^>]*>|<link\b[^>]*\bhref=["']?(?:https?:)?//[^>]*>"""
)
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, *, config: Any) -> Files:
    """Add the pages that live outside ``docs/``."""
    for source, page in ROOT_PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_with_site_links(text, PurePosixPath(source), page)))
    for notebook in sorted((ROOT / "docs" / "tutorials").glob("*.ipynb")):
        files.append(File.generated(config, f"tutorials/{notebook.stem}.md", content=notebook_page(notebook)))
    return files


def notebook_page(notebook: Path) -> str:
    """A notebook as Markdown, without outputs, with a link to the notebook itself below its title."""
    parts = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        parts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    title, _, rest = parts[0].partition("\n")
    return "\n\n".join([title, f"[Download the notebook]({notebook.name})", rest.strip(), *parts[1:]]) + "\n"


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill in the command-line reference, and lead links out of ``docs/`` to the pages of the site."""
    if CLI_MARKER in markdown:
        markdown = markdown.replace(CLI_MARKER, command_line_reference())
    if page.file.src_uri in ROOT_PAGES.values():
        return markdown
    return _with_site_links(markdown, PurePosixPath("docs") / page.file.src_uri, page.file.src_uri)


def on_post_build(*, config: Any) -> None:
    """Refuse a page that would load anything from outside when it is opened."""
    for page in Path(config["site_dir"]).rglob("*.html"):
        if found := _LOADED.search(page.read_text(encoding="utf-8")):
            raise PluginError(f"{page.name} would load from outside: {found[0]}")


def command_line_reference() -> str:
    """Markdown of every command's help, as the parser gives it."""
    from tain.cli.main import VERBS, build_app

    parts = []
    for verb in VERBS:
        app = build_app(verb)  # with a line of help from the list of verbs, the docstring and its example would be missing
        text = app[verb].generate_docs(heading_level=2, usage_name=f"tain {verb}")
        text = re.sub(r"^#+ Table of Contents\n.*?(?=^(?:#|\*\*))", "", text, flags=re.MULTILINE | re.DOTALL)
        text = re.sub(r"^(#+) (?!tain)", r"\1 tain ", text, flags=re.MULTILINE).replace("](#", "](#tain-")
        text = re.sub(r"^(tain \w+ \w+) .*\bmkdocs ", r"\1 ", text, flags=re.MULTILINE)  # the program that runs, not tain
        parts.append(re.sub(r"^(tain [a-z].*)$(?!\n```)", r"```console\n\1\n```", text, flags=re.MULTILINE))
    return "\n\n".join(parts)


def _with_site_links(markdown: str, source: PurePosixPath, page: str) -> str:
    """Rewrite links that leave ``docs/``: to the page of the site where there is one, else to plain text."""

    def rewritten(match: re.Match[str]) -> str:
        image, label, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in path or path.startswith("mailto:"):
            return match[0]
        in_repository = os.path.normpath(source.parent / path)
        if in_repository in ROOT_PAGES:
            found = ROOT_PAGES[in_repository]
        elif in_repository.startswith("docs/"):
            found = in_repository.removeprefix("docs/")
        elif (ROOT / in_repository).exists():
            return f"{label} (`{in_repository}`)"
        else:
            return match[0]  # a dead link: the strict build reports it
        found = os.path.relpath(found, PurePosixPath(page).parent)
        return f"{image}[{label}]({found}{'#' + anchor if anchor else ''})"

    return _LINK.sub(rewritten, markdown)
