"""What the seam refuses, whoever would compute the call: the same words on every backend."""

import pytest
import torch

from bptt import ops
from bptt.errors import ArgumentError, DtypeError, ShapeError
from compare import assert_close

T, B, I, H = 3, 3, 2, 4


# Triton is there where the slow tests run.
@pytest.fixture(params=["native", "eager", pytest.param("triton", marks=pytest.mark.slow)])
def by_name(request):
    ops.set_backend(request.param)
    yield request.param
    ops.set_backend("auto")


def call(x=None, **options):
    drawn = torch.Generator("cpu").manual_seed(0)
    weights = [
        torch.randn(s, generator=drawn) for s in ((3 * H, I), (3 * H, H), (3 * H,), (3 * H,))
    ]
    x = torch.randn(T, B, I, generator=drawn) if x is None else x
    return ops.recur("GRU", x, (torch.ones(B, H),), tuple(weights), **options)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("name", ["reset", "cut"])
def test_marks_are_true_or_false(name, dtype, by_name):
    """As a number a mark could be 2, or 256, and what that means nobody knows."""
    with pytest.raises(DtypeError, match=rf"{name} of torch.bool, received {dtype}"):
        call(**{name: torch.ones(T, B, dtype=dtype)})


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.uint64])
def test_lengths_are_integers_of_any_kind(dtype, by_name):
    lengths = torch.tensor([1, 3, 2])
    assert_close(call(lengths=lengths.to(dtype))[0], call(lengths=lengths)[0], 0)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.complex64])
@pytest.mark.parametrize("name", ["lengths", "batch_sizes"])
def test_numbers_are_whole(name, dtype, by_name):
    with pytest.raises(DtypeError, match=f"integer {name}, received {dtype}"):
        call(**{name: torch.ones(B, dtype=dtype)})


@pytest.mark.parametrize("counts", [[3, 2], [3, 2, 2], [1, 2, 3], [2, 2, 2], [3, 3, 0], []])
def test_batch_sizes_are_those_of_the_rows(counts, by_name):
    with pytest.raises(ShapeError, match=r"batch_sizes|at least one step"):
        call(torch.ones(6, I), batch_sizes=torch.tensor(counts, dtype=torch.int64))


@pytest.mark.parametrize("name", ["lengths", "reset", "cut"])
def test_packed_rows_take_no_marks(name, by_name):
    mark = torch.tensor([1, 1, 1]) if name == "lengths" else torch.ones(T, B, dtype=torch.bool)
    with pytest.raises(ArgumentError, match="marks or batch_sizes, received both"):
        call(torch.ones(6, I), batch_sizes=torch.tensor([3, 2, 1]), **{name: mark})
