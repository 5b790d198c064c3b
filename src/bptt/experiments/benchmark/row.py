"""One row: which contest a case asks for, also with JAX, ONNX Runtime, OpenVINO; check, time, say."""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bptt.errors import DependencyError
from bptt.experiments.benchmark import layers
from bptt.experiments.benchmark.contest import (
    Case,
    Contest,
    Results,
    Side,
    check,
    matmul_rate,
    quartiles,
    take_turns,
    tolerance,
)
from bptt.ops.cells import BY_NAME

# Which contest a case asks for, and which of them there are.

TORCH_MODES: dict[str, Callable[[Case], Contest]] = {
    "train": layers.train,
    "infer": layers.infer,
    "packed": layers.packed,
    "reset": layers.reset,
    "stream": layers.stream,
    "model": layers.model,
}
# What a peer runs: modes, cells, and the packages it takes.
OTHERS = {
    "jax": (("train", "infer"), ("rnn", "gru"), ("jax",)),
    "onnxruntime": (("infer", "stream"), ("rnn", "gru", "lstm"), ("onnx", "onnxruntime")),
    "openvino": (("infer", "stream"), ("rnn", "gru", "lstm"), ("onnx", "openvino")),
}


def supports(case: Case) -> bool:
    """Whether the case's peer has its mode and cell."""
    if case.peer == "torch":
        return case.mode in TORCH_MODES
    modes, cells, _ = OTHERS[case.peer]
    return case.mode in modes and case.cell in cells


def require(peer: str) -> None:
    """Make sure that a peer is installed.

    Raises:
        DependencyError: it is not.
    """
    packages = () if peer == "torch" else OTHERS[peer][2]
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise DependencyError(
            f"{' and '.join(packages)} for --peer {peer}",
            f"no {' and no '.join(missing)}",
            f"pip install {' '.join(missing)}, or leave that peer out",
        )


def contest(case: Case) -> Contest:
    """The two sides of a case."""
    require(case.peer)
    if case.peer == "jax":
        return jax_contest(case)
    if case.peer in SESSIONS:
        return onnx_contest(case)
    return TORCH_MODES[case.mode](case)


# One row: check, then time, then say.


def measure(case: Case) -> dict[str, Any]:
    """Measure one case.

    Returns:
        The row. ``ours_us`` and ``peer_us`` are microseconds per time step of the whole batch,
        medians; ``ratio`` is the median over the rounds of peer over ours, ``ratio_quartiles`` its
        spread; ``share_of_matmul`` the layer's operations a second over ``matmul_gflops``, measured
        right before and after; ``max_error`` the largest difference of outputs and gradients.

    Raises:
        UnequalError: the results differ by more than rounding; nothing was timed.
        DependencyError: the peer is not installed.
    """
    duel = contest(case)
    limit = tolerance(duel.terms)
    worst = check(duel.ours.results(), duel.peer.results(), limit, case.peer)

    pause = min(0.2, case.seconds / 10)
    before = matmul_rate(pause)
    runners = [duel.ours.run, duel.peer.run, *duel.controls.values()]
    times = take_turns(runners, case.seconds)
    rate = statistics.mean((before, matmul_rate(pause)))

    ours, ratios = times.median(0), times.ratios(1, 0)
    own = {
        name: statistics.median(times.ratios(0, i)) for i, name in enumerate(duel.controls, start=2)
    }
    extras = {**duel.extras, **duel.describe(own)}
    if case.mode == "model":
        characters = case.steps * case.lanes
        extras["characters_per_second"] = characters / ours
        extras["peer_characters_per_second"] = characters / times.median(1)
    return {
        "cell": case.cell,
        "hidden": case.hidden,
        "batch": case.lanes,
        "steps": case.steps,
        "threads": torch.get_num_threads(),
        "mode": case.mode,
        "peer": case.peer,
        "ours_us": ours / case.steps * 1e6,
        "peer_us": times.median(1) / case.steps * 1e6,
        "ratio": statistics.median(ratios),
        "share_of_matmul": duel.flops / ours / rate,
        "max_error": worst,
        "tolerance": limit,
        "ratio_quartiles": quartiles(ratios),
        "rounds": len(times.rounds),
        "matmul_gflops": rate / 1e9,
        **extras,
    }


# JAX as a peer: RNN and GRU as a jitted ``lax.scan``.
#
# Limits: JAX runs on as many threads as it finds cores; the threads set for torch do not reach it.


def jax_contest(case: Case) -> Contest:
    """Our layer against the scan, in training or inference."""
    jax: Any = importlib.import_module("jax")
    base = layers.train(case) if case.mode == "train" else layers.infer(case)
    random = case.random()
    x = jax.numpy.asarray(case.input(random).numpy())
    shape = (case.steps, case.lanes, case.hidden)
    dy = jax.numpy.asarray(torch.randn(shape, generator=random).numpy())
    names, tensors = zip(*case.layers()[1].named_parameters(), strict=True)
    weights = tuple(jax.numpy.asarray(t.detach().numpy()) for t in tensors)
    forward = _scan(jax, case)

    def train(x, weights, dy):
        outputs, pull = jax.vjp(forward, x, weights)
        zeros = jax.numpy.zeros_like(outputs[1])
        return outputs, pull((dy, zeros))

    if case.mode == "train":
        compiled = jax.jit(train)
        arguments: tuple[Any, ...] = (x, weights, dy)
    else:
        compiled, arguments = jax.jit(forward), (x, weights)

    def run():
        return jax.block_until_ready(compiled(*arguments))

    def results() -> Results:
        returned = run()
        (y, h), gradients = returned if case.mode == "train" else (returned, None)
        found = {"y": y, "h": h[None]}
        if gradients is not None:
            dx, dweights = gradients
            labels = [f"gradient of {n}" for n in ("x", *names)]
            found |= dict(zip(labels, (dx, *dweights), strict=True))
        return {name: torch.from_numpy(np.array(value)) for name, value in found.items()}

    return Contest(base.ours, Side(run, results), base.flops, base.terms)


