"""Compile generated C and run it: as a library in this process, or as a program of its own."""

import ctypes
import shutil
import subprocess

import numpy as np

WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1"]
PACKAGES = {
    "gcc": "gcc",
    "g++": "g++",
    "clang": "clang",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "arm-none-eabi-size": "binutils-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-aarch64": "qemu-user",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
}


def tool(name):
    """The path of a program; a missing one is an error that says how to get it."""
    path = shutil.which(name)
    assert path, f"this test needs {name}: apt-get install {PACKAGES.get(name, name)}"
    return path


def call(*words, **options):
    """Run a program; its output, or a failure with all that it said."""
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def compile_program(folder, name, compiler="gcc", *flags, output="program"):
    """The generated example as a program in ``folder``."""
    language = ["-x", "c++"] if compiler.endswith("++") else ["-std=c99"]
    files = [folder / "example.c", folder / f"{name}.c"]
    call(tool(compiler), *language, *WARNINGS, *flags, *files, "-lm", "-o", folder / output)
    return folder / output


class Library:
    """An export, loaded: ``run(inputs)`` feeds one stream, ``state`` is read as float or int16."""

    DRIVER = """
#include "{name}.h"
size_t state_size(void) {{ return sizeof({name}_state); }}
void begin({name}_state *s) {{ {name}_init(s); }}
int run({name}_state *s, size_t steps, const {x} *x, {y} *y) {{
    int wrong = 0;
    for (size_t t = 0; t < steps; t++) {{
        {step}
    }}
    return wrong;
}}
int many({name}_state *s, size_t count, const {x} *x, {y} *y) {{ {many} return 0; }}
"""

    def __init__(self, export, folder, *flags):
        export.write(folder)
        name, network = export.name, export.network
        self.outputs, self.tokens = network.output_size, network.tokens
        bits = None if export.quantised is None else export.quantised.output_bits
        self.y_type = np.dtype("float32" if bits is None else f"int{bits}")
        self.x_type = np.dtype("uint32" if self.tokens else ("float32" if bits is None else "int8"))
        call_ = f"{name}_step(s, {{}}, &y[t * {self.outputs}])"
        if self.tokens:
            step = f"wrong |= {call_.format('x[t]')};"
        else:
            step = call_.format(f"&x[t * {network.input_size}]") + ";"
        c = {"float32": "float", "int8": "int8_t", "int16": "int16_t", "uint32": "uint32_t"}
        driver = folder / "driver.c"
        driver.write_text(
            self.DRIVER.format(
                name=name, x=c[str(self.x_type)], y=c[str(self.y_type)], step=step,
                many=f"{name}_step_many(s, count, x, y);",
            )
        )  # fmt: skip
        library = folder / "library.so"
        flags = flags or ("-O3", "-march=native")
        files = [driver, folder / f"{name}.c"]
        call(
            tool("gcc"), "-std=c99", *WARNINGS, *flags, "-shared", "-fPIC", *files, "-o", library,
            "-lm",
        )  # fmt: skip
        self.c = ctypes.CDLL(str(library))
        self.c.state_size.restype = ctypes.c_size_t
        # Poisoned, so that a member that init forgets is seen.
        self.state = np.full(self.c.state_size(), 0xFF, np.uint8)
        self.c.begin(self._at(self.state))

    @staticmethod
    def _at(array):
        return array.ctypes.data_as(ctypes.c_void_p)

    def run(self, inputs):
        """(T, I) or tokens (T,) to (T, O); the state goes on."""
        x = np.ascontiguousarray(inputs, self.x_type)
        y = np.empty((len(x), self.outputs), self.y_type)
        assert (
            self.c.run(self._at(self.state), ctypes.c_size_t(len(x)), self._at(x), self._at(y)) == 0
        )
        return y
