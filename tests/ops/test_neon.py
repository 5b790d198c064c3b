"""The kernels elsewhere: as NEON code under QEMU's emulation of a 64-bit Arm, and in the stable ABI of a
later Python than the one that runs here."""

import os
import re
from pathlib import Path

import pytest

from c_code import call, tool

ROOT = Path(__file__).parents[2]
SYSROOT = "/usr/aarch64-linux-gnu"


@pytest.mark.device
def test_the_kernels_own_tests_pass_as_neon_code(tmp_path):
    """Every cell, forward and backward, against plain loops: tests/ops/kernels_test.cpp."""
    emulator, compiler = tool("qemu-aarch64"), tool("aarch64-linux-gnu-g++")
    call(
        tool("cmake"), "-S", ROOT, "-B", tmp_path, "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}", "-DBPTT_MODULE=OFF",
        "-DBPTT_DRIVER=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O2",
    )  # fmt: skip
    call(tool("cmake"), "--build", tmp_path, "--parallel", "2")
    run = [emulator, "-L", SYSROOT, tmp_path / "bptt_kernel_tests"]
    assert call(*run, "--isas").strip() == "neon"
    # An emulated thread is a real one, and the emulator's locks cost more than a second core gives.
    said = call(*run, env={**os.environ, "OMP_NUM_THREADS": "1"})
    passed, _ = said.split(" passed, 0 failed")
    assert int(passed) > 1000


# What the extension takes of Python's own interface. All of it is in the stable ABI of Python 3.12, which
# one wheel for that version and later ones needs. Macros such as PyTuple_GET_ITEM are not in it, and
# compile on 3.11 all the same.
STABLE = {
    "PyCapsule_GetPointer", "PyCapsule_IsValid",
    "PyDict_Check", "PyDict_Contains", "PyDict_GetItem", "PyDict_GetItemString", "PyErr_Clear",
    "PyErr_Occurred", "PyErr_SetObject", "PyList_Check", "PyList_GetItem", "PyList_Size",
    "PyLong_AsLongLong", "PyLong_AsUnsignedLongLong", "PyObject_GetAttr", "PyObject_VectorcallMethod",
    "PyTuple_Check", "PyTuple_GetItem", "PyTuple_New", "PyTuple_SetItem", "PyTuple_Size",
    "PyUnicode_InternFromString", "Py_False", "Py_NewRef", "Py_None", "Py_TYPE", "Py_True", "Py_ssize_t",
}  # fmt: skip


def test_the_extension_keeps_to_the_stable_abi():
    files = [*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc").glob("*.cpp")]
    found = {
        name
        for file in files
        for name in re.findall(r"\bPy[A-Za-z]*_\w+", file.read_text(encoding="utf-8"))
    }
    assert "PyObject_VectorcallMethod" in found
    assert found <= STABLE, f"not known to be in the stable ABI: {sorted(found - STABLE)}"