def _scan(jax: Any, case: Case):
    """``(x, weights) -> (y, h_T)``, the input product of all steps taken at once."""
    jnp = jax.numpy

    def forward(x, weights):
        w_ih, w_hh, b_ih, b_hh = weights

        def rnn(h, xp):
            h = jnp.tanh(xp + h @ w_hh.T + b_hh)
            return h, h

        def gru(h, xp):
            xr, xz, xn = jnp.split(xp, 3, -1)
            hr, hz, hn = jnp.split(h @ w_hh.T + b_hh, 3, -1)
            r, z = jax.nn.sigmoid(xr + hr), jax.nn.sigmoid(xz + hz)
            n = jnp.tanh(xn + r * hn)
            h = n + z * (h - n)
            return h, h

        start = jnp.zeros((case.lanes, case.hidden), x.dtype)
        h, y = jax.lax.scan(rnn if case.cell == "rnn" else gru, start, x @ w_ih.T + b_ih)
        return y, h

    return forward


# ONNX Runtime and OpenVINO as peers: ONNX nodes RNN, GRU and LSTM, over whole sequences and single steps.

# ONNX stacks z, r, n and i, o, f, g where PyTorch stacks r, z, n and i, f, g, o.
ORDER = {"rnn": (0,), "gru": (1, 0, 2), "lstm": (0, 3, 1, 2)}
# Inputs by name to outputs in order.
Session = Callable[[dict[str, np.ndarray]], Sequence[np.ndarray]]


def onnx_contest(case: Case) -> Contest:
    """Our layer without gradient, or our stream, against a session."""
    theirs = case.layers()[1]
    open_session = SESSIONS[case.peer]
    if case.mode == "stream":
        mine, _ = layers.ours(case)
        peer = _steps(case, open_session(_graph(case, theirs, steps=1)))
        flops = case.step_flops * case.steps
        return Contest(mine, peer, flops, terms=2 * case.hidden)
    base = layers.infer(case)
    peer = _whole(case, open_session(_graph(case, theirs, steps=case.steps)))
    return Contest(base.ours, peer, base.flops, base.terms)


def _whole(case: Case, session: Session) -> Side:
    feed = {"x": case.input(case.random()).numpy(), **_zeros(case)}

    def run():
        return session(feed)

    def results() -> Results:
        y, *finals = (torch.from_numpy(value) for value in run())
        return {"y": y.squeeze(1), **dict(zip(("h", "c"), finals, strict=False))}

    return Side(run, results)


def _steps(case: Case, session: Session) -> Side:
    inputs = [x[None].numpy() for x in case.input(case.random())]
    states = tuple(_zeros(case))

    def run() -> list[np.ndarray]:
        finals, outputs = list(_zeros(case).values()), []
        for x in inputs:
            y, *finals = session({"x": x, **dict(zip(states, finals, strict=True))})
            outputs.append(y)
        return outputs

    def results() -> Results:
        return {"y": torch.from_numpy(np.concatenate(run())[:, 0])}

    return Side(run, results)


def _zeros(case: Case) -> dict[str, np.ndarray]:
    names = ("h0", "c0")[: BY_NAME[case.cell].states]
    return {name: np.zeros((1, case.lanes, case.hidden), np.float32) for name in names}


def _graph(case: Case, layer: nn.RNNBase, steps: int) -> bytes:
    """The layer as an ONNX model of one node."""
    onnx: Any = importlib.import_module("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    w_ih, w_hh, b_ih, b_hh = (_reordered(case, w.detach()) for w in layer.all_weights[0])
    constants = {"w": w_ih[None], "r": w_hh[None], "b": torch.cat([b_ih, b_hh])[None]}
    lstm = case.cell == "lstm"
    state = [1, case.lanes, case.hidden]
    options: dict[str, Any] = {"linear_before_reset": 1} if case.cell == "gru" else {}
    node = helper.make_node(
        case.cell.upper(),
        ["x", "w", "r", "b", "", "h0", *(["c0"] if lstm else [])],
        ["y", "h", *(["c"] if lstm else [])],
        hidden_size=case.hidden,
        **options,
    )

    def value(name: str, shape: list[int]):
        return helper.make_tensor_value_info(name, kind, shape)

    letters = ("h", "c") if lstm else ("h",)
    graph = helper.make_graph(
        [node],
        "layer",
        [value("x", [steps, case.lanes, case.hidden]), *(value(f"{s}0", state) for s in letters)],
        [value("y", [steps, 1, case.lanes, case.hidden]), *(value(s, state) for s in letters)],
        [onnx.numpy_helper.from_array(w.numpy(), name) for name, w in constants.items()],
    )
    # An early version of either, so that an older runtime reads what a newer onnx writes.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    made: bytes = model.SerializeToString()
    return made


def _onnxruntime(graph: bytes) -> Session:
    runtime: Any = importlib.import_module("onnxruntime")
    settings = runtime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    # Its idle threads would go on spinning through our turn, on the cores we are timed on.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    return partial(session.run, None)


def _openvino(graph: bytes) -> Session:
    core = importlib.import_module("openvino").Core()
    # Left to itself it computes in bfloat16 where the processor can.
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()

    def run(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return list(request.infer(feed, share_inputs=True).values())

    return run


SESSIONS: dict[str, Callable[[bytes], Session]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}


def _reordered(case: Case, weight: Tensor) -> Tensor:
    gates = weight.chunk(BY_NAME[case.cell].gates)
    return torch.cat([gates[i] for i in ORDER[case.cell]])
