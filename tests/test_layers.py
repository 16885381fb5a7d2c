"""Imports go one way, from the table below, and never in circles."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "tain"

# folder -> what it may import besides itself and foundation: folders, or single modules
MAY_IMPORT: dict[str, set[str]] = {
    "foundation": set(),
    "text": set(),
    "batches": {"text"},
    "encoders": {"batches.types", "batches.packing"},  # packing: a padded encoder turns packed batches into rows
    "objectives": set(),
    "training": set(),
    "students": {"text"},
    "students/torch": {"students"},
    "exported": {"text", "models.dual_scoring", "models.plain_scanning", "models.saved", "models.vector_forms"},
    "models": {"text", "batches", "encoders"},
    "scale": {"text", "models", "ranking"},
    "evaluation": {"text", "exported", "models"},
    "ranking": {"text", "models", "evaluation"},
    "recipes": {"text", "batches", "encoders", "objectives", "training", "students", "exported", "models", "evaluation", "ranking"},
    "inspection": {"text", "batches", "encoders", "objectives", "models", "evaluation", "recipes"},
    "demo": {"text", "models", "evaluation", "recipes"},  # only the command line knows it: it can be deleted
    "integrations": {"api", "text.collections"},
    "publishing": {"models.saved", "models.hub"},
    # loading: the module that loads any model
    "serving": {"loading", "text", "students", "exported", "models", "ranking", "inspection.similarity"},
    "cli": {
        "loading",
        "text",
        "students",
        "exported",
        "models",
        "evaluation",
        "ranking",
        "training",
        "recipes",
        "inspection",
        "demo",
        "publishing",
        "serving",
        "scale",
    },
}

# what a help text must not wait for; settings are the one part of a recipe that the command line reads
HEAVY = {
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "pyarrow",
    "datasets",
    "jaxtyping",
    "rich",
    "jinja2",
    "markupsafe",
    "onnx",
    "onnxruntime",
    "fastapi",
    "orjson",
    "prometheus_client",
    "starlette",
    "pydantic",
    "uvicorn",
}
LIGHT_FOR_CLI = {
    "text",
    *(f"recipes.{recipe}.config" for recipe in ("compare", "correct", "distil", "export", "mirror", "pretrain", "rank")),
}

# folder -> packages that none of its modules may import, at the top or later
NEVER: dict[str, set[str]] = {
    "text": {"torch", "transformers"},
    "exported": {"torch", "transformers"},
    "students": {"torch", "transformers", "tain.students.torch"},
}


@dataclass(frozen=True)
class Import:
    path: str  # dotted, absolute: "tain.batches.types" or "torch"
    line: int
    is_at_top: bool  # runs when the module is imported
    runs: bool = True  # False where only type checkers follow it


def imports_of(tree: ast.Module) -> Iterator[Import]:
    """Every import of a module; those that only type checkers follow do not run, so they are never at the top."""

    def walk(node: ast.AST, is_at_top: bool, runs: bool = True) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, is_at_top, runs) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield from (
                    Import(f"{'.' * child.level}{child.module or ''}.{alias.name}", child.lineno, is_at_top, runs) for alias in child.names
                )
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                yield from walk(child, False, False)
            else:
                yield from walk(child, is_at_top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda), runs)

    yield from walk(tree, True)


def is_within(path: str, allowed: set[str]) -> bool:
    return any(path == name or path.startswith(f"{name}.") for name in allowed)


def folder_of(file: Path) -> str:
    """The folder whose rules a file follows: the longest path in the table, or the first part."""
    parents = [parent.as_posix() for parent in file.parents]
    return next((parent for parent in parents if parent in MAY_IMPORT), file.parts[0])


def offences(source: Path) -> list[str]:
    """Every import that goes against the arrow, as ``file:line imports what``."""
    found = []
    for file in sorted(source.rglob("*.py")):
        place = file.relative_to(source)
        if len(place.parts) == 1:
            continue  # the package's front door names things of every folder, lazily
        folder = folder_of(place)
        if folder not in MAY_IMPORT:
            found.append(f"{place}: the folder {folder!r} is not in the table of imports")
            continue
        for imported in imports_of(ast.parse(file.read_text(encoding="utf-8"))):
            inside = imported.path.removeprefix("tain.") if imported.path.startswith("tain.") else None
            if is_within(imported.path, NEVER.get(folder, set())):
                wrong = True
            elif inside is None:
                wrong = imported.path.startswith(".") or (  # absolute imports are the ones this test can read
                    folder in ("cli", "foundation") and imported.is_at_top and is_within(imported.path, HEAVY)
                )
            elif is_within(inside, {folder.replace("/", "."), "foundation", "__version__"}):
                wrong = False
            elif folder == "cli" and imported.is_at_top:
                wrong = not is_within(inside, LIGHT_FOR_CLI)
            else:
                wrong = not is_within(inside, MAY_IMPORT[folder])
            if wrong:
                found.append(f"{place}:{imported.line} imports {imported.path}")
    return found


def test_imports_follow_the_arrow():
    wrong = offences(SOURCE)
    assert not wrong, "against the table of imports:\n" + "\n".join(wrong)


def circles(source: Path) -> list[tuple[str, ...]]:
    """Modules that import each other, at the top or later; imports for type checkers alone do not count."""
    modules = {".".join(file.relative_to(source).with_suffix("").parts).removesuffix(".__init__"): file for file in source.rglob("*.py")}
    leads_to = {
        name: {
            _module_of(each.path.removeprefix("tain."), modules)
            for each in imports_of(ast.parse(file.read_text()))
            if each.runs and each.path.startswith("tain.")  # tain/sklearn.py imports another sklearn
        }
        - {""}
        for name, file in modules.items()
        if name != "__init__"
    }
    reached = {name: _reached(name, leads_to) for name in leads_to}
    return sorted(
        {tuple(sorted(other for other in reached[name] if name in reached.get(other, ()))) for name in leads_to if name in reached[name]}
    )


def _module_of(path: str, modules: dict[str, Path]) -> str:
    parts = path.split(".")
    names = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((name for name in names if name in modules), "")


def _reached(start: str, leads_to: dict[str, set[str]]) -> set[str]:
    found, ahead = set(), [start]
    while ahead:
        new = leads_to.get(ahead.pop(), set()) - found
        found |= new
        ahead += new
    return found


def test_no_module_imports_itself_in_a_circle():
    assert circles(SOURCE) == []


def test_a_circle_is_named(tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text("from tain.models.b import x")
    (tmp_path / "models" / "b.py").write_text("def late():\n    import tain.models.c")
    (tmp_path / "models" / "c.py").write_text("from tain.models import a")
    (tmp_path / "models" / "d.py").write_text("from tain.models.a import y")
    assert circles(tmp_path) == [("models.a", "models.b", "models.c")]
    (tmp_path / "models" / "c.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from tain.models import a")
    assert circles(tmp_path) == []


@pytest.mark.parametrize(
    ("file", "code", "offence"),
    [
        (
            "encoders/a.py",
            "from tain.objectives.contrastive import info_nce",
            "encoders/a.py:1 imports tain.objectives.contrastive.info_nce",
        ),
        ("encoders/a.py", "from tain.batches.types import PackedTexts", None),
        ("encoders/a.py", "from tain.batches import masking", "encoders/a.py:1 imports tain.batches.masking"),
        ("batches/a.py", "from tain import encoders", "batches/a.py:1 imports tain.encoders"),
        ("batches/a.py", "def late():\n    import tain.models.saved", "batches/a.py:2 imports tain.models.saved"),
        ("models/a.py", "from ..training import loop", "models/a.py:1 imports ..training.loop"),
        ("training/a.py", "from tain.foundation.choices import Pooling", None),
        ("text/a.py", "def late():\n    import torch.nn", "text/a.py:2 imports torch.nn"),
        ("students/a.py", "def late():\n    import torch", "students/a.py:2 imports torch"),
        ("students/torch/a.py", "import torch\nfrom tain.students.inputs import TokenReader", None),
        ("students/a.py", "from tain.students.torch.qrnn import Qrnn", "students/a.py:1 imports tain.students.torch.qrnn.Qrnn"),
        ("students/torch/a.py", "from tain.batches.types import x", "students/torch/a.py:1 imports tain.batches.types.x"),
        ("models/a.py", "from tain.demo.page import x", "models/a.py:1 imports tain.demo.page.x"),
        ("evaluation/a.py", "from tain.ranking.index import Index", "evaluation/a.py:1 imports tain.ranking.index.Index"),
        ("recipes/a.py", "from tain.evaluation.label_free import x\nfrom tain.cli.main import y", "recipes/a.py:2 imports tain.cli.main.y"),
        ("cli/a.py", "def verb():\n    import torch\n    from tain.models.embedder import Embedder", None),
        ("cli/a.py", "from tain.models.embedder import Embedder", "cli/a.py:1 imports tain.models.embedder.Embedder"),
        ("cli/a.py", "import torch", "cli/a.py:1 imports torch"),
        ("cli/a.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch", None),
        ("cli/a.py", "from tain.recipes.mirror.config import MirrorConfig", None),
        ("foundation/a.py", "class A:\n    import torch", "foundation/a.py:2 imports torch"),
        ("helpers/a.py", "", "helpers/a.py: the folder 'helpers' is not in the table of imports"),
    ],
)
def test_an_offender_is_named_with_its_file(file: str, code: str, offence: str | None, tmp_path: Path):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(code)
    assert offences(tmp_path) == ([offence] if offence else [])
