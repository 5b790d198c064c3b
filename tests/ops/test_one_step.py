"""A call of one time step, or of some, goes a shorter way: it is the same call, or it does not."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

import bptt
import over_triton
from bptt.errors import BpttError
from bptt.nn import recurrent
from bptt.ops.native.check import extension
from compare import assert_close

KINDS = ["RNN", "GRU", "LSTM"]
I, H, B = 3, 5, 4
STEPS = [1, 2 if over_triton.ASKED else 6]
BOTH_WAYS = [{"bidirectional": True}, {"bidirectional": True, "num_layers": 3, "bias": False}]
ONE_AND_BOTH = [{"num_layers": 2}, {"num_layers": 2, "bidirectional": True}]


@pytest.fixture
def short(monkeypatch):
    """Only the short way is open. Triton's kernels have none: their calls go the usual way."""
    if over_triton.ASKED:
        return

    def refuse(*_, **__):
        raise AssertionError("the call went the usual way")

    monkeypatch.setattr(recurrent, "normalise", refuse)


@pytest.fixture
def usual(monkeypatch):
    """Only the usual way is open."""
    monkeypatch.setattr(extension, "step", lambda *_: None)


def pair(kind, inputs=I, hidden=H, **options):
    """torch's layer and ours, with the same weights."""
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(inputs, hidden, **options)
    ours = getattr(bptt.nn, kind)(inputs, hidden, **options)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def parts(h):
    return list(h) if isinstance(h, tuple) else [h]


def states(layer, lanes=B):
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    h = torch.randn(2, rows, lanes, layer.hidden_size, dtype=layer.weight_hh_l0.dtype)
    return (h[0].clone(), h[1].clone()) if layer.mode == "LSTM" else h[0].clone()


def run(layer, x, hx=None):
    """Outputs, and all gradients of a loss that weighs each of them."""
    x = x.clone().requires_grad_()
    hx = None if hx is None else [s.clone().requires_grad_() for s in parts(hx)]
    y, h = layer(x, hx if hx is None else tuple(hx) if layer.mode == "LSTM" else hx[0])
    loss = sum((o * torch.linspace(-1, 1, o.numel()).view(o.shape)).sum() for o in (y, *parts(h)))
    return y, parts(h), torch.autograd.grad(loss, [x, *(hx or []), *layer.parameters()])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "options", [{}, {"num_layers": 3}, {"num_layers": 2, "bias": False}, *BOTH_WAYS]
)
@pytest.mark.parametrize(
    "sizes",
    # The last two make more than one block of steps, the last of all in more parts than one.
    [
        (1, 1, 1, 1),
        (1, 3, 5, 4),
        (1, 40, 33, 2),
        (1, 4, 64, 30),
        (2, 1, 1, 4),
        (5, 3, 5, 4),
        (7, 40, 33, 30),
        (3, 33, 16, 300),
    ][: 6 if over_triton.ASKED else None],
)
@pytest.mark.usefixtures("short")
def test_it_is_torchs(kind, dtype, options, sizes):
    steps, inputs, hidden, lanes = sizes
    if "bidirectional" in options:  # fewer lanes go the usual way
        lanes = max(lanes, 4)
    for first in (False, True):
        theirs, ours = pair(kind, inputs, hidden, dtype=dtype, batch_first=first, **options)
        x = torch.randn(*((lanes, steps) if first else (steps, lanes)), inputs, dtype=dtype)
        for hx in (None, states(ours, lanes)):
            tol = 1e-11 if dtype == torch.float64 else 2e-5
            assert_close(run(ours, x, hx), run(theirs, x, hx), tol, floor=1)
            with torch.no_grad():
                assert_close(ours(x, hx), theirs(x, hx), tol, floor=1)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("options", ONE_AND_BOTH)
@pytest.mark.usefixtures("short")
def test_it_does_not_depend_on_whether_a_gradient_is_wanted(steps, options):
    for kind in KINDS:
        _, ours = pair(kind, hidden=70, **options)
        x, hx = torch.randn(steps, B, I), states(ours)
        with torch.no_grad():
            without = ours(x, hx)
        assert_close(ours(x, hx), without, 0.0)
        assert not without[0].requires_grad
        assert not ours.requires_grad_(False)(x, hx)[0].requires_grad


def swapped(layer):
    layer.weight_hh_l0 = nn.Parameter(layer.weight_hh_l0.detach() * 2)


def by_numpy(layer):
    layer.weight_hh_l0.detach().numpy()[:] *= 2


def by_no_grad(layer):
    with torch.no_grad():
        layer.weight_hh_l0.mul_(2)


