"""k while a model learns: what is measured, and what is taken."""

from panels import panel, train

import bptt
from bptt.gradients import Adaptive
from bptt.models import Classifier
from bptt.tasks import Recall


def draw():
    """A GRU on recall of the character six steps ago, measured every tenth update."""
    task = Recall(6, alphabet=4, length=40)
    model = Classifier(bptt.nn.GRU(task.inputs, 48), task.outputs, pool="none")
    estimator = Adaptive(bias=0.05, every=10)
    for _ in train(model, task, 260, estimator=estimator):
        pass
    made, axes = panel()
    calls = [d.call for d in estimator.decisions]
    axes.plot(calls, [d.horizon for d in estimator.decisions], "o", markersize=4, label="horizon")
    axes.step(calls, [d.k for d in estimator.decisions], where="post", label="k in use")
    axes.axhline(task.steps + 1, color="C2", linestyle="--", linewidth=1.2, label="the task needs")
    axes.set(title="Adaptive(bias=0.05)", xlabel="update", ylabel="steps", ylim=(0, None))
    axes.legend()
    held = task.held_out()
    score = task.score(model(held.inputs)[0], held.targets)
    last = estimator.decisions[-1]
    return [made], {"k": str(last.k), "score": f"{100 * score:.0f} %"}
