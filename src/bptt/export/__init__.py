"""Trained recurrent networks for streams and devices: C99 in float32 and int8, and ONNX."""

from bptt.export.c import Export, export_c
from bptt.export.network import Network

__all__ = ["Export", "Network", "export_c"]
