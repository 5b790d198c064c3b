"""`bptt bench`: every mode end to end at tiny sizes, and that unequal results are refused."""

import gc
import json
import subprocess
import sys

import pytest
import torch

from bptt.cli import main
from bptt.experiments.benchmark import contest as cases
from bptt.experiments.benchmark import layers
from bptt.experiments.benchmark import layers as character
from bptt.experiments.benchmark import row as modes
from bptt.experiments.benchmark.contest import (
    Contest,
    Side,
    UnequalError,
    check,
    error,
    quartiles,
    take_turns,
    tolerance,
)
from bptt.experiments.benchmark.row import measure

KEYS = {
    "cell", "hidden", "batch", "steps", "threads", "mode", "peer",
    "ours_us", "peer_us", "ratio", "share_of_matmul", "max_error",
}  # fmt: skip
MODES = {
    "train": set(),
    "infer": set(),
    "packed": {"ratio_to_padded", "lengths_ratio_to_padded", "filled"},
    "reset": {"overhead", "resets"},
    "stream": set(),
    "model": {"characters_per_second", "peer_characters_per_second", "curve_error"},
}
TINY = ["--hidden", "5", "--batch", "3", "--steps", "6", "--seconds", "0.01", "--threads", "1"]


def refuse(capsys, *words):
    """Run a command that must fail; return its one line."""
    assert main(["bench", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1, captured.err
    assert captured.err.startswith("bptt bench: expected ")
    return captured.err


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_reports_every_cell(mode, capsys):
    threads = torch.get_num_threads()
    assert main(["bench", "--modes", mode, *TINY, "--json"]) == 0
    assert torch.get_num_threads() == threads
    out = capsys.readouterr().out
    assert out.count("\n") == 1, "one document on stdout and nothing else"
    document = json.loads(out)
    assert {"machine", "matmul_gflops", "rows"} <= document.keys()
    assert document["matmul_gflops"] > 0
    assert [row["cell"] for row in document["rows"]] == ["rnn", "gru", "lstm"]
    for row in document["rows"]:
        assert row.keys() >= KEYS | MODES[mode]
        assert (row["mode"], row["peer"], row["hidden"]) == (mode, "torch", 5)
        assert (row["steps"], row["threads"]) == (6, 1)
        assert row["batch"] == (1 if mode == "stream" else 3)
        assert min(row["ratio"], row["ours_us"], row["peer_us"], row["share_of_matmul"]) > 0
        low, high = row["ratio_quartiles"]
        assert low <= row["ratio"] <= high
        assert 0 <= row["max_error"] <= row["tolerance"] < 1e-4


def test_the_table_names_what_was_run(capsys):
    assert main(["bench", "--cells", "gru", "--modes", "train", "reset", *TINY]) == 0
    printed = capsys.readouterr().out
    assert "train beside torch" in printed
    assert "reset beside torch" in printed
    assert "GFLOP/s" in printed
    assert "overhead" in printed


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_peer_is_refused_and_nothing_is_reported(mode, capsys, monkeypatch):
    """One weight off by a thousandth: no figure of any mode survives it."""
    if mode == "model":
        honest = character.models

        def models(case):
            mine, plain = honest(case)
            spoil(plain.recurrent)
            return mine, plain

        monkeypatch.setattr(character, "models", models)
    else:
        honest_layers = cases.Case.layers

        def pair(case):
            mine, theirs = honest_layers(case)
            spoil(theirs)
            return mine, theirs

        monkeypatch.setattr(cases.Case, "layers", pair)
    line = refuse(capsys, "--cells", "gru", "--modes", mode, *TINY, "--json")
    assert "no time is reported" in line


def spoil(layer):
    with torch.no_grad():
        layer.weight_hh_l0[0, 0] += 1e-2


@pytest.mark.parametrize("name", ["x", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"])
def test_a_wrong_gradient_of_anything_is_refused_before_any_timing(name, monkeypatch):
    case = cases.Case("gru", 5, 3, 6, "train", seconds=0.01)
    honest = layers.train(case)
    runs = []

    def results():
        found = honest.peer.results()
        found[f"gradient of {name}"] = found[f"gradient of {name}"] * 1.001
        return found

    rigged = Contest(
        Side(lambda: runs.append(1), honest.ours.results),
        Side(lambda: runs.append(1), results),
        honest.flops,
        honest.terms,
    )
    monkeypatch.setitem(modes.TORCH_MODES, "train", lambda case: rigged)
    with pytest.raises(UnequalError, match=f"gradient of {name}"):
        measure(case)
    assert not runs


def test_training_compares_outputs_final_states_and_all_gradients():
    compared = layers.train(cases.Case("lstm", 4, 2, 5, "train")).ours.results()
    weights = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    assert set(compared) == {"y", "h", "c", *(f"gradient of {n}" for n in ("x", *weights))}
    assert all(value.any() for value in compared.values())


def test_the_character_model_hands_a_gradient_to_every_weight():
    compared = character.model(cases.Case("gru", 5, 3, 6, "model")).ours.results()
    assert all(value.any() for value in compared.values()), "comparing zeros shows nothing"


def test_the_comparison_refuses_what_cannot_be_compared():
    one = torch.ones(3)
    assert error(one, one) == 0
    assert error(one * 1.5, one) == pytest.approx(0.5)
    assert error(one * float("nan"), one) == float("inf")
    assert error(one, one * float("nan")) == float("inf")
    assert error(one, torch.zeros(3)) == float("inf")
    assert error(one, torch.ones(1)) == float("inf")
    assert error(torch.zeros(3), torch.zeros(3)) == 0
    with pytest.raises(UnequalError, match="the results that torch has: y, h"):
        check({"y": one}, {"y": one, "h": one}, 1.0, "torch")
    with pytest.raises(UnequalError, match="inf"):
        check({"y": one * float("nan")}, {"y": one}, 1.0, "torch")
    assert tolerance(3200) < 2e-4


def test_same_seed_same_case():
    one, other = (cases.Case("gru", 5, 3, 6, "train", seed=4) for _ in range(2))
    results = layers.train(one).ours.results(), layers.train(other).ours.results()
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])
    different = layers.train(cases.Case("gru", 5, 3, 6, "train", seed=5)).ours.results()
    assert not torch.equal(results[0]["y"], different["y"])


def test_turns_alternate_without_the_collector_and_restore_it():
    order = []

    def competitor(name):
        def run():
            order.append(name)
            assert not gc.isenabled()

        return run

    times = take_turns([competitor("a"), competitor("b")], 0.0)
    assert gc.isenabled()
    assert "".join(order) == "ab" + "abbaab"  # one round of warm-up, then the least there may be
    assert len(times.rounds) == 3
    assert times.ratios(0, 1) == [a / b for a, b in times.rounds]
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 4.0]


@pytest.mark.parametrize(
    "words",
    [
        ["--cells", "elman"],
        ["--modes", "fly"],
        ["--peer", "keras"],
        ["--hidden", "0"],
        ["--hidden", "eight"],
        ["--batch", "0"],
        ["--steps", "-1"],
        ["--threads", "0"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--seed", "-1"],
        ["--modes", "packed", "--peer", "jax", "--cells", "lstm"],
        ["--unknown"],
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(words, capsys, monkeypatch):
    monkeypatch.setattr(modes, "find_spec", lambda name: object())
    refuse(capsys, *words)


@pytest.mark.parametrize("peer", ["jax", "onnxruntime", "openvino"])
def test_a_missing_peer_is_named_with_the_way_to_get_it(peer, capsys, monkeypatch):
    monkeypatch.setattr(modes, "find_spec", lambda name: None)
    assert f"pip install {'jax' if peer == 'jax' else f'onnx {peer}'}" in refuse(
        capsys, "--peer", "torch", peer, *TINY
    )


@pytest.mark.parametrize(
    ("peer", "mode", "packages"),
    [
        ("jax", "train", ["jax"]),
        ("jax", "infer", ["jax"]),
        ("onnxruntime", "infer", ["onnx", "onnxruntime"]),
        ("onnxruntime", "stream", ["onnx", "onnxruntime"]),
        ("openvino", "infer", ["onnx", "openvino"]),
        ("openvino", "stream", ["onnx", "openvino"]),
    ],
)
def test_other_peers_agree_where_they_are_installed_and_are_missed_where_not(
    peer, mode, packages, capsys
):
    words = ["--peer", peer, "--modes", mode, *TINY, "--json"]
    if any(modes.find_spec(name) is None for name in packages):
        refuse(capsys, *words)
        return
    assert main(["bench", *words]) == 0
    captured = capsys.readouterr()
    rows = json.loads(captured.out)["rows"]
    assert {row["cell"] for row in rows} >= {"rnn", "gru"}
    assert all(row["peer"] == peer and 0 <= row["max_error"] < 1e-4 for row in rows)
    if peer == "jax":
        assert f"{mode} of lstm with jax" in captured.err, "what is left out is said"


def test_reading_the_options_does_not_load_torch():
    code = (
        "import sys; from bptt.cli import main\n"
        "try: main(['bench', '--help'])\n"
        "except SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
