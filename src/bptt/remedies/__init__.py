"""Remedies: starts and clips, each to be switched on with one word."""

from bptt.remedies.clipping import Clipped, clip_norm
from bptt.remedies.starts import STARTS, start_forget_bias, start_recurrent

__all__ = ["STARTS", "Clipped", "clip_norm", "start_forget_bias", "start_recurrent"]
