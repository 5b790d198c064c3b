"""What stands around a recurrent layer, in C, integers, ONNX and on a stream: torch's own results."""

import copy
import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bptt
from bptt import export_c
from bptt.errors import ArgumentError, DtypeError, ShapeError
from bptt.export import export_onnx
from bptt.export.network import Linear
from bptt.export.quantise import Simulator, q_input
from bptt.models import LanguageModel
from bptt.models.heads import features_of
from c_code import SANITIZE, Library, call, compile_program, tool
from compare import assert_close, assert_equal
from parts_to_export import CELLS, INT8_PARTS, MORE, PARTS, UNPROJECTED, trained

pytestmark = UNPROJECTED
TOL = 1e-5  # as test_c_float.py holds it
# An LRU's eigenvalues near 1 add up the rounding of many steps.
LOOSE = {"lru": 5e-5}
LAYERS = CELLS | MORE


def by_parts(module, x):
    """A Sequential over (T, B, I), every part torch's own; BatchNorm1d with features as its channels."""
    module.eval()
    with torch.no_grad():
        for part in module:
            if isinstance(part, nn.BatchNorm1d):
                x = part(x.transpose(1, 2)).transpose(1, 2)
            else:
                x = part(x)
            x = x[0] if isinstance(x, tuple) else x
    return x


@pytest.mark.parametrize("place", ["front", "after", "end"])
@pytest.mark.parametrize("part", PARTS)
def test_every_part_in_every_place_equals_torch(part, place, tmp_path):
    first, second, last = (
        [PARTS[part](size)] if place == where else []
        for where, size in (("front", 3), ("after", 7), ("end", 4))
    )
    module = nn.Sequential(
        *first, nn.Linear(3, 5), nn.ReLU(), bptt.nn.GRU(5, 7), *second, nn.Linear(7, 4), *last
    )
    x = torch.randn(40, 1, 3)
    expected = by_parts(module, x)
    export = export_c(module, x, name="net")
    got = Library(export, tmp_path / "net", "-O1").run(x[:, 0].numpy())
    assert_close(got, expected[:, 0].numpy(), TOL)
    stream = bptt.Stream(module)
    steps = torch.stack([stream.step(x_t).clone() for x_t in x])
    assert_close(steps, expected, TOL)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", MORE)
@pytest.mark.parametrize("bias", [True, False])
def test_more_layers_equal_torch(cell, layers, bias, tmp_path):
    tol = LOOSE.get(cell, TOL)
    for kind in ("own", "libm"):
        module = nn.Sequential(MORE[cell](3, 7, layers, bias=bias), nn.Linear(7, 2))
        x = torch.randn(300, 1, 3)
        export = export_c(module, x[:20], name="net", activations=kind)
        library = Library(export, tmp_path / kind, "-O1")
        assert_close(library.run(x[:, 0].numpy()), by_parts(module, x)[:, 0].numpy(), tol)


@pytest.mark.parametrize("cell", ["mingru", "lru", "gru"])
def test_language_models_and_their_symbols(cell, tmp_path):
    model = LanguageModel(6, cell=cell, hidden=8, layers=2, embedding=5)
    nn.init.normal_(model.output.weight)
    tokens = torch.randint(6, (100, 1))
    symbols = ["\ufffd", "a", '"', "\\", "?", "\n"]
    export = export_c(model, tokens, name="net", symbols=symbols)
    with torch.no_grad():
        expected = model(tokens)[0][:, 0].numpy()
    assert_close(Library(export, tmp_path / "net").run(tokens[:, 0].numpy()), expected, 5e-5)
    source = tmp_path / "show.c"
    source.write_text(
        '#include <stdio.h>\n#include "net/net.h"\nint main(void) {\n'
        "static const char *const symbols[NET_TOKENS] = NET_SYMBOLS;\n"
        "for (size_t v = 0U; v < NET_TOKENS; v++) { fputs(symbols[v], stdout); }\nreturn 0; }\n"
    )
    call(tool("gcc"), "-std=c99", "-Wall", "-Wextra", "-Werror", source, "-o", tmp_path / "show")
    assert call(tmp_path / "show") == "".join(symbols)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_integers_carry_the_symbols_too(cell):
    model = LanguageModel(4, cell=cell, hidden=4)
    tokens = torch.randint(4, (1000, 1))
    export = export_c(model, tokens, precision="int8", symbols=["\ufffd", "a", "b", "ü"])
    assert '"\\303\\274",' in export.files["model.h"]


