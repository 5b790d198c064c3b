"""What claims are made of: generators as published, bytes counted, losses of a known value."""

import gc
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import bptt
from bptt.experiments.claims import ladder, learn, papers, reach
from bptt.experiments.claims import papers as music
from bptt.experiments.claims import truncation as adaptive
from bptt.experiments.claims.counted import agrees
from bptt.experiments.claims.learn import Held
from bptt.experiments.claims.products import lag_below
from bptt.remedies import Rescale
from compare import assert_close


def test_remember_first_is_the_published_data():
    x, y = learn.remember_first(512, 7, 42)
    symbols = np.random.default_rng(42).integers(0, 8, size=(512, 7))
    assert x.shape == (7, 512, 8)
    assert (x.argmax(-1).t().numpy() == symbols).all()
    assert (y.numpy() == symbols[:, 0]).all()


@pytest.mark.parametrize("shortest", [5, 10])
def test_the_copy_stream_says_again_what_it_read(shortest):
    x, y = (v.numpy() for v in adaptive.copy_stream(300, shortest, 3))
    assert x.shape == y.shape == (300, 64)
    lengths = set()
    for lane in range(8):
        starts = np.flatnonzero(x[:, lane] == 1)  # every block begins with its mark
        for begin, after in pairwise(starts):
            m = (after - begin) // 2
            lengths.add(m)
            assert (x[begin : begin + m, lane] == y[begin + m : after, lane]).all()
            assert not y[begin : begin + m, lane].any()
            assert not x[begin + m : after, lane].any()
    assert lengths == set(range(shortest, 11))


def test_the_sums_are_the_adding_tasks():
    x, y = reach.sums(50, 9, torch.Generator().manual_seed(0))
    assert_close((x[..., 0] * x[..., 1]).sum(0), y, 0.0)
    assert (x[..., 1].sum(0) == 2).all()


def test_a_claim_by_compare_has_every_seed_at_every_length(monkeypatch):
    monkeypatch.setattr(reach, "BUDGET", replace(reach.BUDGET, updates=2, every=1))
    found = reach.compared("agreement", (1, 3))
    assert {gap: [run["job"]["seed"] for run in of] for gap, of in found.items()} == {
        1: [0, 1, 2],
        3: [0, 1, 2],
    }
    assert all(run["job"]["length"] == gap for gap, of in found.items() for run in of)


def test_the_copiers_loss_begins_near_that_of_a_guess():
    """Over 9 classes at every step; torch's start is not far from equal odds."""
    torch.manual_seed(0)
    task = papers.Copy(20)
    model = papers.Copier(bptt.nn.LSTM(task.inputs, 16), task)
    loss = papers.copy_loss(model, task, torch.Generator().manual_seed(0), 8)
    assert loss.item() == pytest.approx(math.log(9), abs=0.3)


def test_held_counts_a_storage_once_and_forgets_it_with_the_graph():
    x, w = torch.ones(100, 10, requires_grad=True), torch.ones(10, 10)
    with Held(w) as held:
        y = (x @ w).exp()  # w for dx: there anyway; exp keeps its result, 100·10 float32
        z = y * y  # y twice more, the same storage
    assert held.bytes == held.peak == 4000
    del y
    z.sum().backward()
    del z
    gc.collect()
    assert held.bytes == 0
    assert held.peak == 4000


def test_a_model_that_knows_nothing_has_the_loss_of_a_coin_for_every_note():
    of = [torch.randint(2, (n, 88)).float() for n in (5, 9, 2)]
    player = music.Player(bptt.nn.RNN(88, 4), dropout=0.0)
    torch.nn.init.zeros_(player.linear.weight)
    torch.nn.init.zeros_(player.linear.bias)
    # Float32 sums of 13 steps: 1e-5 relative is a hundred roundings.
    assert music.nll(player, of, lanes=2) == pytest.approx(88 * math.log(2), rel=1e-5)


def test_padding_does_not_enter_the_music_loss():
    torch.manual_seed(0)
    of = [torch.randint(2, (n, 88)).float() for n in (4, 12)]
    player = music.Player(bptt.nn.GRU(88, 5), dropout=0.0)
    apart = [music.nll(player, [roll]) * (len(roll) - 1) for roll in of]
    assert music.nll(player, of) == pytest.approx(sum(apart) / 14, rel=1e-5)


def test_training_on_music_learns_what_repeats():
    torch.manual_seed(0)
    roll = torch.zeros(12, 88)
    roll[::2, 3] = roll[1::2, 7] = 1.0
    data = {part: [roll] * 4 for part in ("train", "valid", "test")}
    player = music.Player(bptt.nn.RNN(88, 16), dropout=0.0)
    before = music.nll(player, data["test"])
    run = torch.optim.Adam(player.parameters(), lr=0.02)
    _, after = music.train(player, data, run, clip=1.0, epochs=15, lanes=2, patience=5)
    assert after < 0.2 * before


def test_the_adaptive_claim_measures_a_horizon_between_its_bounds():
    torch.manual_seed(0)
    x, y = adaptive.copy_stream(150, 10, 0)
    model = adaptive.Copier()
    assert 2 <= adaptive._horizon(model, x, y, 0.1) <= 100
    assert all(p.grad is None for p in model.parameters())


def test_held_out_text_is_evenly_spaced_and_one_step_apart():
    corpus = bptt.data.Corpus.from_text("abcdefghij" * 40, valid_fraction=0.5)
    x, y = ladder.held_out(corpus, 3, 20)
    assert x.shape == (20, 3)
    assert torch.equal(x[1:], y[:-1])


def test_fit_clips_between_the_gradient_and_the_update():
    torch.manual_seed(0)
    seen = []

    class Watcher(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
            seen.append(float(torch.cat(grads).norm()))

    data = learn.remember_first(8, 3, 0)
    run = learn.fit(
        learn.tanh_rnn(), *data, lambda p: Watcher(p, lr=1.0), 2, batch=4, clip=Rescale(2.5)
    )
    assert seen == pytest.approx([2.5] * 4, rel=1e-5)
    assert run.acted == len(run.norms) == 4
    assert max(run.norms) < 2.5  # before the clip


def test_small_words():
    assert agrees(0.60501, ".60")
    assert not agrees(2.951e-5, "2.7e-5")
    assert lag_below(np.array([1.0, 0.1, 0.5, 0.01]), 0.2) == 4
    assert lag_below(np.array([0.1]), 0.2) == 1
    assert lag_below(np.array([0.1, 1.0]), 0.2) is None
