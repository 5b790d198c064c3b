"""The house's own laws: imports only go down, nothing runs code from a file, rooms stay readable."""

import ast
from pathlib import Path

import pytest

import bptt

ROOT = Path(bptt.__file__).parent
# From the ground up: a folder may import what stands before it, never what stands after.
ORDER = [
    "errors", "forms", "axes", "reference", "ops", "nn", "carry", "recurrence", "probes", "watching",
    "gradients", "remedies", "trials", "diagnosis", "tasks", "data", "models", "streaming", "training",
    "compare", "generation", "export", "report", "callbacks", "claims", "lab", "benchmark", "cli",
    "__main__",
]  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


def room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported(path):
    """Every package-internal room that a file imports from, wherever in the file it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bptt":
            parts = node.module.split(".")
            names = [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
            yield from (name for name in names if name in ORDER)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                parts = alias.name.split(".")
                if parts[0] == "bptt" and len(parts) > 1:
                    yield parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_only_go_down(path):
    here = room(path)
    if here == "__init__":  # the package itself hands all names on
        return
    assert here in ORDER, f"{here} has no place in the order yet"
    for other in imported(path):
        assert ORDER.index(other) <= ORDER.index(here), (
            f"{here} imports {other}, which stands above"
        )


def test_nothing_in_the_package_runs_code_from_a_file_or_the_network():
    banned = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "socket", "urllib", "requests"}
    for path in FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").split(".")[0]}
            elif isinstance(node, ast.Call):
                names = {node.func.id} if isinstance(node.func, ast.Name) else set()
                names &= {"eval", "exec"}
                assert not names, f"{path}:{node.lineno} calls {names}"
                function = node.func
                if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
                    call = f"{function.value.id}.{function.attr}"
                    assert call not in ("torch.load", "torch.save"), f"{path}:{node.lineno}"
                continue
            else:
                continue
            assert not names & banned, f"{path}:{node.lineno} imports {names & banned}"


def test_rooms_can_be_read_in_one_sitting():
    long = {str(p): n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long


def test_every_file_says_what_it_is():
    missing = [str(p) for p in FILES if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert not missing
