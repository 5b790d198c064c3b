"""Runs that are given more, again and again: of every kind of budget, after every kind of end.

A run is begun with some steps, epochs or minutes, and ends by itself, by an interrupt or by its patience;
then it is given more, of the same kind or another. After every part that came to its end the last score
must be that of the last weights, and the best checkpoint that of the best score; both are computed here
by a loop over single tokens.
"""

import dataclasses
import itertools
import random
import shutil
import signal
from collections import Counter
from pathlib import Path

import torch

from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from bptt.training.build import build_model, open_corpus
from torture.runs import VARIANTS, settings

KINDS = ("steps", "epochs", "minutes")
# About as long: a dozen updates.
MORE = {"steps": 12, "epochs": 0.4, "minutes": 0.0012}


def torture(folder: Path, *, rounds: int, seed: int) -> str:
    """Extend so many runs, each up to three times; return what was done."""
    chance, count = random.Random(seed), Counter()
    for number in range(rounds):
        chosen = _settings(folder, f"run-{number}", chance)
        train(chosen, on_step=_interrupted(chance, count))
        for _ in range(chance.randint(1, 3)):
            kind = chance.choice(KINDS)
            now = _more(chosen, kind, chance)
            before = _newest(chosen.out).state["step"]
            outcome = train(now, resume=chosen.out, on_step=_interrupted(chance, count))
            state, what = _newest(chosen.out).state, f"round {number}, extended by {kind}"
            assert state["step"] > before, what
            count[kind] += 1
            if not outcome.interrupted:
                _check(Path(chosen.out), what)
                count["scored"] += 1
        shutil.rmtree(chosen.out)
    kinds = ", ".join(f"{count[kind]} by {kind}" for kind in KINDS)
    return (
        f"{rounds} runs extended ({kinds}; {count['interrupts']} parts interrupted): "
        f"{count['scored']} parts ended, each with the score of its own last weights"
    )


def _settings(folder, name, chance):
    kind = chance.choice(KINDS)
    options = {**chance.choice(VARIANTS), "patience": chance.choice((0, 0, 1))}
    options |= {"eval_every": chance.choice((None, None, 5)), "steps": None, kind: MORE[kind]}
    return settings(folder, name, **options)


def _interrupted(chance, count):
    """A Ctrl-C in some of the runs, some updates after they begin."""
    left = [chance.randint(1, 14) if chance.random() < 0.4 else 0]

    def on_step(session):
        left[0] -= 1
        if left[0] == 0:
            count["interrupts"] += 1
            signal.raise_signal(signal.SIGINT)

    return on_step


def _more(chosen, kind, chance):
    """The settings with a budget that is larger than what was spent."""
    saved = _newest(chosen.out)
    data = saved.state["data"]
    corpus = open_corpus(chosen)
    tokens = len(corpus.train.tokens) - 1
    sizes = RunFolder(chosen.out).read_settings()
    if "offset" in data:
        epochs = data["epoch"] + data["offset"] / (tokens // sizes.batch)
    else:
        epochs = data["drawn"] / max(tokens // (sizes.batch * sizes.chunk), 1)
    spent = {
        "steps": saved.state["step"],
        "epochs": epochs,
        "minutes": saved.state["seconds"] / 60,
    }
    more = spent[kind] + MORE[kind] * chance.choice((1, 1, 3))
    changes = {**dict.fromkeys(KINDS), kind: more}
    return dataclasses.replace(chosen, **changes)


def _newest(run):
    return checkpoints.newest(RunFolder(run).checkpoints)


def _check(run, what):
    scores = [r for r in RunFolder(run).read_metrics() if "valid" in r]
    last = _newest(run)
    assert scores[-1]["step"] == last.state["step"], what
    _close(scores[-1]["valid"]["nats"], _by_hand(run, last.model), what)
    best = min(scores, key=lambda r: r["valid"]["nats"])
    kept = checkpoints.best(RunFolder(run).checkpoints)
    assert kept.state["step"] == best["step"], what
    _close(best["valid"]["nats"], _by_hand(run, kept.model), what)


def _close(found, expected, what):
    # Float32 states, another order of sums.
    assert abs(found - expected) < 1e-5 * expected, f"{what}: {found} where {expected} is right"


def _by_hand(run, weights):
    """Mean nats a token of what is held out."""
    folder = RunFolder(run)
    chosen, vocabulary = folder.read_settings(), folder.read_vocabulary()
    state = torch.get_rng_state()
    model = build_model(chosen, vocabulary.size).eval()
    torch.set_rng_state(state)
    model.load_state_dict(weights)
    tokens, starts = open_corpus(chosen, vocabulary).valid
    total, count = 0.0, 0
    for begin, end in itertools.pairwise([*starts.tolist(), len(tokens)]):
        carry = None
        for now, following in itertools.pairwise(tokens[begin:end].tolist()):
            with torch.no_grad():
                logits, carry = model(torch.tensor([[now]]), carry)
            total -= torch.log_softmax(logits.double(), -1)[0, 0, following].item()
            count += 1
    return total / count
