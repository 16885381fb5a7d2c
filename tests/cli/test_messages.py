"""Every message that the command line can print, in one file: a change of words shows in the diff of ``messages.txt``.

TAIN_WRITE_MESSAGES=1 python -m pytest tests/cli/test_messages.py    rewrites the file
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "tain"
GOLDEN = Path(__file__).with_name("messages.txt")
RAISED = {
    "UserError",
    "BudgetError",
    "NotFiniteError",
    "RequestError",
    "TooBusyError",
    "TooLongError",
    "StoppingError",
    "DamagedListsError",
    "UnusableTextError",
}
SAID = {"warn", "note", "refuse_all", "_refuse"}
PROBLEMS = re.compile(r"problems|wrong|refusals?")  # lists of sentences that become one UserError


class Module:
    """A parsed module, and the strings that its names stand for."""

    def __init__(self, code: str) -> None:
        self.tree = ast.parse(code)
        self.constants = assigned(self.tree.body)
        self.functions = {node.name: node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)}

    def messages(self) -> Iterator[str]:
        """Messages in the order of the code; what is put in at run time is ``{}``, alternatives are ``[one|other]``."""
        for scope in [self.tree, *self.functions.values()]:
            inside = list(own_nodes(scope))
            names = self.constants | (assigned(inside) if scope is not self.tree else {})
            for node in inside:
                for written in messages_of(node):
                    found = " ".join(self.worded(written, names).split())
                    if re.search(r"[a-z]{2}", re.sub(r"\{[^}]*\}", "", found)):
                        yield found

    def worded(self, node: ast.expr, names: dict[str, list[ast.expr]], depth: int = 0) -> str:
        if isinstance(node, ast.Constant):
            return node.value if isinstance(node.value, str) else "{}"
        if isinstance(node, ast.JoinedStr):
            return "".join(self.worded(value, names, depth) for value in node.values)
        if isinstance(node, ast.FormattedValue):
            return self.worded(node.value, names, depth)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            sides = [self.worded(side, names, depth) for side in (node.left, node.right)]
            return "{}" if sides == ["{}", "{}"] else "".join(sides)
        if depth > 4:
            return "{}"
        if isinstance(node, ast.IfExp):
            return one_of(self.worded(each, names, depth + 1) for each in (node.body, node.orelse))
        if isinstance(node, ast.BoolOp):
            return one_of(self.worded(each, names, depth + 1) for each in node.values)
        if isinstance(node, ast.Name) and node.id in names:
            return one_of(self.worded(each, {}, depth + 1) for each in names[node.id])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in self.functions:
            returned = [each.value for each in own_nodes(self.functions[node.func.id]) if isinstance(each, ast.Return) and each.value]
            return one_of(self.worded(each, self.constants, depth + 1) for each in returned)
        return "{}"


def one_of(texts: Iterator[str]) -> str:
    """Alternatives, unless they are all put in at run time."""
    different = list(dict.fromkeys(texts))
    if not any(re.search(r"[A-Za-z]", re.sub(r"\{[^}]*\}", "", text)) for text in different):
        return "{}"
    return different[0] if len(different) == 1 else f"[{'|'.join(different)}]"


def own_nodes(scope: ast.AST) -> Iterator[ast.AST]:
    """Nodes of a module or function, without those of functions inside it."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef):
            yield child
            yield from own_nodes(child)


def assigned(nodes: list[ast.AST] | list[ast.stmt]) -> dict[str, list[ast.expr]]:
    """The values that names get from plain assignments of text."""
    found: dict[str, list[ast.expr]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            if isinstance(node.value, ast.Constant | ast.JoinedStr | ast.IfExp | ast.BinOp):
                found.setdefault(node.targets[0].id, []).append(node.value)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Constant | ast.JoinedStr):
            found.setdefault(node.target.id, []).append(node.value)
    return found


def messages_of(node: ast.AST) -> Iterator[ast.expr]:
    """The sentences that a node prints, raises, or adds to a list of problems."""
    if isinstance(node, ast.Call) and (node.args or node.keywords):
        name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr if isinstance(node.func, ast.Attribute) else ""
        is_list = name == "append" and isinstance(node.func, ast.Attribute) and PROBLEMS.search(ast.unparse(node.func.value))
        if name in RAISED | SAID or is_list:
            yield from sentences(node.args[0] if node.args else node.keywords[0].value)
    if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if isinstance(target, ast.Name) and PROBLEMS.fullmatch(target.id):
            yield from sentences(node.value)


def sentences(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.List | ast.Tuple):
        for element in node.elts:
            yield from sentences(element)
    elif isinstance(node, ast.ListComp | ast.GeneratorExp):
        yield from sentences(node.elt)
    elif isinstance(node, ast.Starred):
        yield from sentences(node.value)
    elif isinstance(node, ast.IfExp):
        yield from sentences(node.body)
        yield from sentences(node.orelse)
    else:
        yield node


def all_messages() -> str:
    lines = []
    for file in sorted(SOURCE.rglob("*.py")):
        name = file.relative_to(SOURCE).with_suffix("").as_posix()
        lines += sorted({f"{name}: {message}" for message in Module(file.read_text(encoding="utf-8")).messages()})
    return "\n".join(lines) + "\n"


def test_every_message_is_in_the_file_as_it_is_written():
    found = all_messages()
    if os.environ.get("TAIN_WRITE_MESSAGES"):
        GOLDEN.write_text(found, encoding="utf-8")
    written = GOLDEN.read_text(encoding="utf-8")
    new, old = (sorted(set(one.splitlines()) - set(other.splitlines())) for one, other in ((found, written), (written, found)))
    assert found == written, f"messages changed: read them, then rewrite the file (see the top of this module)\nnew: {new}\nold: {old}"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise UserError('give a file')", "give a file"),
        ("raise UserError(f'path is {path!r}: give {1 + 1} ' 'files')", "path is {}: give {} files"),
        ("progress.warn('one ' + ('text' if n == 1 else 'texts'))", "one [text|texts]"),
        ("HINT = 'give a folder'\ndef f(x):\n    raise UserError(f'{x} is no folder: {HINT}')", "{} is no folder: give a folder"),
        ("def f():\n    why = f'no {x}'\n    raise UserError(why)", "no {}"),
        ("def why(x):\n    return f'bad {x}'\nraise UserError(why(3))", "bad {}"),
        ("problems.append(f'seed is {seed}')", "seed is {}"),
        ("refuse_all([f'codes is {n}' for n in codes])", "codes is {}"),
    ],
)
def test_messages_are_found_however_they_are_put_together(code: str, message: str):
    assert list(Module(code).messages()) == [message]


@pytest.mark.parametrize("code", ["raise ValueError('ours')", "found.append('text')", "raise UserError('; '.join(problems))"])
def test_other_text_is_no_message(code: str):
    assert list(Module(code).messages()) == []


def test_messages_are_one_line_without_quaint_words():
    quaint = re.compile(r"\b(anew|nobody|is told|says nothing|so many|gone on with)\b")
    for line in GOLDEN.read_text(encoding="utf-8").splitlines():
        assert not quaint.search(line), line
        assert not line.endswith("."), f"a message has no full stop at its end: {line}"
