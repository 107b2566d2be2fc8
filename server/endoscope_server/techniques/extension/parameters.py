"""What a technique takes, as a class that checks itself and describes itself to callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue, SkipJsonSchema
from pydantic_core import CoreSchema, PydanticOmit, core_schema

from endoscope_server.techniques.parts.batches import Batch
from endoscope_server.techniques.parts.subject import Subject


@dataclass(frozen=True, slots=True)
class PictureField:
    """Marks a field of :class:`Parameters` as a picture, which is sent beside the other parameters.

    Attributes:
        own_size: Whether it keeps its own size; else it is brought to the size of the model's input.
    """

    own_size: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A float32 array of channels x height x width."""
        return core_schema.no_info_after_validator_function(
            _as_picture, core_schema.is_instance_schema(np.ndarray)
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Pictures are no part of the schema."""
        raise PydanticOmit


def _as_picture(value: NDArray[Any]) -> NDArray[Any]:
    if value.ndim != 3 or value.dtype != np.float32:
        raise ValueError(
            f"an array of {value.dtype} with the shape {list(value.shape)} is no picture, expected float32, "
            "channels x height x width"
        )
    return value


Picture = Annotated[NDArray[np.float32], PictureField()]
"""A picture as the model sees it: channels x height x width in [0, 1], red first, of the model's size."""

OwnSizePicture = Annotated[NDArray[np.float32], PictureField(own_size=True)]
"""A picture in its own size, likewise."""

Layer = Annotated[str, WithJsonSchema({"type": "string", "format": "layer"})]
"""A layer of the model, by ONNX name or alias. By the `format` in the schema a form can tell."""


class Parameters(BaseModel):
    """What a technique takes. Subclasses declare fields, each with a description.

    Fields are what pydantic knows: numbers with ranges, words, ``Literal``, tuples, other models. Layers are
    :data:`Layer`, pictures :data:`Picture`, ``Picture | None`` or ``tuple[Picture, ...]``. A value that does
    not fit is refused before anything runs.

    Attributes:
        seed: Of all random numbers, 0 or more; callers give it beside the parameters.
        preview_every: Every how many steps pictures are sent along, 0 for never; likewise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

    seed: SkipJsonSchema[int] = Field(default=0, ge=0, description="Of all random numbers.")
    preview_every: SkipJsonSchema[int] = Field(default=0, ge=0, description="0 for no previews.")

    def completed(self, subject: Subject) -> Self:  # noqa: ARG002
        """The parameters with what the model decides filled in; here is what only the model can tell refused.

        It is called before the technique is queued, so that the caller hears at once. By default all is taken
        as it is. Use ``self.model_copy(update={...})``.

        Raises:
            EndoscopeError: whose ``field`` is the parameter at fault.
        """
        return self

    def total_steps(self, subject: Subject) -> int:  # noqa: ARG002
        """How many steps there will be, with parameters that are completed; 0 if that is not known.

        By default what the field ``steps`` says, if there is one.
        """
        return int(getattr(self, "steps", 0))

    def batch(self, subject: Subject) -> Batch:  # noqa: ARG002
        """What goes through the model at once, for the server's memory. By default one picture."""
        return Batch()