CHANGES = {
    "no_grad": by_no_grad,
    "data": lambda layer: layer.weight_hh_l0.data.mul_(2),
    "data =": lambda layer: setattr(layer.weight_hh_l0, "data", layer.weight_hh_l0.data * 2),
    "numpy": by_numpy,
    "parameter": swapped,
    "state dict": lambda layer: layer.load_state_dict(
        {n: p * (2 if n == "weight_hh_l0" else 1) for n, p in layer.state_dict().items()}
    ),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.usefixtures("short")
def test_weights_are_read_at_every_call(steps, kind, how):
    theirs, ours = pair(kind)
    x, hx = torch.randn(steps, B, I), states(ours)
    with torch.no_grad():
        ours(x, hx)
        for layer in (theirs, ours):
            CHANGES[how](layer)
        assert_close(ours(x, hx), theirs(x, hx), 1e-6)
        twin = copy.deepcopy(ours)
        by_no_grad(ours)
        assert_close(twin(x, hx), theirs(x, hx), 1e-6)
        named = dict(theirs.named_parameters())
        assert_close(torch.func.functional_call(ours, named, (x, hx)), theirs(x, hx), 1e-6)


class Computed(bptt.nn.GRU):
    """A weight that its class computes, beside a parameter of the same name."""

    @property
    def weight_hh_l0(self):
        return self._parameters["weight_hh_l0"] * 0


def computed(layer):
    layer.__class__ = Computed


def shadowed(layer):
    layer.__dict__["weight_hh_l0"] = layer._parameters["weight_hh_l0"] * 0


def normed(layer):
    layer.weight_hh_l0.data.zero_()
    parametrize.register_parametrization(layer, "weight_hh_l0", nn.Identity())


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("how", [computed, shadowed, normed])
def test_weights_that_are_no_plain_parameters(steps, how):
    _, ours = pair("GRU")
    expected = copy.deepcopy(ours)
    expected.weight_hh_l0.data.zero_()
    x, hx = torch.randn(steps, B, I), states(ours)
    how(ours)
    with torch.no_grad():
        assert_close(ours(x, hx), expected(x, hx), 1e-6)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("on", ["y", "h", "c"])
@pytest.mark.parametrize("options", ONE_AND_BOTH)
@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.usefixtures("short")
def test_outputs_may_be_written_to(steps, kind, on, options):
    found = []
    with torch.backends.mkldnn.flags(enabled=False):
        for layer in pair(kind, **options):
            y, h = layer(torch.ones(steps, B, I))
            with torch.no_grad():
                {"y": y, "h": parts(h)[0], "c": parts(h)[-1]}[on].mul_(0.5)
            loss = sum(o.square().sum() for o in (y, *parts(h)))
            found.append(torch.autograd.grad(loss, list(layer.parameters())))
    assert_close(found[1], found[0], 2e-5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("short")
def test_a_weight_that_changed_before_backward_is_refused(steps, kind):
    _, ours = pair(kind)
    y, _ = ours(torch.randn(steps, B, I), states(ours))
    by_no_grad(ours)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("options", ONE_AND_BOTH)
@pytest.mark.usefixtures("short")
def test_second_derivatives_and_batches_of_cotangents(steps, kind, first, options):
    _, ours = pair(kind, hidden=3, batch_first=first, dtype=torch.float64, **options)
    lanes = 2 if steps == 1 and "bidirectional" not in options else B
    shape = (lanes, steps, I) if first else (steps, lanes, I)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    hx = states(ours, lanes)

    def call(x, *weights):
        return ours(x, hx)[0]

    assert torch.autograd.gradcheck(call, (x, *ours.parameters()), check_batched_grad=True)
    assert torch.autograd.gradgradcheck(call, (x,))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", ONE_AND_BOTH)
def test_batches_of_cotangents_do_not_ask_where_backward_stands(steps, kind, options):
    _, ours = pair(kind, **options)
    y = ours(torch.randn(steps, B, I))[0]
    dy = torch.randn(2, *y.shape)

    def gradients():
        return torch.autograd.grad(
            y, list(ours.parameters()), dy, retain_graph=True, is_grads_batched=True
        )

    wanted = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for found, expected in zip(gradients(), wanted, strict=True):
            assert torch.equal(found, expected)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("marked", [False, True])
def test_gradients_to_differentiate_do_not_ask_where_backward_stands(steps, kind, marked):
    """The loop makes them, and would round its products inside autocast, where the kernels do not."""
    _, ours = pair(kind, num_layers=2)
    marks = {"cut": torch.ones(steps, B, dtype=torch.bool)} if marked else {}
    y = ours(torch.randn(steps, B, I), **marks)[0]

    def gradients():
        return torch.autograd.grad(y.square().sum(), list(ours.parameters()), create_graph=True)

    wanted = gradients()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = gradients()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


class Counted(TorchDispatchMode):
    """Counts the recurrence's operator."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += "recur" in str(function)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize("kind", KINDS)
def test_modes_see_what_they_would_see(steps, kind):
    theirs, ours = pair(kind)
    x = torch.randn(steps, B, I)
    with Counted() as seen, torch.no_grad():
        ours(x)
    assert seen.count == 1
    many = torch.stack([x, 2 * x])
    assert_close(
        torch.func.vmap(lambda x: ours(x)[0])(many), torch.stack([theirs(m)[0] for m in many]), 1e-6
    )
    forward = torch.func.jvp(lambda x: ours(x)[0], (x,), (x,))[1]
    step = (theirs(x * (1 + 1e-3))[0] - theirs(x * (1 - 1e-3))[0]) / 2e-3
    assert_close(forward, step, 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x)[0].dtype == theirs(x)[0].dtype
    bptt.ops.set_backend("eager")
    try:
        ours(x)
        assert bptt.ops.backend().runs == "eager"
    finally:
        bptt.ops.set_backend("auto")
    ours(x)
    assert bptt.ops.backend().runs == over_triton.KERNELS


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.usefixtures("short")
def test_hooks_run(steps):
    _, ours = pair("GRU")
    called = []
    ours.register_forward_pre_hook(lambda *_: called.append("before"))
    ours.register_forward_hook(lambda *_: called.append("after"))
    ours.weight_hh_l0.register_hook(lambda g: called.append("gradient"))
    ours(torch.randn(steps, B, I))[0].sum().backward()
    assert called == ["before", "after", "gradient"]
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
        y, _ = ours(torch.randn(steps, B, I))
    y.sum().backward()


OTHERS = [
    {"num_layers": 2, "dropout": 0.5},
    {"num_layers": 2, "dropout": 0.5, "bidirectional": True},
]


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", OTHERS)
def test_other_layers_go_the_usual_way(steps, kind, options):
    theirs, ours = pair(kind, **options)
    x, found = torch.randn(steps, B, I), []
    for layer in (theirs, ours):
        torch.manual_seed(3)
        found.append(run(layer, x))
    assert_close(found[1], found[0], 2e-5)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported")
def test_a_projection_goes_the_usual_way(both):
    theirs, ours = pair("LSTM", proj_size=2, num_layers=2, bidirectional=both)
    x = torch.randn(1, B, I)
    assert_close(ours(x), theirs(x), 1e-6)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lanes", ["strided", "negated", "expanded"])
def test_memory_that_is_not_as_the_shape_says(steps, kind, lanes):
    theirs, ours = pair(kind)
    x = torch.randn(steps, B, I)
    odd = {
        "strided": torch.stack([x, x], -1)[..., 0],
        "negated": torch.complex(torch.zeros_like(x), -x).conj().imag,
        "expanded": x[:, :1].expand(steps, B, I),
    }[lanes]
    with torch.no_grad():
        assert_close(ours(odd), theirs(odd.clone()), 1e-6)


WRONG = {
    "x dtype": lambda x, h: (x.double(), h),
    "x width": lambda x, h: (x[..., :-1], h),
    "x axes": lambda x, h: (x[None], h),
    "h lanes": lambda x, h: (x, h[:, :-1]),
    "h layers": lambda x, h: (x, torch.cat([h, h])),
    "h dtype": lambda x, h: (x, h.double()),
    "h kind": lambda x, h: (x, 3),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_as_ever(steps, what, grad):
    _, ours = pair("GRU")
    x, h = WRONG[what](torch.randn(steps, B, I), torch.randn(1, B, H))
    with torch.set_grad_enabled(grad), pytest.raises(BpttError, match="expected"):
        ours(x, h)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("change", ["w_hh", "b", "freed", "dtype"])
def test_weights_that_do_not_fit_reach_no_kernel(steps, change):
    _, ours = pair("GRU")
    if change == "w_hh":
        ours.weight_hh_l0.data = torch.randn(3 * H, H + 1)
    elif change == "b":
        ours.bias_hh_l0.data = torch.randn(3 * H - 1)
    elif change == "dtype":
        ours.weight_hh_l0.data = ours.weight_hh_l0.data.double()
    else:
        ours.weight_hh_l0.untyped_storage().resize_(0)
    # A layer of two dtypes is left to torch, which says so itself.
    with torch.no_grad(), pytest.raises(RuntimeError if change == "dtype" else BpttError):
        ours(torch.randn(steps, B, I), torch.randn(1, B, H))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("options", ONE_AND_BOTH)
@pytest.mark.usefixtures("short")
def test_gradients_arrive_in_either_order_of_lanes_and_steps(kind, first, options):
    theirs, ours = pair(kind, batch_first=first, **options)
    x = torch.randn(B, 6, I) if first else torch.randn(6, B, I)
    found = []
    for layer in (theirs, ours):
        for order in ((0, 1, 2), (1, 0, 2)):
            y = layer(x)[0]
            dy = torch.linspace(-1, 1, y.numel()).view(y.shape).permute(order).contiguous()
            found.append(torch.autograd.grad(y, list(layer.parameters()), dy.permute(order)))
    assert_close(found[2], found[0], 2e-5)
    assert_close(found[3], found[0], 2e-5)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("options", ONE_AND_BOTH)
@pytest.mark.usefixtures("usual")
def test_the_two_ways_agree(steps, options):
    for kind in KINDS:
        theirs, ours = pair(kind, **options)
        x, hx = torch.randn(steps, B, I), states(ours)
        assert_close(run(ours, x, hx), run(theirs, x, hx), 2e-5, floor=1)
