"""The pages keep their word: code runs, commands exist, figures stand, every public name is listed."""

import ast
import inspect
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import tyro

import bptt
from bptt import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(p for p in DOCS.rglob("*.md") if "_build" not in p.parts)
EVERYWHERE = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)


# Loaded before pytest collects doctests: it would put the module bptt.probes.lag_spectrum, say, in the
# place of the function of that name, and the pages would meet it.
# Left out are commands and notebooks, which have pages of their own, and rooms that hand on no names:
# what users need of them is in the interface under the name of its module.
SOURCE = Path(bptt.__file__).parent
UNLISTED = ("cli", "lab", "files", "shown", "experiments")
PACKAGES = sorted(
    ".".join(("bptt", *path.parent.relative_to(SOURCE).parts))
    for pattern in ("*/__init__.py", "experiments/*/__init__.py")
    for path in SOURCE.glob(pattern)
    if path.parent.name not in UNLISTED
)
for package in PACKAGES:
    import_module(package)


def public(name):
    """A name as users spell it: ``bptt.claims.HOLDS`` lives in ``bptt.experiments.claims``."""
    for short, long in bptt._MODULES.items():
        if name.startswith(f"{long}."):
            return short + name.removeprefix(long)
    return name


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_python_on_the_page_runs(page, capsys):
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, block {number}", "exec"), {})
    capsys.readouterr()


def test_every_page_about_a_thing_shows_it():
    """Estimators, probes, remedies and cells: each page has code to run and a figure of this build."""
    for folder in ("estimators", "probes", "remedies", "layers"):
        for page in sorted((DOCS / folder).glob("*.md")):
            if page.stem in ("index", "remember_first"):  # tables of commands and pages
                continue
            text = page.read_text("utf-8")
            assert "```python\n" in text, page
            assert "```{drawn} " in text, page
            assert "Source" in text, page


def test_every_figure_stands_on_a_page_and_every_page_finds_its_figure():
    named = {
        n for p in PAGES for n in re.findall(r"^```\{drawn\} (\w+)", p.read_text("utf-8"), re.M)
    }
    assert named == {path.stem for path in (DOCS / "figures").glob("*.py")}


SHELL = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)


def commands(page):
    """Every command line of ours in a block for the shell, or indented as one."""
    text = page.read_text("utf-8").replace("\\\n", " ")
    lines = [line for block in SHELL.findall(text) for line in block.splitlines()]
    lines += re.findall(r"^    (bptt .*)$", text, re.M)
    for line in lines:
        line = line.split(" #")[0].removeprefix("$ ")
        for form in ("./run bptt ", "./run train", "./run bench", "bptt ", "python -m bptt "):
            if line.startswith(form):
                yield (
                    line.replace("./run bptt ", "")
                    .replace("./run ", "")
                    .removeprefix("python -m ")
                    .removeprefix("bptt ")
                )
                break


WITH_COMMANDS = [page for page in EVERYWHERE if any(commands(page))]


class Parsed(Exception):
    """The command line was understood; nothing was run."""


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_commands_on_the_page_are_understood(page, monkeypatch):
    real = tyro.cli

    def parse_only(*args, **options):
        real(*args, **options)  # exits where it does not understand
        raise Parsed

    monkeypatch.setattr(tyro, "cli", parse_only)
    for command in commands(page):
        name, *words = shlex.split(command)
        if name == "help":
            assert set(words) <= set(cli.COMMANDS), command
            continue
        assert name in cli.COMMANDS, command
        module = import_module(f"bptt.cli.{name}")
        for value in vars(module).values():  # where `from tyro import cli` was said
            if value is real:
                pytest.fail(f"{name} holds tyro.cli under a name of its own")
        with pytest.raises(Parsed):
            module.run(words)


def documented():
    """Every object that a directive on the pages takes in, by the identity of what it documents."""
    found, listed = {}, set()
    for page in PAGES:
        text = page.read_text("utf-8")
        for kind, path in re.findall(r"^\.\. auto(\w+):: ([\w.]+)", text, re.M):
            if kind != "module":
                owner, name = path.rsplit(".", 1)
                found[path] = getattr(import_module(owner), name)
                continue
            module = import_module(path)
            names = getattr(module, "__all__", None)
            for name in names if names is not None else vars(module):
                value = getattr(module, name)
                own = names is not None or getattr(value, "__module__", None) == path
                code = inspect.isclass(value) or inspect.isroutine(value)
                if own and code and not name.startswith("_") and inspect.getdoc(value):
                    found[f"{path}.{name}"] = value
        listed |= set(re.findall(r"^\.\. py:data:: ([\w.]+)", text, re.M))
    return found, listed


def test_every_public_name_is_in_the_interface():
    found, listed = documented()
    known = {id(value) for value in found.values()}
    missing = []
    assert {"bptt.experiments.claims", "bptt.integrations", "bptt.nn"} <= set(PACKAGES)
    for package in PACKAGES:
        tree = ast.parse(Path(import_module(package).__file__).read_text("utf-8"))
        names = next(
            (
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
            ),
            None,
        )
        assert names, f"{package} hands on no names"
        for name in names:
            value, full = getattr(import_module(package), name), f"{package}.{name}"
            if inspect.ismodule(value):
                there = any(path.startswith(f"{full}.") for path in found)
            else:  # a constant has no docstring of its own: it stands on the page as py:data
                there = id(value) in known or public(full) in listed
            missing += [] if there else [full]
    for name in bptt.__all__:
        value = getattr(bptt, name)
        if not inspect.ismodule(value) and id(value) not in known:
            missing.append(f"bptt.{name}")
    assert missing == []


