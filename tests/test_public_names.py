"""What users import stays where they find it, wherever it lives."""

import pickle
import subprocess
import sys
from importlib import import_module

import pytest

import bptt
from processes import interpreter

MODULES = {
    "bptt.callbacks": "bptt.integrations",
    "bptt.carry": "bptt.nn.carry",
    "bptt.claims": "bptt.experiments.claims",
    "bptt.streaming": "bptt.models.stream",
}
NAMES = [
    "Stream", "callbacks", "carry", "claims", "convert", "data", "diagnose", "export_c", "export_onnx",
    "gradients", "models", "nn", "plot", "probes", "reference", "remedies", "tasks", "training", "watch",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there(name):
    assert name in bptt.__all__
    assert name in dir(bptt)
    assert getattr(bptt, name) is getattr(import_module("bptt"), name)


def test_an_unknown_name_is_none():
    with pytest.raises(AttributeError, match="'bptt' has no attribute 'carries'"):
        bptt.carries
    with pytest.raises(ModuleNotFoundError, match=r"bptt\.carries"):
        import_module("bptt.carries")
    with pytest.raises(ModuleNotFoundError, match=r"bptt\.experiments\.claims\.nothing"):
        import_module("bptt.claims.nothing")


IMPORTED_FIRST = """
import sys
from importlib import import_module
short, long = sys.argv[1:]
module = import_module(short)
assert module is import_module(long) is sys.modules[short] is sys.modules[long]
assert module.__name__ == module.__spec__.name == long, module.__spec__
import bptt
assert getattr(bptt, short.removeprefix("bptt.")) is module
"""


@pytest.mark.parametrize(("short", "long"), MODULES.items())
@pytest.mark.parametrize("first", ["short", "long"])
def test_both_names_are_one_module(short, long, first):
    if first == "long":  # in this process it is there already
        assert import_module(long) is import_module(short) is getattr(bptt, short[5:])
        assert sys.modules[short].__spec__.name == long
        return
    done = subprocess.run(
        [*interpreter(), "-c", IMPORTED_FIRST, short, long],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_what_is_in_them_is_one_thing_under_both_names():
    from bptt.callbacks import told
    from bptt.claims.registry import Claim

    from bptt.experiments.claims import registry
    from bptt.integrations import told as same

    assert told is same
    assert Claim is registry.Claim
    assert import_module("bptt.claims.registry") is registry
    assert registry.__spec__.name == "bptt.experiments.claims.registry"


def test_objects_of_them_are_pickled():
    import bptt.claims

    made = bptt.claims.Measurement("0.5", {"it shrinks": True})
    assert pickle.loads(pickle.dumps(made)) == made


def test_the_package_itself_loads_no_torch():
    code = "import sys, bptt; assert 'torch' not in sys.modules"
    subprocess.run([*interpreter(), "-c", code], check=True)
