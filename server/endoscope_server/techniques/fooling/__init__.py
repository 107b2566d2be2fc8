"""Fooling images: by gradient ascent, and by evolution of networks that paint patterns."""

from endoscope_server.techniques.fooling.creation import create_fooling_images
from endoscope_server.techniques.fooling.parameters import (
    FoolingImages,
    FoolingMethod,
    FoolingParameters,
    with_defaults,
)

__all__ = ["FoolingImages", "FoolingMethod", "FoolingParameters", "create_fooling_images", "with_defaults"]
