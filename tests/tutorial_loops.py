"""Training loops in the patterns of well known tutorials and examples, healthy ones and faulty ones.

Language models over lanes, character models in random pieces, a cell of one's own, encoders and decoders,
replay, actor and critic, forecasting, second order, checkpointing, wrappers, copies. Written anew.
"""

import copy
import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

import faulty_loops
from guard_settings import LANES, VOCABULARY, Setting, Text, detach, last, score, text

HEALTHY: dict = {}
FAULTY: dict = {}


def healthy(setting):
    """Enter a loop without a mistake."""

    def enter(run):
        HEALTHY[run.__name__] = (run, setting)
        return run

    return enter


def faulty(code, setting, module="optimizer", write=""):
    """Enter a loop with one."""

    def enter(run):
        FAULTY[run.__name__] = faulty_loops.Loop(run, setting, code, module, write, {})
        return run

    return enter


# A language model over lanes, time first, annealed and scored after each pass.


def word_model():
    torch.manual_seed(1)
    model = Text(layer=nn.LSTM, dropout=0.2, batch_first=False)
    return Setting(model, torch.optim.SGD(model.parameters(), 1.0))


def repackage(h):
    """As that example writes it."""
    return h.detach() if isinstance(h, torch.Tensor) else tuple(repackage(v) for v in h)


def zeros(model, lanes):
    """A first state for an LSTM of one layer."""
    weight = next(model.parameters())
    return weight.new_zeros(1, lanes, 16), weight.new_zeros(1, lanes, 16)


@healthy(word_model)
def word_language_model(s):
    source, held = s.text.t()[:401].contiguous(), s.text.t()[500:601].contiguous()
    best, rate = None, 1.0
    for _ in range(3):
        s.model.train()
        h = zeros(s.model, LANES)
        for i in range(0, 400, 20):
            x, y = source[i : i + 20], source[i + 1 : i + 21]
            s.model.zero_grad()
            h = repackage(h)
            logits, h = s.model(x, h)
            score(logits, y).backward()
            clip_grad_norm_(s.model.parameters(), 0.25)
            s.optimizer.step()
        s.model.eval()
        total, h = 0.0, zeros(s.model, LANES)
        with torch.no_grad():
            for i in range(0, 100, 20):
                logits, h = s.model(held[i : i + 20], h)
                h = repackage(h)
                total += score(logits, held[i + 1 : i + 21]).item()
        if best is None or total < best:
            best, kept = total, io.BytesIO()
            torch.save(s.model, kept)  # the whole model, as that example does
        else:
            rate /= 4
            s.optimizer.param_groups[0]["lr"] = rate
    kept.seek(0)
    torch.load(kept, weights_only=False).eval()


@faulty("missing-detach", word_model, "rnn", "detach()")
def word_language_model_without_repackaging(s):
    source = s.text.t()[:401].contiguous()
    h = zeros(s.model, LANES)
    for i in range(0, 400, 20):
        s.model.zero_grad()
        logits, h = s.model(source[i : i + 20], h)
        score(logits, source[i + 1 : i + 21]).backward()
        clip_grad_norm_(s.model.parameters(), 0.25)
        s.optimizer.step()


# Characters, one step of a layer at a time, random pieces.


class Characters(nn.Module):
    """One token to logits."""

    def __init__(self):
        super().__init__()
        self.encoder, self.gru = nn.Embedding(VOCABULARY, 8), nn.GRU(8, 16, 2, dropout=0.1)
        self.decoder = nn.Linear(16, VOCABULARY)

    def forward(self, token, hidden):
        """Logits (B, V) and the state."""
        output, hidden = self.gru(self.encoder(token)[None], hidden)
        return self.decoder(output[0]), hidden


def characters():
    torch.manual_seed(1)
    model = Characters()
    return Setting(model, torch.optim.Adam(model.parameters(), 0.005))


def piece(s, steps=12):
    """A random piece of each lane."""
    a = int(torch.randint(3900, ()))
    return s.text[:, a : a + steps], s.text[:, a + 1 : a + steps + 1]


@healthy(characters)
def characters_in_random_pieces_and_samples(s):
    for i in range(30):
        x, y = piece(s)
        hidden, loss = torch.zeros(2, LANES, 16), 0
        s.model.zero_grad()
        for c in range(12):
            logits, hidden = s.model(x[:, c], hidden)
            loss += F.cross_entropy(logits, y[:, c])
        loss.backward()
        s.optimizer.step()
        if i % 10 == 9:  # a sample
            s.model.eval()
            token, hidden = torch.zeros(1, dtype=torch.long), torch.zeros(2, 1, 16)
            with torch.no_grad():
                for _ in range(8):
                    logits, hidden = s.model(token, hidden)
                    token = torch.multinomial(logits.softmax(-1), 1)[0]
            s.model.train()


@faulty("missing-detach", characters, "gru", "detach()")
def characters_and_a_hidden_state_made_once(s):
    hidden = torch.zeros(2, LANES, 16)
    for _ in range(30):
        x, y = piece(s)
        s.model.zero_grad()
        loss = 0
        for c in range(12):
            logits, hidden = s.model(x[:, c], hidden)
            loss += F.cross_entropy(logits, y[:, c])
        loss.backward()
        s.optimizer.step()


