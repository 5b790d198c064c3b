"""The house's own laws: imports only go down, nothing runs code from a file, rooms stay readable."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import bptt
from processes import interpreter

ROOT = Path(bptt.__file__).parent
# From the ground up: a folder may import what stands before it, never what stands after.
ORDER = [
    "shown", "errors", "choices", "files", "reference", "ops", "nn", "recurrence", "probes", "gradients",
    "remedies", "tasks", "data", "models", "training", "export", "experiments", "integrations", "report",
    "lab", "cli", "__main__",
]  # fmt: skip
FILES = sorted(ROOT.rglob("*.py"))


# The product as it stood had to fit 210 files. The lessons, the course's pages, the ledger's new rows,
# tokens, threads and the kernels of a GPU are rooms of their own beside it: forty between them. The
# forecast of a series is new: its calendar, its table, its training and its command are four more.
MOST_LINES, MOST_FILES, MOST_NAMES = 450, 256, 21


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


NETWORK = {
    "socket", "socketserver", "ssl", "urllib", "http", "ftplib", "smtplib", "telnetlib", "xmlrpc",
    "asyncio", "requests", "httpx", "aiohttp", "urllib3", "websocket", "websockets", "paramiko",
    "webbrowser",
}  # fmt: skip
CODE = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "code",
    "codeop",
    "runpy",
}
CALLS = {"eval", "exec", "compile", "__import__"}
# Methods that read or run what a file says; numpy's load is safe as long as it is not told otherwise.
METHODS = {
    ("torch", "load"), ("torch", "save"), ("torch", "hub"), ("np", "load"), ("numpy", "load"),
    ("os", "system"), ("os", "popen"), ("np", "fromfile"), ("yaml", "load"),
}  # fmt: skip
# The one fetch of data calls pip, in a process of its own; the others start nothing that is not ours.
# A board's figures need a compiler and an emulator; a text dropped on a page is trained on by bptt.
PROCESSES = {"data/fetch.py", "export/cost.py", "lab/your_run.py"}
# The lab asks the system to show a page of this machine's own.
BROWSERS = {"cli/lab.py"}


def faults(tree, where):
    """Everything in a file that runs code from elsewhere, or speaks to somebody elsewhere."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]} if not node.level else set()
        else:
            names = set()
        if "subprocess" in names and where not in PROCESSES:
            yield f"{where}:{node.lineno} imports subprocess"
        if where in BROWSERS:
            names -= {"webbrowser"}
        yield from (f"{where}:{node.lineno} imports {name}" for name in names & (NETWORK | CODE))
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Name) and function.id in CALLS:
            yield f"{where}:{node.lineno} calls {function.id}"
        if isinstance(function, ast.Name) and function.id == "import_module":
            yield from _imported_by_name(node, where)
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if (function.value.id, function.attr) in METHODS:
                yield f"{where}:{node.lineno} calls {function.value.id}.{function.attr}"
            if function.attr == "import_module":
                yield from _imported_by_name(node, where)
        for word in node.keywords:
            if word.arg == "allow_pickle" and getattr(word.value, "value", True) is not False:
                yield f"{where}:{node.lineno} allows pickle"
            if word.arg == "weights_only" and getattr(word.value, "value", False) is not True:
                yield f"{where}:{node.lineno} loads more than weights"
            if word.arg == "shell" and getattr(word.value, "value", True) is not False:
                yield f"{where}:{node.lineno} starts a shell"


def _imported_by_name(node, where):
    """A module named when the program runs must be one of ours, or a name written here."""
    name = node.args[0]
    if isinstance(name, ast.Constant):
        if name.value.split(".")[0] in NETWORK | CODE:
            yield f"{where}:{node.lineno} imports {name.value}"
    elif isinstance(name, ast.JoinedStr):
        head = name.values[0]
        if not (isinstance(head, ast.Constant) and head.value.startswith("bptt.")):
            yield f"{where}:{node.lineno} imports by a name that is made up"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_in_the_package_runs_code_from_a_file_or_the_network(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(faults(tree, path.relative_to(ROOT).as_posix())) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from urllib import request", "import http.client", "import socket as s",
        "eval('1')", "exec(text)", "torch.load(path)", "np.load(path, allow_pickle=True)",
        "import subprocess",
        "f(weights_only=False)", "from importlib import import_module\nimport_module('socket')",
        "importlib.import_module(f'{name}')", "run(x, shell=True)", "__import__('os')", "np.load(path)",
    ],
)  # fmt: skip
def test_what_is_not_wanted_is_found(text):
    assert list(faults(ast.parse(text), "some.py"))


WITHOUT_A_NETWORK = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("a socket was asked for")
class Refused(socket.socket):
    __init__ = refuse
