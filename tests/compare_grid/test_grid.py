"""The grid, its file, its jobs, and what the table says of them."""

import importlib.util
import itertools
import json
import math
import sys

import pytest
import torch

from bptt.errors import ArgumentError, DependencyError, RunError
from bptt.experiments.compare import TASKS, Budget, Grid, Job, read_results, summarise
from bptt.experiments.compare import grid as grids
from bptt.experiments.compare.job import (
    PATIENCE,
    FixedSet,
    build_gradient,
    build_task,
    on_processes,
    on_ray,
    run_job,
)
from bptt.experiments.compare.results import AXES, cells_of, run_grid, varying
from bptt.models import CELLS
from bptt.remedies import Clip
from bptt.report.chart_figure import draw_figure, to_svg, write_figure
from bptt.report.compared import chart_comparison, chart_progress, comparison_page
from bptt.tasks import RememberFirst

SMALL = Budget(hidden=8, batch=8, updates=6, every=3)


def job(**changes):
    values = {
        "task": "remember-first", "length": 4, "cell": "gru", "start": "default", "clip": "norm:1",
        "regularise": "none", "gradient": "full", "curriculum": "none", "seed": 0, "budget": SMALL,
    }  # fmt: skip
    return Job(**{**values, **changes})


def here(jobs):
    """In this process: what the tests do not need processes for."""
    return map(run_job, jobs)


def test_a_grid_is_every_combination():
    grid = Grid(
        "adding", ("rnn", "gru"), ("default", "orthogonal+hold"), ("norm:1", "none"),
        ("none", "omega:1"), ("full", "truncated:5"), ("none", "double"), (9, 5), 2, SMALL,
        (0, 16),
    )  # fmt: skip
    jobs = grid.jobs()
    assert len(jobs) == len(set(jobs)) == 2**9
    assert [j.length for j in jobs] == [5] * 256 + [9] * 256
    assert {len({getattr(j, name) for j in jobs}) for name in AXES} == {2}
    assert [Job.from_dict(json.loads(json.dumps(j.as_dict()))) for j in jobs] == jobs


WRONG = [
    ({"task": "juggling"}, "a task: remember-first"),
    ({"cells": ("gruu",)}, "cells among"),
    ({"cells": ()}, "at least one value for --cells"),
    ({"starts": ("lucky",)}, "one of default"),
    ({"clips": ("1:2",)}, "one of none"),
    ({"penalties": ("omega:0",)}, "above 0"),
    ({"gradients": ("truncated",)}, "a number after truncated"),
    ({"task": "digits", "lengths": (5,)}, "8 .rows. or 64"),
    ({"task": "japanese-vowels", "lengths": (5,)}, "no --lengths"),
    ({"task": "digits", "curricula": ("double",)}, "no curriculum"),
    ({"curricula": ("triple",)}, "curricula among"),
    ({"seeds": 0}, "--seeds"),
    ({"fixed": ()}, "at least one value for --fixed"),
    ({"fixed": (0, -1)}, "--fixed >= 0"),
    ({"fixed": (10**15,)}, "--fixed 1000000000000000 at length 50"),
]


@pytest.mark.parametrize(("values", "words"), WRONG, ids=[str(w[0]) for w in WRONG])
def test_bad_grids(values, words):
    with pytest.raises(ArgumentError, match=words):
        Grid(**{"task": "adding", **values})


def test_the_names_that_are_known_before_torch_are_those_there_are():
    assert tuple(CELLS) == grids.CELLS
    for name, length in TASKS.items():
        if name not in ("digits", "japanese-vowels", "co2"):
            assert build_task(name, length).name == name
    for form in ("full", "truncated:3", "windowed:3", "checkpointed", "adaptive:0.1", "randomized:3",
                 "forward"):  # fmt: skip
        assert build_gradient(form, RememberFirst(5))
    for name in ("batch", "lr", "every"):
        with pytest.raises(ArgumentError, match=f"--{name}"):
            Budget(**{name: 0})