def test_symbols_that_do_not_fit():
    model, tokens = LanguageModel(3, hidden=4), torch.tensor([[0], [2]])
    with pytest.raises(ArgumentError, match="one symbol for each of V=3 tokens, received 2"):
        export_c(model, tokens, symbols=["a", "b"])
    with pytest.raises(DtypeError, match="sequence of strings, received str"):
        export_c(model, tokens, symbols="abc")
    with pytest.raises(ArgumentError, match="takes tokens"):
        export_c(nn.GRU(2, 3), torch.randn(3, 1, 2), symbols=["a"])


WINDOWED = {
    "gru": lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.GRU(4, 5, 2, bidirectional=True)),
    "lstm": lambda: nn.Sequential(
        nn.LSTM(3, 5, bidirectional=True), nn.LayerNorm(10), nn.GRU(10, 4), nn.Linear(4, 2),
        nn.Softmax(-1),
    ),
    "projected": lambda: nn.Sequential(nn.LSTM(3, 5, proj_size=2, bidirectional=True), nn.Tanh()),
    "relu": lambda: nn.Sequential(nn.RNN(3, 5, nonlinearity="relu", bidirectional=True)),
    "tokens": lambda: nn.Sequential(
        nn.Embedding(9, 3), nn.GRU(3, 5, bidirectional=True), nn.Linear(10, 9)
    ),
}  # fmt: skip
RUN_WINDOW = """
#include "net.h"
size_t state_size(void) {{ return sizeof(net_state); }}
int run(net_state *s, size_t steps, const {x} *x, float *y) {{ return net_window(s, steps, x, y); }}
"""


@pytest.mark.parametrize("kind", WINDOWED)
def test_a_window_equals_torch_on_the_window(kind, tmp_path):
    module = WINDOWED[kind]()
    tokens = kind == "tokens"
    x = torch.randint(9, (12, 1)) if tokens else torch.randn(12, 1, 3)
    export = export_c(module, x, tmp_path / "net", name="net", window=12)
    for compiler in ("gcc", "g++"):
        assert call(compile_program(tmp_path / "net", "net", compiler, *SANITIZE)).startswith("ok")
    (tmp_path / "net" / "run.c").write_text(RUN_WINDOW.format(x="uint32_t" if tokens else "float"))
    library = tmp_path / "window.so"
    files = [tmp_path / "net" / name for name in ("run.c", "net.c")]
    call(tool("gcc"), "-std=c99", "-O1", "-shared", "-fPIC", *files, "-o", library, "-lm")
    import ctypes

    c = ctypes.CDLL(str(library))
    c.state_size.restype = ctypes.c_size_t
    state = np.full(c.state_size(), 0xFF, np.uint8)
    assert f"{len(state)} bytes" in export.files["net.h"]

    def run(some):
        values = np.ascontiguousarray(some[:, 0].numpy(), np.uint32 if tokens else np.float32)
        y = np.full((len(some), export.network.output_size), 7.0, np.float32)
        pointers = [a.ctypes.data_as(ctypes.c_void_p) for a in (state, values, y)]
        return c.run(pointers[0], ctypes.c_size_t(len(some)), *pointers[1:]), y

    for steps in (12, 1, 5):
        wrong, y = run(x[:steps])
        assert wrong == 0
        assert_close(y, by_parts(module, x[:steps])[:, 0].numpy(), TOL, f"{steps} steps")
    wrong, y = run(torch.cat([x, x[:1]]))
    assert wrong == 1
    assert (y == 7.0).all()
    if tokens:
        wrong, y = run(torch.tensor([[1], [9]]))
        assert wrong == 1
        assert (y == 7.0).all()

    stream = bptt.Stream(module, window=4)
    for t in range(12):
        got = stream.step(x[t])
        assert_close(got, by_parts(module, x[max(0, t - 3) : t + 1]), TOL, f"step {t}")
    kept = stream.state
    again = stream.step(x[0]).clone()
    stream.state = kept
    assert_close(stream.step(x[0]), again, 0.0)


def test_a_window_where_there_is_none_to_run():
    x = torch.randn(5, 1, 3)
    with pytest.raises(ArgumentError, match=r"bidirectional layers only, received window=4"):
        export_c(nn.GRU(3, 4), x, window=4)
    with pytest.raises(ArgumentError, match="window for float32 only"):
        export_c(nn.GRU(3, 4, bidirectional=True), x, window=4, precision="int8")
    with pytest.raises(ArgumentError, match=r"Stream\(model, window=STEPS\)"):
        bptt.Stream(nn.Sequential(nn.GRU(3, 4, bidirectional=True), nn.Tanh()))
    stream = bptt.Stream(nn.GRU(3, 4, bidirectional=True), 2, window=3)
    with pytest.raises(ArgumentError, match="a reset of all lanes"):
        stream.reset(torch.tensor([True, False]))