socket.socket = Refused
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
from bptt.cli import main
folder = sys.argv[1]
text = folder + "/text.txt"
open(text, "w").write("a rose is a rose is a rose\\n" * 40)
run = folder + "/run"
small = ["--hidden", "4", "--batch", "2", "--k", "8", "--steps", "2", "--json"]
assert main(["train", text, "--out", run, *small]) == 0
assert main(["sample", run, "--length", "3"]) == 0
assert main(["eval", run, text]) == 0
assert main(["diagnose", run, text, "--steps", "8", "--lanes", "2"]) == 0
assert main(["export", run, "--to", "c", "--out", folder + "/c"]) == 0
"""


def test_a_run_opens_no_socket(tmp_path):
    done = subprocess.run(
        [*interpreter(), "-W", "ignore", "-c", WITHOUT_A_NETWORK, str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


def test_rooms_can_be_read_in_one_sitting():
    lines = {str(p): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert not {path: n for path, n in lines.items() if n > MOST_LINES}


def test_the_house_can_be_held_in_the_head():
    kept = ("__init__.py", "__main__.py", "__pycache__")
    names = {p.name for p in ROOT.iterdir() if p.name not in kept and p.suffix in ("", ".py")}
    assert names == {f"{n}.py" if (ROOT / f"{n}.py").exists() else n for n in ORDER[:-1]}
    assert len(names) <= MOST_NAMES
    assert len(FILES) <= MOST_FILES


def module(path):
    """The dotted name of a file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def arrows():
    """Module to the modules that it imports from, wherever in the file, for types alone too.

    The package itself is left out: it hands names on, and loads nothing before it is asked.
    """
    known = {module(path): path for path in FILES}
    found = {name: set() for name in known if name != "bptt"}
    for name in found:
        for node in ast.walk(ast.parse(known[name].read_text("utf-8"))):
            if isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in known}
            elif isinstance(node, ast.ImportFrom) and node.module in known:
                full = [f"{node.module}.{alias.name}" for alias in node.names]
                found[name] |= {f if f in known else node.module for f in full}
        found[name] -= {name, "bptt"}
    return found


def circle(arrows):
    """Modules that import each other in a circle, or an empty list."""
    left = {name: set(others) for name, others in arrows.items()}
    while ends := {name for name, others in left.items() if not others & left.keys()}:
        left = {name: others for name, others in left.items() if name not in ends}
    if not left:
        return []
    way = [next(iter(left))]
    while way[-1] not in way[:-1]:
        way.append(next(iter(left[way[-1]] & left.keys())))
    return way[way.index(way[-1]) :]


def test_no_file_imports_itself_by_way_of_others():
    found = arrows()
    assert len(found) == len(FILES) - 1
    assert "bptt.errors" in found["bptt.files.lock"]  # the arrows are seen at all
    assert circle(found) == []


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == {"b", "c"}


GUIDES = [
    ROOT.parents[1] / "CONTRIBUTING.md",
    ROOT.parents[1] / "docs" / "design" / "0006-house.md",
]


def named(text):
    """The files of the package, of the kernels and of the tests that a guide names."""
    yield from re.findall(r"`([\w./]+\.(?:py|h|md))`", text)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: p.name)
def test_guides_name_files_that_exist(guide):
    names = list(named(guide.read_text("utf-8")))
    places = (ROOT, ROOT.parents[1], ROOT.parent)
    assert len(names) > 5
    assert [n for n in names if not any((place / n).exists() for place in places)] == []


def test_guides_list_the_rooms_in_their_order():
    ladder, page = (guide.read_text("utf-8") for guide in GUIDES)
    ladder = ladder[ladder.index("form a ladder") : ladder.index("A file imports")]
    assert re.findall(r"`(\w+)`", ladder) == ORDER[:-1]
    table = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", page, re.M)
    assert table == ORDER[:-1]


def gate_counts(tree):
    """Lines that hold the gates of several cells: 1, 3 and 4, or 3 and 4, side by side."""
    for node in ast.walk(tree):
        parts = node.values if isinstance(node, ast.Dict) else getattr(node, "elts", [])
        numbers = [part.value for part in parts if isinstance(part, ast.Constant)]
        if numbers and set(numbers) in ({1, 3, 4}, {3, 4}):
            yield node.lineno
        if isinstance(node, ast.Call):
            yield from (
                node.lineno for word in node.keywords if word.arg == "gates" and _is_number(word)
            )


def _is_number(word):
    return isinstance(word.value, ast.Constant) and word.value.value in (3, 4)


def test_the_gates_of_a_cell_are_counted_in_one_table():
    """The reference stands by itself: each of its files is one cell, with its own number of gates."""
    found = {
        path.relative_to(ROOT).as_posix(): lines
        for path in FILES
        if (lines := list(gate_counts(ast.parse(path.read_text("utf-8")))))
    }
    assert {name for name in found if not name.startswith("reference/")} == {"ops/cells.py"}


