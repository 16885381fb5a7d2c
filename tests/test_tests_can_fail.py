"""Every test checks something, and no test accepts either of two outcomes."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
FILES = sorted(TESTS.rglob("*.py"))
CHECKS = ("raises", "warns", "fail", "check_returncode")  # pytest's, and of subprocess


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def called_names(node: ast.AST) -> set[str]:
    calls = (each.func for each in ast.walk(node) if isinstance(each, ast.Call))
    return {call.id if isinstance(call, ast.Name) else call.attr for call in calls if isinstance(call, ast.Name | ast.Attribute)}


def checks_itself(function: ast.AST) -> bool:
    """Whether it asserts, expects an exception or calls a library's assertion."""
    if any(isinstance(node, ast.Assert) for node in ast.walk(function)):
        return True
    if any(isinstance(node, ast.keyword) and node.arg == "check" and ast.unparse(node.value) == "True" for node in ast.walk(function)):
        return True  # a process that must end well
    return any(name in CHECKS or name.startswith("assert_") for name in called_names(function))


def helpers_that_check(trees: list[ast.Module]) -> set[str]:
    """Names of functions that are no tests and check something, alone or through each other."""
    helpers = [each for tree in trees for each in functions(tree) if not each.name.startswith("test_")]
    found = {each.name for each in helpers if checks_itself(each)}
    while more := {each.name for each in helpers if each.name not in found and called_names(each) & found}:
        found |= more
    return found


def unchecked_tests(trees: dict[str, ast.Module]) -> list[str]:
    helpers = helpers_that_check(list(trees.values()))
    return [
        f"{name}: {function.name}"
        for name, tree in trees.items()
        for function in functions(tree)
        if function.name.startswith("test_") and not checks_itself(function) and not called_names(function) & helpers
    ]


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {str(file.relative_to(TESTS)): ast.parse(file.read_text(encoding="utf-8")) for file in FILES}


def test_every_test_checks_something(trees: dict[str, ast.Module]):
    assert unchecked_tests(trees) == []


@pytest.mark.parametrize(
    ("code", "wrong"),
    [
        ("def test_a(): f()", ["t: test_a"]),
        ("def test_a(): assert f()", []),
        ("def test_a():\n    with pytest.raises(ValueError): f()", []),
        ("def test_a(): np.testing.assert_allclose(1, 1)", []),
        ("def helper(): assert f()\ndef other(): helper()\ndef test_a(): other()", []),
        ("def helper(): f()\nclass TestB:\n    def test_b(self): helper()", ["t: test_b"]),
    ],
)
def test_a_test_without_a_check_is_found(code: str, wrong: list[str]):
    assert unchecked_tests({"t": ast.parse(code)}) == wrong


def either_or(tree: ast.Module) -> list[str]:
    """Assertions that one value equals this or that."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert) and isinstance(node.test, ast.BoolOp) and isinstance(node.test.op, ast.Or):
            equal = [
                ast.unparse(each.left) for each in node.test.values if isinstance(each, ast.Compare) and isinstance(each.ops[0], ast.Eq)
            ]
            found += [ast.unparse(node.test)] * (len(equal) != len(set(equal)))
    return found


def test_no_test_accepts_either_of_two_outcomes(trees: dict[str, ast.Module]):
    assert {name: found for name, tree in trees.items() if (found := either_or(tree))} == {}


@pytest.mark.parametrize(
    ("code", "count"), [("assert f(x) == 1 or f(x) == 2", 1), ("assert len(x) == 1 or sum(x) == 2", 0), ("assert x == 1", 0)]
)
def test_an_assertion_of_either_outcome_is_found(code: str, count: int):
    assert len(either_or(ast.parse(code))) == count
