"""The training step: a hand-written loop to the bit, what it says it did, and what is not finite."""

import copy
import math

import pytest
import torch
from torch import nn

import bptt
from bptt import gradients as ways
from bptt.errors import ArgumentError
from bptt.gradients import ForwardMode, Full, Truncated
from bptt.nn import carry as carries
from bptt.remedies import ClipNorm, Omega, build_clip
from bptt.tasks import RememberFirst
from bptt.training import fit, fit_step
from bptt.training.fit import apply_gradient
from learners import DOUBLE, Loss, Predictor, batch

STEPS, LANES = 7, 3
# Made anew for each side: some remember, some draw.
ESTIMATORS = {
    "full": Full,
    "truncated": lambda: ways.build("truncated:3"),
    "windowed": lambda: ways.build("windowed:2:4"),
    "checkpointed": lambda: ways.build("checkpointed"),
    "adaptive": lambda: ways.build("adaptive:0.1"),
    "randomized": lambda: ways.Randomized(3, generator=torch.Generator().manual_seed(5)),
    "rtrl": ForwardMode,
    "uoro": lambda: ForwardMode("uoro", generator=torch.Generator().manual_seed(5)),
}
CLIPS = ["none", "norm:0.3", "norm:1000", "value:0.01", "rescale:2", "unit:0.01", "auto:50", "z:2"]


def learner(layer=bptt.nn.RNN):
    torch.manual_seed(1)
    return Predictor(layer)


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=0.05)


def data(count=3):
    torch.manual_seed(2)
    return [batch(STEPS, LANES) for _ in range(count)]


def state(model, optimizer):
    """Weights, and what the optimiser keeps of them: copies."""
    kept = [t.detach().clone() for t in model.state_dict().values()]
    kept += [t.clone() for s in optimizer.state.values() for t in s.values()]
    return kept


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def by_hand(estimator, clip, penalty=None):
    """The loop as anybody would write it: weights, losses, norms before and after, clipped or not."""
    model = learner()
    optimizer, carry, said = adam(model), None, []
    for x, y in data():
        optimizer.zero_grad()
        if penalty is None:
            step = estimator.backward(model, x, y, carry, Loss())
        else:
            with penalty.on(model):
                step = estimator.backward(model, x, y, carry, Loss())
        seen = clip(model.parameters())
        after = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        optimizer.step()
        said.append((step.loss.item(), seen.norm.item(), after.item(), seen.acted, step.terms))
        carry = step.carry
    return state(model, optimizer), said


def by_fit(estimator, clip, penalties=()):
    model = learner()
    optimizer = adam(model)
    run = fit(
        model, optimizer, data(), estimator, Loss(), clip=clip, penalties=penalties, stateful=True
    )
    said = [(u.loss, u.norm, u.norm_after, u.clipped, u.terms) for u in run]
    return state(model, optimizer), said


@pytest.mark.parametrize("name", ESTIMATORS)
def test_it_is_the_loop_by_hand_to_the_bit(name):
    expected, told = by_hand(ESTIMATORS[name](), ClipNorm(0.3))
    found, said = by_fit(ESTIMATORS[name](), ClipNorm(0.3))
    assert said == told
    assert any(clipped for *_, clipped, _ in said)
    assert same(found, expected)


@pytest.mark.parametrize("form", CLIPS)
def test_with_every_clip(form):
    expected, told = by_hand(Full(), build_clip(form))
    found, said = by_fit(Full(), None if form == "none" else build_clip(form))
    assert said == told
    assert same(found, expected)


@pytest.mark.parametrize("name", ["full", "truncated"])
def test_with_a_penalty(name):
    expected, told = by_hand(ESTIMATORS[name](), ClipNorm(0.3), Omega(0.5))
    found, said = by_fit(ESTIMATORS[name](), ClipNorm(0.3), [Omega(0.5)])
    assert said == told
    assert same(found, expected)
    assert not same(found, by_fit(ESTIMATORS[name](), ClipNorm(0.3))[0])


def test_penalties_say_what_they_added():
    model = learner()
    (x, y), *_ = data()
    done = fit_step(model, adam(model), (x, y), Full(), Loss(), penalties=[Omega(0.5), Omega(2.0)])
    assert [p.acted for p in done.penalties] == [True, True]
    assert done.penalties[0].value == done.penalties[1].value > 0


