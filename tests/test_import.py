"""What a user waits for before anything happens: importing and help texts load nothing heavy."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

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
    "sentence_transformers",
    "onnx",
    "onnxruntime",
}
VERBS = ["demo", "mirror", "pretrain", "distil", "encode", "label", "evaluate", "compare", "rank", "push", "inspect"]


def loaded_by(code: str) -> set[str]:
    """Names of the top-level packages that a fresh Python has loaded after running the code."""
    script = f"""
import json, sys
try:
    {code}
except SystemExit as ended:
    assert not ended.code, ended.code
print()
print(json.dumps(sorted(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_the_package_loads_the_standard_library_alone():
    new = loaded_by("import tain") - loaded_by("pass") - set(sys.stdlib_module_names)
    assert new == {"tain"}


def test_the_public_errors_cost_nothing_more():
    assert not loaded_by("import tain; tain.UserError, tain.ShapeError, dir(tain)") & (HEAVY | {"rich", "cyclopts"})


def test_the_settings_can_be_read_without_torch():
    assert not loaded_by("import tain; tain.DistilConfig, tain.MirrorConfig, tain.PretrainConfig") & HEAVY


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)], ids=" ".join)
def test_help_texts_load_nothing_heavy(arguments: list[str]):
    heavy = loaded_by(f"from tain.cli.main import main; main({arguments!r})") & HEAVY
    assert not heavy, f"tain {' '.join(arguments)} loads {sorted(heavy)}"


def test_a_name_that_is_not_there_is_an_attribute_error():
    import tain

    with pytest.raises(AttributeError, match="module 'tain' has no attribute 'mirorr'"):
        _ = tain.mirorr


def test_the_lazy_table_the_list_and_the_imports_for_type_checkers_agree():
    import tain

    (block,) = [node for node in ast.parse(Path(tain.__file__).read_text(encoding="utf-8")).body if isinstance(node, ast.If)]
    imported = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == tain._PUBLIC
    assert set(tain.__all__) == {*tain._PUBLIC, "__version__"}


def test_every_public_name_can_be_had():
    import tain

    assert all(getattr(tain, name) is not None for name in tain.__all__)
    assert set(dir(tain)) == set(tain.__all__)
