"""Where a run goes on that diverged: not with the weights that no rate can mend.

What stops a run with a number that is not finite has often begun many updates earlier, and the checkpoint
from just before holds weights as large as the last ones. So a run that goes on with another ``--lr`` or
``--clip`` begins at its newest checkpoint that predicts the text it is trained on better than a guess
among its symbols, or anew. With the same rate and clip it goes on exactly where it was.
"""

from __future__ import annotations

import logging
import math

from bptt.data import Stream
from bptt.data.documents import part
from bptt.training import checkpoint as checkpoints
from bptt.training.build import build_model
from bptt.training.checkpoint import Checkpoint
from bptt.training.contents import load_weights
from bptt.training.evaluate import evaluate
from bptt.training.run_folder import RunFolder
from bptt.training.session import Session
from bptt.training.settings import Settings

logger = logging.getLogger(__name__)
PIECES, LOOKED_AT = 64, 1 << 14  # tokens
ROUNDING = 0.01  # nats: a model that has hardly begun predicts as a guess does


def sound_start(saved: Checkpoint, session: Session, run: RunFolder) -> Checkpoint:
    """The checkpoint that a run goes on from: the newest one, or an older one where that is past help.

    Checkpoints that are passed over are renamed to ``diverged-step-N``, and the log names them.

    Args:
        saved: the newest checkpoint.
        session: of the run, with the settings it goes on with. It is not changed; random states are.
        run: its folder, held.

    Cost: nothing where ``--lr`` and ``--clip`` are what they were; else a forward pass over 16,384 tokens
    for each checkpoint that is looked at.
    """
    if not _changed(saved, session.settings):
        return saved
    folder = run.checkpoints
    passed: list[int] = []
    found: Checkpoint | None = None
    for step in reversed(checkpoints.steps(folder)):
        found = saved if step == saved.state["step"] else checkpoints.load(folder, step)
        if _is_sound(found, session):
            break
        passed.insert(0, step)
    else:
        # The start is a function of the settings; it may have been removed long ago.
        found = Session(session.settings, session.corpus).checkpoint()
        checkpoints.save(folder, found)
    here = found.state["step"]
    for step in passed:  # the newest last: until then, whoever is stopped here does all this again
        if step != here:
            aside = checkpoints.set_aside(folder, step, "diverged")
            logger.warning("step-%d has diverged: set aside as %s", step, aside)
    if passed:
        logger.warning("going on from step-%d", here)
    return found


def _changed(saved: Checkpoint, settings: Settings) -> bool:
    """Whether it goes on with another rate or clip, and so may fare better than it did."""
    state = saved.state
    if "lr" not in state:  # written before runs kept it
        return False
    return state["lr"] != settings.learning_rate or state["clip"]["form"] != settings.clip


def _is_sound(found: Checkpoint, session: Session) -> bool:
    if found.state["step"] == 0:
        return True
    if found.state.get("stopped") == "gradient":
        return False  # by these weights: no rate and no clip would change that
    tokens, starts = session.corpus.train
    size = min(len(tokens), LOOKED_AT)
    text = Stream(tokens[:size], part(starts, 0, size))
    if len(text.starts) >= size:
        return True  # nothing in it is predicted
    model = build_model(session.settings, session.corpus.vocabulary.size)
    load_weights(model, found)
    score = evaluate(model, text, lanes=max(1, min(PIECES, size // 256)))
    return score.nats <= math.log(session.corpus.vocabulary.size) + ROUNDING