class Agent(nn.Module):
    """Parts registered in another order than forward uses them; one used twice; functions in between."""

    def __init__(self, batch_first=False):
        super().__init__()
        self.policy = nn.Linear(6, 4)
        self.act = nn.Tanh()
        self.memory = nn.GRU(5, 6, batch_first=batch_first)
        self.encoder = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))

    def forward(self, x, state=None):
        h, state = self.memory(self.act(self.encoder(x)), state)
        h = F.dropout(F.relu(input=h), 0.3, self.training)
        return F.softmax(F.leaky_relu(self.policy(self.act(h)), 0.1), dim=-1), state


class Normed(nn.Module):
    """A BatchNorm1d over channels, as it is written by hand; only the last step is returned."""

    def __init__(self):
        super().__init__()
        self.rnn, self.norm, self.out = nn.LSTM(3, 5), trained(nn.BatchNorm1d(5)), nn.Linear(5, 2)

    def forward(self, x):
        y, _ = self.rnn(x)
        return self.out(self.norm(y.permute(1, 2, 0)).permute(2, 0, 1)[-1])


class State(nn.Module):
    """The state after the last step is the output of the last step, wherever one takes it from."""

    def __init__(self):
        super().__init__()
        self.out, self.rnn = nn.Linear(5, 2), nn.LSTM(3, 5, 2)

    def forward(self, x):
        _, (h, _) = self.rnn(x)
        return torch.sigmoid(self.out(h[-1]))


class Asks(nn.Module):
    """A forward that cannot run on symbols."""

    def __init__(self):
        super().__init__()
        self.first, self.rnn = nn.Linear(3, 4), nn.GRU(4, 5)

    def forward(self, x):
        steps, lanes, _ = x.shape
        return self.rnn(self.first(x), x.new_zeros(1, lanes, 5))[0].view(steps, lanes, 5)


@pytest.mark.parametrize("make", [Agent, lambda: Agent(batch_first=True), Normed, State, Asks])
def test_the_order_is_that_of_the_forward(make, tmp_path):
    model = make().eval()
    x = torch.randn(9, 1, 3)
    first = getattr(getattr(model, "memory", None), "batch_first", False)
    with torch.no_grad():
        whole = model(x.transpose(0, 1) if first else x)
    whole = whole[0] if isinstance(whole, tuple) else whole
    whole = whole.transpose(0, 1) if first else whole
    export = export_c(model, x.transpose(0, 1) if first else x, name="net")
    got = Library(export, tmp_path / "net", "-O1").run(x[:, 0].numpy())
    assert_close(got[-1], whole[-1].reshape(-1).numpy(), TOL)
    stream = bptt.Stream(model)
    steps = torch.stack([stream.step(x_t).clone() for x_t in x])
    assert_close(steps[-1].reshape(-1), whole[-1].reshape(-1), TOL)
    if len(whole) == 9:
        assert_close(steps, whole, TOL)


