"""The ONNX graph: loading, checking, naming, receptive fields, rewriting, running. No torch here."""

from endoscope_server.graph.batches import run_batch, run_inputs
from endoscope_server.graph.depth_first import find_stem
from endoscope_server.graph.graph import Graph
from endoscope_server.graph.layers import Layer
from endoscope_server.graph.loading import Limits
from endoscope_server.graph.receptive_field import AxisField, ReceptiveField
from endoscope_server.graph.rewriter import expose, extract
from endoscope_server.graph.sessions import Allowance, Compiled, Fidelity, Sessions
from endoscope_server.graph.sizes import most_alive, value_bytes
from endoscope_server.graph.values import Shape, Value, ValueKind

__all__ = [
    "Allowance",
    "AxisField",
    "Compiled",
    "Fidelity",
    "Graph",
    "Layer",
    "Limits",
    "ReceptiveField",
    "Sessions",
    "Shape",
    "Value",
    "ValueKind",
    "expose",
    "extract",
    "find_stem",
    "most_alive",
    "run_batch",
    "run_inputs",
    "value_bytes",
]
