"""One table of cells: everything that lists them says the same."""

import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from torch import nn

import bptt
from bptt.cli import bench
from bptt.experiments.compare import grid
from bptt.models import language, weights
from bptt.ops import cells, eager, native
from bptt.training.settings import Settings
from cases import CELLS, GATES

HEADER = (Path(__file__).parents[2] / "csrc" / "kernels.h").read_text("utf-8")
TORCH = {"RNN_TANH": nn.RNN, "GRU": nn.GRU, "LSTM": nn.LSTM}


def test_every_list_of_cells_is_the_table():
    assert get_args(get_type_hints(Settings)["cell"]) == cells.NAMES
    assert tuple(language.CELLS) == grid.CELLS == cells.NAMES
    assert set(get_args(bench.Cell)) <= {cell.name for cell in cells.CELLS}
    assert set(eager._STEPS) == set(weights._LAYERS) == set(cells.BY_MODE)
    assert tuple(cell.key for cell in cells.CELLS) == CELLS  # the tests' own
    assert {cell.key: cell.gates for cell in cells.CELLS} == GATES


@pytest.mark.parametrize("cell", cells.CELLS, ids=lambda cell: cell.name)
def test_a_cell_is_what_its_layer_is(cell):
    kind, options = language.CELLS[cell.name]
    layer = kind(3, 5, **options)
    assert layer.mode == cell.mode
    assert layer.weight_hh_l0.shape == (cell.gates * 5, 5)
    _, state = layer(torch.zeros(2, 1, 3))
    assert (len(state) if isinstance(state, tuple) else 1) == cell.states
    if cell.mode in TORCH:
        assert TORCH[cell.mode](3, 5).weight_hh_l0.shape == layer.weight_hh_l0.shape


def in_header(what, number):
    """What a function of a cell gives in the kernels' header: the values by name, else the last one."""
    body = re.search(rf"{what}_of\(Cell c\) {{ return (.*?); }}", HEADER)[1]
    name = ("rnn_tanh", "rnn_relu", "gru", "lstm")[number]
    *choices, default = re.split(r" : ", body)
    for choice in choices:
        condition, value = choice.split(" ? ")
        if f"Cell::{name}" in re.findall(r"Cell::\w+", condition):
            return int(value)
    return int(default)


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize("what", ["gates", "saved", "dz"])
def test_the_kernels_have_the_same_widths(what, number):
    assert in_header(what, number) == getattr(cells.CELLS[number], what)


def test_the_kernels_count_the_cells_as_the_table_does():
    enum = re.search(r"enum class Cell[^{]*{([^}]*)}", HEADER)[1]
    names = [word.split("=")[0].strip() for word in enum.split(",")]
    assert tuple(names) == tuple(cell.key for cell in cells.CELLS)
    assert tuple(cell.mode for cell in cells.CELLS) == native.check.CELLS


def test_the_table_needs_no_names_twice():
    for table in (cells.BY_NAME, cells.BY_MODE, cells.BY_KEY):
        assert len(table) == len(cells.CELLS)
    assert len(set(cells.NAMES)) == len(cells.NAMES)
    assert bptt.ops.cells is cells
