"""What a technique that is one file is made of: all that it imports is here, or in ``techniques.parts``.

A file holds a class of :class:`Parameters`, and a generator under :func:`technique`. Nothing else has to know
of it. The server finds it (see :mod:`endoscope_server.techniques.finding`), and from the class of parameters
comes all that callers see: the JSON schema, its defaults and ranges, the pictures that are taken, and what is
told of a value that is wrong. ``docs/develop/add-a-technique.md`` shows a whole file.
"""

from endoscope_server.techniques.extension.declaration import (
    NonsenseError,
    PictureSlot,
    Technique,
    Work,
    technique,
)
from endoscope_server.techniques.extension.parameters import Layer, OwnSizePicture, Parameters, Picture
from endoscope_server.techniques.extension.result import NamedPicture, Result, Series, Table
from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.memory import Memory
from endoscope_server.techniques.parts.steps import Step
from endoscope_server.techniques.parts.subject import Subject

__all__ = [
    "Batch",
    "Layer",
    "Memory",
    "NamedPicture",
    "NonsenseError",
    "OwnSizePicture",
    "Parameters",
    "Picture",
    "PictureSlot",
    "Result",
    "Series",
    "Step",
    "Subject",
    "Table",
    "Technique",
    "Work",
    "technique",
]
