"""Trained recurrent networks for streams and devices: C99 in float32 and int8, and ONNX."""

from bptt.export.c import Export, export_c
from bptt.export.cost import Cost, measure_cost
from bptt.export.network import Network
from bptt.export.onnx_graph import export_onnx
from bptt.export.quantise import QNetwork

__all__ = ["Cost", "Export", "Network", "QNetwork", "export_c", "export_onnx", "measure_cost"]
