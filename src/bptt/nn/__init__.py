"""Drop-in recurrent layers over the operations of :mod:`bptt.ops`."""

from bptt.nn.conversion import convert
from bptt.nn.lru import LRU
from bptt.nn.min_gru import MinGRU
from bptt.nn.recurrent import GRU, LSTM, RNN

__all__ = ["GRU", "LRU", "LSTM", "RNN", "MinGRU", "convert"]
