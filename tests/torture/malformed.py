"""Calls of every layer with what no layer should be called with, each in a child process's hands.

A call is made from a number: a sound one, then up to three of its arguments made odd. What is odd but
legal (strided, expanded, negated, requiring a gradient) must give what plain copies give on the eager
backend, gradients included. What is illegal must raise an exception that says so. A child runs the
calls and leaves the number of each where the parent finds it, so that a crash is a failure with the
number of the call that did it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import torch
import tyro
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import bptt
from bptt import ops
from bptt.errors import BpttError
from bptt.gradients import Full, Truncated
from bptt.models import LanguageModel
from processes import interpreter, same_path

# What torch itself and we raise on purpose; anything else is an accident.
HONEST = (BpttError, TypeError, ValueError, RuntimeError, IndexError, NotImplementedError)
CRASH = (
    "import sys; from torture.malformed import calls; "
    "calls(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
)


def odd(random: Random, tensor: Tensor) -> Tensor:
    """The same values in another memory."""
    if not isinstance(tensor, Tensor) or tensor.device.type != "cpu" or not tensor.numel():
        return tensor
    if tensor.layout != torch.strided or tensor.dim() == 0:
        return tensor
    how = random.randrange(6)
    if how == 0:  # every second element of a larger one
        wide = tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1])
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if how == 1 and tensor.dim() > 1:  # another order of axes
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if how == 2:  # one row, given as all of them
        return tensor[:1].expand_as(tensor)
    if how == 3:  # one value
        return tensor.flatten()[0].expand(tensor.shape)
    if how == 4 and tensor.dtype in (
        torch.float32,
        torch.float64,
    ):  # a view that says it is negated
        return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    if how == 5 and tensor.is_floating_point():
        return tensor.detach().clone().requires_grad_()
    return torch.cat([tensor[:1], tensor])[1:]  # does not begin where its memory begins


def wrong(random: Random, value: Any) -> Any:
    """Something else in place of an argument."""
    if not isinstance(value, Tensor) or random.random() < 0.1:
        return random.choice(("text", 3, -1.5, [], (), {}, object(), [[1.0]], None, True))
    choices: list[Any] = [
        lambda: value.to(random.choice((torch.float16, torch.bfloat16, torch.int32, torch.uint8))),
        lambda: value.to(
            random.choice((torch.float64, torch.float32, torch.complex64, torch.bool))
        ),
        lambda: value.to("meta"),
        lambda: value.unsqueeze(random.randrange(value.dim() + 1)),
        lambda: value[..., :0],
        lambda: value[:0],
        lambda: torch.cat([value, value], random.randrange(max(value.dim(), 1))),
        lambda: value.flatten(),
        lambda: value.new_empty(0),
        lambda: value.new_zeros(()),
        lambda: value.to_sparse(),
        lambda: value.expand(2, *value.shape),
        lambda: value.new_zeros(1).expand([7] * value.dim()),
        lambda: value.transpose(0, -1),
        lambda: value.numpy(),
        lambda: torch.full_like(value, random.choice((-1, 2**31, 7, -(2**62)))),
        lambda: torch.full_like(value, float("nan")),
    ]
    try:
        return random.choice(choices)()
    except (RuntimeError, IndexError, ValueError, TypeError):  # this tensor cannot be made so
        return None


def marks(random: Random, T: int, B: int, batch_first: bool) -> dict[str, Any]:
    """Lengths, resets and cuts, some of them."""
    found: dict[str, Any] = {}
    shape = (B, T) if batch_first else (T, B)
    if random.random() < 0.4:
        found["lengths"] = torch.randint(0, T + 1, (B,))
    if random.random() < 0.4:
        found["reset"] = torch.rand(shape) < 0.3
    if random.random() < 0.2:
        found["cut"] = torch.rand(shape) < 0.3
    return found


def call(number: int) -> str:
    """Make call ``number``: "equal" or "refused"; AssertionError where it is neither."""
    random = Random(number)
    torch.manual_seed(number)
    run, arguments = random.choice(CALLS)(random)
    names = [name for name in arguments if name != "_"]
    for _ in range(random.choice((0, 1, 1, 2, 3))):
        name = random.choice(names)
        change = odd if random.random() < 0.5 else wrong
        if isinstance(arguments[name], tuple) and arguments[name] and random.random() < 0.8:
            parts = list(arguments[name])
            place = random.randrange(len(parts))
            parts[place] = change(random, parts[place])
            arguments[name] = tuple(parts[: random.choice((len(parts), len(parts), 1))])
        else:
            arguments[name] = change(random, arguments[name])
    try:
        ours = _flat(run(**arguments))
    except HONEST as error:
        if not str(error).strip():
            raise AssertionError(f"call {number}: {type(error).__name__} without a word") from error
        return "refused"
    except Exception as error:
        raise AssertionError(f"call {number}: {type(error).__name__}: {error}") from error
    if any(t.is_meta for t in ours):
        return "equal"
    ops.set_backend("auto" if "_" in arguments else "eager")
    try:
        plain = _flat(run(**{name: _plain(value) for name, value in arguments.items()}))
    except Exception as error:
        message = f"call {number}: ran, and on plain copies {type(error).__name__}: {error}"
        raise AssertionError(message) from error
    finally:
        ops.set_backend("auto")
    assert len(ours) == len(plain), f"call {number}: {len(ours)} results, not {len(plain)}"
    for place, (mine, theirs) in enumerate(zip(ours, plain, strict=True)):
        assert mine.shape == theirs.shape, f"call {number}: result {place}: {mine.shape}"
        # Float32 sums of some dozens of terms in another order; values of a few at most.
        close = torch.allclose(mine, theirs, rtol=1e-3, atol=1e-3, equal_nan=True)
        assert close, f"call {number}: result {place} differs by {(mine - theirs).abs().max()}"
    return "equal"


def _plain(value: Any) -> Any:
    """The value in memory of its own, in order."""
    if isinstance(value, PackedSequence):
        return PackedSequence(value.data.detach().clone().contiguous(), *value[1:])
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            value = value.to_dense()
        copy = value.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
        return copy.requires_grad_(value.requires_grad)
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    return value


def _flat(result: Any) -> list[Tensor]:
    """Every tensor of a result, detached."""
    if isinstance(result, PackedSequence):
        return [result.data.detach()]
    if isinstance(result, Tensor):
        return [result.detach()]
    if isinstance(result, (tuple, list)):
        return [tensor for part in result for tensor in _flat(part)]
    return []


def _layer(random: Random) -> tuple[Any, int, int, dict[str, Any]]:
    kind = random.choice(("RNN", "GRU", "LSTM", "GRU", "LSTM", "MinGRU", "LRU"))
    I, H = random.randrange(1, 6), random.randrange(1, 10)
    options: dict[str, Any] = {
        "num_layers": random.choice((1, 1, 2)), "batch_first": random.random() < 0.4,
    }  # fmt: skip
    if kind in ("RNN", "GRU", "LSTM"):
        options |= {"bidirectional": random.random() < 0.3, "bias": random.random() < 0.8}
    if kind == "RNN" and random.random() < 0.3:
        options["nonlinearity"] = "relu"
    if kind == "LSTM" and H > 2 and random.random() < 0.1:
        options["proj_size"] = H - 1
    layer = getattr(bptt.nn, kind)(I, H, **options)
    return layer.double() if random.random() < 0.2 else layer, I, H, options


def _state(random: Random, layer: nn.Module, x: Tensor, B: int) -> Any:
    """A sound initial state: what the layer itself ends with."""
    if random.random() < 0.5:
        return None
    with torch.no_grad():
        state = layer(x)[1]
    if isinstance(state, tuple):
        return tuple(torch.randn_like(part) for part in state)
    return torch.randn_like(state)


def layer_call(random: Random) -> tuple[Any, dict[str, Any]]:
    """``layer(input, hx, lengths=…, reset=…, cut=…)``, now and then differentiated."""
    layer, I, _, options = _layer(random)
    T, B = random.randrange(1, 7), random.randrange(1, 5)
    dtype = next(layer.parameters()).dtype
    shape = (B, T, I) if options["batch_first"] else (T, B, I)
    x = torch.randn(shape, dtype=dtype)
    arguments: dict[str, Any] = {"input": x, "hx": _state(random, layer, x, B)}
    arguments |= marks(random, T, B, options["batch_first"])
    if random.random() < 0.15:
        lengths = torch.randint(1, T + 1, (B,))
        x = pack_padded_sequence(
            x, lengths, batch_first=options["batch_first"], enforce_sorted=False
        )
        if random.random() < 0.5:  # one that nobody packed
            sizes = torch.randint(-1, 9, (random.randrange(4),))
            x = PackedSequence(x.data, random.choice((sizes, x.batch_sizes[:-1])), *x[2:])
        arguments = {"input": x, "hx": arguments["hx"]}
    backward = random.random() < 0.5

    def run(**given: Any) -> Any:
        result = layer(given.pop("input"), given.pop("hx"), **given)
        if not backward:
            return result
        total = sum(t.sum() for t in _graph(result))
        return result, torch.autograd.grad(total, list(layer.parameters()), allow_unused=True)

    return run, arguments


def _graph(result: Any) -> list[Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    if isinstance(result, Tensor):
        return [result]
    return [tensor for part in result for tensor in _graph(part)]


def tokens_call(random: Random) -> tuple[Any, dict[str, Any]]:
    """``layer.forward_tokens(tokens, embedding, hx, …)``."""
    layer, I, _, options = _layer(random)
    T, B, V = random.randrange(1, 7), random.randrange(1, 5), random.randrange(1, 6)
    dtype = next(layer.parameters()).dtype
    shape = (B, T) if options["batch_first"] else (T, B)
    x = torch.randn(*shape, I, dtype=dtype)
    arguments = {
        "tokens": torch.randint(V, shape),
        "embedding": torch.randn(V, I, dtype=dtype),
        "hx": _state(random, layer, x, B),
        **marks(random, T, B, options["batch_first"]),
    }
    return lambda **given: layer.forward_tokens(**given), arguments


def stream_call(random: Random) -> tuple[Any, dict[str, Any]]:
    """A stream: its state set, steps, a reset."""
    B, V, I, H = random.randrange(1, 4), 5, 3, random.randrange(1, 10)
    symbols = random.random() < 0.4
    kind = random.choice(("RNN", "GRU", "LSTM"))
    model = (
        LanguageModel(V, cell=kind.lower(), hidden=H) if symbols else getattr(bptt.nn, kind)(I, H)
    )
    states = torch.randn(1, B, H)
    arguments = {
        "x": torch.randint(V, (B,)) if symbols else torch.randn(B, I),
        "state": (states, states.clone()) if kind == "LSTM" else states,
        "lanes": torch.rand(B) < 0.5,
    }

    def run(x: Any, state: Any, lanes: Any) -> Any:
        stream = bptt.Stream(model, B)
        stream.state = state
        first = stream.step(x).clone()
        stream.reset(lanes)
        return first, stream.step(x).clone(), stream.state

    return run, arguments


def ops_call(random: Random) -> tuple[Any, dict[str, Any]]:
    """The seam itself, the input projected or not."""
    mode = random.choice(("RNN_TANH", "RNN_RELU", "GRU", "LSTM"))
    G = {"GRU": 3, "LSTM": 4}.get(mode, 1)
    T, B, I, H = (random.randrange(1, 6) for _ in range(4))
    arguments = {
        "x": torch.randn(T, B, I),
        "state": tuple(torch.randn(B, H) for _ in range(2 if mode == "LSTM" else 1)),
        "weights": tuple(torch.randn(s) for s in ((G * H, I), (G * H, H), (G * H,), (G * H,))),
        "reverse": random.random() < 0.3,
        **marks(random, T, B, False),
    }
    return lambda **given: ops.recur(mode, **given), arguments


def operator_call(random: Random) -> tuple[Any, dict[str, Any]]:
    """The registered operators, forward and backward, each argument as it comes."""
    cell = random.randrange(4)
    G = (1, 1, 3, 4)[cell]
    T, B, I, H = (random.randrange(1, 6) for _ in range(4))
    form = random.randrange(3)
    tokens = torch.randint(I, (T, B)) if form == 1 else None
    x = torch.randn(I, G * H) if form == 1 else torch.randn(T, B, G * H if form == 2 else I)
    found = marks(random, T, B, False)
    forward = {
        "x": x, "tokens": tokens, "h0": torch.randn(B, H), "c0": torch.randn(B, H) if cell == 3 else None,
        "w_ih": torch.randn(G * H, I) if form == 0 else None, "w_hh": torch.randn(G * H, H),
        "lengths": found.get("lengths"), "reset": found.get("reset"), "cut": found.get("cut"),
    }  # fmt: skip
    head = torch.ops.bptt.recur(
        cell, x, tokens, forward["h0"], forward["c0"], forward["w_ih"], forward["w_hh"], None, None,
        forward["lengths"], forward["reset"], None, None, False, False, True, None,
    )  # fmt: skip
    arguments = {
        **forward, "dy": torch.randn(T, B, H), "dh_n": torch.randn(B, H), "saved": head[3],
        "_": "native",
    }  # fmt: skip

    def run(**a: Any) -> Any:
        a.pop("_")
        forth = torch.ops.bptt.recur(
            cell, a["x"], a["tokens"], a["h0"], a["c0"], a["w_ih"], a["w_hh"], None, None,
            a["lengths"], a["reset"], a["cut"], None, False, False, True, None,
        )  # fmt: skip
        back = torch.ops.bptt.recur_backward(
            cell, a["dy"], a["dh_n"], None, a["x"], a["tokens"], a["h0"], a["c0"], a["w_ih"],
            a["w_hh"], a["lengths"], a["reset"], a["cut"], False, False, a["saved"],
            [True, True, cell == 3, a["w_ih"] is not None, True, True, True], True, None,
        )  # fmt: skip
        return forth[:2], back

    return run, arguments


def gradient_call(random: Random) -> tuple[Any, dict[str, Any]]:
    """``estimator.backward`` on a layer."""
    layer = random.choice((bptt.nn.GRU, bptt.nn.LSTM, bptt.nn.RNN))(3, 4)
    T, B = random.randrange(1, 7), random.randrange(1, 4)
    estimator = random.choice((Full(reduction="mean"), Truncated(k=2, reduction="mean")))
    states = tuple(torch.randn(1, B, 4) for _ in range(2))
    arguments = {
        "x": torch.randn(T, B, 3),
        "target": torch.randn(T, B, 4),
        "carry": states if isinstance(layer, bptt.nn.LSTM) else states[0],
    }

    def run(x: Any, target: Any, carry: Any) -> Any:
        layer.zero_grad()
        step = estimator.backward(layer, x, target, carry, loss=nn.functional.mse_loss)
        return step.loss, [p.grad.clone() for p in layer.parameters() if p.grad is not None]

    return run, arguments


CALLS = (layer_call, layer_call, layer_call, tokens_call, stream_call, ops_call, operator_call,
         operator_call, gradient_call)  # fmt: skip


def calls(first: int, count: int, note: str) -> None:
    """Make calls ``first … first + count - 1`` here; the number of each goes into a file first."""
    torch.set_num_threads(2)
    counted: Counter[str] = Counter()
    with open(note, "w+b", buffering=0) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(first, first + count):
            file.seek(0)
            file.write(b"%20d" % number)
            counted[call(number)] += 1
    print(f"{counted['equal']} equal, {counted['refused']} refused")


def torture(count: int = 10_000, seed: int = 0) -> str:
    """So many calls in a child process; AssertionError with the number of one not survived."""
    with tempfile.TemporaryDirectory() as folder:
        note = Path(folder) / "number"
        done = subprocess.run(
            [*interpreter(), "-X", "faulthandler", "-c", CRASH, str(seed), str(count), str(note)],
            env=same_path(),
            capture_output=True,
            text=True,
            check=False,
        )
        number = note.read_text().strip() if note.exists() else "none"
    assert done.returncode == 0, (
        f"call {number} ended the process with status {done.returncode}: {done.stderr[-3000:]}"
    )
    return f"{count:,} calls: {done.stdout.strip()}"


if __name__ == "__main__":
    sys.exit(print(tyro.cli(torture)))
