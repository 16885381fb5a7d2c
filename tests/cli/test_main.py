import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import tain
from tain.cli.main import VERBS, main
from tain.foundation.errors import UserError


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Put an error in the place of what ``tain encode`` does."""

    def raising(error: BaseException) -> None:
        def encode() -> None:
            raise error

        monkeypatch.setattr("tain.cli.encode.encode", encode)

    return raising


def exit_code(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as exited:
        main(arguments)
    return exited.value.code


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_done_is_zero(monkeypatch, capsys):
    def encode() -> None:
        sys.stdout.write("result\n")

    monkeypatch.setattr("tain.cli.encode.encode", encode)
    main(["encode"])
    assert capsys.readouterr() == ("result\n", "")


def test_a_user_error_is_one_line_on_stderr_and_two(verb, capsys):
    verb(UserError("the number is 3,\nbut it must be even: give 4"))
    assert exit_code(["encode"]) == 2
    assert capsys.readouterr() == ("", "error: the number is 3, but it must be even: give 4\n")


def test_any_other_error_keeps_its_traceback(verb):
    verb(ValueError("our bug"))
    with pytest.raises(ValueError, match="our bug"):
        main(["encode"])


def test_any_other_error_exits_with_one_and_shows_where():
    done = python(
        "import tain.cli.encode as e, tain.cli.main as m\n"
        "def encode() -> None: raise ZeroDivisionError('our bug')\n"
        "e.encode = encode\n"
        "m.main(['encode'])"
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "ZeroDivisionError: our bug" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["encode", "a", "b", "-o", "c.npy", "--nope"], r'Unknown option: "?--nope.* \(see tain encode --help\)'),
        (["--nope"], r'Unknown command "--nope"\. .*evaluate.* \(see tain --help\)'),
        (["nope"], r'Unknown command "nope"\. .*evaluate.* \(see tain --help\)'),
        (["mirror"], r".*MODEL.* requires an argument \(see tain mirror --help\)"),
        (["encode", "-o", "c.npy"], r"MODEL is missing: give tain encode MODEL TEXTS -o FILE \(see tain encode --help\)"),
        (["encode", "a", "b"], r".*--output.* requires an argument \(see tain encode --help\)"),
        (
            ["encode", "a", "b", "c", "d", "-o", "e.npy"],
            r"'c', 'd' is an extra argument that the command does not take \(see tain encode --help\)",
        ),
        (
            ["encode", "a", "b", "-o", "c.npy", "--batch-tokens", "x"],
            r'Invalid value for "?--batch-tokens"?: unable to convert "x" into int \(.*',
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_two(arguments, said, capsys):
    assert exit_code(arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"error: {said}\n", error)


def test_ctrl_c_is_one_word_and_130(verb, capsys):
    verb(KeyboardInterrupt())
    assert exit_code(["encode"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_a_missing_training_package_says_what_to_install(verb, capsys):
    verb(ModuleNotFoundError("No module named 'torch'", name="torch"))
    assert exit_code(["encode"]) == 2
    assert capsys.readouterr().err == 'error: tain encode needs torch, which is not installed: run pip install "tain[train]"\n'


def test_any_other_missing_module_is_our_bug(verb):
    verb(ModuleNotFoundError("No module named 'tain.nothing'", name="tain.nothing"))
    with pytest.raises(ModuleNotFoundError):
        main(["encode"])


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr() == (f"{tain.__version__}\n", "")


@pytest.mark.parametrize(
    "call",
    [
        "def encode() -> None: print('result')\ne.encode = encode\nm.main(['encode'])",
        "def encode() -> None: Console().print('result')\ne.encode = encode\nm.main(['encode'])",
        "m.main(['encode', '--help'])",
    ],
    ids=["print", "rich", "help"],
)
def test_output_nobody_reads_is_no_error(call):
    done = python(
        "import os, tain.cli.encode as e, tain.cli.main as m\n"
        "from rich.console import Console\n"
        f"left, right = os.pipe()\nos.close(left)\nos.dup2(right, 1)\n{call}"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_list_of_verbs_imports_none_of_them():
    done = python("import sys, tain.cli.main as m\nm.main(['--help'])\nprint([name for name in sys.modules if name.startswith('tain.')])")
    assert all(f" {verb} " in done.stdout for verb in VERBS)
    assert (
        done.stdout.splitlines()[-1]
        == "['tain.cli', 'tain.foundation', 'tain.foundation.errors', 'tain.foundation.old_names', 'tain.cli.old_flags', 'tain.foundation.machine',"
        " 'tain.cli.main']"
    )


def test_every_verb_tells_its_help_with_an_example_and_without_torch():
    program = (
        "import sys, tain.cli.main as m\n"
        "for verb in m.VERBS:\n"
        "    print('====', verb)\n"
        "    m.main([verb, '--help'])\n"
        "    print('loaded', [name for name in ('torch', 'transformers', 'pyarrow', 'scipy') if name in sys.modules])\n"
    )
    done = python(program)
    assert done.returncode == 0, done.stderr
    for page in done.stdout.split("==== ")[1:]:
        verb = page.split()[0]
        assert page.rstrip().endswith("loaded []"), verb
        usage, _, told = page.partition("Usage:")[2].partition("\n")
        assert f"tain {verb}" in usage
        assert f"tain {verb}" in told.partition("─ Parameters")[0], f"the help of {verb} opens with no example"


def test_garbage_is_put_off_while_torch_is_imported_and_no_longer(bert_folder, tmp_path):
    (tmp_path / "texts.txt").write_text("a red house\n", encoding="utf-8")
    program = f"""