# A cell of one's own: names and their languages.


class OwnCell(nn.Module):
    """(x, h) to (class, h), from two linear layers."""

    def __init__(self):
        super().__init__()
        self.i2h, self.i2o = nn.Linear(3 + 16, 16), nn.Linear(3 + 16, 5)

    def forward(self, x, hidden):
        """Log probabilities and the state."""
        both = torch.cat((x, hidden), 1)
        return F.log_softmax(self.i2o(both), 1), torch.tanh(self.i2h(both))


def own_cell():
    torch.manual_seed(1)
    model = OwnCell()
    return Setting(model, torch.optim.SGD(model.parameters(), 0.005))


@healthy(own_cell)
def names_by_a_cell_of_ones_own(s):
    for i in range(60):
        hidden = torch.zeros(1, 16)
        s.optimizer.zero_grad()
        for t in range(3 + i % 7):
            output, hidden = s.model(s.x[i : i + 1, t], hidden)
        F.nll_loss(output, s.label[i : i + 1]).backward()
        s.optimizer.step()


@faulty("missing-detach", own_cell, "model", "detach()")
def names_and_a_hidden_state_made_once(s):
    hidden = torch.zeros(1, 16)
    for i in range(60):
        s.optimizer.zero_grad()
        for t in range(3 + i % 7):
            output, hidden = s.model(s.x[i : i + 1, t], hidden)
        F.nll_loss(output, s.label[i : i + 1]).backward()
        s.optimizer.step()


# Encoder and decoder, teacher forcing at times, an optimiser each.


class Decoder(nn.Module):
    """One token and the state to logits and the state."""

    def __init__(self):
        super().__init__()
        self.embed, self.gru = nn.Embedding(VOCABULARY, 8), nn.GRU(8, 16, batch_first=True)
        self.out = nn.Linear(16, VOCABULARY)

    def forward(self, token, hidden):
        """(B, 1) to (B, V)."""
        y, hidden = self.gru(F.relu(self.embed(token)), hidden)
        return self.out(y[:, 0]), hidden


class Encoder(nn.Module):
    """Tokens to outputs and a state."""

    def __init__(self):
        super().__init__()
        self.embed, self.gru = nn.Embedding(VOCABULARY, 8), nn.GRU(8, 16, batch_first=True)
        self.drop = nn.Dropout(0.1)

    def forward(self, x):
        """(B, T) to (B, T, H) and the state."""
        return self.gru(self.drop(self.embed(x)))


def translator():
    torch.manual_seed(1)
    both = nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()})
    optimizers = [torch.optim.Adam(m.parameters(), 1e-3) for m in both.values()]
    return Setting(both, optimizers)


def translate(s, i):
    """The loss of one batch of sentences."""
    x, y = s.text[:, 9 * i : 9 * i + 9], s.text[:, 9 * i + 2 : 9 * i + 8]
    _, hidden = s.model["encoder"](x)
    token, loss = torch.zeros(LANES, 1, dtype=torch.long), 0
    for t in range(y.shape[1]):
        logits, hidden = s.model["decoder"](token, hidden)
        loss = loss + F.cross_entropy(logits, y[:, t])
        token = y[:, t : t + 1] if i % 2 else logits.topk(1)[1].detach()
    return loss / y.shape[1]


@healthy(translator)
def teacher_forcing_with_two_optimizers(s):
    for i in range(40):
        for optimizer in s.optimizer:
            optimizer.zero_grad()
        translate(s, i).backward()
        for optimizer in s.optimizer:
            optimizer.step()


def translator_of_one():
    setting = translator()
    setting.optimizer = setting.optimizer[1]
    return setting


@faulty("frozen-recurrent", translator_of_one, "encoder.gru", "model.parameters()")
def the_encoder_has_no_optimizer(s):
    for i in range(20):
        s.model.zero_grad()
        translate(s, i).backward()
        s.optimizer.step()


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


# Around the model: checkpointing, wrappers, a compiler, copies, frozen parts, groups.


@healthy(text)
def segments_recomputed_in_the_backward_pass(s):
    h = None
    for i in range(20):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        one, h = checkpoint(s.model, x[:, :10], h, use_reentrant=False)
        two, h = checkpoint(s.model, x[:, 10:], h, use_reentrant=False)
        h = detach(h)
        score(torch.cat((one, two), 1), y).backward()
        s.optimizer.step()


def wrapped():
    setting = text()
    setting.model = nn.DataParallel(setting.model)
    return setting


@healthy(wrapped)
def a_model_in_a_wrapper(s):
    h = None
    for i in range(20):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        h = detach(h)
        score(logits, y).backward()
        s.optimizer.step()


@faulty("missing-detach", wrapped, "rnn", "detach()")
def a_model_in_a_wrapper_without_detach(s):
    h = None
    for i in range(20):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        score(logits, y).backward()
        s.optimizer.step()


