"""Loops of tutorials over text: language models, characters, names, encoders and decoders."""

import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_

from guard_settings import LANES, VOCABULARY, Setting, Text, score
from tutorial_entries import faulty, healthy

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
