"""Training loops in the patterns of well known tutorials and examples, healthy ones and faulty ones.

Language models over lanes, character models in random pieces, a cell of one's own, encoders and decoders,
replay, actor and critic, forecasting, second order, checkpointing, wrappers, copies. Written anew.
"""

import tutorial_control  # noqa: F401  each enters its loops
import tutorial_texts  # noqa: F401
import tutorial_wrappers  # noqa: F401
from tutorial_entries import FAULTY, HEALTHY

__all__ = ["FAULTY", "HEALTHY"]
