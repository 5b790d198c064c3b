"""A number that is not finite never gets into the weights: what is said, and what follows."""

import functools
import json
import math

import pytest
import torch

from bptt.cli import main
from bptt.data import Lanes
from bptt.errors import NonFiniteError
from bptt.models import LanguageModel, WindowModel, token_loss
from bptt.training import RunFolder, train
from bptt.training import checkpoint as checkpoints
from bptt.training import update as nonfinite
from bptt.training.build import open_corpus
from bptt.training.locate import Origin, locate
from bptt.training.session import Session
from bptt.training.update import ROLLBACKS, SKIPS, update
from compare import assert_close
from small_runs import small as longer

# One # in 169 characters, at another place of each lane: about one chunk of 4 lanes and 8 steps in
# five holds one.
TEXT = ("the lazy dog sleeps on.\n" * 7 + "#") * 41
small = functools.partial(longer, steps=40)


class Fault:
    """From a step on, chunks with a # have an infinite loss; `every`: all chunks have."""

    def __init__(self, step=5, every=False):
        self.step, self.every, self.hit = step, every, 0

    def __call__(self, session):
        if session.progress.step != self.step or self.hit:
            return
        symbol = int(session.corpus.vocabulary.encode("#")[0])

        def spoil(module, given, output):
            logits, carry = output
            marked = (given[0] == symbol) | self.every
            if not module.training or not bool(marked.any()):
                return output
            self.hit += 1
            return logits.masked_fill(marked.unsqueeze(-1), torch.inf), carry

        session.model.register_forward_hook(spoil)


def newest(run):
    return checkpoints.newest(RunFolder(run).checkpoints)


def told(run):
    return [r for r in RunFolder(run).read_metrics() if "nonfinite" in r]


def test_stop_leaves_a_checkpoint_from_just_before_and_resumes_with_that_chunk(text, tmp_path):
    whole = train(small(text, tmp_path, "whole"))
    with pytest.raises(NonFiniteError, match="finite loss and gradient at step") as caught:
        train(small(text, tmp_path, "parts"), on_step=Fault())
    assert "loss nan; output of the model out of range at step " in str(caught.value)
    saved = newest(tmp_path / "parts")
    assert f"checkpoints/step-{saved.state['step']};" in str(caught.value)
    assert f"at step {saved.state['step'] + 1}," in str(caught.value)
    # The fault lives in the hook alone: without it, going on is as if nothing had been.
    resumed = train(small(text, tmp_path, "parts"), resume=tmp_path / "parts")
    assert_close(newest(resumed.run).model, newest(whole.run).model, 0.0)
    assert resumed.valid == whole.valid


@pytest.mark.parametrize("gradient", ["truncated", "adaptive", "randomized", "windowed"])
def test_skip_leaves_parameters_optimiser_and_schedule_as_they_are(text, tmp_path, gradient):
    fault, before, after = Fault(), {}, {}

    def watch(session):
        fault(session)
        state = [t.clone() for t in session.checkpoint().training.values()]
        before[session.progress.step] = (fault.hit, state)
        after[session.progress.step] = session.progress.skipped + session.progress.tally.skipped

    chunk = {} if gradient == "truncated" else {"chunk": 16}
    settings = small(text, tmp_path, gradient=gradient, on_nonfinite="skip", **chunk)
    outcome = train(settings, on_step=watch)
    assert outcome.steps == 40  # skipped chunks are no steps
    lines = told(outcome.run)
    assert len(lines) >= 2
    assert all(line["nonfinite"]["action"] == "skip" for line in lines)
    assert after[40] == len(lines)
    last = [r for r in RunFolder(outcome.run).read_metrics() if "loss" in r][-1]
    assert last["skipped"] == len([r for r in lines if r["step"] < last["step"]])
    assert all(t.isfinite().all() for t in newest(outcome.run).model.values())
    assert all(
        math.isfinite(r["loss"]) for r in RunFolder(outcome.run).read_metrics() if "loss" in r
    )


