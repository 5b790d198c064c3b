"""Each mistake is named: its code, the module, the line to write; and nothing else is said."""

import re
import warnings
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import clip_grad

import bptt
import tutorial_loops
from bptt.errors import BpttError
from bptt.experiments.claims.registry import ledger
from bptt.gradients import Truncated
from bptt.probes.guard import RULES, Rule
from bptt.probes.guard.call_rules import Carry
from bptt.remedies import clip_norm
from bptt.training.fit import fit_step
from faulty_loops import LOOPS
from guard_settings import detach, score, text
from healthy_loops import LOOPS as HEALTHY

LOOPS = LOOPS | tutorial_loops.FAULTY
HEALTHY = HEALTHY | tutorial_loops.HEALTHY


def findings(entry):
    setting = entry.setting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with bptt.guard(setting.model, setting.optimizer, **entry.options) as guard:
                setting.guard = guard
                entry.run(setting)
        except RuntimeError as error:
            return guard, error
    return guard, None


@pytest.mark.parametrize("name", LOOPS)
def test_the_mistake_is_named(name):
    entry = LOOPS[name]
    guard, _ = findings(entry)
    assert [f.code for f in guard.findings] == [entry.code]
    (found,) = guard.findings
    assert found.module == entry.module
    assert entry.write in found.write


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_loop(name):
    run, setting = HEALTHY[name]
    setting = setting()
    with warnings.catch_warnings():
        warnings.simplefilter("error", bptt.LoopWarning)
        with bptt.guard(setting.model, setting.optimizer) as guard:
            setting.guard = guard
            run(setting)
    assert guard.findings == []
    assert guard.loop.updates > 0


def training(guarded, updates=40, layer=bptt.nn.LSTM):
    """Losses and weights of a training with dropout."""
    setting = text(layer=layer, dropout=0.2)
    around = bptt.guard(setting.model, setting.optimizer) if guarded else nullcontext()
    losses, h = [], None
    with around:
        for i in range(updates):
            x, y = setting.chunk(i)
            setting.optimizer.zero_grad()
            logits, h = setting.model(x, h)
            h = detach(h)
            loss = score(logits, y)
            loss.backward()
            nn.utils.clip_grad_norm_(setting.model.parameters(), 0.5)
            setting.optimizer.step()
            losses.append(loss.item())
    return losses, [p.detach().clone() for p in setting.model.parameters()]


@pytest.mark.parametrize("layer", [bptt.nn.LSTM, bptt.nn.GRU, nn.RNN], ids=lambda c: c.__name__)
def test_a_guard_changes_no_bit(layer):
    (plain, ours), (guarded, theirs) = training(False, layer=layer), training(True, layer=layer)
    assert plain == guarded
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_everything_is_put_back():
    def names():
        return (
            F.cross_entropy, F.mse_loss, nn.utils.clip_grad_norm_, nn.utils.clip_grad_value_,
            clip_grad._clip_grads_with_norm_, clip_grad._get_total_norm, torch.autograd.backward,
            torch.amp.GradScaler.scale, torch.amp.GradScaler.unscale_,
        )  # fmt: skip

    before, setting = names(), text()

    around = bptt.guard(setting.model, setting.optimizer)
    with around:
        same = [a.__name__ for a, b in zip(names(), before, strict=True) if a is b]
    assert same == ["clip_grad_norm_"]  # what it calls is wrapped
    assert names() == before
    for module in setting.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_no_tensor_is_kept_over_a_thousand_chunks():
    setting, alive, h = text(), [], None
    with bptt.guard(setting.model, setting.optimizer, measure_every=None):
        for i in range(1000):
            x, y = setting.chunk(i % 190)
            setting.optimizer.zero_grad()
            logits, h = setting.model(x, h if i % 190 else None)
            h = detach(h)
            score(logits, y).backward()
            setting.optimizer.step()
            alive = [one for one in alive if one() is not None][-3:]
            alive += [weakref.ref(logits.untyped_storage()), weakref.ref(logits)]
            del logits
            assert all(one() is None for one in alive), i
    assert alive


def test_the_error_of_a_missing_detach_is_torchs_own_and_says_more():
    entry = LOOPS["lstm_text_without_detach"]
    _, error = findings(entry)
    assert isinstance(error, bptt.LoopError)
    assert "second time" in str(error.__cause__)
    assert "rnn" in str(error)
    assert "detach()" in error.remedy


def test_another_error_passes_as_it_is():
    setting = text()
    with pytest.raises(RuntimeError, match=r"^mine$"), bptt.guard(setting.model, setting.optimizer):
        raise RuntimeError("mine")


def test_a_threshold_of_ones_own_takes_the_place_of_the_rules():
    entry = LOOPS["chunks_in_order_and_no_state"]
    setting = entry.setting()
    with bptt.guard(setting.model, setting.optimizer, rules=[Carry(calls=50)]) as guard:
        entry.run(setting)
    assert guard.findings == []


