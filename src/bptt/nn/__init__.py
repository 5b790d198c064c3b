"""Drop-in recurrent layers over the operations of :mod:`bptt.ops`."""

from bptt.nn.conversion import convert, revert
from bptt.nn.linear import MinGRU
from bptt.nn.lru import LRU
from bptt.nn.recurrent import GRU, LSTM, RNN

__all__ = ["GRU", "LRU", "LSTM", "RNN", "MinGRU", "convert", "revert"]
