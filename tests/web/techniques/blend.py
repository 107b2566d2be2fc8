"""Pictures blended: every kind of parameter, of picture and of result, for who tests what is made of them."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field

from endoscope_server.techniques.extension import (
    Layer,
    Memory,
    NamedPicture,
    Parameters,
    Picture,
    Result,
    Series,
    Step,
    Subject,
    Work,
    technique,
)
from endoscope_server.techniques.parts.steps import preview_due
from endoscope_server.techniques.parts.subject import to_8_bit


class BlendParameters(Parameters):
    image: Picture = Field(description="The picture that others are blended into.")
    others: tuple[Picture, ...] = Field(default=(), max_length=4, description="The others.")
    how: Literal["mean", "lightest"] = Field(default="mean", description="What becomes of two pixels.")
    shares: tuple[float, ...] = Field(default=(0.25, 0.75), description="How much of the others is taken.")
    layer: Layer | None = Field(default=None, description="The layer whose change is measured.")
    window: tuple[int, int] | None = Field(default=None, description="Rows that are left as they are.")
    marks: tuple[str, ...] = Field(default=(), description="What is said of it.")
    heading: str = Field(default="A blend", description="What stands above what is said.")
    most: int | None = Field(default=None, ge=1, description="The most pictures that are made.")
    inverted: bool = Field(default=False, description="Whether light becomes dark.")

    def completed(self, subject: Subject) -> Self:
        if self.layer is not None:
            subject.resolve(self.layer, "layer")
        return self

    def total_steps(self, subject: Subject) -> int:
        return len(self.shares[: self.most])


@technique("blend")
def blend(subject: Subject, parameters: BlendParameters, memory: Memory) -> Work:
    """Blends pictures.

    With `share` *s*, a pixel is **(1 - s) a + s b**. It knows:

    - `mean`, which is that;
    - `lightest`, the lighter one.

    <b>This is no HTML</b>, [this](https://example.org/) is a link, and `_this.layer` has an underscore.
    """
    image = torch.from_numpy(parameters.image.copy())[None]
    others = [torch.from_numpy(other.copy())[None] for other in parameters.others] or [1 - image]
    other = torch.stack(others).mean(0) if parameters.how == "mean" else torch.stack(others).amax(0)
    shares = parameters.shares[: parameters.most]
    pictures, changes = {}, []
    for index, share in enumerate(shares, 1):
        made = (1 - share) * image + share * other
        if parameters.window is not None:
            rows = slice(*parameters.window)
            made[:, :, rows] = image[:, :, rows]
        made = 1 - made if parameters.inverted else made
        if parameters.layer is None:
            changes.append(float((made - image).abs().mean()))
        else:
            with torch.no_grad():
                values = subject.values(torch.cat([made, image]), [parameters.layer])[parameters.layer]
            changes.append(float((values[0] - values[1]).abs().mean()))
        pictures[f"share {share}"] = NamedPicture(to_8_bit(made)[0], f"{share:.0%} of the others")
        due = preview_due(index, len(shares), parameters.preview_every)
        yield Step(index, len(shares), {"change": changes[-1]}, made.numpy() if due else None)
    said = "\n".join(f"- {mark}" for mark in parameters.marks)
    return Result(
        pictures=pictures,
        numbers={"mean_change": sum(changes) / max(1, len(changes)), "seed": parameters.seed},
        series={"change": Series(tuple(changes), shares)},
        tables={"others": {"share": shares, "name": tuple(pictures)}},
        text=f"## {parameters.heading}\n\n{said}",
    )
