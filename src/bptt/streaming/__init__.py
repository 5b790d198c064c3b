"""Step by step: a trained layer or language model on a stream."""

from bptt.streaming.stream import Stream

__all__ = ["Stream"]
