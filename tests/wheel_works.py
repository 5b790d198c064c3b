"""Whether an installed wheel works: run by tests/wheel.sh, with nothing of the checkout in reach.

The package lies in this environment, the kernels are on, and forward and backward of every cell are those
of plain torch. Where torch is missing, as on a machine that only looks at the extension, the kernels are
loaded by themselves: ``python wheel_works.py EXTENSION``. ``--compilers`` allows compilers in PATH, which
a machine that makes wheels for others has.
"""

import shutil
import sys
from importlib import util


def extension_alone(path):
    """Load the compiled extension; how many instruction sets it has for this machine."""
    spec = util.spec_from_file_location("bptt._native", path)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    print(f"ok: {path} in Python {sys.version.split()[0]}, compiled for {module.isas}")


def main(compilers):
    for compiler in ("cc", "gcc", "g++", "clang", "cmake", "ninja"):
        assert compilers or shutil.which(compiler) is None, f"{compiler} is in PATH"
    import torch

    import bptt
    from bptt import ops

    assert bptt.__file__.startswith(sys.prefix), f"{bptt.__file__} is not in {sys.prefix}"
    backend = str(ops.backend())
    assert backend.startswith("native"), backend

    def run(layer, x, upstream, name):
        ops.set_backend(name)
        x = x.clone().requires_grad_()
        y, _ = layer(x)
        return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], upstream)]

    compared = 0
    for kind, options in (
        ("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("GRU", {}), ("LSTM", {}),
    ):  # fmt: skip
        for dtype, tol in ((torch.float32, 2e-5), (torch.float64, 1e-12)):
            torch.manual_seed(0)
            layer = getattr(bptt.nn, kind)(5, 33, 2, dtype=dtype, **options)
            x, upstream = torch.randn(9, 3, 5, dtype=dtype), torch.randn(9, 3, 33, dtype=dtype)
            for ours, plain in zip(
                run(layer, x, upstream, "native"), run(layer, x, upstream, "eager"), strict=True
            ):
                error = float((ours - plain).abs().max() / plain.abs().max())
                assert error < tol, f"{kind} {dtype}: {error}"
                compared += 1
    print(f"ok: {compared} tensors equal, {backend}, torch {torch.__version__}")


if __name__ == "__main__":
    words = sys.argv[1:]
    if words and words[0] != "--compilers":
        extension_alone(words[0])
    else:
        main(bool(words))
