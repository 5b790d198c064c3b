"""The plan against every plan there is."""

import heapq
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bptt.errors import ArgumentError
from bptt.gradients.checkpointed import advanced, plan


def run(segments, states):
    """Follow a plan by its rules; return how many segments it advanced over."""
    kept, todo, steps = {0}, segments, 0
    for start, stop, reverse in plan(segments, states):
        assert start in kept
        assert start <= stop < todo
        steps += stop - start
        if reverse:
            assert stop == todo - 1, "segments are reversed from the last to the first"
            todo -= 1
            if start == stop:
                kept.remove(start)
        else:
            kept.add(stop)
        assert len(kept) <= states
    assert todo == 0
    return steps


@cache
def cheapest(segments, states):
    """Dijkstra over all (kept states, segments left): no recursion formula in it."""
    first = (frozenset({0}), segments)
    best, heap, tie = {first: 0}, [(0, 0, first)], 0
    while heap:
        cost, _, (kept, todo) = heapq.heappop(heap)
        if todo == 0:
            return cost
        if cost > best[kept, todo]:
            continue
        options = []
        for start in kept:
            # Go on to any later place: reverse there if it is the last, keep the state if there is room.
            for stop in range(start, todo):
                if stop == todo - 1:
                    options.append((stop - start, (kept, todo - 1)))
                elif stop not in kept and len(kept) < states:
                    options.append((stop - start, (kept | {stop}, todo)))
            options.append((0, (kept - {start}, todo)))
        for more, state in options:
            if cost + more < best.get(state, float("inf")):
                tie += 1
                best[state] = cost + more
                heapq.heappush(heap, (cost + more, tie, state))
    raise AssertionError("no plan at all")


@pytest.mark.parametrize("segments", range(1, 10))
@pytest.mark.parametrize("states", range(1, 6))
def test_no_plan_is_cheaper(segments, states):
    assert run(segments, states) == advanced(segments, states) == cheapest(segments, states)


@given(segments=st.integers(1, 400), states=st.integers(1, 420))
def test_plans_keep_their_rules_and_their_promise(segments, states):
    assert run(segments, states) == advanced(segments, states)
    assert advanced(segments, states) >= segments - 1
    assert advanced(segments, states + 1) <= advanced(segments, states)


def test_enough_states_for_one_more_pass():
    assert advanced(100, 99) == 99 == advanced(100, 500)
    assert advanced(100, 98) == 100


@pytest.mark.parametrize(("segments", "states"), [(0, 1), (1, 0), (2.0, 1), (3, True)])
def test_bad_sizes(segments, states):
    with pytest.raises(ArgumentError, match=">= 1"):
        list(plan(segments, states))
