"""Where the loops of tutorials are entered, healthy and faulty, each with its setting."""

import faulty_loops

HEALTHY: dict = {}
FAULTY: dict = {}


def healthy(setting):
    """Enter a loop without a mistake."""

    def enter(run):
        HEALTHY[run.__name__] = (run, setting)
        return run

    return enter


def faulty(code, setting, module="optimizer", write=""):
    """Enter a loop with one."""

    def enter(run):
        FAULTY[run.__name__] = faulty_loops.Loop(run, setting, code, module, write, {})
        return run

    return enter
