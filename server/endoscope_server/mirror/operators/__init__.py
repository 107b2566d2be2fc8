"""Operators, one file a family; see :mod:`endoscope_server.mirror.registry`."""
