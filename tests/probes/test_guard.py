"""Each mistake is named: its code, the module, the line to write; and nothing else is said."""

import warnings

import pytest

import bptt
from faulty_loops import LOOPS
from healthy_loops import LOOPS as HEALTHY


def findings(entry):
    setting = entry.setting()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with bptt.guard(setting.model, setting.optimizer, **entry.options) as guard:
                setting.guard = guard
                entry.run(setting)
        except RuntimeError as error:
            return guard, error
    return guard, None


@pytest.mark.parametrize("name", LOOPS)
def test_the_mistake_is_named(name):
    entry = LOOPS[name]
    guard, _ = findings(entry)
    assert [f.code for f in guard.findings] == [entry.code]
    (found,) = guard.findings
    assert found.module == entry.module
    assert entry.write in found.write


@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_said_of_a_healthy_loop(name):
    run, setting = HEALTHY[name]
    setting = setting()
    with warnings.catch_warnings():
        warnings.simplefilter("error", bptt.LoopWarning)
        with bptt.guard(setting.model, setting.optimizer) as guard:
            setting.guard = guard
            run(setting)
    assert guard.findings == []
    assert guard.loop.updates > 0