def test_a_code_that_is_off_is_not_told():
    entry = LOOPS["stepped_twice"]
    setting = entry.setting()
    with bptt.guard(setting.model, setting.optimizer, off=["two-steps"]) as guard:
        entry.run(setting)
    assert guard.findings == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda s: (s.model.out, s.optimizer), "recurrent"),
        (lambda s: (s, s.optimizer), "Module"),
        (lambda s: (s.model, [3]), "Optimizer"),
    ],
)
def test_what_cannot_be_guarded_is_refused(arguments, said):
    with pytest.raises(bptt.errors.ArgumentError, match=said):
        bptt.guard(*arguments(text()))


def test_an_unknown_code_is_refused_with_the_known_ones():
    setting = text()
    with pytest.raises(bptt.errors.ArgumentError, match="missing-detach"):
        bptt.guard(setting.model, setting.optimizer, off=["missing-detatch"])


def test_a_rule_that_fails_is_said_once_and_training_goes_on():
    class Broken(Rule):
        def on_update(self, loop, update):
            raise ZeroDivisionError

    setting = text()
    with (
        pytest.warns(bptt.LoopWarning, match="could not judge Broken") as told,
        bptt.guard(setting.model, setting.optimizer, rules=[Broken()]) as guard,
    ):
        HEALTHY["sequential_chunks_with_the_state_detached"][0](setting)
    assert guard.loop.updates == setting.updates
    assert len(told) == 1


def test_the_report_names_the_figures_and_each_mistake():
    guard, _ = findings(LOOPS["threshold_far_too_low"])
    sheet, page = guard.report(), guard._repr_html_()
    for word in ("norm before clipping", "110 of 110 updates", "always-clipped", "horizon", "C14"):
        assert word in sheet
    assert "always-clipped" in page
    assert repr(guard) == "Guard(110 updates: always-clipped)"


def test_the_horizon_is_one_of_all_steps_of_a_chain():
    layer, cell = bptt.nn.GRU(3, 4), nn.GRUCell(4, 4)
    both = nn.ModuleList([layer, cell])
    optimizer = torch.optim.SGD(both.parameters(), 0.1)
    with bptt.guard(both, optimizer) as guard:
        for _ in range(21):
            optimizer.zero_grad()
            h = layer(torch.randn(9, 2, 3))[1][0]
            for _ in range(4):
                h = cell(h, h)
            h.square().mean().backward()
            optimizer.step()
    assert guard.loop.steps == 13
    assert f"{guard.loop.horizon} of 13 steps" in guard.report()


def test_every_code_has_a_section_of_the_page():
    page = (Path(__file__).parents[2] / "docs" / "mistakes.md").read_text("utf-8")
    codes = {code for rule in RULES for code in rule.codes}
    assert codes == set(re.findall(r"^### `([a-z-]+)`$", page, re.M))
    guard, _ = findings(LOOPS["stepped_twice"])
    (found,) = guard.findings
    for shown in (str(found), guard.report(), guard._repr_html_()):
        assert "docs/mistakes.md#two-steps" in shown


def carried_with_its_graph():
    gru, x = torch.nn.GRU(3, 4), torch.randn(6, 2, 3)
    Truncated(3).backward(gru, x, torch.randn(6, 2, 4), gru(x)[1], F.mse_loss)


def kept_beside_the_carry():
    class Keeps(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gru, self.h = torch.nn.GRU(3, 4), None

        def forward(self, x, carry=None):
            y, self.h = self.gru(x, self.h)
            return y, carry

    Truncated(3).backward(Keeps(), torch.randn(6, 2, 3), torch.randn(6, 2, 4), loss=F.mse_loss)


def clipped_before_backward():
    clip_norm(torch.nn.GRU(3, 4).parameters(), 1.0)


def of_another_model():
    gru, other = torch.nn.GRU(3, 4), torch.nn.GRU(3, 4)
    optimizer = torch.optim.SGD(other.parameters(), 0.1)
    fit_step(gru, optimizer, (torch.randn(6, 2, 3), torch.randn(6, 2, 4)), loss=F.mse_loss)


def lanes_of_another_batch():
    bptt.nn.GRU(3, 4)(torch.randn(6, 2, 3), torch.zeros(1, 5, 4))


@pytest.mark.parametrize(
    ("mistake", "code"),
    [
        (carried_with_its_graph, "missing-detach"), (kept_beside_the_carry, "missing-detach"),
        (clipped_before_backward, "clip-before-backward"), (of_another_model, "frozen-recurrent"),
        (lanes_of_another_batch, "lane-shuffled"),
    ],
)  # fmt: skip
def test_an_error_of_the_same_kind_names_the_section(mistake, code):
    with pytest.raises(BpttError) as caught:
        mistake()
    assert f"docs/mistakes.md#{code}" in str(caught.value)


def test_every_section_that_a_message_names_is_there():
    root = Path(bptt.__file__).parent
    page = (Path(__file__).parents[2] / "docs" / "mistakes.md").read_text("utf-8")
    sections = set(re.findall(r"^### `([a-z-]+)`$", page, re.M))
    named = {
        code
        for path in root.rglob("*.py")
        for code in re.findall(r"docs/mistakes\.md#([a-z-]+)", path.read_text("utf-8"))
    }
    assert len(named) > 6
    assert named <= sections


def test_every_code_names_a_row_of_the_ledger_that_exists():
    known = set(ledger())
    for rule in RULES:
        assert set(rule.claim.values()) <= known
        assert set(rule.why) == set(rule.codes)