def test_a_skipped_chunk_is_as_if_it_had_not_been_there(text, tmp_path):
    """The same updates, by hand: the chunks with a # left out, their last state carried on."""
    fault = Fault(step=1)
    skipped = train(small(text, tmp_path, on_nonfinite="skip", dropout=0.0), on_step=fault)
    assert fault.hit
    found = {}

    def leave_out(session):
        """After each update, run over the chunks that the other run skipped."""
        symbol = int(session.corpus.vocabulary.encode("#")[0])
        while session.progress.step < 40:
            position = session.data.state()
            chunk = session.data.take()
            if not bool((chunk.inputs == symbol).any()):
                session.data.seek(position)
                break
            with torch.no_grad():
                carry = session.chunk_carry(chunk)
                session.carry = session.model(chunk.inputs, carry, reset=chunk.reset)[1]
        found["steps"] = session.progress.step

    by_hand = train(small(text, tmp_path, "hand", dropout=0.0), on_step=leave_out)
    assert_close(newest(skipped.run).model, newest(by_hand.run).model, 0.0)


def test_skips_in_a_row_stop(text, tmp_path):
    with pytest.raises(NonFiniteError, match=f"{SKIPS} in a row were skipped"):
        train(small(text, tmp_path, on_nonfinite="skip"), on_step=Fault(every=True))
    assert newest(tmp_path / "run").state["step"] == 5
    *skips, stop = told(tmp_path / "run")
    assert [line["nonfinite"]["action"] for line in skips] == ["skip"] * SKIPS
    assert stop["nonfinite"]["action"] == "stop"


def test_rollback_goes_back_and_on_with_other_data(text, tmp_path, monkeypatch):
    monkeypatch.setattr(nonfinite, "ROLLBACKS", 100)
    fault, offsets = Fault(step=7), []

    def watch(session):
        fault(session)
        offsets.append((session.progress.step, session.data.position))

    settings = small(text, tmp_path, on_nonfinite="rollback", eval_every=6)
    outcome = train(settings, on_step=watch)
    lines = told(outcome.run)
    assert lines
    assert all(line["step"] % 6 == 0 for line in lines)
    assert outcome.steps == 40
    steps = [step for step, _ in offsets]
    back = [i for i in range(1, len(steps)) if steps[i] <= steps[i - 1]]
    assert 1 <= len(back) <= len(lines)  # two in a row go back to the same place
    places = [position for _, position in offsets]
    assert places == sorted(places)  # the data never goes back
    logged = [r["step"] for r in RunFolder(outcome.run).read_metrics() if "loss" in r]
    assert logged == sorted(set(logged))  # lines of updates that were taken back are gone


def test_every_rollback_to_a_checkpoint_restores_all_of_it(text, tmp_path):
    settings = small(text, tmp_path, on_nonfinite="rollback")
    session = Session(settings, open_corpus(settings))

    def go_on():
        for _ in range(3):
            assert update(session, session.optimizer, 0.01) is None

    go_on()
    session.guard.remember(session, 0)
    saved = session.checkpoint()
    model, training = ({n: t.clone() for n, t in p.items()} for p in (saved.model, saved.training))
    assert any(name.startswith("optimizer.") for name in training)
    for _ in range(3):
        go_on()
        session.guard.roll_back(session)
        assert_close(session.checkpoint().model, model, 0.0)
        assert_close(session.checkpoint().training, training, 0.0)


def test_rollbacks_come_to_an_end(text, tmp_path):
    with pytest.raises(NonFiniteError, match=f"{ROLLBACKS} rollbacks"):
        train(small(text, tmp_path, on_nonfinite="rollback"), on_step=Fault(every=True))


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_an_update_that_overflows_is_taken_back(policy, text, tmp_path):
    """A rate beyond all reason: the gradient is finite, the weights after it are not."""

    def spike(session):
        if session.progress.step == 9:
            for state in session.optimizer.state.values():  # 10 times that is beyond float32
                state["momentum_buffer"].fill_(3e38)

    kept = {}

    def watch(session):
        spike(session)
        kept[session.progress.step] = {n: t.clone() for n, t in session.model.state_dict().items()}

    options = {"optimizer": "sgd", "momentum": 0.9, "lr": 10.0, "on_nonfinite": policy}
    with pytest.raises(NonFiniteError, match=r"an update too large; parameter \S+ out of range"):
        train(small(text, tmp_path, **options), on_step=watch)
    saved = newest(tmp_path / "run")
    assert all(t.isfinite().all() for t in saved.model.values())
    if policy != "rollback":
        assert saved.state["step"] == 9
        assert_close(saved.model, kept[9], 0.0)


