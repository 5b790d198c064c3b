"""What is usually said, in pictures: each from the figures that the ledger's run left in claims.json."""

import json
import statistics
from pathlib import Path

from panels import panel

LEDGER = Path(__file__).parents[1] / "claims.json"


def figures(id):
    """The numbers behind one row of the ledger."""
    rows = {row["id"]: row for row in json.loads(LEDGER.read_text("utf-8"))}
    return rows[id]["figures"]


def draw(name):
    """One picture and the numbers of its caption."""
    return PICTURES[name]()


def bars(title, names, values, unit, log=False):
    """Bars with their names below and their values above."""
    made, axes = panel()
    axes.bar(range(len(names)), values, color=[f"C{n % 5}" for n in range(len(names))])
    axes.set(title=title, ylabel=unit)
    axes.set_xticks(range(len(names)), names)
    if log:
        axes.set_yscale("log")
    axes.grid(False, axis="x")
    return made


def percent(share):
    """A share in words."""
    return f"{100 * share:.0f} %"


def adam():
    """Accuracy at three lengths, the best rate of SGD beside Adam."""
    found = figures("C16")
    made, axes = panel()
    numbers = {}
    for place, (kind, look) in enumerate((("SGD", "C1"), ("Adam", "C0"))):
        means = [
            max(statistics.fmean(v) for name, v in found[T].items() if name.startswith(kind))
            for T in ("20", "30", "50")
        ]
        at = [n + 0.4 * place for n in range(3)]
        label = "SGD, the best of three rates" if kind == "SGD" else "Adam"
        axes.bar(at, [100 * m for m in means], width=0.38, color=look, label=label)
        numbers[kind.lower()] = percent(means[1])
    axes.axhline(12.5, color="C2", linewidth=1, linestyle=":", label="chance")
    axes.set(title="Remember-first, accuracy", ylabel="%", ylim=(0, 185))
    axes.set_xticks([0.2, 1.2, 2.2], ["T = 20", "T = 30", "T = 50"])
    axes.legend(loc="upper right")
    return [made], numbers


def norm():
    """The product of 50 Jacobians by the largest singular value."""
    found = {float(k): v for k, v in figures("B10").items()}
    made, axes = panel()
    for sigma, values in found.items():
        axes.semilogy([sigma] * len(values), values, "o", color="C0")
    axes.axhline(1, color="C2", linewidth=1, linestyle=":")
    axes.axvline(1, color="C2", linewidth=1, linestyle=":")
    axes.set(title="Norm of a product of 50 Jacobians", xlabel="largest singular value of W")
    return [made], {"at": f"{max(found[1.5]):.1g}"}


def clips():
    """The largest norm of a run beside the thresholds that it is said to meet."""
    found = figures("B7")
    values = [found["largest_norm"], 1.0, 5.0]
    names = ["largest norm", "θ = 1", "θ = 5"]
    return [bars("Gradient norm and thresholds", names, values, "norm", log=True)], {
        "norm": f"{values[0]:.2f}"
    }


def near_zero():
    """Updates whose norm is next to nothing, by the kind of run."""
    found = figures("C14")["small"]
    names = {"healthy, learned": "learned\nits task", "vanishing": "gradient\nvanishes",
             "rate 10": "rate\ntoo high"}  # fmt: skip
    means = [100 * statistics.fmean(found[name]) for name in names]
    made = bars("Updates with a norm near zero", list(names.values()), means, "%")
    return [made], {"learned": percent(means[0] / 100), "vanishing": percent(means[1] / 100)}


def cell():
    """Steps until one hundredth is left along an LSTM's cell."""
    found = figures("C7")["steps_to_one_percent"]
    names = [f"bias {float(bias):g}" for bias in found]
    made = bars("Steps until 1 % is left", names, list(found.values()), "steps", log=True)
    return [made], {"one": str(found["1.0"]), "three": str(found["3.0"])}


def sizes():
    """Parameters of a layer of 128."""
    found = figures("C22")
    made = bars("Parameters of a layer of 128", ["RNN", "GRU", "LSTM"],
                [found[k] / 1000 for k in ("rnn", "gru", "lstm")], "thousands")  # fmt: skip
    return [made], {"gru": f"{found['gru'] / found['rnn']:g}"}


def cut():
    """What crosses a cut: the state's knowledge, and the gradient."""
    found = figures("B9")
    made = bars("Across a cut, five steps back", ["the state\nstill explains", "the gradient\nstill has"],
                [100 * found["recall"], 100 * found["gradient"]], "%")  # fmt: skip
    return [made], {"recall": percent(found["recall"])}


def by_heart():
    """Accuracy on the sequences that are trained on, and on others."""
    found = figures("B11")
    made = bars("T = 50, accuracy", ["trained on", "others"],
                [100 * found["train"], 100 * found["test"]], "%")  # fmt: skip
    return [made], {"train": percent(found["train"]), "test": percent(found["test"])}


def perplexity():
    """One skill, two texts."""
    found = figures("D6")["perplexities"]
    made = bars("A table of single characters", ["prose", "random digits"],
                [found["prose 1"], found["digits 1"]], "perplexity")  # fmt: skip
    return [made], {"prose": f"{found['prose 1']:.1f}", "digits": f"{found['digits 1']:.1f}"}


def embedding():
    """What the size of an embedding's gradient goes with."""
    found = figures("C23")
    made = bars("Correlation of a row's norm with", ["how often\nit is used", "where it is\nused last"],
                [found["count"], found["place"]], "")  # fmt: skip
    return [made], {"count": f"{found['count']:.2f}", "place": f"{found['place']:.2f}"}


PICTURES = {
    "adam": adam, "norm": norm, "clips": clips, "near_zero": near_zero, "cell": cell, "sizes": sizes,
    "cut": cut, "by_heart": by_heart, "perplexity": perplexity, "embedding": embedding,
}  # fmt: skip
