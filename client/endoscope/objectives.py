"""What :meth:`Client.visualize_feature` is to make large.

Objectives can be added, subtracted and weighted: ``total((1, channel("a", 3)), (-0.5, channel("a", 7)))``.
"""

from __future__ import annotations

from numpy.typing import ArrayLike

from endoscope.messages import encode
from endoscope.pictures import PictureLike
from endoscope.v1 import optimization_pb2

Objective = optimization_pb2.Objective


def class_logit(class_index: int) -> Objective:
    """The score of a class before the softmax."""
    return encode(Objective, class_logit={"class_index": class_index})


def unit(layer: str, channel: int, row: int | None = None, column: int | None = None) -> Objective:
    """One number of a feature map or feature vector; by default at the middle of the map."""
    return encode(Objective, unit={"layer": layer, "channel": channel, "row": row, "column": column})


def channel(layer: str, channel: int) -> Objective:
    """The mean of one channel over all positions."""
    return encode(Objective, channel={"layer": layer, "channel": channel})


def layer(layer: str) -> Objective:
    """Half the mean of a layer's squared activations: DeepDream's objective."""
    return encode(Objective, layer={"layer": layer})


def direction(
    layer: str,
    direction: ArrayLike,
    *,
    cosine_power: float = 0.0,
    row: int | None = None,
    column: int | None = None,
) -> Objective:
    """The activation along a direction in a layer's channels.

    Args:
        layer: By ONNX name or alias.
        direction: One ``float32`` a channel, of any length but zero.
        cosine_power: The dot product is multiplied by the cosine to this power (Olah et al. 2017).
        row: The row of the one position that counts. Default: the mean over all positions.
        column: The column of the one position that counts.
    """
    fields = {
        "layer": layer,
        "direction": direction,
        "cosine_power": cosine_power,
        "row": row,
        "column": column,
    }
    return encode(Objective, direction=fields)


def feature_match(layer: str, image: PictureLike) -> Objective:
    """The likeness of a layer's activations to another picture's."""
    return encode(Objective, feature_match={"layer": layer, "image": image})


def diversity(layer: str) -> Objective:
    """Unlikeness of the pictures of one batch to each other."""
    return encode(Objective, diversity={"layer": layer})


def total(*terms: tuple[float, Objective]) -> Objective:
    """Several objectives at once, each with its weight; negative weights make differences."""
    weighted = [{"weight": weight, "objective": objective} for weight, objective in terms]
    return encode(Objective, sum={"terms": weighted})


def parse(text: str) -> Objective:
    """An objective in one word: ``967``, ``layer``, ``layer:channel`` or ``layer:channel@row,column``.

    Raises:
        ValueError: if it is none of these.
    """
    if text.isdecimal():
        return class_logit(int(text))
    name, colon, rest = text.rpartition(":")
    if not colon:
        return layer(text)
    index, at, place = rest.partition("@")
    try:
        if not at:
            return channel(name, int(index))
        row, column = map(int, place.split(","))
        return unit(name, int(index), row, column)
    except ValueError:
        raise ValueError(
            f"{text!r} is no objective, expected CLASS, LAYER, LAYER:CHANNEL or LAYER:CHANNEL@ROW,COLUMN"
        ) from None