def test_a_job_is_the_same_every_time_and_depends_on_its_seed():
    first, again, other = (run_job(job(seed=s)) for s in (0, 0, 1))
    for record in (first, again, other):
        assert record.pop("seconds") >= 0
    assert first == again
    assert first["curve"] != other["curve"]
    assert (first["updates"], [u for u, _ in first["curve"]]) == (6, [3, 6])
    assert first["score"] == first["curve"][-1][1]


def test_a_job_ends_when_the_task_is_solved_unless_it_goes_on():
    easy = {"length": 1, "budget": Budget(hidden=16, batch=32, updates=60, lr=0.03, every=5)}
    solved = run_job(job(**easy))
    assert solved["solved"]
    assert solved["updates"] < 60
    whole = run_job(job(**{**easy, "budget": Budget(16, 32, 60, 0.03, 5, to_the_end=True)}))
    assert whole["solved"]
    assert whole["updates"] == 60
    assert whole["curve"][: len(solved["curve"])] == solved["curve"]


def test_a_curriculum_grows_only_by_what_is_solved(monkeypatch):
    """A task that counts as solved at once: 10, 20, 40, and then the whole of 50."""
    seen = []
    batch = RememberFirst.batch

    def spy(self, generator, size):
        if size == 4:  # a training batch
            seen.append(self.steps)
        return batch(self, generator, size)

    monkeypatch.setattr(RememberFirst, "batch", spy)
    grows = job(length=50, curriculum="double", budget=Budget(4, 4, 10, every=2, to_the_end=True))
    run_job(grows)
    assert seen == [10] * 10
    monkeypatch.setattr(RememberFirst, "solved", lambda self, score: True)
    seen.clear()
    record = run_job(grows)
    assert seen == [10, 10, 20, 20, 40, 40, 50, 50, 50, 50]
    assert len(record["curve"]) == 5
    seen.clear()
    run_job(job(length=4, curriculum="double", budget=Budget(4, 4, 2)))
    assert seen == [4, 4]


COMBINATIONS = [
    {"cell": "lru", "task": "adding"},
    {"cell": "mingru", "start": "chrono:9", "task": "copy"},
    {
        "cell": "lstm",
        "start": "forget:1",
        "clip": "auto:20",
        "task": "temporal-order",
        "length": 10,
    },
    {"cell": "rnn", "start": "gaussian+hold", "regularise": "floss:0.1", "task": "agreement"},
    {"cell": "rnn-relu", "start": "identity", "regularise": "omega", "gradient": "truncated:3"},
    {"task": "recall", "gradient": "windowed:2", "clip": "z"},
    {"gradient": "adaptive:0.1", "clip": "unit"},
    {"gradient": "forward", "cell": "lru"},
]


@pytest.mark.parametrize("changes", COMBINATIONS, ids=str)
def test_combinations_run(changes):
    record = run_job(job(**{"budget": Budget(4, 4, 2, every=1), **changes}))
    assert record["error"] is None
    assert all(math.isfinite(score) for _, score in record["curve"])


def test_what_cannot_be_run_says_why_and_has_its_row():
    record = run_job(job(cell="mingru", start="orthogonal"))
    assert record["score"] is None
    assert "recurrent matrix" in record["error"]
    (row,) = summarise([record])
    assert (row.mean, row.solved, row.errors) == (None, 0, (record["error"],))
    assert record["error"] in cells_of(row, ["cell"])


def test_gradients_that_are_not_finite_are_skipped_and_end_the_job(monkeypatch):
    def spoil(self, parameters):
        parameters = list(parameters)
        parameters[0].grad[0] = torch.nan
        return whole(self, parameters)

    whole = Clip.__call__
    monkeypatch.setattr(Clip, "__call__", spoil)
    record = run_job(job(budget=Budget(4, 4, 100, every=50)))
    assert record["skipped"] == record["updates"] == PATIENCE
    assert math.isfinite(record["score"])  # the parameters are what they were


