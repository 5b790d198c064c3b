"""Emulated Cortex-M4F and Cortex-M0: the same bits as on this machine. ``./run check`` runs these."""

from pathlib import Path

import pytest
import torch

import bptt
from bptt import export_c
from bptt.errors import RunError
from bptt.experiments.claims import find, run_claim
from bptt.export.cost import measure_on_board
from bptt.models import LanguageModel
from c_code import WARNINGS, call, tool
from parts_to_export import UNPROJECTED

DEVICE = Path(__file__).parents[2] / "examples" / "device"
BOARDS = ["cortex-m4f", "cortex-m0"]

DUMP = """
#include <stdio.h>
#include "net.h"
static const uint32_t tokens[40] = {{{tokens}}};
int main(void) {{
    static net_state state;
    static {element} output[NET_OUTPUT_SIZE];
    const unsigned char *bytes = (const unsigned char *)&state;
    net_init(&state);
    for (int t = 0; t < 40; t++) {{
        if (net_step(&state, tokens[t], output) != 0) {{ return 1; }}
        if (t % 10 == 9) {{
            for (size_t k = 0; k < sizeof(state); k++) {{ printf("%02x", bytes[k]); }}
            printf("\\n");
        }}
    }}
    for (size_t k = 0; k < sizeof(output); k++) {{
        printf("%02x", ((const unsigned char *)output)[k]);
    }}
    printf("\\n");
    return 0;
}}
"""

pytestmark = [pytest.mark.device, UNPROJECTED]


def on_board(board, model, program, build, *words):
    for name in ("arm-none-eabi-gcc", "qemu-system-arm"):
        tool(name)
    settings = [f"MODEL={model}", "NAME=net", f"BOARD={board}", f"BUILD={build}"]
    return call("make", "-s", "-C", DEVICE, "run", *settings, f"PROGRAM={program}", *words)


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("cell", ["rnn", "rnn-relu", "gru", "lstm"])
def test_same_bits_as_the_host(cell, precision, tmp_path):
    """States after 10, 20, 30 and 40 steps and the last output, byte for byte. float32 too: its
    sums have a fixed order, its tanh is made of + * / alone, and C99 mode fuses nothing."""
    model = LanguageModel(27, cell=cell, hidden=19, layers=2, embedding=5)
    torch.nn.init.normal_(model.output.weight)
    check_same_bits(model, precision, tmp_path)


@pytest.mark.parametrize("kind", ["parts", "projected", "int8 parts"])
def test_same_bits_of_what_stands_around(kind, tmp_path):
    """The own exponential too, and what of <math.h> is exact: roots, powers of two, rounding down."""
    table, linear = torch.nn.Embedding(27, 5), torch.nn.Linear
    chains = {
        "parts": [
            bptt.nn.LRU(5, 8, 2), torch.nn.LayerNorm(8), bptt.nn.MinGRU(8, 7), linear(7, 6),
            torch.nn.Softmax(-1),
        ],
        "projected": [torch.nn.LSTM(5, 9, proj_size=4), torch.nn.LeakyReLU(0.1), linear(4, 6)],
        "int8 parts": [
            linear(5, 8), torch.nn.Tanh(), torch.nn.GRU(8, 7), linear(7, 6), torch.nn.Sigmoid(),
            torch.nn.LeakyReLU(0.1),
        ],
    }  # fmt: skip
    model = torch.nn.Sequential(table, *chains[kind])
    check_same_bits(model, "int8" if "int8" in kind else "float32", tmp_path)


def check_same_bits(model, precision, tmp_path):
    tokens = torch.randint(27, (1000, 1))
    folder = tmp_path / "net"
    export_c(model, tokens, folder, name="net", precision=precision)
    element = "float" if precision == "float32" else "int8_t"
    listed = ", ".join(str(t) for t in tokens[:40, 0].tolist())
    program = folder / "dump.c"
    program.write_text(DUMP.format(tokens=listed, element=element))
    files = [program, folder / "net.c"]
    call(tool("gcc"), "-std=c99", "-O2", *WARNINGS, *files, "-lm", "-o", folder / "dump")
    host = call(folder / "dump")
    assert len(set(host.split())) == 5, "the states move"
    for board in BOARDS:
        assert on_board(board, folder, program, tmp_path / board) == host, board


