"""A rule of the house: tensors are made where it is said, numbers are read where that is known."""

import ast
from pathlib import Path

import pytest

import bptt

SOURCE = Path(bptt.__file__).parent
MAKES = {
    "zeros", "ones", "empty", "full", "arange", "tensor", "as_tensor", "eye", "rand", "randn", "randint",
    "randperm", "linspace", "logspace", "triu_indices", "tril_indices", "scalar_tensor",
}  # fmt: skip
READS = {"item", "tolist", "numpy", "cpu"}
# Rooms that see the tensors of a model that may lie anywhere.
ROOMS = (
    "ops", "nn", "recurrence", "probes", "gradients", "remedies", "models", "training", "integrations",
)  # fmt: skip
# How often each file reads a number, and why it has to.
READ = {
    "integrations/torchrl.py": (1, "a packed batch has its sizes on the CPU"),
    "models/counts.py": (2, "a count table, which lies on the CPU"),
    "models/language.py": (
        3,
        "the next token, drawn on the CPU; a piece of the text as ids, read there",
    ),
    "ops/eager.py": (1, "sizes of a packed batch, which lie on the CPU"),
    "nn/inputs.py": (1, "torch packs by lengths on the CPU"),
    "ops/loss.py": (
        3,
        "a score of a whole text; whether the cotangent of a scalar is 1, on the CPU",
    ),
    "ops/native/check.py": (1, "lengths in a message; the kernels run on the CPU"),
    "ops/split.py": (1, "the marks, in one transfer"),
    "probes/flow.py": (4, "the table of a spectrum, which lies on the CPU"),
    "probes/graded_spectrum.py": (1, "the K of a table"),
    "probes/guard/call_rules.py": (2, "where padding is, beside the lengths of the user's"),
    "probes/guard/loop.py": (1, "the norms of a few gradients, which a threshold is held against"),
    "probes/guard/observe.py": (1, "the norm that a clip returned"),
    "probes/jacobians.py": (7, "products, svd and qr of small matrices in float64, for a table"),
    "probes/lag_spectrum.py": (1, "norms by step, for a table"),
    "probes/on_text.py": (3, "what is drawn"),
    "probes/spectrum.py": (2, "the table itself, which lies on the CPU"),
    "probes/states.py": (2, "histograms, for a table"),
    "probes/verdict.py": (1, "the table of a spectrum, which lies on the CPU"),
    "recurrence/graded.py": (5, "norms by lag decide what is followed on"),
    "recurrence/layers.py": (1, "torch packs by lengths on the CPU"),
    "recurrence/unrolled.py": (1, "sizes of a packed batch, which lie on the CPU"),
    "remedies/adaptive_clipping.py": (2, "the norm that the threshold is made of"),
    "training/checkpoint.py": (1, "what is written is the same from every device"),
    "training/distributed.py": (9, "bytes between processes"),
    "training/evaluate.py": (4, "tokens of the text, as characters"),
    "training/expected.py": (1, "a number in a message"),
    "training/forecast.py": (6, "a small network on the CPU; NumPy does what is around it"),
    "training/fit.py": (3, "loss and norm, which decide whether there is an update"),
    "training/randomness.py": (4, "states of Python's and NumPy's generators"),
    "training/update.py": (2, "the table of a horizon, for the metrics"),
}


def faults(tree):
    """Calls that make a tensor and do not say where; a module's own parameters are torch's to place."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    def is_held(node):
        while node is not None and not isinstance(node, ast.stmt):
            node = parents.get(node)
            called = node.func if isinstance(node, ast.Call) else None
            if getattr(called, "attr", "") in ("Parameter", "register_buffer"):
                return True
        return False

    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        of_torch = isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"
        said = any(word.arg in ("device", None) for word in node.keywords)
        if of_torch and node.func.attr in MAKES and not said and not is_held(node):
            yield f"line {node.lineno}: torch.{node.func.attr} without device="
        if of_torch and node.func.attr == "Generator" and not node.args and not said:
            yield f"line {node.lineno}: torch.Generator without a device"


def reads(tree):
    return sum(
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in READS
        and not node.args
        for node in ast.walk(tree)
    )


FILES = sorted(path for room in ROOMS for path in (SOURCE / room).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_no_tensor_is_made_or_read_on_the_cpu_by_habit(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert list(faults(tree)) == []
    allowed = READ.get(path.relative_to(SOURCE).as_posix(), (0, ""))[0]
    assert reads(tree) == allowed, "a number is read; if it has to be, say why in READ"


@pytest.mark.parametrize(
    "text", ["torch.zeros(3)", "torch.tensor([1])", "x + torch.arange(4)", "torch.Generator()"]
)
def test_what_is_made_by_habit_is_found(text):
    assert list(faults(ast.parse(text)))
    assert reads(ast.parse("float(x.item())")) == 1
