"""``endoscope audit``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Group, RenderableType
from rich.text import Text

from endoscope.calls.audit import Chapter, LabelMapping
from endoscope.cli.attack import Fraction
from endoscope.cli.command import command, options
from endoscope.cli.lending import lent_dataset, lent_model
from endoscope.cli.plain import plain
from endoscope.cli.progress import follow
from endoscope.cli.running import MODEL, SEED, JobChoices, job_options, run, save
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.errors import InvalidArgument
from endoscope.results.audit import AuditReport

MISSED = 4
"""The exit code when a threshold was missed."""

_STYLES = {"good": "green", "fair": "yellow", "poor": "red", "none": "dim"}
_SYMBOLS = {"good": "✓", "fair": "△", "poor": "✗", "none": "·"}


@command(
    "audit",
    "endoscope audit efficientnet-lite0 birds -o report.html",
    "endoscope audit net.onnx ./birds -o report.html --thresholds limits.toml",
    "endoscope audit net.onnx ./validation --training ./train -o report.html",
    "endoscope audit birds --chapter accuracy --chapter robustness --epsilon 1/255 --epsilon 4/255",
    "endoscope audit --compare before.json after.json -o compare.html",
)
@click.argument("what", nargs=-1, metavar="[MODEL] DATASET")
@options(
    MODEL,
    click.option("--compare", is_flag=True, help="Put two reports side by side: BEFORE.json AFTER.json."),
    click.option(
        "--thresholds",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help=f"TOML file of bounds; the exit code is {MISSED} if the model misses one.",
    ),
    click.option(
        "--chapter",
        "chapters",
        type=click.Choice(get_args(Chapter)),
        multiple=True,
        help="May be given several times. Default: all.",
    ),
    click.option("--max-items", type=int, help="The most pictures that are looked at. Default: 100."),
    click.option("--max-attacked-items", type=int, help="The most that are attacked. Default: 16."),
    click.option("--max-inverted-items", type=int, help="The most that are inverted. Default: 1."),
    click.option(
        "--training",
        metavar="DATASET",
        help="Where the errors' nearest neighbours are sought, such as the training pictures: a dataset of "
        "the server's, or a folder. Default: the dataset that is audited.",
    ),
    click.option(
        "--max-searched-items",
        type=int,
        help="The most pictures among which they are sought; of more a random sample. Default: 10000.",
    ),
    click.option("--max-classes", type=int, help="The most classes fooled and visualised. Default: 8."),
    click.option("--max-layers", type=int, help="The most layers that are inverted. Default: 6."),
    click.option(
        "--label-mapping",
        type=click.Choice(get_args(LabelMapping)),
        help="How the dataset's labels name classes. Default: whatever fits every label.",
    ),
    click.option("--epsilon", "epsilons", type=Fraction(), multiple=True, help="A radius in L-infinity."),
    click.option("--l2-epsilon", "l2_epsilons", type=Fraction(), multiple=True, help="A radius in L2."),
    click.option("--attack-steps", type=int, help="Of each attack. Default: 10."),
    click.option("--fooling-steps", type=int, help="The most steps of fooling. Default: 64."),
    click.option("--inversion-steps", type=int, help="For each layer. Default: 1200."),
    click.option("--visualization-steps", type=int, help="For each class. Default: 64."),
    SEED,
)
@job_options
def audit(
    session: Session,
    what: tuple[str, ...],
    model: str | None,
    compare: bool,
    thresholds: Path | None,
    training: str | None,
    job: JobChoices,
    **chosen: Any,
) -> None:
    """Look at a model from all sides, over the pictures of DATASET.

    MODEL is a model that the server has, or an .onnx file; DATASET is a dataset that the server has, or a
    folder. Files are lent to the server for the time of the audit. An output that ends in .html gets the JSON
    beside it; a folder gets report.html and report.json.

    A thresholds file has the tables of "measures" in the JSON, such as [accuracy] with top1 = { min = 0.7 };
    what was not measured is missed.
    """
    if compare:
        if thresholds:
            raise click.UsageError("--thresholds is for an audit, not for --compare")
        _compare(session, what, job.output)
        return
    if not 1 <= len(what) <= 2:
        raise click.UsageError(f"expected [MODEL] DATASET, got {len(what)} arguments")
    bounds = _bounds(thresholds)
    wanted = what[0] if len(what) == 2 else session.model(model)
    with (
        lent_model(session.client, wanted) as (model_name, own_model),
        lent_dataset(session.client, what[-1]) as (dataset_name, own_dataset),
        contextlib.nullcontext(("", False))
        if training is None
        else lent_dataset(session.client, training) as (training_name, own_training),
    ):
        if job.detach and (thresholds or own_model or own_dataset or own_training):
            raise click.UsageError("--detach needs a model and datasets of the server's, and no --thresholds")
        stream = session.client.run_audit(
            model_name,
            dataset_name,
            training_dataset=training_name,
            **chosen,
            **job.arguments(),
        )
        if job.detach:
            run(session, stream, job, lambda _report: "")
            return
        report = follow(session, stream, show=job.show)
    _finish(session, report, job, bounds)


def _bounds(thresholds: Path | None) -> Sequence[Any]:
    """The thresholds, read before anything is computed."""
    if thresholds is None:
        return ()
    from endoscope.audits import read_thresholds

    try:
        return read_thresholds(thresholds)
    except InvalidArgument as error:
        raise click.UsageError(error.message) from error


def _finish(session: Session, report: AuditReport, job: JobChoices, bounds: Sequence[Any]) -> None:
    from endoscope.audits import check

    files = save(report, job.output)
    told = json.loads(report.json)
    checks = check(bounds, told["measures"])
    shown: list[RenderableType] = [_verdict(told)]
    if checks:
        shown.append(_checked(checks))
    result = {
        **plain(report),
        **{name: told[name] for name in ("title", "verdict", "measures", "not_applicable")},
        "thresholds": plain(checks),
    }
    session.tell(result, Group(*shown), files=files)
    if not all(item.passed for item in checks):
        click.get_current_context().exit(MISSED)


def _verdict(told: Mapping[str, Any]) -> RenderableType:
    lines = [
        Text.assemble(
            (f"{_SYMBOLS[item['level']]} {item['chapter']}: ", _STYLES[item["level"]]), item["text"]
        )
        for item in told["verdict"]
    ]
    return Group(*lines)


def _checked(checks: Sequence[Any]) -> RenderableType:
    rows = [
        (
            "passed" if item.passed else "MISSED",
            item.name,
            item.expected,
            "not measured" if item.value is None else item.value,
        )
        for item in checks
    ]
    return table("threshold", "measure", "expected", "measured>", rows=rows)


def _compare(session: Session, what: tuple[str, ...], output: Path) -> None:
    from endoscope.audits import compare_reports, read_report

    if len(what) != 2:
        raise click.UsageError(f"--compare expects two reports, BEFORE.json and AFTER.json, got {len(what)}")
    try:
        found = compare_reports(read_report(what[0]), read_report(what[1]))
    except InvalidArgument as error:
        raise click.UsageError(error.message) from error
    page = output if output.suffix == ".html" else output / "compare.html"
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_bytes(found.html)
    except OSError as error:
        raise click.ClickException(f"can't save to {str(page)!r}: {error}") from error
    rows = [
        (
            item.measure.title,
            item.measure.written(item.first),
            item.measure.written(item.second),
            item.change,
            item.better,
        )
        for item in found.differences
    ]
    told = [
        {
            "measure": item.measure.name,
            "first": item.first,
            "second": item.second,
            "better": item.better,
        }
        for item in found.differences
    ]
    session.tell(
        {
            "differences": told,
            "classes": [dataclasses.asdict(item) for item in found.classes],
            "unlike": found.unlike,
        },
        table("measure", "first>", "second>", "change>", "better", rows=rows),
        *(f"not alike: {item}" for item in found.unlike),
        files=[page],
    )
