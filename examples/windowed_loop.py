"""A plain PyTorch loop, made right: what hand-written truncation loses without a word.

python examples/windowed_loop.py

The task: name the character read six steps before, in sequences of sixty steps, in chunks of eight. Three
loops that all run without a complaint, and do not do the same:

- zeroed: a new state for every chunk, the usual slip. Nothing before a chunk is ever seen.
- detached: the state goes on and the gradient is cut at every border, as one is told to do. The first
  loss of a chunk reaches back over no step, the next over one: only two of eight reach six steps back.
- windowed: every loss reaches at least ``k2 - k1`` steps back; one line in place of the loop.
"""

from __future__ import annotations

import torch

import bptt
from bptt.gradients import Windowed
from bptt.models import Classifier
from bptt.tasks import Recall

CHUNK, UPDATES = 8, 150
TASK = Recall(steps=6, alphabet=4, length=60)


def zeroed(model, x, target):
    """By hand, with the slip: the state is forgotten at every border."""
    for begin in range(0, len(x), CHUNK):
        output, _ = model(x[begin : begin + CHUNK])
        part = target[begin : begin + CHUNK]
        (TASK.loss(output, part) * share(part, target)).backward()


def detached(model, x, target):
    """By hand, as in most tutorials: the state goes on, its gradient does not."""
    state = None
    for begin in range(0, len(x), CHUNK):
        output, state = model(x[begin : begin + CHUNK], state)
        part = target[begin : begin + CHUNK]
        (TASK.loss(output, part) * share(part, target)).backward()
        state = state.detach()


def share(part, target):
    """A mean over a chunk weighs as many of the sequence's terms as it has; -100 is no term."""
    return (part != -100).sum() / (target != -100).sum()


def whole(model, x, target):
    """No truncation at all: what the others are compared with."""
    TASK.loss(model(x)[0], target).backward()


def windowed(model, x, target):
    """The library's: windows of 12 steps for every 4 losses, weighed, states replayed exactly."""
    Windowed(k1=4, k2=12).backward(model, x, target, loss=TASK.loss)


def gradient(loop, model, x, target) -> torch.Tensor:
    """What a loop leaves in ``.grad``, as one vector."""
    model.zero_grad()
    loop(model, x, target)
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def make() -> Classifier:
    """The same start for everybody."""
    torch.manual_seed(0)
    return Classifier(bptt.nn.GRU(TASK.inputs, 48), TASK.outputs, pool="none")


def main() -> None:
    """Train with each loop; then compare the gradients of one batch on one trained model."""
    torch.set_num_threads(1)
    held_out, trained = TASK.held_out(), {}
    loops = (zeroed, detached, windowed, whole)
    for loop in loops:
        model, generator = make(), torch.Generator().manual_seed(1)
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(UPDATES):
            batch = TASK.batch(generator, 16)
            optimizer.zero_grad()
            loop(model, batch.inputs, batch.targets)
            optimizer.step()
        score = TASK.score(model(held_out.inputs)[0], held_out.targets)
        trained[loop] = model
        print(f"{loop.__name__:9} {score:6.1%} of the characters right (chance {TASK.chance:.0%})")
    batch = TASK.batch(torch.Generator().manual_seed(2), 16)
    model = trained[whole]
    exact = gradient(whole, model, batch.inputs, batch.targets)
    print("\nthe gradient of one batch, on the model that was trained without truncation:")
    for loop in loops[:3]:
        found = gradient(loop, model, batch.inputs, batch.targets)
        off = float((found - exact).norm() / exact.norm())
        cosine = float(torch.cosine_similarity(found, exact, dim=0))
        print(f"{loop.__name__:9} off by {off:6.1%}, cosine {cosine:+.2f}")


if __name__ == "__main__":
    main()
