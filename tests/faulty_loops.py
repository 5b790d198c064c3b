"""Thirty training loops with one mistake each, as people write them.

Each is entered with the code of its mistake, the module that is to be named and a piece of the line that
is to be written.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

from guard_settings import LANES, STEPS, Last, Setting, detach, last, score, stepped, text

LOOPS: dict[str, "Loop"] = {}


@dataclass
class Loop:
    """A loop and what is wrong with it."""

    run: Any
    setting: Any
    code: str
    module: str
    write: str
    options: dict


def loop(code, setting, module="optimizer", write="", **options):
    """Enter a loop into the list."""

    def enter(run):
        LOOPS[run.__name__] = Loop(run, setting, code, module, write, options)
        return run

    return enter


# The state.


@loop("missing-detach", text, "rnn", "detach()")
def lstm_text_without_detach(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        score(logits, y).backward()
        s.optimizer.step()


@loop("missing-detach", lambda: text(layer=nn.GRU), "rnn", "detach()")
def gru_text_without_detach(s):
    h = torch.zeros(1, LANES, 16)
    for i in range(s.updates):
        x, y = s.chunk(i)
        logits, h = s.model(x, h)
        s.optimizer.zero_grad()
        score(logits, y).backward()
        s.optimizer.step()


@loop("missing-detach", text, "rnn", "detach()")
def graph_retained_and_weights_changed(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        score(logits, y).backward(retain_graph=True)
        s.optimizer.step()


@loop("missing-detach", text, "rnn", "detach()")
def graph_retained_over_many_chunks_of_one_update(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        logits, h = s.model(x, h)
        score(logits, y).backward(retain_graph=True)
    s.optimizer.step()


@loop("missing-detach", stepped, "cell", "detach()")
def cell_loop_without_detach(s):
    h = None
    for i in range(s.updates):
        x = s.x[i * 4 : i * 4 + 4].transpose(0, 1)
        s.optimizer.zero_grad()
        y, h = s.model(x, h)
        y.square().mean().backward()
        s.optimizer.step()


@loop("missing-detach", text, "rnn", "detach()")
def only_half_of_an_lstm_state_detached(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = (h[0].detach(), h[1])
        score(logits, y).backward()
        s.optimizer.step()


@loop("missing-detach", text, "rnn", "detach()")
def state_scaled_and_not_detached(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = tuple(0.9 * part for part in h)
        score(logits, y).backward()
        s.optimizer.step()


@loop("carry-dropped", text, "rnn", "h.detach()")
def chunks_in_order_and_no_state(s):
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, _ = s.model(x)
        score(logits, y).backward()
        s.optimizer.step()


@loop("carry-dropped", lambda: text(batch_first=False, layer=nn.GRU), "rnn", "h.detach()")
def time_first_chunks_and_no_state(s):
    rows = s.text.t().contiguous()
    for i in range(s.updates):
        x, y = rows[i * 20 : i * 20 + 20], rows[i * 20 + 1 : i * 20 + 21]
        s.optimizer.zero_grad()
        logits, _ = s.model(x, None)
        score(logits, y).backward()
        s.optimizer.step()


@loop("carry-over-unrelated", text, "rnn", "h = None")
def random_chunks_and_the_state_kept(s):
    h = None
    for _ in range(s.updates):
        a = int(torch.randint(3900, ()))
        x, y = s.text[:, a : a + STEPS], s.text[:, a + 1 : a + STEPS + 1]
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits, y).backward()
        s.optimizer.step()


@loop("carry-over-unrelated", text, "rnn", "shuffle=False")
def shuffled_loader_and_the_state_kept(s):
    pieces = s.text.reshape(-1)[:1600].view(-1, STEPS)
    loader = DataLoader(TensorDataset(pieces), LANES, shuffle=True, drop_last=True)
    h = None
    for (x,) in loader:
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits[:, :-1], x[:, 1:]).backward()
        s.optimizer.step()


@loop("carry-over-unrelated", text, "rnn", "reset=mask")
def a_new_document_and_the_old_state(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.guard.new_sequence(i % 3 == 0)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits, y).backward()
        s.optimizer.step()


@loop("lane-shuffled", text, "rnn", "view(lanes, -1)")
def consecutive_pieces_as_lanes(s):
    pieces = s.text.reshape(-1)[:1600].view(-1, STEPS)
    h = None
    for i in range(s.updates):
        x = pieces[i * LANES : (i + 1) * LANES]
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits[:, :-1], x[:, 1:]).backward()
        s.optimizer.step()


@loop("lane-shuffled", text, "rnn", "drop_last=True")
def state_cut_to_the_last_batch(s):
    pieces = s.text.reshape(-1)[: 26 * STEPS].view(-1, STEPS)
    for _ in range(2):
        h = None
        for (x,) in DataLoader(TensorDataset(pieces), LANES):
            if h is not None and len(x) < LANES:
                h = tuple(part[:, : len(x)] for part in h)
            s.optimizer.zero_grad()
            logits, h = s.model(x, h)
            h = detach(h)
            score(logits[:, :-1], x[:, 1:]).backward()
            s.optimizer.step()


# Clipping.


@loop("clip-after-step", last, write="in this order")
def clipped_after_the_step(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()
        clip_grad_norm_(s.model.parameters(), 1.0)


@loop("clip-before-backward", last, write="in this order")
def clipped_before_backward(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        loss = F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8])
        nn.utils.clip_grad_norm_(s.model.parameters(), 1.0)
        loss.backward()
        s.optimizer.step()


@loop("clip-before-backward", last, write="in this order")
def old_gradient_clipped_before_backward(s):
    for i in range(s.updates):
        loss = F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8])
        if i:
            nn.utils.clip_grad_value_(s.model.parameters(), 0.1)
        s.optimizer.zero_grad()
        loss.backward()
        s.optimizer.step()


@loop("clip-scaled", last, write="unscale_")
def clipped_while_scaled(s):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i in range(s.updates):
        s.optimizer.zero_grad()
        loss = F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8])
        scaler.scale(loss).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        scaler.step(s.optimizer)
        scaler.update()


@loop("always-clipped", last, write="clip_grad_norm_")
def threshold_far_too_low(s):
    for i in range(110):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        clip_grad_norm_(s.model.parameters(), 1e-3)
        s.optimizer.step()


@loop("never-near", last, write="clip_grad_norm_")
def threshold_far_too_high(s):
    for i in range(110):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        clip_grad_norm_(s.model.parameters(), 1e4)
        s.optimizer.step()


# The update.


@loop("zero-grad-missing", last, write="zero_grad()")
def zero_grad_forgotten(s):
    for i in range(s.updates):
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop("zero-grad-missing", last, write="zero_grad()")
def zero_grad_between_backward_passes_of_another_model(s):
    other = torch.optim.SGD(Last().parameters(), 0.1)
    for i in range(s.updates):
        other.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop("two-steps", last, write="one optimizer.step()")
def stepped_twice(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()
        s.optimizer.step()


def _only_the_head():
    model = Last()
    return Setting(model, torch.optim.SGD(model.out.parameters(), 0.1))


@loop("frozen-recurrent", _only_the_head, "rnn", "model.parameters()")
def optimizer_holds_the_head_alone(s):
    for i in range(s.updates):
        s.model.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


def _replaced():
    setting = last()
    setting.model.rnn = nn.LSTM(3, 16, batch_first=True)
    return setting


@loop("frozen-recurrent", _replaced, "rnn", "model.parameters()")
def layer_replaced_after_the_optimizer_was_made(s):
    for i in range(s.updates):
        s.model.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop("loss-scale-by-length", text, "model", "terms")
def means_of_unequal_chunks_added(s):
    for u in range(6):
        s.optimizer.zero_grad()
        h, a = None, u * 50
        for steps in (20, 20, 5):
            x, y = s.text[:, a : a + steps], s.text[:, a + 1 : a + steps + 1]
            logits, h = s.model(x, h)
            h = detach(h)
            score(logits, y).backward()
            a += steps
        s.optimizer.step()


@loop("loss-scale-by-length", last, "model", "terms")
def mean_divided_once_more(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        loss = F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8])
        (loss / 8).backward()
        s.optimizer.step()


# Batches and modes.


@loop("padding-in-loss", text, "model", "ignore_index")
def padding_scored(s):
    for i in range(s.updates):
        x, y = s.chunk(i)
        lengths = torch.tensor([20, 15, 9, 4])
        s.guard.lengths(lengths)
        x = x.masked_fill(torch.arange(STEPS) >= lengths[:, None], 0)
        s.optimizer.zero_grad()
        logits, _ = s.model(x.clone())
        score(logits, y).backward()
        s.optimizer.step()


@loop("padding-in-state", last, "rnn", "lengths")
def final_state_after_padding(s):
    for i in range(s.updates):
        s.guard.lengths([20, 15, 9, 4])
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 4]), s.label[i : i + 4]).backward()
        s.optimizer.step()


@loop("eval-mode", lambda: last(dropout=0.3), "model", "model.train()")
def eval_before_and_never_train_again(s):
    for i in range(s.updates):
        s.model.eval()
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop("eval-mode", lambda: last(dropout=0.3), "model", "model.eval()")
def evaluated_with_dropout(s):
    for i in range(4):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()
    with torch.no_grad():
        for i in range(8):
            s.model(s.x[i * 8 : i * 8 + 8])


@loop("state-in-eval", text, "rnn", "h = None")
def evaluated_from_the_state_of_training(s):
    h = None
    for i in range(4):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits, y).backward()
        s.optimizer.step()
    s.model.eval()
    with torch.no_grad():
        s.model(s.text[:, 3000:3020], h)


# Numbers.


@loop("not-finite", last, "rnn", "clip_grad_norm_")
def an_infinite_input(s):
    for i in range(s.updates):
        x = s.x[i : i + 8].clone()
        if i == 5:
            x[2, 7, 1] = float("inf")
            x[3, 9, 1] = float("nan")
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(x), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop("not-finite", lambda: last(layer=nn.RNN), "rnn", "clip_grad_norm_")
def weights_that_overflow(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        loss = F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8])
        (loss * (1e30 if i == 6 else 1.0) * (1e30 if i == 6 else 1.0)).backward()
        s.optimizer.step()


@loop("spike-stays", last, write="checkpoint")
def one_batch_that_ruins_the_weights(s):
    for i in range(100):
        x, y = s.x[i : i + 8], s.label[i : i + 8]
        s.optimizer.zero_grad()
        (F.cross_entropy(s.model(x), y) * (1.0 if i < 60 else 500.0)).backward()
        s.optimizer.step()


@loop("spike", last, write="clip_grad_norm_")
def one_spike_that_nothing_clips(s):
    for i in range(100):
        x, y = s.x[i : i + 8], s.label[i : i + 8]
        s.optimizer.zero_grad()
        (F.cross_entropy(s.model(x), y) * (500.0 if i == 60 else 1.0)).backward()
        s.optimizer.step()


@loop("norm-grows", last, write="start_recurrent")
def a_norm_that_grows_without_end(s):
    for i in range(205):
        x, y = s.x[i % 200 : i % 200 + 8], s.label[i % 200 : i % 200 + 8]
        s.optimizer.zero_grad()
        (F.cross_entropy(s.model(x), y) * 1.03**i).backward()
        s.optimizer.step()


@loop("near-zero", lambda: last(layer=nn.RNN), "model", "LSTM")
def nothing_arrives(s):
    with torch.no_grad():
        for p in s.model.rnn.parameters():
            p.mul_(1e-3)
        s.model.out.weight.mul_(1e-9)
        s.model.out.bias.zero_()
    s.model.out.bias.requires_grad_(False)
    s.model.out.weight.requires_grad_(False)
    for i in range(60):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop("saturated", lambda: last(layer=nn.RNN), "rnn", "spread")
def inputs_a_thousand_times_too_large(s):
    for i in range(25):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(1000 * s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


def _dead():
    setting = last(layer=lambda i, h, **o: nn.RNN(i, h, nonlinearity="relu", **o))
    with torch.no_grad():
        setting.model.rnn.bias_ih_l0[:12] = -100.0
    return setting


@loop("dead-units", _dead, "rnn", "reset_parameters")
def relu_units_that_are_never_on(s):
    for i in range(25):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()