def test_the_example_checks_itself_on_the_board(tmp_path):
    model = torch.nn.Sequential(torch.nn.LSTM(3, 8), torch.nn.Linear(8, 2))
    for precision in ("float32", "int8"):
        folder = tmp_path / precision
        export_c(model, torch.randn(1000, 1, 3), folder, name="net", precision=precision)
        for board in BOARDS:
            out = on_board(board, folder, folder / "example.c", tmp_path / f"{board}-{precision}")
            assert out.startswith("ok: 16 steps")


def test_instructions_are_counted(tmp_path):
    """More units, more instructions: roughly as many times as there are multiply-adds."""
    costs = []
    for hidden in (16, 32):
        folder = tmp_path / str(hidden)
        export = export_c(torch.nn.GRU(1, hidden), torch.randn(9, 1, 1), folder, name="net")
        costs.append(measure_on_board(export, "cortex-m4f", tmp_path / f"b{hidden}"))
    # 3 H (H + 1) multiply-adds and 3 H activations: from 16 to 32 between 2 and 4 times.
    assert 2.0 < costs[1].instructions / costs[0].instructions < 4.0
    assert [c.state for c in costs] == [64, 128]  # H float32
    # One instruction a cycle at 25 MHz.
    assert costs[1].milliseconds == costs[1].instructions / 25e3
    # The weights alone: 3 H (1 + H) + 6 H float32.
    assert 4 * (3 * 32 * 33 + 6 * 32) < costs[1].flash < 15000


def test_outputs_of_sixteen_bits_are_counted_too(tmp_path):
    x = torch.randn(1000, 1, 1)
    export = export_c(torch.nn.GRU(1, 8), x, tmp_path / "net", precision="int8", output_bits=16)
    assert measure_on_board(export, "cortex-m0", tmp_path / "build").instructions > 0


def test_the_ledgers_network_is_counted_on_both_boards():
    (result,) = (run_claim(claim) for claim in find(["C5"]))
    assert result.verdict == "holds in part", result.measured
    times = result.figures["milliseconds"]
    # With a floating-point unit far under 1 ms, without one far over: not by a hair, either.
    assert times["cortex-m4f"] < 0.5
    assert times["cortex-m0"] > 2


def test_a_network_that_the_board_computes_otherwise_is_not_counted(tmp_path):
    export = export_c(torch.nn.RNN(1, 4), torch.randn(9, 1, 1), tmp_path / "net", name="net")
    source = tmp_path / "net" / "net.c"
    text = source.read_text()
    assert text.count("h[j] = tanh_of(") == 1
    source.write_text(text.replace("h[j] = tanh_of(", "h[j] = -tanh_of("))
    with pytest.raises(RunError, match="the program to build and run"):
        measure_on_board(export, "cortex-m4f", tmp_path / "build")


def test_blink(tmp_path):
    """The LED changes as often as the text has spaces; QEMU reports both."""
    folder = tmp_path / "net"
    model = LanguageModel(3, hidden=4)
    with torch.no_grad():  # token 0 says 1, 1 says 2, 2 says 0: every third character is the space
        model.embedding.weight.copy_(4 * torch.eye(3, 4))
        for p in model.recurrent.parameters():
            p.zero_()
        model.recurrent.weight_ih_l0[8:].copy_(torch.eye(4))
        model.recurrent.bias_ih_l0[4:8] = -20.0  # the update gate is shut: the state is the input
        model.output.weight.copy_(torch.eye(3).roll(1, 0) @ torch.eye(3, 4))
    export_c(model, torch.tensor([[0], [1], [2]]), folder, name="model")
    (folder / "symbols.h").write_text(
        '#define SPACE 0U\n#define OUTPUT_TYPE float\nstatic const char TEXT[] = " ab";\n'
    )
    out = call(
        "make", "-s", "-C", DEVICE, "run", f"MODEL={folder}", "NAME=model", "BOARD=cortex-m4f",
        f"BUILD={tmp_path / 'build'}", f"PROGRAM={DEVICE / 'blink.c'}",
        f"QEMUFLAGS=-trace led_change_intensity,file={tmp_path / 'trace'}",
    )  # fmt: skip
    assert out.strip() == ("ab " * 67)[:200].strip()
    # QEMU reports the LED once when it is made, then at every change.
    assert (tmp_path / "trace").read_text().count("led_change") >= 66