@pytest.mark.parametrize(
    "text", ["GATES = (1, 1, 3, 4)", "{'rnn': 1, 'gru': 3, 'lstm': 4}", "[3, 4]", "f(gates=3)"]
)
def test_a_second_table_of_gates_is_found(text):
    assert list(gate_counts(ast.parse(text)))


# Names that an optimiser goes by, and calls that make one.
OPTIMISER = re.compile(r"optim|(^|[._])opt($|[._\d])|adam|sgd|rmsprop|adagrad|lbfgs", re.I)


def steps_of_optimisers(tree):
    """Lines that step an optimiser, or hand on its step.

    An optimiser is told by its name, by what was assigned to that name, or by its type. And whatever its
    receiver is called: `x.step()` without arguments, or with a closure, is what is said to optimisers
    alone here.
    """
    known = set()
    for node in ast.walk(tree):
        targets, source = [], None
        if isinstance(node, ast.Assign):
            targets, source = node.targets, node.value
        elif isinstance(node, (ast.AnnAssign, ast.NamedExpr)):
            targets = [node.target]
            source = getattr(node, "annotation", None) or node.value
        elif isinstance(node, ast.arg) and node.annotation is not None:
            if OPTIMISER.search(ast.unparse(node.annotation)):
                known.add(node.arg)
        elif isinstance(node, (ast.For, ast.comprehension)):
            targets, source = [node.target], node.iter
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            targets, source = [node.optional_vars], node.context_expr
        if source is not None:
            known |= set(_made(targets, source))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "step":
            receiver = ast.unparse(node.value)
            if OPTIMISER.search(receiver) or receiver in known:
                yield node.lineno
        if not isinstance(node, ast.Call):
            continue
        function, said = node.func, [*node.args, *(word.value for word in node.keywords)]
        if isinstance(function, ast.Name) and function.id in ("getattr", "methodcaller"):
            if any(isinstance(a, ast.Constant) and a.value == "step" for a in said):
                yield node.lineno
        elif isinstance(function, ast.Attribute) and function.attr == "step":
            closures = [a for a in said if isinstance(a, ast.Lambda) or "closure" in ast.unparse(a)]
            if not said or closures or any(word.arg == "closure" for word in node.keywords):
                yield node.lineno


def _made(targets, source):
    """The names that an assignment gives to an optimiser; of a row of values each by its own."""
    for target in targets:
        if isinstance(target, (ast.Tuple, ast.List)):
            row = getattr(source, "elts", [])
            sources = row if len(row) == len(target.elts) else [source] * len(target.elts)
            for one, value in zip(target.elts, sources, strict=True):
                yield from _made([one], value)
        elif OPTIMISER.search(made := ast.unparse(source)) and "lr_scheduler" not in made:
            yield ast.unparse(target)


def test_an_optimiser_is_stepped_in_one_place():
    """In the training step; and in the plain loop that a benchmark measures it beside."""
    found = {
        path.relative_to(ROOT).as_posix(): len(lines)
        for path in FILES
        if (lines := set(steps_of_optimisers(ast.parse(path.read_text("utf-8")))))
    }
    assert found == {"training/fit.py": 1, "experiments/benchmark/layers.py": 1}


@pytest.mark.parametrize(
    "text",
    [
        "optimizer.step()", "self.optimizer.step()", "run.step()", "f().step()",
        "optimizer.step(closure)",
        "run.step(closure=again)", "run.step(lambda: loss)",
        "opt.step(again)", "a.opt2.step(again)", "sgd.step(f)",
        "run = torch.optim.Adam(p)\nrun.step(again)", "run, n = adam(0.1)(p), 0\nrun.step(again)",
        "def f(run: torch.optim.Optimizer):\n    run.step(again)",
        "run: Optimizer = make()\nrun.step(again)", "(run := SGD(p)).step(again)",
        "for run in optimizers:\n    run.step(again)", "self.run = AdamW(p)\nself.run.step(again)",
        "call(optimizer.step)", "torch.optim.Adam.step(run)", "getattr(run, 'step')(x)",
    ],
)  # fmt: skip
def test_a_second_place_that_steps_an_optimiser_is_found(text):
    assert list(steps_of_optimisers(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    [
        "stream.step(x)", "plan.step(valid)", "progress.step += 1", "times.start + times.step",
        "reporter.step(done, record)", "self._options.step", "adopted.step(x)",
        "fit_step(model, optimizer)", "plan = torch.optim.lr_scheduler.StepLR(run, 3)\nplan.step(valid)",
    ],
)  # fmt: skip
def test_other_steps_are_left_alone(text):
    assert not list(steps_of_optimisers(ast.parse(text)))


def test_every_file_says_what_it_is():
    missing = [str(p) for p in FILES if not ast.get_docstring(ast.parse(p.read_text("utf-8")))]
    assert not missing
