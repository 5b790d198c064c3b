"""Lanes: every token once and in order, resets and borders, going on where one stopped."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bptt.data import IGNORED, Corpus, Lanes, Position
from bptt.errors import ArgumentError, DataError, DtypeError, ShapeError

# A machine under load, or the first use of its tables of characters, is no fault of the code.
relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def partitions(draw):
    batch, chunk = draw(st.integers(1, 5)), draw(st.integers(1, 7))
    size = draw(st.integers(batch * chunk + 1, batch * chunk + 60))
    starts = sorted(draw(st.sets(st.integers(0, size - 1), max_size=12)) | {0})
    return np.arange(size, dtype=np.uint8), np.array(starts), batch, chunk


def lanes_by_loop(tokens, starts, batch, chunk):
    """The chunks of one pass, one token at a time: the slow oracle."""
    begins = set(starts.tolist())
    steps = (len(tokens) - 1) // batch
    for offset in range(0, steps, chunk):
        rows = []
        for t in range(offset, min(offset + chunk, steps)):
            row = []
            for lane in range(batch):
                place = lane * steps + t
                target = IGNORED if place + 1 in begins else int(tokens[place + 1])
                row.append((int(tokens[place]), target, place in begins or t == 0))
            rows.append(row)
        yield np.array(rows)


@relaxed
@given(partitions())
def test_chunks_are_those_of_the_loop(partition):
    tokens, starts, batch, chunk = partition
    lanes = Lanes(tokens, starts, batch=batch, chunk=chunk)
    chunks = list(lanes)
    expected = list(lanes_by_loop(*partition))
    assert len(chunks) == len(expected) == len(lanes)
    for got, want in zip(chunks, expected, strict=True):
        assert np.array_equal(got.inputs, want[..., 0])
        assert np.array_equal(got.targets, want[..., 1])
        reset = want[..., 2].astype(bool)
        if got.reset is None:
            assert not reset.any()
        else:
            assert reset.any()
            assert np.array_equal(got.reset, reset)
        assert got.scored == np.count_nonzero(want[..., 1] != IGNORED)
        assert got.fresh == (reset[0].all() and not reset[1:].any() and got.position.offset == 0)


@relaxed
@given(partitions())
def test_every_token_is_once_an_input_and_in_order(partition):
    tokens, _, batch, chunk = partition
    lanes = Lanes(tokens, [0], batch=batch, chunk=chunk)
    chunks = list(lanes)
    inputs = torch.cat([c.inputs for c in chunks]).T.reshape(-1)
    targets = torch.cat([c.targets for c in chunks]).T.reshape(-1)
    used = len(tokens) - 1 - lanes.unused
    assert 0 <= lanes.unused < batch
    assert inputs.tolist() == tokens[:used].tolist()
    assert targets.tolist() == tokens[1 : used + 1].tolist()


@relaxed
@given(partitions(), st.data())
def test_lane_ranges_put_side_by_side_are_all_lanes(partition, data):
    tokens, starts, batch, chunk = partition
    cut = data.draw(st.integers(0, batch))
    ranges = [r for r in ((0, cut), (cut, batch)) if r[0] < r[1]]
    whole = Lanes(tokens, starts, batch=batch, chunk=chunk)
    parts = [Lanes(tokens, starts, batch=batch, chunk=chunk, lane_range=r) for r in ranges]
    for _ in range(2 * len(whole)):
        chunk_ = whole.take()
        some = [p.take() for p in parts]
        assert torch.equal(chunk_.inputs, torch.cat([c.inputs for c in some], 1))
        assert torch.equal(chunk_.targets, torch.cat([c.targets for c in some], 1))
        resets = [
            torch.zeros_like(c.inputs, dtype=bool) if c.reset is None else c.reset for c in some
        ]
        expected = torch.zeros_like(chunk_.inputs, dtype=bool)
        assert torch.equal(expected if chunk_.reset is None else chunk_.reset, torch.cat(resets, 1))
        assert chunk_.scored == sum(c.scored for c in some)
        assert all(p.state() == whole.state() for p in parts)


def same(a, b):
    return (
        torch.equal(a.inputs, b.inputs)
        and torch.equal(a.targets, b.targets)
        and (a.reset is None) == (b.reset is None)
        and (a.reset is None or torch.equal(a.reset, b.reset))
        and (a.fresh, a.position, a.scored) == (b.fresh, b.position, b.scored)
    )


@relaxed
@given(partitions(), st.integers(0, 9))
def test_a_saved_state_goes_on_exactly(partition, taken):
    tokens, starts, batch, chunk = partition
    first = Lanes(tokens, starts, batch=batch, chunk=chunk)
    for _ in range(taken):
        first.take()
    second = Lanes(tokens, starts, batch=batch, chunk=chunk)
    second.seek(json.loads(json.dumps(first.state())))
    third = Lanes(tokens, starts, batch=batch, chunk=chunk)
    third.seek(first.position)
    for _ in range(2 * len(first) + 1):
        chunk_ = first.take()
        assert same(chunk_, second.take())
        assert same(chunk_, third.take())


def test_the_state_inside_a_loop_is_that_of_the_next_chunk():
    lanes = Lanes(np.arange(21), [0], batch=2, chunk=4)
    seen = [(chunk.position, lanes.position) for chunk in lanes]
    assert seen == [((0, 0), (0, 4)), ((0, 4), (0, 8)), ((0, 8), (1, 0))]
    assert len(list(lanes)) == 3
    assert lanes.position == Position(2, 0)


def test_iterating_after_a_seek_ends_with_the_pass():
    lanes = Lanes(np.arange(21), [0], batch=2, chunk=4)
    lanes.seek(Position(5, 4))
    assert [chunk.position for chunk in lanes] == [(5, 4), (5, 8)]


def test_chunks_own_their_memory():
    tokens = np.arange(21)
    lanes = Lanes(tokens, [0], batch=2, chunk=4)
    chunk = lanes.take()
    chunk.inputs.fill_(99)
    chunk.targets.fill_(99)
    assert np.array_equal(tokens, np.arange(21))
    assert chunk.inputs.is_contiguous()
    assert chunk.inputs.dtype == chunk.targets.dtype == torch.int64


def test_lanes_of_a_corpus():
    corpus = Corpus.from_text("one#two#three#four#five", document_separator="#", valid_fraction=0)
    lanes = Lanes(*corpus.train, batch=1, chunk=30 // 2)
    first = lanes.take()
    text = corpus.vocabulary.decode(first.inputs[:, 0])
    assert text == "one#two#three#f"
    assert [i for i, r in enumerate(first.reset[:, 0]) if r] == [0, 4, 8, 14]
    assert [i for i, t in enumerate(first.targets[:, 0]) if t == IGNORED] == [3, 7, 13]
    assert first.scored == 12
    assert not first.fresh


def test_a_mapped_stream_is_not_written_to(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(bytes(range(200)))
    corpus = Corpus.open(path, bytes_mode=True, in_memory_below=0, valid_fraction=0)
    lanes = Lanes(*corpus.train, batch=3, chunk=5)
    lanes.take().inputs.zero_()
    assert path.read_bytes() == bytes(range(200))


def test_a_text_shorter_than_one_chunk():
    with pytest.raises(DataError, match=r"13 tokens, received 12 tokens: pass chunk <= 2"):
        Lanes(np.arange(12), [0], batch=4, chunk=3)
    with pytest.raises(DataError, match="smaller batch"):
        Lanes(np.arange(2), [0], batch=4, chunk=3)
    with pytest.raises(DataError):
        Lanes(np.arange(0), [], batch=1, chunk=1)
    assert len(Lanes(np.arange(13), [0], batch=4, chunk=3)) == 1


@pytest.mark.parametrize(
    ("error", "change"),
    [
        (ArgumentError, {"batch": 0}),
        (ArgumentError, {"chunk": -1}),
        (DtypeError, {"batch": 2.0}),
        (DtypeError, {"chunk": True}),
        (ArgumentError, {"lane_range": (0, 3)}),
        (ArgumentError, {"lane_range": (1, 1)}),
        (ArgumentError, {"lane_range": (-1, 1)}),
        (ShapeError, {"tokens": np.zeros((4, 4), int)}),
        (DtypeError, {"tokens": np.zeros(40)}),
        (DtypeError, {"starts": [0.5]}),
        (ArgumentError, {"starts": [3, 3]}),
        (ArgumentError, {"starts": [4, 3]}),
        (ArgumentError, {"starts": [-1, 3]}),
        (DataError, {"batch": 10**30}),
    ],
)
def test_bad_arguments(error, change):
    good = {"tokens": np.arange(40), "starts": [0], "batch": 2, "chunk": 3}
    with pytest.raises(error):
        Lanes(**{**good, **change})


@pytest.mark.parametrize(
    "change",
    [{"offset": 20}, {"offset": -1}, {"epoch": "1"}, {"batch": 3}, {"tokens": 42}, {"offset": 1.0}],
)
def test_a_state_of_other_data(change):
    lanes = Lanes(np.arange(41), [0], batch=2, chunk=3)
    with pytest.raises(ArgumentError):
        lanes.seek({**lanes.state(), **change})
    assert lanes.position == (0, 0)


def test_a_state_that_is_none():
    lanes = Lanes(np.arange(41), [0], batch=2, chunk=3)
    with pytest.raises(ArgumentError):
        lanes.seek({})
    with pytest.raises(DtypeError):
        lanes.seek("here")
