"""What claims are made of: generators as published, bytes counted, losses of a known value."""

import gc
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import bptt
from bptt.claims import adaptive, ladder, learn, music, papers, reach
from bptt.claims.arithmetic import agrees
from bptt.claims.memory import Held
from bptt.claims.products import lag_below


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


def test_copy_asks_for_the_ten_symbols_at_the_end():
    x, y = papers.copy_batch(4, 50, np.random.default_rng(0))
    tokens = x.argmax(-1)
    assert x.shape == (70, 4, 10)
    assert y.shape == (70, 4)
    assert torch.equal(tokens[:10], y[-10:])
    assert (y[:-10] == papers.BLANK).all()
    assert (tokens[59] == papers.GO).all()
    assert (tokens[10:59] == papers.BLANK).all()
    assert (tokens[60:] == papers.BLANK).all()
    assert papers.memoryless(200) == pytest.approx(0.0945, abs=5e-5)


def test_adding_marks_one_number_in_each_half():
    x, y = reach.adding(50, 9, torch.Generator().manual_seed(0))
    marks = x[..., 1]
    assert (marks[:4].sum(0) == 1).all()
    assert (marks[4:].sum(0) == 1).all()
    assert torch.equal((x[..., 0] * marks).sum(0), y)


def test_agreement_and_recall_ask_for_what_came_first():
    x, y = reach.agreement(64, 5, 0)
    assert torch.equal(x[0].argmax(-1), y)
    assert (x[1:].argmax(-1) >= 2).all()
    x, y = reach.recall_after(8, 6, 0)
    assert x.shape == (12, 8, 6)
    assert torch.equal(x[:3].argmax(-1), y)


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
    after = music.train(player, data, run, clip=1.0, epochs=15, lanes=2, patience=5)
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


def test_fit_rescales_to_the_norm_asked_for():
    torch.manual_seed(0)
    seen = []

    class Watcher(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad.flatten() for g in self.param_groups for p in g["params"]]
            seen.append(float(torch.cat(grads).norm()))

    data = learn.remember_first(8, 3, 0)
    learn.fit(learn.tanh_rnn(), *data, lambda p: Watcher(p, lr=1.0), 2, batch=4, rescale=2.5)
    assert seen == pytest.approx([2.5] * 4, rel=1e-5)


def test_small_words():
    assert agrees(0.60501, ".60")
    assert not agrees(2.951e-5, "2.7e-5")
    assert lag_below(np.array([1.0, 0.1, 0.5, 0.01]), 0.2) == 4
    assert lag_below(np.array([0.1]), 0.2) == 1
    assert lag_below(np.array([0.1, 1.0]), 0.2) is None
