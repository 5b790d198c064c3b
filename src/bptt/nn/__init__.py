"""Drop-in recurrent layers over the operations of :mod:`bptt.ops`."""

from bptt.nn.recurrent import GRU, LSTM, RNN, convert

__all__ = ["GRU", "LSTM", "RNN", "convert"]
