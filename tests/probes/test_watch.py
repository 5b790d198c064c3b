"""``bptt.watch``: finds what is there, changes nothing, and says what to do when there is nothing."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

import bptt
from bptt.errors import ArgumentError
from bptt.probes.watch import WatchError
from bptt.recurrence import ReplayError, trace
from compare import assert_close
from models_to_watch import Classifier, Loop, OwnCell, OwnLoop, Tagger


def one_step(model: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    y = model(x)
    y.square().mean().backward()
    return y.detach(), torch.rand(3)


@pytest.mark.parametrize(
    "make", [Classifier, Tagger, Loop, lambda: Loop(nn.LSTMCell), lambda: OwnLoop(OwnCell())]
)
def test_nothing_is_changed(make) -> None:
    """Outputs, gradients, parameters, random numbers and mode, bit for bit, against an unwatched twin."""
    model = make()
    twin = copy.deepcopy(model)
    x = torch.randn(6, 4, 3)
    y, after = one_step(twin, x)
    with bptt.watch(model) as flow:
        watched_y, watched_after = one_step(model, x)
    assert torch.equal(watched_y, y)
    assert torch.equal(watched_after, after)
    assert model.training == twin.training
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)
        assert torch.equal(p.grad, q.grad)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert flow.horizon >= 1
    assert flow.verdict in flow.explain()


def test_names_and_kinds() -> None:
    model = Tagger()
    with bptt.watch(model) as flow:
        one_step(model, torch.randn(6, 4, 3))
    assert [m.name for m in flow.modules] == [
        "gru.l0",
        "gru.l0_reverse",
        "gru.l1",
        "gru.l1_reverse",
    ]
    assert {m.kind for m in flow.modules} == {"GRU"}
    longest = max(flow.modules, key=lambda m: m.spectrum.gradient_norm)
    assert flow.spectrum is longest.spectrum
    classifier = Classifier()
    with bptt.watch(classifier) as flow:
        one_step(classifier, torch.randn(6, 4, 3))
    assert flow.spectrum.layers.keys() == {0, 1}
    assert set(flow.spectrum.parameters) == {n for n, _ in classifier.lstm.named_parameters()}


def test_every_third_step_of_a_run() -> None:
    model = bptt.models.LanguageModel(9, hidden=8)
    nn.init.normal_(model.output.weight)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with bptt.watch(model, every=3, lanes=2) as flow:
        for _ in range(8):
            optimizer.zero_grad()
            one_step_of_text(model)
            optimizer.step()
            with torch.no_grad():
                model(torch.randint(9, (4, 4)))  # an evaluation in between is none of its business
    assert [m.step for m in flow.history] == [0, 3, 6]
    assert flow.spectrum.lanes == (2, 4)
    assert "2 of 4 lanes" in flow.explain()
    with pytest.raises(ArgumentError, match="at="):
        flow.bias(5)


def test_steps_are_counted_where_the_loss_sees_the_last_state_alone() -> None:
    model = Classifier()
    with bptt.watch(model, every=2) as flow:
        for _ in range(5):
            one_step(model, torch.randn(4, 6, 3))
    assert [m.step for m in flow.history] == [0, 2, 4]


def one_step_of_text(model: nn.Module) -> None:
    logits, _ = model(torch.randint(9, (12, 4)))
    bptt.models.token_loss(logits, torch.randint(9, (12, 4))).backward()


def test_gradient_accumulation_measures_each_part() -> None:
    model = nn.GRU(3, 4)
    with bptt.watch(model) as flow:
        for _ in range(2):
            model(torch.randn(5, 2, 3))[0].sum().backward()
    assert len(flow.history) == 2


def test_two_calls_are_two_sequences() -> None:
    model = nn.GRU(3, 4).double()
    x = torch.randn(2, 5, 2, 3, dtype=torch.float64)
    with bptt.watch(model) as flow:
        (model(x[0])[0].sum() + model(x[1, :3])[0].sum()).backward()
    norm = sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5
    assert_close(flow.spectrum.gradient_norm, norm, 1e-12)
    assert flow.spectrum.lanes == (4, 4)


def test_compiled() -> None:
    model = Loop()
    twin = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    x = torch.randn(4, 2, 3)
    compiled(x)  # compiled before it is watched: hooks come too late for that code
    with bptt.watch(compiled) as flow:
        one_step(compiled, x)
    with bptt.watch(twin) as plain:
        one_step(twin, x)
    assert flow.modules[0].name == "cell"
    assert_close(flow.spectrum.norms, plain.spectrum.norms, 1e-6)


def test_distributed(tmp_path) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = Classifier()
        wrapped = nn.parallel.DistributedDataParallel(model)
        with bptt.watch(wrapped) as flow:
            one_step(wrapped, torch.randn(4, 6, 3))
        assert flow.modules[0].name == "lstm"
        norm = sum(float(p.grad.square().sum()) for p in model.lstm.parameters()) ** 0.5
        assert_close(flow.spectrum.gradient_norm, norm, 1e-5)  # float32
    finally:
        dist.destroy_process_group()


def test_a_gradient_that_overflows_is_a_verdict_and_no_error() -> None:
    model = nn.RNN(3, 4, nonlinearity="relu")
    with torch.no_grad():
        model.weight_hh_l0.fill_(1e9)
        model.bias_ih_l0.fill_(1.0)
    with bptt.watch(model) as flow:
        model(torch.rand(60, 2, 3))[0].sum().backward()
    assert flow.verdict == "exploding"
    assert "not finite" in flow.explain()
    assert flow.horizon == 60


def test_no_gradient_at_all() -> None:
    model = nn.GRU(3, 4)
    with bptt.watch(model) as flow:
        (model(torch.rand(6, 2, 3))[0].sum() * 0).backward()
    assert "norm is 0" in flow.explain()


def test_under_checkpointing() -> None:
    from torch.utils.checkpoint import checkpoint

    model = nn.GRU(3, 4)
    with bptt.watch(model) as flow:
        x = torch.randn(5, 2, 3, requires_grad=True)
        checkpoint(lambda v: model(v)[0], x, use_reentrant=False).sum().backward()
    assert flow.spectrum.steps == 5


def test_random_numbers_within_a_step_are_in_the_graph() -> None:
    """Run again it would be another step; the graded pass runs nothing again."""

    class Noisy(OwnCell):
        def forward(self, x, state):
            y, (slow, fast) = super().forward(x, state)
            return y, (slow + torch.rand_like(slow), fast)

    model = OwnLoop(Noisy()).double()
    with bptt.watch(model, at="every") as flow:
        model(torch.randn(6, 2, 3, dtype=torch.float64)).square().mean().backward()
    assert (flow.method, flow.spectrum.steps) == ("graded", 6)
    norm = sum(float(p.grad.square().sum()) for p in model.parameters()) ** 0.5
    assert_close(flow.spectrum.gradient_norm, norm, 1e-12)
    with pytest.raises(ReplayError, match="random numbers"):
        trace(Noisy(), torch.randn(4, 2, 3))


class TestWrongUse:
    def test_no_backward(self) -> None:
        model = nn.GRU(3, 4)
        with pytest.raises(WatchError, match=r"call loss\.backward"), bptt.watch(model):
            model(torch.randn(5, 2, 3))

    def test_asked_before_backward(self) -> None:
        model = nn.GRU(3, 4)
        with bptt.watch(model) as flow:
            with pytest.raises(WatchError, match="none so far"):
                flow.horizon
            model(torch.randn(5, 2, 3))[0].sum().backward()

    def test_nothing_recurrent(self) -> None:
        with pytest.raises(ArgumentError, match="without any"), bptt.watch(nn.Linear(3, 4)):
            pass

    def test_not_called(self) -> None:
        with pytest.raises(WatchError, match="run the model's forward"), bptt.watch(nn.GRU(3, 4)):
            pass

    def test_gradients_off(self) -> None:
        model = nn.GRU(3, 4)
        with pytest.raises(WatchError, match="no_grad"), bptt.watch(model), torch.no_grad():
            model(torch.randn(5, 2, 3))

    def test_an_error_of_the_users_own_is_passed_on(self) -> None:
        with pytest.raises(KeyError), bptt.watch(nn.GRU(3, 4)):
            raise KeyError("theirs")

    def test_an_output_changed_in_place(self) -> None:
        def step() -> None:
            y, _ = model(torch.randn(5, 2, 3))
            y.add_(1.0)  # autograd allows it: a GRU's stacked output is not needed for its backward
            y.sum().backward()

        model = nn.GRU(3, 4)
        with pytest.raises(ArgumentError, match="in place"), bptt.watch(model):
            step()

    @pytest.mark.parametrize("options", [{"every": 0}, {"lanes": 0}, {"cap": -1}])
    def test_options(self, options: dict) -> None:
        with pytest.raises(ArgumentError):
            bptt.watch(nn.GRU(3, 4), **options)

    def test_k_and_tolerance(self) -> None:
        model = nn.GRU(3, 4)
        with bptt.watch(model) as flow:
            model(torch.randn(5, 2, 3))[0].sum().backward()
        with pytest.raises(ArgumentError):
            flow.bias(0)
        with pytest.raises(ArgumentError):
            flow.spectrum.horizon(0.0)
        assert flow.bias(1000) == 0
        assert flow.spectrum.horizon(0.01) >= flow.horizon


def test_models_that_train_side_by_side_are_each_watched_alone():
    """A pass in one thread is nobody else's: each gives what it gives alone."""

    def horizons(seed, begun=None):
        generator = torch.Generator().manual_seed(seed)
        model = nn.RNN(3, 8).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)
        found = []
        if begun is not None:
            begun.wait()
        for _ in range(40):
            x = torch.randn(10, 2, 3, dtype=torch.float64, generator=generator)
            with bptt.watch(model) as flow:
                model(x)[0].square().mean().backward()
            found.append(flow.spectrum.norms.tolist())
        return found

    begun, found = threading.Barrier(3), {}

    def work(seed):
        found[seed] = horizons(seed, begun)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {seed: horizons(seed) for seed in range(3)}