def test_a_grid_goes_on_where_it_stopped(tmp_path):
    jobs = Grid("remember-first", ("gru", "rnn"), lengths=(3,), seeds=2, budget=SMALL).jobs()
    path, ran, told = tmp_path / "new" / "jobs.jsonl", [], []

    def stop_after_two(left):
        ran.extend(left)
        return here(left[:2]) if len(ran) == 4 else here(left)

    with pytest.raises(KeyError):
        run_grid(jobs, path, stop_after_two)
    with path.open("a") as file:
        file.write('{"job": {"ta')  # killed while writing
    records = run_grid(jobs, path, stop_after_two, told.append)
    assert ran == [*jobs, *jobs[2:]]
    assert [Job.from_dict(r["job"]) for r in records] == jobs
    assert len(told) == 4
    assert read_results(path) == records
    assert run_grid(jobs, path, lambda left: pytest.fail("all is done")) == records
    # Other settings are other jobs, and the old ones stay in the file.
    more = Grid("remember-first", ("gru",), ("np",), lengths=(3,), seeds=1, budget=SMALL).jobs()
    run_grid(more, path, here)
    assert len(read_results(path)) == 5


def test_a_damaged_file(tmp_path):
    path = tmp_path / "jobs.jsonl"
    path.write_text('{"job": 3}\n')
    with pytest.raises(RunError, match="line 1"):
        read_results(path)


def record(score, seed=0, solved=False, updates=9, **changes):
    return {
        "job": job(seed=seed, **changes).as_dict(), "score": score, "solved": solved,
        "updates": updates, "seconds": 1.0 + seed, "error": None,
    }  # fmt: skip


def test_the_table_by_hand():
    records = [
        record(0.5), record(1.0, 1, True, 30), record(0.9, 2, True, 10),
        record(0.25, cell="lstm"), record(None, cell="lstm", start="np"),
    ]  # fmt: skip
    first, second, third = summarise(records)
    assert (first.seeds, first.solved, first.updates, first.seconds) == (3, 2, 20, 2.0)
    assert first.mean == pytest.approx(0.8)
    assert first.spread == pytest.approx(math.sqrt((0.09 + 0.04 + 0.01) / 2))
    assert (second.spread, second.updates) == (None, None)
    assert varying([first, second, third]) == ["cell", "start"]
    assert cells_of(third, ["cell"])[-1] == "not finite"


