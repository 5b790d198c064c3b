"""Loops of tutorials over time: replay, actor and critic, forecasting, second order."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.utils.data import DataLoader, TensorDataset

from guard_settings import LANES, Setting, detach
from tutorial_entries import faulty, healthy
from tutorial_texts import zeros

# Replay of episodes, a target network, burn-in.


class Q(nn.Module):
    """Observations to values of five actions."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x, hidden=None):
        """(B, T, 3) to (B, T, 5) and the state."""
        y, hidden = self.lstm(x, hidden)
        return self.head(y), hidden


def replay():
    torch.manual_seed(1)
    model = Q()
    return Setting(model, torch.optim.Adam(model.parameters(), 1e-3))


def q_loss(s, target, rows):
    """A step of learning from whole episodes that were drawn at random."""
    x = s.x[rows]
    with torch.no_grad():
        _, burnt = s.model(x[:, :5])
        _, there = target(x[:, :5])
        value = target(x[:, 5:], there)[0].max(-1).values
    q = s.model(x[:, 5:], burnt)[0][..., 0]
    return F.smooth_l1_loss(q[:, :-1], 1.0 + 0.9 * value[:, 1:])


def learn_from_replay(s, target):
    """Act for some steps, then learn; the target follows now and then."""
    hidden = None
    for i in range(120):
        with torch.no_grad():
            _, hidden = s.model(s.x[i % 200 : i % 200 + 1, i % 20][:, None], hidden)
        if i % 40 == 39:
            hidden = None
            target.load_state_dict(s.model.state_dict())
        if i < 8:
            continue
        s.optimizer.zero_grad()
        q_loss(s, target, torch.randint(200, (8,))).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()


@healthy(replay)
def replay_with_a_target_network_and_burn_in(s):
    learn_from_replay(s, copy.deepcopy(s.model))


def replay_of_the_target():
    setting = replay()
    setting.target = copy.deepcopy(setting.model)
    setting.optimizer = torch.optim.Adam(setting.target.parameters(), 1e-3)
    return setting


@faulty("frozen-recurrent", replay_of_the_target, "lstm", "model.parameters()")
def the_optimizer_holds_the_target_network(s):
    for _ in range(20):
        s.model.zero_grad()
        q_loss(s, s.target, torch.randint(200, (8,))).backward()
        s.optimizer.step()


# Actor and critic, masks at the ends of episodes.


class Actor(nn.Module):
    """A cell, a policy, a value."""

    def __init__(self):
        super().__init__()
        self.lstm, self.policy, self.value = nn.LSTMCell(3, 16), nn.Linear(16, 5), nn.Linear(16, 1)

    def forward(self, x, state):
        """(B, 3) to logits, values and the state."""
        h, c = self.lstm(x, state)
        return self.policy(h), self.value(h), (h, c)


def actor():
    torch.manual_seed(1)
    model = Actor()
    return Setting(model, torch.optim.RMSprop(model.parameters(), 7e-4))


def rollout(s, i, state):
    """Five steps of eight actors: the loss and the state."""
    loss = 0
    for t in range(5):
        logits, value, state = s.model(s.x[i : i + 8, t], state)
        mask = (torch.arange(8) != (i + t) % 8).float()[:, None]
        state = tuple(p * mask for p in state)
        chosen = torch.distributions.Categorical(logits=logits)
        action, gain = chosen.sample(), s.x[i : i + 8, t, 0] - value[:, 0]
        loss = loss - (chosen.log_prob(action) * gain.detach()).mean() + 0.5 * gain.pow(2).mean()
        loss = loss - 0.01 * chosen.entropy().mean()
    return loss, state


@healthy(actor)
def actor_and_critic_with_masks(s):
    state = (torch.zeros(8, 16), torch.zeros(8, 16))
    for i in range(80):
        loss, state = rollout(s, i, state)
        s.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(s.model.parameters(), 0.5)
        s.optimizer.step()
        state = tuple(p.detach() for p in state)


@faulty("missing-detach", actor, "lstm", "detach()")
def actor_whose_state_runs_on_over_rollouts(s):
    state = (torch.zeros(8, 16), torch.zeros(8, 16))
    for i in range(80):
        loss, state = rollout(s, i, state)
        s.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(s.model.parameters(), 0.5)
        s.optimizer.step()


# Forecasting: windows of a series, stateful or not.


