"""Language models: the recurrent one, and the ladder it stands on.

All take tokens ``(T, B)`` and a carry, and return logits ``(T, B, V)`` and the carry to go on with.
"""

from bptt.models.attention import AttentionModel
from bptt.models.counts import CountModel
from bptt.models.language import CELLS, LanguageModel, token_loss
from bptt.models.window import WindowModel

__all__ = ["CELLS", "AttentionModel", "CountModel", "LanguageModel", "WindowModel", "token_loss"]