class Residual(nn.Module):
    """Agrees with its parts only where the input is zero."""

    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.GRU(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.out(self.rnn(x)[0]) + x


def test_what_is_no_chain_is_refused_even_where_it_agrees_on_the_example():
    words = "calls its layers one after another and nothing else, received Residual, .*computes add"
    for x in (torch.zeros(4, 1, 3), torch.randn(4, 1, 3)):
        with pytest.raises(ArgumentError, match=words):
            export_c(Residual(), x)
    with pytest.raises(ArgumentError, match=words):
        bptt.Stream(Residual())


@pytest.mark.parametrize(
    ("parts", "count"),
    [
        (lambda: [nn.BatchNorm1d(3), nn.GRU(3, 4)], 0),
        (lambda: [nn.GRU(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)], 1),
        (lambda: [nn.GRU(3, 4), nn.Linear(4, 2), nn.BatchNorm1d(2), nn.BatchNorm1d(2)], 1),
        (lambda: [nn.GRU(3, 4), nn.BatchNorm1d(4)], 1),  # nothing beside it: a diagonal matrix
    ],
)
def test_a_batch_norm_is_part_of_the_matrix_beside_it(parts, count):
    parts = [trained(p) if isinstance(p, nn.BatchNorm1d) else p for p in parts()]
    network = export_c(nn.Sequential(*parts), torch.randn(8, 1, 3)).network
    assert sum(isinstance(layer, Linear) for layer in network.layers) == count


@pytest.mark.parametrize("part", INT8_PARTS)
@pytest.mark.parametrize(("cell", "bits"), [("gru", 8), ("lstm", 16), ("relu", 8), ("rnn", 16)])
def test_integers_equal_their_twin_and_are_near_float(cell, part, bits, tmp_path):
    module = nn.Sequential(
        nn.Linear(3, 6), INT8_PARTS[part](6), CELLS[cell](6, 7), INT8_PARTS[part](7), nn.Linear(7, 4),
        INT8_PARTS[part](4),
    )  # fmt: skip
    x = torch.randn(1000, 1, 3)
    export = export_c(module, x, name="net", precision="int8", output_bits=bits)
    q = export.quantised
    library = Library(export, tmp_path / "net", "-O1")
    taken = q_input(q, 10 * x[:, 0].numpy())
    expected = Simulator(q).run(taken[:, None])[:, 0]
    assert_equal(
        library.run(taken), expected.astype(library.y_type), "ten times beyond calibration"
    )
    near = Simulator(q).run(q_input(q, x[:, 0].numpy())[:, None])[:, 0] * 2.0**-q.output_shift
    wanted = by_parts(module, x)[:, 0].numpy()
    # The input itself is rounded to 8 bits of its largest value: some hundredths of a gate.
    assert float(np.abs(near - wanted).max()) < 0.08 * max(1.0, float(np.abs(wanted).max()))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (nn.Softmax(-1), r"softmax at 1 \(softmax needs exponentials"),
        (nn.LayerNorm(4), r"Norm at 1 \(LayerNorm divides"),
        (nn.LeakyReLU(3.0), r"leaky_relu at 1 \(a slope of 3"),
        (bptt.nn.MinGRU(4, 4), "MinGRU at 1"),
        (bptt.nn.LRU(4, 4), "LRU at 1"),
        (nn.LSTM(4, 5, proj_size=4), "a projected h has no bound"),
    ],
)
def test_what_integers_have_not_is_named_with_the_reason(part, words):
    module = nn.Sequential(nn.GRU(3, 4), part)
    x = torch.randn(1000, 1, 3)
    export_c(module, x)
    with pytest.raises(ArgumentError, match=words):
        export_c(module, x, precision="int8")


@pytest.mark.parametrize("part", PARTS)
def test_onnx_has_the_parts_too(part):
    module = nn.Sequential(
        nn.Linear(3, 5), PARTS[part](5), nn.GRU(5, 7), PARTS[part](7), nn.Linear(7, 4)
    )
    x = torch.randn(6, 2, 3)
    model = export_onnx(module, x)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (y, _) = session.run(None, {"input": x.numpy(), "h": np.zeros((1, 2, 7), np.float32)})
    assert_close(y, by_parts(module, x).numpy(), TOL)


@pytest.mark.parametrize("cell", MORE)
def test_onnx_names_what_it_has_not(cell):
    with pytest.raises(ArgumentError, match=r"layers that ONNX has.* at 0"):
        export_onnx(nn.Sequential(MORE[cell](3, 4, 1), nn.Tanh()), torch.randn(4, 1, 3))


def chain():
    return nn.Sequential(
        nn.Linear(3, 4), nn.ReLU(), nn.GRU(4, 5), nn.LSTM(5, 6, proj_size=4), bptt.nn.LRU(4, 3), nn.Tanh()
    )  # fmt: skip


def test_a_stream_of_a_chain_is_copied_refreshed_and_reset():
    model, x = chain(), torch.randn(9, 2, 3)
    stream = bptt.Stream(model, 2)
    for x_t in x[:4]:
        stream.step(x_t)
    others = [copy.deepcopy(stream), copy.copy(stream), pickle.loads(pickle.dumps(stream))]
    want = by_parts(model, x)
    for t in range(4, 9):
        assert_close(stream.step(x[t]), want[t], 2e-6, f"step {t}")
    for other in others:  # each has its own state
        assert_close(torch.stack([other.step(x_t).clone() for x_t in x[4:]]), want[4:], 2e-6)
    stream.reset(torch.tensor([False, True]))
    state = stream.state
    assert len(state) == 3
    assert float(state[0][0, 1].abs().max()) == 0.0
    assert float(state[0][0, 0].abs().max()) > 0.0
    stream.reset()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    assert_close(stream.warm_up(x), want[-1], 2e-6)
    stream.reset()
    stream.refresh()
    assert_close(stream.warm_up(x), by_parts(model, x)[-1], 2e-6)
    with pytest.raises(ShapeError, match=r"\(B=2, I=3\)"):
        stream.step(x[0, :1])
    with pytest.raises(ShapeError, match="3 states"):
        stream.state = state[:2]
    with pytest.raises(ArgumentError, match=r"float32 or float64, received 0\.weight"):
        bptt.Stream(chain().half())