def test_a_huge_learning_rate_from_the_command_line_is_one_line(text, tmp_path, capsys):
    words = ["--hidden", "8", "--batch", "2", "--k", "8", "--steps", "30", "--lr", "1e38"]
    words += ["--cell", "rnn-relu", "--clip", "none", "--out", str(tmp_path / "run"), "--json"]
    assert main(["train", str(text), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("bptt train: expected a finite loss and gradient at step ")
    assert "out of range" in last
    assert "Traceback" not in captured.err


def test_skips_are_told_on_the_terminal_and_in_json(text, tmp_path, monkeypatch, capsys):
    from bptt.training.progress import TerminalReporter

    with TerminalReporter(quiet_stdout=True) as reporter:
        train(small(text, tmp_path, on_nonfinite="skip"), reporter=reporter, on_step=Fault())
    assert "loss nan" in capsys.readouterr().err
    for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


# What locate() says.


def chunk_of(lanes=2, steps=12, documents=()):
    tokens = (torch.arange(lanes * steps + 1) % 5).numpy()
    return Lanes(tokens, [0, *documents], batch=lanes, chunk=steps).take()


@pytest.mark.parametrize("cell", ["rnn", "rnn-relu", "gru", "lstm", "mingru", "lru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_everything_finite_has_no_origin_and_leaves_no_gradient(cell, layers):
    model = LanguageModel(5, cell=cell, hidden=4, layers=layers)
    assert locate(model, chunk_of(documents=(3,)), None, token_loss) is None
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or "forward_tokens" in m.__dict__ for m in model.modules())


def test_the_first_step_at_which_a_state_overflows():
    """h_t = w h_{t-1} + 1 in float32: out of range where the sum of powers passes its maximum."""
    model = LanguageModel(5, cell="rnn-relu", hidden=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.recurrent.weight_hh_l0.fill_(1e10)
        model.recurrent.bias_ih_l0.fill_(1.0)
        model.output.weight.fill_(1e-30)
    # h_1 = 1, h_2 = 1e10, h_3 = 1e20, h_4 = 1e30, h_5 = 1e40 > 3.4e38: step 4, counted from 0.
    found = locate(model, chunk_of(), None, token_loss)
    assert (found.what, found.where) == ("state", "h_l0 of recurrent")
    assert (found.step, found.back, found.lane) == (4, 7, 0)


def test_the_step_back_at_which_the_gradient_overflows():
    """Every state is 0, where tanh' is 1, and each step back multiplies the gradient by 1000."""
    model = LanguageModel(5, cell="rnn", hidden=3, embedding=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.output.weight.copy_(torch.randn(5, 3, generator=torch.Generator().manual_seed(1)))
        model.recurrent.weight_hh_l0.copy_(1000 * torch.eye(3))
    chunk = chunk_of(steps=20)
    # In float64, which has room: D_t = direct_t + 1000 D_{t+1}, direct from uniform predictions.
    wanted = torch.nn.functional.one_hot(chunk.targets, 5).double()
    direct = (0.2 - wanted) / 40 @ model.output.weight.detach().double()
    total = torch.zeros(2, 3).double()
    expected, norms = None, []
    for t in reversed(range(20)):
        total = direct[t] + 1000 * total
        norms.append(total.norm(dim=1))
        if expected is None and total.abs().max() > torch.finfo(torch.float32).max:
            expected = t
    found = locate(model, chunk, None, token_loss)
    assert (found.what, found.where) == ("gradient", "h_l0 of recurrent")
    assert (found.step, found.back) == (expected, 19 - expected)
    # Relative, of sums of products in float32.
    assert_close(found.growth[0], float(norms[0][found.lane]), 1e-6)
    assert_close(found.growth[1], float(norms[found.back - 1][found.lane]), 1e-5)


def test_a_module_without_states_is_named():
    model = WindowModel(5, hidden=4, layers=2, embedding=3, window=2)
    layer = next(n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear))

    def spoil(module, given, output):
        return output.masked_fill(torch.ones_like(output, dtype=torch.bool), torch.nan)

    dict(model.named_modules())[layer].register_forward_hook(spoil)
    found = locate(model, chunk_of(), None, token_loss)
    assert (found.what, found.where) == ("output", layer)


def test_causes_stand_before_their_consequences():
    causes = [
        Origin("gradient", "h", 3, 8),
        Origin("state", "h", 5, 6),
        Origin("gradient", "y", 9, 2),
        Origin("parameter", "w"),
        Origin("state", "h", 2, 9),
    ]
    ordered = sorted(causes, key=lambda o: o.rank)
    assert [(o.what, o.step) for o in ordered] == [
        ("parameter", None), ("state", 2), ("state", 5), ("gradient", 9), ("gradient", 3),
    ]  # fmt: skip
