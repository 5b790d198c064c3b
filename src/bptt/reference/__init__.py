"""Recurrent networks in NumPy float64, written to be read and to be tested against.

Read in this order: ``rnn`` (a cell, forward and back), ``loss``, ``language`` (the whole network,
and how its gradient splits into pairs), then ``gru`` and ``lstm``. Each holds ``forward``, which
returns a trace, and ``backward``, which takes one.
"""

from bptt.reference.gru import GruTrace
from bptt.reference.language import LanguageGradients, LanguageTrace, LanguageWeights, Pair
from bptt.reference.loss import LossTrace, bits, perplexity
from bptt.reference.lstm import LstmGradients, LstmTrace
from bptt.reference.rnn import RnnTrace
from bptt.reference.sequence import Gradients, Schedule, Weights

__all__ = [
    "Gradients",
    "GruTrace",
    "LanguageGradients",
    "LanguageTrace",
    "LanguageWeights",
    "LossTrace",
    "LstmGradients",
    "LstmTrace",
    "Pair",
    "RnnTrace",
    "Schedule",
    "Weights",
    "bits",
    "gru",
    "language",
    "loss",
    "lstm",
    "perplexity",
    "rnn",
]
