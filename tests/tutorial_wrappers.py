"""Loops of tutorials around a model: checkpointing, wrappers, a compiler, copies, groups."""

import copy

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from guard_settings import LANES, Setting, detach, last, score, text
from tutorial_control import Q
from tutorial_entries import faulty, healthy

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