class Forecast(nn.Module):
    """A window and a state to the next value."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(1, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, x, h=None):
        """(B, T, 1) to (B, 1) and the state."""
        y, h = self.lstm(x, h)
        return self.head(y[:, -1]), h


def forecast():
    torch.manual_seed(1)
    model = Forecast()
    setting = Setting(model, torch.optim.Adam(model.parameters(), 1e-3))
    wave = torch.sin(torch.arange(LANES * 420) / 9.0)
    setting.series = (wave + 0.1 * torch.randn(LANES * 420)).view(LANES, 420, 1)
    return setting


@healthy(forecast)
def stateful_forecasting(s):
    for _ in range(3):
        h = None
        for i in range(0, 400, 20):
            s.optimizer.zero_grad()
            y, h = s.model(s.series[:, i : i + 20], h)
            h = detach(h)
            F.mse_loss(y, s.series[:, i + 20]).backward()
            s.optimizer.step()


def windows(s):
    """Windows and what follows each."""
    line = s.series.reshape(-1)
    x = line.unfold(0, 20, 5)[:-1]
    return TensorDataset(x[..., None].clone(), line[20::5][: len(x), None].clone())


@healthy(forecast)
def shuffled_windows_and_a_validation_set(s):
    rows = windows(s)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(s.optimizer)
    for _ in range(2):
        s.model.train()
        for x, y in DataLoader(rows, 32, shuffle=True):
            s.optimizer.zero_grad()
            F.mse_loss(s.model(x)[0], y).backward()
            s.optimizer.step()
        s.model.eval()
        with torch.no_grad():
            scores = [F.mse_loss(s.model(x)[0], y) for x, y in DataLoader(rows, 64)]
        schedule.step(torch.stack(scores).mean())


@faulty("carry-over-unrelated", forecast, "lstm", "shuffle=False")
def shuffled_windows_and_the_state_kept(s):
    h = None
    for x, y in DataLoader(windows(s), 16, shuffle=True, drop_last=True):
        s.optimizer.zero_grad()
        out, h = s.model(x, h)
        h = detach(h)
        F.mse_loss(out, y).backward()
        s.optimizer.step()


@faulty("carry-dropped", forecast, "lstm", "h.detach()")
def stateful_forecasting_that_starts_anew(s):
    for i in range(0, 400, 20):
        s.optimizer.zero_grad()
        y, _ = s.model(s.series[:, i : i + 20], zeros(s.model, LANES))
        F.mse_loss(y, s.series[:, i + 20]).backward()
        s.optimizer.step()


# Second order: waves, two cells, a closure.


class Waves(nn.Module):
    """Two cells in a row, and on into the future by itself."""

    def __init__(self):
        super().__init__()
        self.lstm1, self.lstm2, self.linear = (
            nn.LSTMCell(1, 12),
            nn.LSTMCell(12, 12),
            nn.Linear(12, 1),
        )

    def forward(self, x, future=0):
        """(B, T) to (B, T + future)."""
        one = two = None
        found = []
        for value in x.split(1, dim=1):
            one = self.lstm1(value, one)
            two = self.lstm2(one[0], two)
            found.append(self.linear(two[0]))
        for _ in range(future):
            one = self.lstm1(found[-1], one)
            two = self.lstm2(one[0], two)
            found.append(self.linear(two[0]))
        return torch.cat(found, dim=1)


def waves():
    torch.manual_seed(0)
    model = Waves().double()
    setting = Setting(model, torch.optim.LBFGS(model.parameters(), lr=0.8, max_iter=4))
    setting.wave = torch.sin((torch.arange(24.0) + 3 * torch.arange(6.0)[:, None]) / 4).double()
    return setting


@healthy(waves)
def waves_by_a_second_order_optimizer(s):
    x, y = s.wave[3:, :-1], s.wave[3:, 1:]

    def closure():
        s.optimizer.zero_grad()
        loss = F.mse_loss(s.model(x), y)
        loss.backward()
        return loss

    for _ in range(8):
        s.optimizer.step(closure)
        with torch.no_grad():
            F.mse_loss(s.model(s.wave[:3, :-1], future=10)[:, :-10], s.wave[:3, 1:])


@faulty("zero-grad-missing", waves, write="zero_grad()")
def a_closure_that_zeroes_nothing(s):
    x, y = s.wave[3:, :-1], s.wave[3:, 1:]

    def closure():
        loss = 1e-3 * F.mse_loss(s.model(x), y)
        loss.backward()
        return loss

    for _ in range(8):
        s.optimizer.step(closure)
