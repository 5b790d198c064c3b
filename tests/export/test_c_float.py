"""C99 in float32: what gcc makes of the generated code computes what PyTorch computes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import bptt
from bptt import export_c
from bptt.export.ctext import fill
from bptt.models import LanguageModel
from bptt.models.heads import features_of
from c_code import SANITIZE, Library, call, compile_program, tool
from compare import assert_close, assert_equal
from parts_to_export import CELLS, INT8_PARTS, MORE, PARTS, UNPROJECTED

# The bound that is promised. Both sides round each step to 6e-8 of the largest term; the cells of
# these networks forget, so errors do not add up over the steps.
TOL = 1e-5
LANGUAGE = {"rnn": "rnn", "relu": "rnn-relu", "gru": "gru", "lstm": "lstm"}


class Head(torch.nn.Module):
    """A recurrent layer and a linear one, as most people write it."""

    def __init__(self, recurrent, outputs):
        super().__init__()
        self.recurrent = recurrent
        self.head = torch.nn.Linear(recurrent.hidden_size, outputs)

    def forward(self, x):
        return self.head(self.recurrent(x)[0])


def compare(cell, layers, hidden, steps, folder):
    """Random vectors through a stack with a head, and tokens through a language model."""
    module = Head(CELLS[cell](3, hidden, layers), 2)
    x = torch.randn(steps, 1, 3)
    library = Library(export_c(module, x[:20], name="net"), folder / "vectors")
    with torch.no_grad():
        expected = module(x)[:, 0].numpy()
    assert_close(library.run(x[:, 0].numpy()), expected, TOL, f"{cell} L={layers} H={hidden}")

    model = LanguageModel(66, cell=LANGUAGE[cell], hidden=hidden, layers=layers, embedding=16)
    torch.nn.init.normal_(model.output.weight)
    text = torch.tensor(text_tokens(steps)).unsqueeze(1)
    library = Library(export_c(model, text[:20], name="net"), folder / "text")
    with torch.no_grad():
        expected = model(text)[0][:, 0].numpy()
    assert_close(library.run(text[:, 0].numpy()), expected, TOL, f"{cell} L={layers} H={hidden}")


def text_tokens(steps):
    """Real text, the one that every CPython carries, as 66 symbols."""
    from pydoc_data.topics import topics

    text = "".join(topics.values()).encode("ascii", "replace")
    return np.resize(np.frombuffer(text, np.uint8) % 66, steps).astype(np.int64)


@pytest.mark.parametrize("hidden", [1, 7, 32])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_torch(cell, layers, hidden, tmp_path):
    compare(cell, layers, hidden, 2000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("hidden", [1, 7, 32, 100, 128])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_equals_torch_over_100000_steps(cell, layers, hidden, tmp_path):
    compare(cell, layers, hidden, 100_000, tmp_path)


def test_libm_and_the_own_functions_agree(tmp_path):
    module, x = bptt.nn.LSTM(3, 9), torch.randn(200, 1, 3)
    own = Library(export_c(module, x, name="net"), tmp_path / "own")
    libm = Library(export_c(module, x, name="net", activations="libm"), tmp_path / "libm")
    assert_close(own.run(x[:, 0].numpy()), libm.run(x[:, 0].numpy()), TOL, "own against libm")


def test_extreme_inputs_saturate(tmp_path):
    """No overflow, no NaN, where every gate is fully open or shut."""
    module = bptt.nn.GRU(2, 4)
    x = torch.tensor([[1e4, -1e4], [3e38, 3e38], [-3e38, 0.0], [0.0, 0.0]]).unsqueeze(1)
    for kind in ("own", "libm"):
        library = Library(export_c(module, x[:1], name="net", activations=kind), tmp_path / kind)
        y = library.run(x[:, 0].numpy())
        assert np.isfinite(y).all()
        assert float(np.abs(y).max()) <= 1.0


def test_streams_do_not_meet(tmp_path):
    """step_many over several streams equals each stream alone, and init starts afresh."""
    module, x = bptt.nn.GRU(3, 5), torch.randn(6, 4, 3)
    library = Library(export_c(module, x, name="net"), tmp_path / "net")
    alone = []
    for lane in range(4):
        library.c.begin(library._at(library.state))
        alone.append(library.run(x[:, lane].numpy()))
    states = np.tile(np.zeros_like(library.state), 4)
    for t in range(6):
        inputs, y = np.ascontiguousarray(x[t].numpy()), np.empty((4, 5), np.float32)
        library.c.many(library._at(states), 4, library._at(inputs), library._at(y))
        assert_equal(y, np.stack([a[t] for a in alone]), f"step {t}")


def test_a_token_out_of_range_changes_nothing(tmp_path):
    model = LanguageModel(5, hidden=4)
    library = Library(export_c(model, torch.arange(5).unsqueeze(1), name="net"), tmp_path / "net")
    library.run(np.array([1, 2]))
    before = library.state.copy()
    y = np.full((1, 5), 7.0, np.float32)
    wrong = np.array([5], np.uint32)
    assert library.c.run(library._at(library.state), 1, library._at(wrong), library._at(y)) == 1
    assert_equal(library.state, before, "state")
    assert_equal(y, np.full((1, 5), 7.0, np.float32), "output")


def test_one_hot_tokens_and_plain_torch(tmp_path):
    module = torch.nn.Sequential(torch.nn.GRU(6, 5), torch.nn.Dropout(0.5), torch.nn.Linear(5, 3))
    tokens = torch.randint(6, (30, 1))
    library = Library(export_c(module, tokens, name="net"), tmp_path / "net")
    hot = torch.nn.functional.one_hot(tokens, 6).float()
    expected = module[2](module[0](hot)[0])[:, 0].detach().numpy()
    assert_close(library.run(tokens[:, 0].numpy()), expected, TOL, "one-hot")


def random_module(cells, sizes, inputs, tokens, linear, bias, around):
    """Any chain that can be exported: ``around`` stands in front, after each layer and at the end."""
    parts, size = [], inputs
    if tokens:
        parts.append(torch.nn.Embedding(tokens, inputs))
    parts += [PARTS[name](size) for name in around[0]]
    for cell, (hidden, layers) in zip(cells, sizes, strict=True):
        parts.append((CELLS | MORE)[cell](size, hidden, layers, bias=bias))
        size = features_of(parts[-1])
        parts += [PARTS[name](size) for name in around[1]]
        if linear:
            parts.append(torch.nn.Linear(size, linear, bias=bias))
            size = linear
    return torch.nn.Sequential(*parts, *(PARTS[name](size) for name in around[2]))


def architectures(parts, cells):
    shared = st.shared(st.lists(st.sampled_from(cells), min_size=1, max_size=2), key=str(cells))
    few = st.lists(st.sampled_from(parts), max_size=2)
    return st.builds(
        random_module,
        shared,
        shared.flatmap(
            lambda c: st.lists(
                st.tuples(st.integers(1, 9), st.integers(1, 2)), min_size=len(c), max_size=len(c)
            )
        ),
        st.integers(1, 6),
        st.sampled_from([0, 0, 2, 40]),
        st.sampled_from([0, 1, 5]),
        st.booleans(),
        st.tuples(few, few, few),
    )


def any_input(module, steps):
    first = module[0]
    if isinstance(first, torch.nn.Embedding):
        return torch.randint(first.num_embeddings, (steps, 1))
    layer = next(m for m in module if hasattr(m, "input_size"))
    return torch.randn(steps, 1, layer.input_size)


def check_everywhere(module, folder, **options):
    """Warning-free with gcc, clang and C++, and clean under both sanitizers; it checks itself."""
    x = any_input(module, 1000 if "precision" in options else 16)
    export_c(module, x, folder / "net", name="net", **options)
    for compiler in ("gcc", "clang"):
        program = compile_program(folder / "net", "net", compiler, *SANITIZE)
        assert call(program).startswith("ok:")
    assert call(compile_program(folder / "net", "net", "g++", "-O2")).startswith("ok:")


@pytest.mark.device
@given(architectures(list(PARTS), [*CELLS, *MORE]))
@settings(max_examples=4)
@UNPROJECTED
def test_random_architectures_under_sanitizers(tmp_path_factory, module):
    check_everywhere(module, tmp_path_factory.mktemp("any"))


@pytest.mark.slow
@pytest.mark.device
@given(architectures(list(PARTS), [*CELLS, *MORE]))
@settings(max_examples=40)
@UNPROJECTED
def test_many_random_architectures_under_sanitizers(tmp_path_factory, module):
    check_everywhere(module, tmp_path_factory.mktemp("any"))


@pytest.mark.slow
@pytest.mark.device
@given(architectures(list(INT8_PARTS), list(CELLS)))
@settings(max_examples=40)
def test_many_random_architectures_in_integers(tmp_path_factory, module):
    check_everywhere(module, tmp_path_factory.mktemp("any"))
    check_everywhere(module, tmp_path_factory.mktemp("any"), precision="int8")


def test_the_makefile_runs_the_example(tmp_path):
    export_c(bptt.nn.GRU(2, 3), torch.randn(5, 2), tmp_path / "net", name="net")
    out = call("make", "-s", "-C", tmp_path / "net", "run")
    assert out.startswith("ok: 5 steps")


def test_the_example_notices_a_wrong_weight(tmp_path):
    """The self-check can fail: one digit of one weight turned over."""
    export_c(bptt.nn.GRU(2, 3), torch.randn(5, 2), tmp_path / "net", name="net")
    source = tmp_path / "net" / "net.c"
    text = source.read_text()
    start = text.index("wh0[27] = {") + len("wh0[27] = {")
    source.write_text(text[:start] + " 1.0f +" + text[start:])
    program = compile_program(tmp_path / "net", "net")
    import subprocess

    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.startswith("WRONG")


def test_header_sizes_are_those_of_the_code(tmp_path):
    export = export_c(bptt.nn.GRU(3, 5), torch.randn(4, 1, 3), name="net")
    header = export.files["net.h"]
    weights = 3 * 5 * (3 + 5) + 4 * 5  # the GRU's biases are four times H: n keeps two
    assert f"{4 * weights} bytes of weights" in header
    library = Library(export, tmp_path / "net")
    assert f"{len(library.state)} bytes" in header
    assert f"Multiply-adds of one step    {3 * 5 * (3 + 5)}" in header


TANH = r"""
#include <math.h>
#include <stdio.h>
%s
int main(void)
{
    double worst = 0.0;
    for (float x = 1e-20f; x < 20.0f; x = (x < 0.125f || x > 9.1f) ? x * 1.001f : nextafterf(x, 99.0f)) {
        const double want = tanh((double)x);
        const float near = (float)want;
        const double unit = (double)(nextafterf(near, 2.0f) - near);
        worst = fmax(worst, fabs((double)tanh_of(x) - want) / unit);
        worst = fmax(worst, (double)fabsf(tanh_of(x) + tanh_of(-x)) / unit);
    }
    printf("%%.3f\n", worst);
    return 0;
}
"""


def test_own_tanh_is_within_some_units_in_the_last_place(tmp_path):
    """At every number between 1/8 and where it is 1, and at some below."""
    source = tmp_path / "tanh.c"
    source.write_text(TANH % fill("own_tanh.c"))
    flags = ["-std=c99", "-O2", "-ffp-contract=off"]
    call(tool("gcc"), *flags, source, "-lm", "-o", tmp_path / "tanh")
    assert 0.5 < float(call(tmp_path / "tanh")) <= 6.5