def test_marks_of_a_batch_reach_the_model():
    (x, y), *_ = data()
    lengths, reset = torch.tensor([7, 2, 5]), torch.zeros(STEPS, LANES, dtype=torch.bool)
    reset[4] = True
    model, other = learner(), learner()
    done = fit_step(model, adam(model), (x, y, lengths, reset), Full(), Loss())
    step = Full().backward(other, x, y, loss=Loss(), lengths=lengths, reset=reset)
    assert done.loss == step.loss.item()
    assert torch.equal(done.carry, step.carry)
    assert all(
        torch.equal(p.grad, q.grad)
        for p, q in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_a_tasks_batch_is_a_batch():
    task = RememberFirst(5)
    model = bptt.models.Classifier(bptt.nn.GRU(task.inputs, 8), task.outputs, pool="none")
    generator = torch.Generator().manual_seed(0)
    batches = (task.batch(generator, 16) for _ in range(3))
    assert [u.finite for u in fit(model, adam(model), batches, Full(), task.loss)] == [True] * 3


def test_a_function_in_place_of_an_estimator():
    (x, y), *_ = data()
    model, other = learner(), learner()
    optimizer, plain = adam(model), adam(other)
    done = fit_step(
        model, optimizer, (x, y), lambda net, both: Loss()(net(both[0])[0], both[1]),
        clip=ClipNorm(0.3),
    )  # fmt: skip
    expected = fit_step(other, plain, (x, y), Full(), Loss(), clip=ClipNorm(0.3))
    assert (done.loss, done.norm, done.clipped) == (expected.loss, expected.norm, expected.clipped)
    assert (done.terms, done.carry) == (1, None)
    assert same(state(model, optimizer), state(other, plain))


@pytest.mark.parametrize("form", CLIPS)
def test_the_norms_are_those_of_the_gradient(form):
    """Added up here from the gradients themselves: before, of a copy; after, of what is in ``.grad``."""
    model, bare = learner(), learner()
    (x, y), *_ = data()
    Full().backward(bare, x, y, loss=Loss())
    done = fit_step(model, adam(model), (x, y), Full(), Loss(), clip=build_clip(form))

    def length(net):
        return math.sqrt(sum(p.grad.square().sum().item() for p in net.parameters()))

    assert done.norm == pytest.approx(length(bare), rel=1e-12)
    assert done.norm_after == pytest.approx(length(model), rel=1e-12)
    changed = any(
        not torch.equal(p.grad, q.grad)
        for p, q in zip(model.parameters(), bare.parameters(), strict=True)
    )
    assert done.clipped == changed


def test_gradients_are_zeroed_first_and_stay_after():
    model, clean = learner(), learner()
    optimizer, plain = adam(model), adam(clean)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    (x, y), *_ = data()
    fit_step(model, optimizer, (x, y), Full(), Loss())
    fit_step(clean, plain, (x, y), Full(), Loss())
    assert same(state(model, optimizer), state(clean, plain))
    assert all(p.grad is not None for p in model.parameters())


def test_only_the_optimisers_parameters_are_clipped_and_moved():
    model, bare = learner(), learner()
    (x, y), *_ = data()
    before = copy.deepcopy(model.layer.state_dict())
    optimizer = torch.optim.SGD(model.out.parameters(), lr=0.1)
    for _ in range(3):  # the layer's gradients add up, and count for nothing
        done = fit_step(model, optimizer, (x, y), Full(), Loss(), clip=ClipNorm(0.01))
    assert same(list(model.layer.state_dict().values()), list(before.values()))
    bare.load_state_dict(model.state_dict())
    assert done.norm_after == pytest.approx(0.01, rel=1e-4)
    assert done.norm == pytest.approx(fit_step(bare, torch.optim.SGD(bare.out.parameters()), (x, y),
                                               Full(), Loss()).norm, rel=1e-2)  # fmt: skip


# What is not finite.


class Overflow(nn.Module):
    """A step whose output is sound, and whose carry is not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, dtype=DOUBLE))

    def forward(self, x, carry=None):
        return x * self.weight, torch.full((1, x.shape[1], 2), math.inf)


def spoilt(kind):
    """A model, a batch, its gradient, its loss: of which just this is not finite."""
    (x, y), *_ = data()
    if kind == "state":
        return Overflow(), (x, torch.zeros_like(x)), Full(), nn.functional.mse_loss
    if kind == "loss":
        return learner(), (x.index_fill(0, torch.tensor([2]), math.nan), y), Full(), Loss()
    model = learner()
    # The root of zero: the value is 0, its slope infinite.
    return (
        model,
        None,
        lambda net, _: (net.out.bias * 0 + net.out.bias.square() * 0).sqrt().sum(),
        None,
    )


@pytest.mark.parametrize("kind", ["loss", "state", "gradient"])
@pytest.mark.parametrize("form", ["none", "norm:1", "auto:50"])
def test_what_is_not_finite_leaves_everything_alone(kind, form):
    model, given, way, loss = spoilt(kind)
    optimizer, clip = adam(model), build_clip(form)
    for p in model.parameters():  # one update, so that optimiser and clip remember something
        p.grad = torch.ones_like(p)
    clip(model.parameters())
    optimizer.step()
    before, remembered = state(model, optimizer), copy.deepcopy(clip.state_dict())
    done = fit_step(model, optimizer, given, way, loss, clip=clip)
    assert not done.finite
    assert same(state(model, optimizer), before)
    assert clip.state_dict() == remembered
    assert math.isnan(done.norm_after)
    assert not done.clipped
    assert math.isfinite(done.loss) == (kind != "loss")
    assert done.sound == (kind == "gradient" or all(
        bool(t.isfinite().all()) for t in carries.tensors(done.carry)))  # fmt: skip
    if kind != "gradient":
        assert math.isnan(done.norm)


def test_a_stateful_run_goes_on_afresh_after_an_update_that_was_not_made():
    first, second, third = data()
    bad = (torch.full_like(second[0], math.nan), second[1])
    model, other = learner(), learner()
    run = fit(model, adam(model), [first, bad, third], Full(), Loss(), stateful=True)
    assert [u.finite for u in run] == [True, False, True]
    list(fit(other, adam(other), [first, third], Full(), Loss(), stateful=False))
    assert same(list(model.state_dict().values()), list(other.state_dict().values()))


# The loop.


def test_each_batch_is_taken_just_before_its_update():
    model, taken = learner(), []

    def batches():
        for number, pair in enumerate(data()):
            taken.append(number)
            yield pair

    run = fit(model, adam(model), batches(), Full(), Loss())
    assert taken == []
    for number, _ in enumerate(run):
        assert taken == list(range(number + 1))


def test_the_state_is_carried_where_it_is_asked_for():
    losses = {}
    for stateful in (False, True):
        model = learner()
        run = fit(model, adam(model), data(), Truncated(3), Loss(), stateful=stateful)
        losses[stateful] = [u.loss for u in run]
    assert losses[True][0] == losses[False][0]
    assert losses[True][1] != losses[False][1]


def test_an_update_at_every_time_step():
    """The online rule by hand, and by the second half of the step."""
    (x, _), *_ = data()
    target, mse = torch.randn(STEPS, LANES, 4, dtype=DOUBLE), nn.functional.mse_loss
    models = []
    for hand in (True, False):
        torch.manual_seed(1)
        rnn = nn.RNN(3, 4, dtype=DOUBLE)
        sgd = torch.optim.SGD(rnn.parameters(), lr=0.1)
        for step in ForwardMode().steps(rnn, x, target, loss=mse):
            if hand:
                sgd.step()
            else:
                assert apply_gradient(sgd, step).finite
            sgd.zero_grad()
        models.append(list(rnn.state_dict().values()))
    assert same(*models)


# What is refused, before a gradient is zeroed.


def called(**changed):
    model = learner()
    (x, y), *_ = data()
    given = {"model": model, "optimizer": adam(model), "batch": (x, y), "gradients": Full(),
             "loss": Loss(), **changed}  # fmt: skip
    return fit_step(**given)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": "gru"}, "torch.nn.Module, received str"),
        ({"optimizer": "adam"}, "an optimiser of torch.optim .*received str"),
        ({"optimizer": torch.optim.LBFGS(learner().parameters())}, "received LBFGS"),
        ({"clip": 1.0}, r"a clip of bptt.remedies, or None, received 1.0.*ClipNorm\(1.0\)"),
        ({"penalties": Omega(1.0)}, "a list of penalties of bptt.remedies, received Omega"),
        ({"penalties": ["omega:1"]}, "a list of penalties of bptt.remedies, received 'omega:1'"),
        ({"gradients": "full"}, "an estimator, or a function .*received 'full'"),
        ({"batch": torch.zeros(3)}, r"a batch \(inputs, targets\).*received Tensor"),
        ({"batch": (torch.zeros(3),)}, r"a batch \(inputs, targets\).*received tuple of 1"),
        ({"gradients": lambda net, _: net.out.bias.sum()}, "received loss="),
        ({"gradients": lambda net, _: net.out.bias, "loss": None}, "a scalar loss"),
        ({"loss": None}, "a loss function"),
        (
            {"optimizer": adam(learner())},
            "a gradient for a parameter of the optimiser, received none",
        ),
        ({"batch": (data()[0][0], torch.full((STEPS, LANES), -100))}, "a target that is scored"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(changed, words):
    with pytest.raises(ArgumentError, match=words) as caught:
        called(**changed)
    assert "\n" not in str(caught.value)


def test_a_function_hands_no_state_on():
    model = learner()
    with pytest.raises(
        ArgumentError, match=r"an estimator beside stateful=True, received a function"
    ):
        next(fit(model, adam(model), data(), lambda net, _: net.out.bias.sum(), stateful=True))


@pytest.mark.parametrize("changed", [{"clip": 1.0}, {"penalties": "omega:1"}])
def test_a_refused_call_has_zeroed_nothing(changed):
    model = learner()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with pytest.raises(ArgumentError):
        called(model=model, optimizer=adam(model), **changed)
    assert all(bool((p.grad == 1).all()) for p in model.parameters())
