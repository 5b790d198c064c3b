"""Language models: the recurrent one, and the ladder it stands on.

They take tokens ``(T, B)`` and a carry, and return logits ``(T, B, V)`` and the carry to go on with.
Beside them a classifier and a forecaster of numbers, over any layer; and layers whose gradient has a
shorter way than one through every step: attention, residual and highway recurrences.
"""

from bptt.models.attention import AttentionModel
from bptt.models.counts import CountModel
from bptt.models.heads import Classifier, Forecaster
from bptt.models.language import CELLS, LanguageModel, token_loss
from bptt.models.shortcuts import Attention, Highway, Residual
from bptt.models.window import WindowModel

__all__ = [
    "CELLS",
    "Attention",
    "AttentionModel",
    "Classifier",
    "CountModel",
    "Forecaster",
    "Highway",
    "LanguageModel",
    "Residual",
    "WindowModel",
    "token_loss",
]