@pytest.fixture
def extension(monkeypatch):
    """A module of ``docs/_ext`` that needs no Sphinx."""
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return import_module


def test_what_a_page_shows_is_kept_until_what_it_is_made_from_changes(
    extension, tmp_path, monkeypatch
):
    kept = extension("kept")
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kept")
    made = []

    def get(*own):
        return kept.kept("figure", own, lambda: made.append(1) or [len(made), "ü"])

    data = tmp_path / "data.json"
    data.write_text("1")
    assert get("text", data) == get("text", data) == [1, "ü"]
    assert get("another", data) == [2, "ü"]
    data.write_text("2")
    assert get("another", data) == [3, "ü"]
    (path,) = (tmp_path / "kept").iterdir()
    for damage in ("", "{", "[]", '{"made_from": 1}', path.read_text("utf-8")[:-9]):
        path.write_text(damage, "utf-8")
        before = len(made)
        assert get("another", data) == [before + 1, "ü"]
    monkeypatch.setattr(kept, "common", lambda: "the package has changed")
    assert get("another", data)[0] == len(made) > 8
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["figure.json"]


def test_every_file_of_the_package_counts_for_what_is_kept(extension, tmp_path, monkeypatch):
    kept = extension("kept")
    monkeypatch.setattr(kept, "SOURCES", (tmp_path,))
    monkeypatch.setattr(kept, "MAKERS", ())
    hashes = set()
    for name in ("a.py", "b.h", "texts/c.txt", "d.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        for text in ("1", "2"):
            (tmp_path / name).write_text(text)
            kept.common.cache_clear()
            hashes.add(kept.common())
    kept.common.cache_clear()
    assert len(hashes) == 8


@pytest.mark.parametrize(
    ("latex", "parts"),
    [
        (r"a = (b + c) + d,\qquad e = f", [["a ", "= (b + c) ", "+ d,"], [" e ", "= f"]]),
        (r"-x + y", [["-x ", "+ y"]]),
        (r"x^{a+b} = \sum_{k=1}^{t} k", [["x^{a+b} ", r"= \sum_{k=1}^{t} k"]]),
        (r"\left(a + b\right) - c", [[r"\left(a + b\right) ", "- c"]]),
        (r"g \leftarrow g", [["g ", r"\leftarrow g"]]),
        (r"\lVert a - b\rVert^2", [[r"\lVert a - b\rVert^2"]]),
        (r"\begin{cases} a = b \end{cases}", [[r"\begin{cases} a = b \end{cases}"]]),
        (r"a \qquad (b", [[r"a \qquad (b"]]),  # not understood: left whole
    ],
)
def test_formulas_are_broken_between_terms_and_nowhere_else(extension, latex, parts):
    assert extension("pieces").parts(latex) == parts


def test_every_formula_of_the_pages_can_be_broken_without_loss(extension):
    parts = extension("pieces").parts
    formulas = [
        f for page in PAGES for f in re.findall(r"\$\$(.+?)\$\$", page.read_text("utf-8"), re.S)
    ]
    assert len(formulas) > 40
    for formula in formulas:
        joined = r"\qquad".join("".join(of) for of in parts(formula))
        assert joined == formula


@pytest.mark.parametrize(
    ("written", "page"),
    [
        (
            "The state h_t = a ⊙ h_{t-1}, a sum.",
            r"The state \ :math:`h_{t} = a \odot  h_{t-1}`\ , a sum.",
        ),
        ("W_ih x_t of step's ends", r"\ :math:`W_{ih} x_{t}`\  of step's ends"),
        ("‖∂L/∂h_t‖", r"\ :math:`\lVert \partial L/\partial h_{t}\rVert`\ "),
        ("at most 1/√H a step", r"at most \ :math:`1/\sqrt{H}`\  a step"),
        # Names, code, programs, and halves of what is not understood stay as they are.
        ("h_n: the state", "h_n: the state"),
        ("``W_ih x_t`` and :func:`a_b`", "``W_ih x_t`` and :func:`a_b`"),
        (">>> h_t = W_ih @ x_t", ">>> h_t = W_ih @ x_t"),
        ("batch_first, r, start_chrono(model, 3)", "batch_first, r, start_chrono(model, 3)"),
        ("act(xp_t + W_hh h)", "act(xp_t + W_hh h)"),
        ("a step, I think, A thing", "a step, I think, A thing"),
    ],
)
def test_formulas_of_docstrings_are_set_and_names_are_not(extension, written, page):
    assert extension("written").lines_with_math([written]) == [page]


def test_the_cells_of_the_notebook_page_run_and_display(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    names, shown = {}, []
    for cell in re.findall(
        r"```\{cell\}\n(.*?)```", (DOCS / "notebook.md").read_text("utf-8"), re.S
    ):
        tree = ast.parse(cell)
        last = tree.body[-1].value if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "a cell", "exec"), names)
        if isinstance(last, ast.Name):
            shown.append(names[last.id]._repr_html_())
    assert len(shown) == 3
    assert "horizon" in shown[0]
    assert "zero-grad-missing" in shown[2]


def test_there_are_pages():
    assert len(WITH_PYTHON) > 20
    assert len(WITH_COMMANDS) > 5
