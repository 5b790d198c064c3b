"""How many threads a run takes: measured now and then, and the faster number kept.

On a quiet machine a second thread helps. Where other programs run, or a container may use one and a half
processors, it can make a run several times slower: threads wait for each other at the end of every
product, so the slowest one sets the pace. Nobody can know beforehand which it is, and it changes while
a run goes. So a run that ends by the clock compares the number in use with its neighbours (half as many,
twice as many) on its own updates, a fifth of a second each, in turns.

The number of threads changes the last bits of torch's products. A run that ends by ``--steps`` or
``--epochs`` therefore keeps one number from its first update to its last, and repeats to the bit.

Limits: one process. Several that train together wait for each other, and keep the number they began with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

AUTO = "auto"
WINDOW = 0.2  # seconds at a number before another one's turn: two periods of a container's quota
ROUNDS = 2  # turns of each number in a comparison
BETTER = 1.05  # so much faster must a number be to take the place of the one in use
HOPELESS = 0.5  # of the best rate: a number below it gets no second turn
OFTEN, RARELY = 4.0, 16.0  # seconds between comparisons: after a change, and after many without one
LOST = 0.04  # share of the time that comparisons may cost
DRIFT = 0.25  # relative change of the rate that asks for a comparison before its time


def counts(most: int) -> list[int]:
    """The numbers that are tried: powers of two, and the largest.

    Example:
        >>> counts(1), counts(2), counts(6)
        ([1], [1, 2], [1, 2, 4, 6])
    """
    powers = [1 << i for i in range(most.bit_length()) if 1 << i < most]
    return [*powers, most]


class Threads:
    """Chooses among numbers of threads by the speed of updates.

    Args:
        most: the largest number, and the first.
        put: sets it, as ``torch.set_num_threads`` does.

    Attributes:
        count: the number in use.

    Cost: nothing while the number in use is measured, which is the work itself; comparisons lose up to a
    twenty-fifth of the time.
    """

    def __init__(self, most: int, put: Callable[[int], object]) -> None:
        self._counts, self._put = counts(most), put
        self.count = self._set = most
        self._fresh = (
            True  # the next update is the first at its number: threads are made, caches filled
        )
        self._work: dict[int, list[float]] = {}  # tokens and seconds of the comparison, by number
        self._now = [0.0, 0.0]  # tokens and seconds of this turn
        self._rate = 0.0  # of the number in use, when last compared
        self._since, self._wait = 0.0, OFTEN
        self._dear = (
            0.0  # seconds that must pass before the next comparison, whatever the rate does
        )
        self._turns: deque[int] = deque()
        self._compare()

    def note(self, tokens: float, seconds: float) -> None:
        """After an update: how much it did, and how long that took."""
        if len(self._counts) == 1:
            return
        self._since += seconds
        if self._fresh and seconds < WINDOW:  # a slow one is all there is to go by
            self._fresh = False
            return
        self._fresh = False
        self._now = [self._now[0] + tokens, self._now[1] + seconds]
        if self._turns:
            if self._now[1] >= WINDOW:
                self._end_turn()
        elif self._now[1] >= 2 * WINDOW:
            rate = self._now[0] / self._now[1]
            self._now = [0.0, 0.0]
            drifted = abs(rate - self._rate) > DRIFT * self._rate and self._since > OFTEN / 2
            if self._since > self._dear and (drifted or self._since > self._wait):
                self._compare()

    def _compare(self, known: int | None = None) -> None:
        """Begin a comparison with the numbers beside the one in use, but for a known one."""
        at = self._counts.index(self.count)
        near = self._counts[max(at - 1, 0) : at + 2]
        self._turns.extend(
            [self.count, *(n for n in near if n not in (self.count, known))] * ROUNDS
        )
        self._work = {}
        self._switch(self._turns[0])

    def _switch(self, count: int) -> None:
        self._now = [0.0, 0.0]
        if count != self._set:
            self._put(count)
            self._set, self._fresh = count, True

    def _end_turn(self) -> None:
        count = self._turns.popleft()
        before = self._work.get(count, [0.0, 0.0])
        self._work[count] = [before[0] + self._now[0], before[1] + self._now[1]]
        rates = {n: tokens / seconds for n, (tokens, seconds) in self._work.items()}
        best = max(rates.values())
        while self._turns and rates.get(self._turns[0], best) < HOPELESS * best:
            self._turns.popleft()
        if self._turns:
            self._switch(self._turns[0])
        else:
            self._judge(rates)

    def _judge(self, rates: dict[int, float]) -> None:
        fastest, before = max(rates, key=lambda n: rates[n]), self.count
        changed = rates[fastest] > BETTER * rates[before]
        if changed:
            self.count, self._wait = fastest, OFTEN
        else:
            self._wait = min(2 * self._wait, RARELY)
        self._rate, self._since = rates[self.count], 0.0
        lost = sum(s - t / self._rate for n, (t, s) in self._work.items() if n != self.count)
        self._dear = lost / LOST
        if changed and self.count not in (self._counts[0], self._counts[-1]):
            self._compare(before)  # the next one may be faster still
        else:
            self._switch(self.count)