def compiled():
    torch.compiler.reset()
    setting = text(layer=nn.GRU)
    setting.model = torch.compile(setting.model, backend="eager")
    return setting


@healthy(compiled)
def a_compiled_model(s):
    h = torch.zeros(1, LANES, 16)
    for i in range(70):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h.detach())
        score(logits, y).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()


@faulty("missing-detach", compiled, "model", "detach()")
def a_compiled_model_without_detach(s):
    h = torch.zeros(1, LANES, 16)
    for i in range(20):
        x, y = s.chunk(i)
        s.optimizer.zero_grad()
        logits, h = s.model(x, h)
        score(logits, y).backward()
        s.optimizer.step()


@healthy(last)
def an_average_of_the_weights_is_scored(s):
    average = AveragedModel(s.model)
    for i in range(30):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        s.optimizer.step()
        average.update_parameters(s.model)
        if i % 10 == 9:
            kept = copy.deepcopy(s.model).eval()
            with torch.no_grad():
                average(s.x[:64])
                kept(s.x[:64])


def with_frozen_encoder():
    torch.manual_seed(1)
    model = nn.ModuleDict({"encoder": nn.GRU(3, 16, batch_first=True), "decoder": Q()})
    model["decoder"].lstm = nn.LSTM(16, 16, batch_first=True)
    model["encoder"].requires_grad_(False)
    trained = [p for p in model.parameters() if p.requires_grad]
    return Setting(model, torch.optim.Adam(trained, 1e-3))


def decode(s, i, encoder_runs=torch.no_grad):
    """The loss of one batch."""
    with encoder_runs():
        seen, _ = s.model["encoder"](s.x[i : i + 8])
    return F.cross_entropy(s.model["decoder"](seen)[0][:, -1], s.label[i : i + 8])


@healthy(with_frozen_encoder)
def an_encoder_that_is_frozen(s):
    for i in range(30):
        s.optimizer.zero_grad()
        decode(s, i).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()


@healthy(with_frozen_encoder)
def an_encoder_that_is_thawed_into_its_own_group(s):
    for i in range(60):
        if i == 20:
            s.model["encoder"].requires_grad_(True)
            held = {"params": list(s.model["encoder"].parameters()), "lr": 1e-4}
            s.optimizer.add_param_group(held)
        s.optimizer.zero_grad()
        decode(s, i, torch.no_grad if i < 20 else torch.enable_grad).backward()
        s.optimizer.step()


@faulty("frozen-recurrent", with_frozen_encoder, "encoder", "model.parameters()")
def an_encoder_that_is_thawed_and_held_by_nobody(s):
    for i in range(60):
        if i == 20:
            s.model["encoder"].requires_grad_(True)
        s.model.zero_grad()
        decode(s, i, torch.no_grad if i < 20 else torch.enable_grad).backward()
        s.optimizer.step()


class Tagger(nn.Module):
    """Both directions over packed sequences."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 8, batch_first=True, bidirectional=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x, lengths):
        """(B, T, 3) to (B, T, 5)."""
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return self.out(y)


def tagger():
    torch.manual_seed(1)
    model = Tagger()
    body, head = list(model.lstm.parameters()), list(model.out.parameters())
    groups = [{"params": body, "lr": 1e-4}, {"params": head, "lr": 1e-2}]
    return Setting(model, torch.optim.AdamW(groups))


@healthy(tagger)
def tags_in_both_directions_with_two_groups(s):
    scheduler = torch.optim.lr_scheduler.OneCycleLR(s.optimizer, [1e-3, 1e-2], 40)
    for i in range(40):
        lengths = torch.tensor([20, 15, 9, 4])
        s.guard.lengths(lengths)
        tags = (s.x[i : i + 4, :, 1] > 0).long()
        tags = tags.masked_fill(torch.arange(20) >= lengths[:, None], -100)
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 4], lengths).flatten(0, 1), tags.flatten()).backward()
        clip_grad_norm_(s.model.parameters(), 1.0)
        s.optimizer.step()
        scheduler.step()


@faulty("padding-in-loss", tagger, "model", "ignore_index")
def tags_of_padding(s):
    for i in range(20):
        lengths = torch.tensor([20, 15, 9, 4])
        s.guard.lengths(lengths)
        tags = (s.x[i : i + 4, :, 1] > 0).long()
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 4], lengths).flatten(0, 1), tags.flatten()).backward()
        s.optimizer.step()


@healthy(lambda: last(dropout=0.2))
def clipped_by_value_at_every_update(s):
    for i in range(130):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        nn.utils.clip_grad_value_(s.model.parameters(), 0.01)
        s.optimizer.step()


@faulty("always-clipped", last, write="clip_grad_norm_")
def a_norm_that_is_clipped_by_hand(s):
    for i in range(130):
        s.optimizer.zero_grad()
        F.cross_entropy(s.model(s.x[i : i + 8]), s.label[i : i + 8]).backward()
        norm = sum(p.grad.pow(2).sum() for p in s.model.parameters()).sqrt()
        if norm > 1e-3:
            for p in s.model.parameters():
                p.grad.mul_(1e-3 / norm)
        s.optimizer.step()
