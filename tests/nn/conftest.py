"""Every test of the layers runs twice: on the compiled kernels where they apply, and in plain torch."""

import pytest

from bptt import ops


@pytest.fixture(params=["auto", "eager"], autouse=True)
def backend(request):
    before = ops.backend().setting
    ops.set_backend(request.param)
    yield request.param
    ops.set_backend(before)