def test_processes_give_what_this_process_gives(tmp_path):
    jobs = [job(seed=s) for s in range(2)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {r["job"]["seed"]: r for r in on_processes(jobs, 2)}
    torch.set_num_threads(threads)
    for seed, expected in enumerate(here(jobs)):
        assert found[seed]["curve"] == expected["curve"]
    with pytest.raises(ArgumentError, match="--workers"):
        list(on_processes(jobs, 0))


def test_a_job_that_breaks_is_told_with_its_settings():
    """Whatever a worker did not expect arrives here as it was, and says which job it was."""
    broken = [job(task="juggling", seed=7)]
    with pytest.raises(KeyError, match="juggling") as told:
        list(on_processes(broken, 1))
    assert told.value.__notes__ == [f"The job was {broken[0].as_dict()}."]


def find_ray(monkeypatch, found):
    """Let Ray be found, or not; nothing else may change: torch looks for its own modules late."""
    real = importlib.util.find_spec

    def find(name, *rest):
        return found if name == "ray" else real(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", find)


def test_without_ray(monkeypatch):
    find_ray(monkeypatch, None)
    with pytest.raises(DependencyError, match=r"bptt\[ray\]"):
        list(on_ray([job()]))


class FakeRay:
    """What on_ray asks of Ray, done in this process; the later of two jobs is ready first."""

    def __init__(self):
        self.calls = []

    def is_initialized(self):
        return False

    def init(self, address, **_):
        self.calls.append(f"init {address}")

    def remote(self, num_cpus):
        assert num_cpus == 1

        class Remote:
            def __init__(self, function):
                self.function = function

            def remote(self, values):
                return self.function(json.loads(json.dumps(values)))

        return Remote

    def wait(self, waiting, num_returns):
        return [waiting[-1]], waiting[:-1]

    def get(self, ready):
        return ready

    def shutdown(self):
        self.calls.append("shutdown")


def test_a_cluster_is_given_every_job_and_let_go(monkeypatch):
    fake, jobs = FakeRay(), [job(seed=s) for s in range(3)]
    find_ray(monkeypatch, fake)
    monkeypatch.setitem(sys.modules, "ray", fake)
    found = list(on_ray(jobs, "auto"))
    assert [r["job"]["seed"] for r in found] == [2, 1, 0]
    assert fake.calls == ["init auto", "shutdown"]


if importlib.util.find_spec("ray") is not None:  # an extra; `./run check` installs it
    # Ray's own deprecations and open files are not ours to mend.
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_a_local_ray_gives_what_the_local_pool_gives(tmp_path):
        """The whole way of `bptt compare`: a grid, its file, resumed, on two of Ray's processes."""
        import ray

        grid = Grid("remember-first", ("gru", "rnn"), lengths=(3,), seeds=2, budget=SMALL)
        jobs = grid.jobs()
        expected = run_grid(jobs, tmp_path / "pool.jsonl", lambda left: on_processes(left, 2))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            # One is done before: Ray is given the other three.
            run_grid(jobs[:1], tmp_path / "ray.jsonl", here)
            told = []
            found = run_grid(jobs, tmp_path / "ray.jsonl", on_ray, told.append)
            assert ray.is_initialized(), "a cluster that was there before is not shut down"
        finally:
            ray.shutdown()
        assert len(told) == len(found) == len(read_results(tmp_path / "ray.jsonl")) == 4
        for one, other in zip(found, expected, strict=True):
            one.pop("seconds"), other.pop("seconds")
            assert one == other  # to the bit: the same seed, one thread each

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_ray_is_started_and_let_go(tmp_path):
        import ray

        (found,) = on_ray([job()])
        assert found["curve"] == run_job(job())["curve"]
        assert not ray.is_initialized()


def test_figure_and_page(tmp_path):
    one = summarise([record(0.5), record(0.7, 1), record(0.2, cell="<b>")])
    several = summarise([record(0.5, length=n, cell=c) for n in (3, 9) for c in ("gru", "rnn")])
    levels = {"chance": 0.1, "goal": 0.9}
    for rows in (one, several):
        chart = chart_comparison(rows, "a title", "accuracy", levels)
        figure = draw_figure(chart)
        text = to_svg(figure, "scores")
        again = draw_figure(chart_comparison(rows, "a title", "accuracy", levels))
        assert text == to_svg(again, "scores")
        write_figure(figure, tmp_path / "f.svg")
        write_figure(figure, tmp_path / "f.png")
        for name in ("f.xyz", "f"):
            with pytest.raises(ArgumentError, match=r"ends in one of .*\.png, .* received 'f"):
                write_figure(figure, tmp_path / name)
        assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
        written = comparison_page(rows, "a <title>", "bptt compare x", [chart], levels)
        assert "<b>" not in written
        assert "a &lt;title&gt;" in written
        assert text in written
    axes = draw_figure(chart_comparison(several, "t", "m", {})).axes[0]
    lines = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert sorted(line.get_label() for line in lines) == ["gru", "rnn"]
    assert list(itertools.chain(*(line.get_xdata() for line in lines))) == [3, 9, 3, 9]


class Counted(RememberFirst):
    """A task whose sequences say which they are."""

    def batch(self, generator, size):
        drawn = super().batch(generator, size)
        return drawn._replace(targets=torch.arange(size).expand(self.steps, size))


def test_a_fixed_set_is_read_whole_at_every_pass_each_time_in_another_order():
    few = FixedSet(Counted(3), 10, torch.Generator().manual_seed(0))
    order = torch.Generator().manual_seed(5)
    passes = []
    for _ in range(3):
        read = [few.batch(order, 4) for _ in range(3)]
        assert [b.inputs.shape[1] for b in read] == [4, 4, 2]
        passes.append(torch.cat([b.targets[0] for b in read]).tolist())
        inputs = torch.cat([b.inputs for b in read], 1)[:, torch.tensor(passes[-1]).argsort()]
        assert torch.equal(inputs, few._kept.inputs)  # inputs stay with their targets
    assert [sorted(p) for p in passes] == [list(range(10))] * 3
    assert len({tuple(p) for p in passes}) == 3
    assert few.batch(order, 99).inputs.shape[1] == 10


@pytest.mark.parametrize("task", ["remember-first", "adding"])
def test_jobs_with_a_fixed_set_see_no_other_sequence(task, monkeypatch):
    drawn = []
    kind = type(build_task(task, 4))
    batch = kind.batch
    monkeypatch.setattr(
        kind,
        "batch",
        lambda *a: drawn.append(a[2]) or batch(*a),  # which sizes are asked for
    )
    record = run_job(job(task=task, fixed=12))
    assert sorted(drawn) == [12, 512]  # the set, and what is held out
    assert record["updates"] == 6
    assert run_job(job(task=task, fixed=12)) | {"seconds": 0} == record | {"seconds": 0}
    assert run_job(job(task=task))["curve"] != record["curve"]


def test_a_curriculum_with_a_fixed_set_draws_one_for_every_length(monkeypatch):
    seen = []
    batch = RememberFirst.batch

    def spy(self, generator, size):
        if size == 4:
            seen.append(self.steps)
        return batch(self, generator, size)

    monkeypatch.setattr(RememberFirst, "batch", spy)
    monkeypatch.setattr(RememberFirst, "solved", lambda self, score: True)
    budget = Budget(4, 2, 10, every=2, to_the_end=True)
    run_job(job(length=50, curriculum="double", budget=budget, fixed=4))
    assert seen == [10, 20, 40, 50]


def test_losses_stand_beside_the_scores_and_both_are_drawn():
    records = [run_job(job(fixed=f, seed=s)) for f in (0, 12) for s in (0, 1)]
    for record in records:
        assert [u for u, _ in record["losses"]] == [u for u, _ in record["curve"]] == [3, 6]
        assert all(0 < loss < 5 for _, loss in record["losses"])
    rows = summarise(records)
    assert [row.fixed for row in rows] == [0, 12]
    assert varying(rows) == ["cell", "fixed"]
    assert [cells_of(row, varying(rows))[:2] for row in rows] == [
        ["gru", "fresh"],
        ["gru", "12 fixed"],
    ]
    loss, score = chart_progress(records, rows, "accuracy", {"chance": 0.125})
    assert [part.name for part in loss.parts] == ["gru fresh", "", "gru 12 fixed", ""]
    assert [list(part.y) for part in score.parts[:4]] == [
        [s for _, s in r["curve"]] for r in records
    ]
    assert (loss.y, score.y, score.parts[-1].word) == ("loss", "accuracy", "chance")
    broken = [{**r, "losses": [[3, None]], "curve": []} for r in records]
    assert chart_progress(broken, rows, "accuracy", {}) == []


def test_a_record_from_before_fixed_sets_is_read(tmp_path):
    path = tmp_path / "jobs.jsonl"
    record = run_job(job())
    del record["job"]["fixed"], record["losses"]
    path.write_text(json.dumps(record) + "\n")
    assert run_grid([job()], path, lambda jobs: pytest.fail("it was done"))[0]["job"]["fixed"] == 0
    assert summarise(read_results(path))[0].fixed == 0