import gc, sys
from tain.cli.main import main
usual = gc.get_threshold()
collected = []
gc.callbacks.append(lambda phase, facts: collected.append("torch" in sys.modules and "tain.models.embedder" not in sys.modules))
sys.argv = ["tain", "encode", {str(bert_folder)!r}, {str(tmp_path / "texts.txt")!r}, "-o", {str(tmp_path / "vectors.npy")!r}, "--quiet"]
main()
assert not any(collected), "collected while torch was imported"
assert collected, "never collected again"
assert gc.get_threshold() == usual
"""
    done = python(program)
    assert done.returncode == 0, done.stderr


def test_a_list_of_verbs_that_goes_on_says_so(capsys: pytest.CaptureFixture[str]):
    assert exit_code(["mirorr"]) == 2
    assert capsys.readouterr().err.endswith(", ... (see tain --help)\n")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_text_is_printed_on_every_terminal(encoding: str):
    texts = ["plain", "caf\u00e9", "\u93e1", "\U0001f600", "half \ud83d"]
    script = f"""
        import json, sys
        import tain.cli.main as command
        def verb(*_, **settings):
            print(json.dumps({texts!r}, ensure_ascii=False))
            print({texts!r}[1:], file=sys.stderr)
        command.build_app = lambda called: verb
        command.main()
    """
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(encoding)) == texts
    shown = "caf\u00e9" if encoding != "ascii" else "caf\\u00e9"
    assert shown in done.stderr.decode(encoding)


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_warnings_of_readers_are_one_line_each(flags: list[str], tmp_path: Path):
    (tmp_path / "x.csv").write_text("This is the first sentence.\nanother\n")
    script = """
        import sys
        import tain.cli.main as command
        def verb(arguments, **settings):
            from tain.text.readers import read_texts
            print(list(read_texts(arguments[0])))
        command.build_app = lambda called: verb
        command.main()
    """
    arguments = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "x.csv"), *flags]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "['another']\n"
    said = json.loads(done.stderr)["message"] if flags else done.stderr.removeprefix("warning: ").rstrip("\n")
    assert said.startswith("the first line of ")
    assert "\n" not in said
