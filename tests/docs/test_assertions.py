"""Each test asserts something: itself, or by way of a function that does."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef

EXPECTATIONS = {"raises", "warns", "fail", "skip", "deprecated_call", "run_state_machine_as_test", "assert_frame_equal"}
"""What asserts though nothing here shows it."""
COMMON = {"append", "close", "delete", "get", "list", "main", "put", "read", "run", "set", "wait", "write"}
"""Names of so many things that a call of one tells nothing."""


def functions(*directories: str) -> dict[str, list[Function]]:
    """Return the functions of some directories by name."""
    found: dict[str, list[Function]] = {}
    for path in (path for directory in directories for path in sorted((ROOT / directory).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Function):
                found.setdefault(node.name, []).append(node)
    return found


def called(function: Function) -> Iterator[str]:
    """Yield the last name of whatever a function calls or decorates itself with."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2]


def asserts(function: Function, *, helpers: set[str]) -> bool:
    is_direct = any(isinstance(node, ast.Assert | ast.Raise) for node in ast.walk(function))
    return is_direct or not helpers.isdisjoint(called(function))


def silent(defined: dict[str, list[Function]]) -> list[str]:
    """Return the names of the tests that assert nothing."""
    helpers: set[str] = set(EXPECTATIONS)
    while more := {
        name
        for name, each in defined.items()
        if name not in helpers | COMMON and any(asserts(one, helpers=helpers) for one in each)
    }:
        helpers |= more
    tests = {name: each for name, each in defined.items() if name.startswith("test_")}
    return [name for name, each in tests.items() if not all(asserts(one, helpers=helpers) for one in each)]


def test_every_test_asserts_something() -> None:
    assert silent(functions("tests", "metaxy_fs/testing")) == []


def test_a_test_that_asserts_nothing_is_seen() -> None:
    source = """
def check(value): assert value
def help(value): check(value)
def test_asserts(): assert True
def test_expects():
    with pytest.raises(ValueError): int("x")
def test_is_helped(): help(1)
def test_does_nothing(): int("1")
def test_only_calls(): Storage().put("a", b"")
"""
    found = {node.name: [node] for node in ast.parse(source).body if isinstance(node, Function)}
    assert silent(found) == ["test_does_nothing", "test_only_calls"]
