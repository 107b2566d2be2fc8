"""``endoscope visualize``."""

from __future__ import annotations

from typing import Any, Literal

import click
from rich.console import RenderableType

from endoscope import objectives
from endoscope.cli.command import command, group, options
from endoscope.cli.running import MODEL, SEED, JobChoices, job_options, json_option, run
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.results.gradients import ClassVisualization, FeatureVisualization

_OPTIMISATION = options(
    MODEL,
    click.option("--steps", type=int, help="How many steps. Default: the technique's own."),
    SEED,
    click.option("--height", type=int, help="Rows of the picture. Default: the model's."),
    click.option("--width", type=int, help="Columns of the picture. Default: the model's."),
    click.option(
        "--parameterization",
        type=click.Choice(["pixel", "fourier", "maco"]),
        help="How the picture is made of numbers.",
    ),
    click.option("--learning-rate", type=float, help="Adam's."),
    click.option("--l2", type=float, help="Lambda of the squared L2 norm."),
    click.option("--total-variation", type=float, help="Weight of the total variation."),
    json_option("--regularizers", "All fields of Regularizers; what other options say wins."),
    json_option("--transforms", "A list of Transform, in order; []: none."),
    json_option("--preprocessing", "Overrides the model's own, field by field."),
)


@group("visualize", "endoscope visualize class 967", "endoscope visualize feature _blocks.10.add:7")
def visualize() -> None:
    """Paint what classes and features look like to the model."""


@command(
    "class",
    "endoscope visualize class 967 -o espresso.png",
    "endoscope visualize class espresso 'tabby' --preset fourier --show",
    """endoscope visualize class 967 --transforms '[{"jitter": {"pixels": 8}}]' --l2 0.001""",
    group=visualize,
)
@click.argument("classes", nargs=-1, required=True)
@click.option(
    "--preset", type=click.Choice(["plain", "smooth", "fourier", "maco"]), help="A set of parameters."
)
@_OPTIMISATION
@job_options
def visualize_class(
    session: Session,
    classes: tuple[str, ...],
    preset: Literal["plain", "smooth", "fourier", "maco"] | None,
    model: str | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Paint pictures of CLASSES, by index or label."""
    name = session.model(model)
    indices = [session.class_index(name, text) for text in classes]
    stream = session.client.visualize_class(
        name, indices, preset=preset, **_arguments(chosen), **job.arguments()
    )
    run(session, stream, job, _class_table)


@command(
    "feature",
    "endoscope visualize feature _blocks.10.add:7 _blocks.10.add:8",
    "endoscope visualize feature _conv_head:12@3,3 --show",
    "endoscope visualize feature _blocks.6.add --negative",
    group=visualize,
)
@click.argument("features", nargs=-1, required=True)
@click.option("--negative", is_flag=True, help="Make them small, not large.")
@click.option(
    "--diversity", type=float, default=0.0, help="Weight of the pictures' unlikeness to each other."
)
@_OPTIMISATION
@job_options
def visualize_feature(
    session: Session,
    features: tuple[str, ...],
    negative: bool,
    diversity: float,
    model: str | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Paint pictures of FEATURES.

    Each is LAYER, LAYER:CHANNEL, LAYER:CHANNEL@ROW,COLUMN for one unit, or the index of a class.
    """
    try:
        wanted = [objectives.parse(text) for text in features]
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    stream = session.client.visualize_feature(
        session.model(model),
        wanted,
        negative=negative,
        diversity_weight=diversity,
        **_arguments(chosen),
        **job.arguments(),
    )
    run(session, stream, job, lambda found: _feature_table(features, found))


def _arguments(chosen: dict[str, Any]) -> dict[str, Any]:
    """The client's arguments of the options that both commands have."""
    regularizers = dict(chosen.pop("regularizers") or {})
    for field, option in (("l2_weight", "l2"), ("total_variation_weight", "total_variation")):
        value = chosen.pop(option)
        if value is not None:
            regularizers[field] = value
    kind, rate = chosen.pop("parameterization"), chosen.pop("learning_rate")
    return {
        **chosen,
        "regularizers": regularizers or None,
        "parameterization": {kind: {}} if kind else None,
        "optimizer": {"adam": {"learning_rate": rate}} if rate is not None else None,
    }


def _class_table(found: ClassVisualization) -> RenderableType:
    rows = [
        (item.score.class_index, item.score.label, f"{item.score.logit:.2f}", f"{item.score.probability:.2%}")
        for item in found.pictures
    ]
    return table("class>", "label", "logit>", "probability>", rows=rows)


def _feature_table(names: tuple[str, ...], found: FeatureVisualization) -> RenderableType:
    rows = [(name, f"{item.value:.4g}") for name, item in zip(names, found.pictures, strict=True)]
    return table("feature", "objective>", rows=rows)