@pytest.mark.parametrize("cell", LAYERS)
def test_a_chain_in_double(cell):
    module = nn.Sequential(nn.Linear(3, 4), LAYERS[cell](4, 5, 2), nn.Tanh()).double()
    x = torch.randn(6, 2, 3, dtype=torch.float64)
    stream = bptt.Stream(module, 2)
    assert_close(torch.stack([stream.step(x_t).clone() for x_t in x]), by_parts(module, x), 1e-12)
    assert features_of(module[1]) == 5


class Through(nn.Module):
    """A forward of the caller's over parts."""

    def __init__(self, way, **parts):
        super().__init__()
        self.way = way
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.way(self, x)


def diverged():
    model = nn.Sequential(nn.GRU(3, 4), nn.Tanh())
    model[0].weight_hh_l0.data[1, 1] = float("nan")
    return model


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_window_of_a_forward_that_takes_lanes_first(kind, batch_first):
    model = Through(
        lambda m, x: m.head(torch.tanh(m.cell(x)[0])),
        cell=kind(3, 4, bidirectional=True, batch_first=batch_first),
        head=nn.Linear(8, 2),
    ).eval()
    x = torch.randn(9, 2, 3)
    stream, axes = bptt.Stream(model, 2, window=4), (0, 1) if batch_first else (0, 0)
    for t in range(9):
        seen = x[max(0, t - 3) : t + 1]
        want = model(seen.transpose(*axes)).transpose(*axes).detach()
        assert_close(stream.step(x[t]), want, TOL, f"step {t}")


@pytest.mark.parametrize("axis", [-1, 2])
def test_a_softmax_over_the_features_however_they_are_counted(axis):
    model = Through(lambda m, x: torch.softmax(m.gru(x)[0], axis), gru=nn.GRU(3, 4))
    x = torch.randn(5, 2, 3)
    stream = bptt.Stream(model, 2)
    assert_close(torch.stack([stream.step(x_t).clone() for x_t in x]), model(x).detach(), TOL)
    export_c(model, x)


@pytest.mark.parametrize("axis", [0, 1, -2])
@pytest.mark.parametrize("make", [bptt.Stream, lambda m: export_c(m, torch.randn(5, 2, 3))])
def test_a_softmax_over_anything_else_is_refused(axis, make):
    model = Through(lambda m, x: torch.softmax(m.gru(x)[0], axis), gru=nn.GRU(3, 4))
    with pytest.raises(ArgumentError, match="not that of gru, softmax"):
        make(model)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            Through(
                lambda m, x: (m.policy(m.gru(x)[0]), m.value(m.gru(x)[0])),
                gru=nn.GRU(3, 4),
                policy=nn.Linear(4, 2),
                value=nn.Linear(4, 1),
            ),
            r"received value\.weight, which no",
        ),
        (
            nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.GRU(4, 5)),
            "BatchNorm1d without running statistics at 1",
        ),
        (Through(lambda m, x: 2 * m.gru(x)[0], gru=nn.GRU(3, 4)), "also computes mul:"),
        (Through(lambda m, x: m.gru(x)[0] + x, gru=nn.GRU(3, 3)), "also computes add:"),
        (nn.Sequential(nn.GRU(3, 4), nn.Tanh()).half(), "float32 or float64.*received 0.weight_ih"),
        (nn.Sequential(nn.GRU(3, 4), nn.Tanh()).bfloat16(), "torch.bfloat16"),
        (diverged(), "finite weights.*in 0.weight_hh_l0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_alike_by_a_stream_and_an_export(model, words):
    for make in (bptt.Stream, lambda m: export_c(m, torch.randn(5, 2, 3))):
        with pytest.raises(ArgumentError, match=words):
            make(model)


def test_two_directions_without_a_window_say_where_one_is_given():
    model, x = nn.GRU(3, 4, bidirectional=True), torch.randn(5, 1, 3)
    for make in (export_c, export_onnx):
        with pytest.raises(ArgumentError, match=r"in C and float32 .*window=STEPS"):
            make(model, x)
