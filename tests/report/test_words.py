"""The sentences say what was measured, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import bptt
from bptt.probes.diagnose import ModuleDiagnosis
from bptt.report import write_report
from bptt.report.words import on_bias, on_products, on_spectrum
from report_cases import of, square


def recurrent(weight: torch.Tensor) -> ModuleDiagnosis:
    """A ReLU network with this matrix, every unit open, so that nothing but the matrix acts."""
    model = nn.RNN(3, len(weight), nonlinearity="relu")
    with torch.no_grad():
        model.weight_hh_l0.copy_(weight)
        model.bias_ih_l0.fill_(30.0)
    return of(model, steps=20).main


SHIFT = torch.eye(6).roll(1, 0)


@pytest.mark.parametrize(
    ("size", "of_norm", "of_exponent"),
    [
        (
            0.9,
            "0.900, below 1: every step",
            "below 1: the slowest memory fades to a tenth in 22 steps",
        ),
        (1.0, "1.000, about 1", "about 1: the slowest memory neither fades"),
        (1.1, "spectral norm 1.10: the dotted bound", "above 1: nearby states drift apart"),
    ],
)
def test_the_norm_of_the_matrix(size: float, of_norm: str, of_exponent: str) -> None:
    found = recurrent(size * SHIFT)
    text = on_products(found)
    assert of_norm in text
    assert ("must vanish" in text) == (size < 1)
    assert "saturate" not in text  # these units do not
    assert of_exponent in on_spectrum(found)


def test_an_orthogonal_start_is_not_told_that_it_must_vanish() -> None:
    model = nn.RNN(3, 16)
    nn.init.orthogonal_(model.weight_hh_l0)
    text = on_products(of(model, steps=20).main)
    assert "about 1" in text
    assert "must vanish" not in text


def test_a_sample_is_not_called_exact(tmp_path) -> None:
    batch = torch.randn(20, 5, 3), torch.zeros(())
    whole, some = (bptt.diagnose(nn.GRU(3, 6), batch, square, lanes=n) for n in (None, 2))
    for found, right, wrong in (
        (whole, "exact on", "lanes, and"),
        (some, "on 2 of 5 lanes", "exact"),
    ):
        page = write_report(found, tmp_path / "x.html").read_text("utf-8")
        footer = page[page.index("<footer") :]
        for text in (on_bias(found.main, None), footer):
            assert right in text
            assert wrong not in text


def test_a_sample_of_the_steps_is_not_called_exact() -> None:
    found = of(nn.GRU(3, 6)).main
    spectrum = replace(found.watched.spectrum, sources=0.5)
    text = on_bias(replace(found, watched=replace(found.watched, spectrum=spectrum)), None)
    assert "3 of 3 lanes and on 50 % of the loss's steps" in text
