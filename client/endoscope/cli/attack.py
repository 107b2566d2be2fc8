"""``endoscope attack`` and ``fool``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import RenderableType

from endoscope.calls.judging import Attack
from endoscope.cli.command import command, options
from endoscope.cli.running import IMAGE, MODEL, SEED, JobChoices, job_options, json_option, run
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.results.gradients import Adversarials, FoolingImages


class Fraction(click.ParamType[float]):
    """A number, or a fraction such as ``4/255``."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        above, slash, below = str(value).partition("/")
        try:
            number = float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            number = math.nan
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number, expected one such as 0.0157 or 4/255", param, ctx)
        return number


@command(
    "attack",
    "endoscope attack cat.png -o attack",
    "endoscope attack cat.png --target espresso --epsilon 2/255",
    "endoscope attack *.png --method mifgsm --steps 20 --json",
)
@click.argument("images", type=IMAGE, nargs=-1, required=True)
@options(
    MODEL,
    click.option("--method", type=click.Choice(get_args(Attack)), help="Default: pgd."),
    click.option("--norm", type=click.Choice(["linf", "l2"]), help="Default: linf."),
    click.option(
        "--epsilon", type=Fraction(), help="The largest change, in [0, 1] pixel units. Default: 4/255."
    ),
    click.option("--steps", type=int, help="Default: the method's own."),
    click.option("--step-size", type=Fraction(), help="In [0, 1] pixel units. Default: the method's own."),
    click.option("--restarts", type=int, help="Random restarts. Default: 1."),
    click.option(
        "--target",
        "targets",
        multiple=True,
        help="The class to be seen: one for all, or one for each picture.",
    ),
    click.option(
        "--true-class", "true_classes", multiple=True, help="One for each picture. Default: what is seen."
    ),
    click.option("--confidence", type=float, default=0.0, help="The margin between logits. Default: 0."),
    click.option("--early-stop", is_flag=True, help="Stop as soon as a picture fools the model."),
    SEED,
    json_option("--preprocessing", "Overrides the model's own, field by field."),
)
@job_options
def attack(
    session: Session,
    images: tuple[Path, ...],
    targets: tuple[str, ...],
    true_classes: tuple[str, ...],
    model: str | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Change IMAGES so little that nobody sees it, but the model does.

    Without --target any class but the true one will do.
    """
    name = session.model(model)
    stream = session.client.create_adversarial(
        name,
        images,
        targets=[session.class_index(name, text) for text in targets],
        true_classes=[session.class_index(name, text) for text in true_classes],
        **chosen,
        **job.arguments(),
    )
    run(session, stream, job, lambda found: _outcome([str(image) for image in images], found))


@command(
    "fool", "endoscope fool 967 -o fooling.png", "endoscope fool espresso 'tabby' --confidence 0.999 --show"
)
@click.argument("classes", nargs=-1, required=True)
@options(
    MODEL,
    click.option("--method", type=click.Choice(["gradient", "cppn"]), help="Default: gradient."),
    click.option("--confidence", type=float, help="At which to stop, in (0, 1). Default: 0.996."),
    click.option("--steps", type=int, help="The most steps or generations. Default: the method's own."),
    click.option("--image", type=IMAGE, help="The picture to start from. Default: noise."),
    SEED,
    json_option("--preprocessing", "Overrides the model's own, field by field."),
)
@job_options
def fool(
    session: Session, classes: tuple[str, ...], model: str | None, job: JobChoices, **chosen: Any
) -> None:
    """Make pictures that show nothing, and which the model takes for CLASSES."""
    name = session.model(model)
    indices = [session.class_index(name, text) for text in classes]
    stream = session.client.create_fooling_image(name, indices, **chosen, **job.arguments())
    run(session, stream, job, _believed)


def _outcome(names: list[str], found: Adversarials) -> RenderableType:
    rows = [
        (
            name,
            item.original_classification.top[0],
            item.classification.top[0],
            "yes" if item.success else "no",
            f"{item.linf * 255:.0f}/255",
            f"{item.l2:.3f}",
        )
        for name, item in zip(names, found.adversarials, strict=True)
    ]
    return table("picture", "before", "after", "fooled", "L-infinity>", "L2>", rows=rows)


def _believed(found: FoolingImages) -> RenderableType:
    rows = [
        (
            item.score.class_index,
            item.score.label,
            f"{item.score.probability:.2%}",
            "yes" if item.success else "no",
        )
        for item in found.images
    ]
    return table("class>", "label", "confidence>", "reached", rows=rows)
