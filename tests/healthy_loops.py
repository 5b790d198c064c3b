"""Thirty training loops without a mistake: a guard has nothing to say of them."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, TensorDataset

import bptt
from bptt.gradients import Checkpointed, ForwardMode, Full, Randomized, Truncated, Windowed
from guard_settings import LANES, STEPS, VOCABULARY, Setting, detach, last, score, stepped, text

LOOPS = {}


def loop(setting):
    """Enter a loop into the list."""

    def enter(run):
        LOOPS[run.__name__] = (run, setting)
        return run

    return enter


@loop(text)
def sequential_chunks_with_the_state_detached(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits, y).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()


@loop(lambda: text(layer=nn.GRU, batch_first=False))
def time_first_and_detached_in_the_call(s):
    rows, h = s.text.t().contiguous(), torch.zeros(1, LANES, 16)
    for i in range(s.updates):
        x, y = rows[i * 20 : i * 20 + 20], rows[i * 20 + 1 : i * 20 + 21]
        s.optimizer.zero_grad()
        logits, h = s.model(x, h.detach())
        score(logits, y).backward()
        s.optimizer.step()


@loop(text)
def random_chunks_without_a_state(s):
    for _ in range(s.updates):
        a = int(torch.randint(3900, ()))
        s.optimizer.zero_grad()
        logits, _ = s.model(s.text[:, a : a + STEPS])
        score(logits, s.text[:, a + 1 : a + STEPS + 1]).backward()
        s.optimizer.step()


@loop(text)
def shuffled_loader_without_a_state(s):
    pieces = s.text.reshape(-1)[:1600].view(-1, STEPS)
    for (x,) in DataLoader(TensorDataset(pieces), LANES, shuffle=True):
        s.optimizer.zero_grad()
        logits, _ = s.model(x)
        score(logits[:, :-1], x[:, 1:]).backward()
        s.optimizer.step()


@loop(text)
def ordered_loader_with_the_state(s):
    # Rows are laid so that each lane goes on in the next batch.
    pieces = s.text[:, :2000].reshape(LANES, -1, STEPS).transpose(0, 1).reshape(-1, STEPS)
    h = None
    for (x,) in DataLoader(TensorDataset(pieces), LANES):
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits[:, :-1], x[:, 1:]).backward()
        s.optimizer.step()


@loop(text)
def two_passes_over_the_text_with_fresh_states(s):
    for _ in range(2):
        h = None
        for i in range(s.updates):
            x, y = s.chunk(i)
            s.optimizer.zero_grad()
            logits, h = s.model(x, h)
            h = detach(h)
            score(logits, y).backward()
            s.optimizer.step()


@loop(text)
def windows_that_overlap(s):
    # k1 = 5, k2 = 20: each window begins with the state of 15 steps before.
    states = [None]
    for i in range(30):
        x, y = s.chunk(i, 5)
        s.optimizer.zero_grad()
        h = states[max(0, len(states) - 4)]
        a = max(0, i - 3) * 5
        logits, _ = s.model(s.text[:, a : i * 5 + 5], h)
        score(logits[:, -5:], y).backward()
        s.optimizer.step()
        with torch.no_grad():
            states.append(detach(s.model(x, states[-1])[1]))


@loop(text)
def state_as_a_leaf_and_gradient_handed_back(s):
    # Three chunks an update: states are leaves, and their gradient goes back from chunk to chunk.
    carried = None
    for u in range(6):
        s.optimizer.zero_grad()
        given, returned, losses = [], [], []
        for i in range(3):
            x, y = s.chunk(3 * u + i)
            leaf = (
                None if carried is None else tuple(p.detach().requires_grad_(True) for p in carried)
            )
            logits, carried = s.model(x, leaf)
            given.append(leaf)
            returned.append(carried)
            losses.append(score(logits, y))
        for i in (2, 1, 0):
            losses[i].backward(retain_graph=True)
            if i:
                torch.autograd.backward(
                    returned[i - 1], [p.grad for p in given[i]], retain_graph=True
                )
        s.optimizer.step()


@loop(text)
def gradients_of_four_chunks_accumulated(s):
    h = None
    for u in range(6):
        s.optimizer.zero_grad()
        for i in range(4):
            x, y = s.chunk(4 * u + i)
            logits, h = s.model(x, h)
            h = detach(h)
            (score(logits, y) / 4).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()


@loop(text)
def unequal_chunks_weighed_by_their_length(s):
    h, a = None, 0
    for _ in range(6):
        s.optimizer.zero_grad()
        for steps in (20, 13, 5):
            x, y = s.text[:, a : a + steps], s.text[:, a + 1 : a + steps + 1]
            logits, h = s.model(x, h)
            h = detach(h)
            (score(logits, y) * steps / 38).backward()
            a += steps
        s.optimizer.step()


@loop(last)
def whole_sequences_and_their_class(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()


@loop(last)
def zeros_kept_in_place(s):
    for i in range(s.updates):
        s.optimizer.zero_grad(set_to_none=False)
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop(last)
def zeroed_after_the_step(s):
    for i in range(s.updates):
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()
        s.model.zero_grad()


@loop(lambda: last(dropout=0.3))
def training_and_evaluation_in_turns(s):
    for _ in range(3):
        s.model.train()
        for i in range(s.updates):
            s.optimizer.zero_grad()
            F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
            s.optimizer.step()
        s.model.eval()
        with torch.no_grad():
            for i in range(5):
                s.model(s.x[i * 8 : i * 8 + 8])


@loop(text)
def evaluation_from_a_state_of_its_own(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits, y).backward()
        s.optimizer.step()
        if i % 4 == 3:
            s.model.eval()
            other = None
            with torch.inference_mode():
                for j in range(3):
                    _, other = s.model(s.text[:, 3000 + 20 * j : 3020 + 20 * j], other)
            s.model.train()


@loop(stepped)
def a_cell_in_a_loop(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        y, _ = s.model(s.x[i * 4 : i * 4 + 4].transpose(0, 1))
        y.square().mean().backward()
        s.optimizer.step()


@loop(lambda: stepped(cell=nn.LSTMCell))
def an_lstm_cell_with_its_state_detached(s):
    h = None
    x = s.x[:LANES].transpose(0, 1)
    for _ in range(s.updates):
        s.optimizer.zero_grad()
        y, h = s.model(x, h)
        h = detach(h)
        y.square().mean().backward()
        s.optimizer.step()


def _pair():
    setting = last()
    setting.critic = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
    setting.second = torch.optim.Adam(setting.critic.parameters(), 1e-3)
    return setting


@loop(_pair)
def generator_and_critic(s):
    for i in range(s.updates):
        x = s.x[i : i + 8]
        s.second.zero_grad()
        loss = s.critic(s.model(x).detach()).mean() - s.critic(torch.randn(8, 5)).mean()
        loss.backward()
        s.second.step()
        s.optimizer.zero_grad()
        (-s.critic(s.model(x)).mean()).backward()
        s.optimizer.step()


def _recurrent_critic():
    setting = last()
    setting.generator = nn.GRU(4, 3, batch_first=True)
    setting.second = torch.optim.Adam(setting.generator.parameters(), 1e-3)
    return setting


@loop(_recurrent_critic)
def a_critic_that_gets_its_generators_gradients_too(s):
    for i in range(s.updates):
        fake, _ = s.generator(torch.randn(8, STEPS, 4))
        s.optimizer.zero_grad()
        (s.model(fake.detach()).mean() - s.model(s.x[i : i + 8]).mean()).backward()
        s.optimizer.step()
        s.second.zero_grad()
        (-s.model(fake).mean()).backward()
        s.second.step()


@loop(last)
def scaled_and_unscaled_before_clipping(s):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i in range(s.updates):
        s.optimizer.zero_grad()
        loss = F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8])
        scaler.scale(loss).backward()
        scaler.unscale_(s.optimizer)
        clip_grad_norm_(s.model.parameters(), 1.0)
        scaler.step(s.optimizer)
        scaler.update()


@loop(last)
def autocast_to_bfloat16(s):
    for i in range(s.updates):
        s.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(s.model(s.x[i : i + 8]).float(), s.label[i : i + 8])
        loss.backward()
        s.optimizer.step()


@loop(text)
def padding_ignored_by_the_loss(s):
    for i in range(s.updates):
        x, y = s.chunk(i)
        lengths = torch.tensor([20, 15, 9, 4])
        s.guard.lengths(lengths)
        padded = torch.arange(STEPS) >= lengths[:, None]
        s.optimizer.zero_grad()
        logits, _ = s.model(x.masked_fill(padded, 0))
        score(logits, y.masked_fill(padded, -100)).backward()
        s.optimizer.step()


class _Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(3, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x, lengths):
        _, (h, _) = self.rnn(
            pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        )
        return self.out(h[-1])


def _packed():
    model = _Packed()
    return Setting(model, torch.optim.Adam(model.parameters(), 1e-3))


@loop(_packed)
def packed_sequences(s):
    for i in range(s.updates):
        lengths = torch.tensor([7, 20, 3, 12])
        x = pad_sequence([s.x[i + j, :n] for j, n in enumerate(lengths)], batch_first=True)
        s.guard.lengths(lengths)
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(x, lengths), s.label[i : i + 4]).backward()
        s.optimizer.step()


@loop(text)
def documents_that_begin_with_a_fresh_state(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        begins = i % 3 == 0
        s.guard.new_sequence(begins)
        s.optimizer.zero_grad()
        logits, h = s.model(x, None if begins else h)
        h = detach(h)
        score(logits, y).backward()
        s.optimizer.step()


@loop(text)
def one_lane_begins_and_the_others_go_on(s):
    h = None
    for i in range(s.updates):
        x, y = s.chunk(i)
        begins = torch.tensor([i % 3 == 0, False, False, False])
        s.guard.new_sequence(begins)
        s.optimizer.zero_grad()
        if h is not None:
            h = tuple(p * ~begins[None, :, None] for p in h)
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits, y).backward()
        s.optimizer.step()


@loop(last)
def second_order_optimizer_with_a_closure(s):
    optimizer = torch.optim.LBFGS(s.model.parameters(), lr=0.1, max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(s.model(s.x[:8]), s.label[:8])
        loss.backward()
        return loss

    for _ in range(6):
        optimizer.step(closure)


@loop(last)
def a_frozen_layer_by_choice(s):
    s.model.rnn.requires_grad_(False)
    for i in range(s.updates):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()


@loop(last)
def one_optimizer_for_each_part(s):
    body = torch.optim.Adam(s.model.rnn.parameters(), 1e-3)
    head = torch.optim.SGD(s.model.out.parameters(), 1e-2)
    for i in range(s.updates):
        body.zero_grad()
        head.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        clip_grad_norm_(s.model.rnn.parameters(), 1.0)
        body.step()
        clip_grad_norm_(s.model.out.parameters(), 1.0)
        head.step()


@loop(last)
def clipped_by_hand_now_and_then(s):
    for i in range(120):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        for p in s.model.parameters():
            p.grad.data.clamp_(-0.5, 0.5)
        s.optimizer.step()


@loop(last)
def three_hundred_quiet_updates(s):
    for i in range(300):
        a = i % 240
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[a : a + 16]), s.label[a : a + 16]).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()


def _ours(estimator, layer=None):
    def setting():
        torch.manual_seed(1)
        model = (layer or bptt.nn.GRU)(VOCABULARY, 8)
        made = Setting(model, torch.optim.SGD(model.parameters(), 0.05))
        made.estimator = estimator()
        return made

    return setting


def _by_estimator(s):
    carry, model, optimizer = None, s.model, s.optimizer
    rows = F.one_hot(s.text.t(), VOCABULARY).float()
    for i in range(s.updates):
        x, y = rows[i * 20 : i * 20 + 20], torch.randn(20, LANES, 8)
        optimizer.zero_grad()
        step = s.estimator.backward(model, x, y, carry, loss=F.mse_loss)
        carry = step.carry
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


for _name, _estimator in {
    "full": Full,
    "truncated": lambda: Truncated(k=5),
    "windowed": lambda: Windowed(k1=5, k2=10),
    "checkpointed": Checkpointed,
    "randomized": lambda: Randomized(k=5),
    "forward_mode": ForwardMode,
}.items():
    LOOPS[f"our_estimator_{_name}"] = (_by_estimator, _ours(_estimator))
