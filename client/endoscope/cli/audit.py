"""``endoscope audit``."""

from __future__ import annotations

from typing import get_args

import click
from rich.console import RenderableType

from endoscope.calls.audit import Chapter
from endoscope.cli.attack import Fraction
from endoscope.cli.command import command, options
from endoscope.cli.running import MODEL, SEED, JobChoices, job_options, run
from endoscope.cli.session import Session
from endoscope.cli.tables import table
from endoscope.results.audit import AuditReport


@command(
    "audit",
    "endoscope audit birds -o report",
    "endoscope audit birds --chapter parity --chapter robustness --epsilon 1/255 --epsilon 4/255",
)
@click.argument("dataset")
@options(
    MODEL,
    click.option(
        "--chapter",
        "chapters",
        type=click.Choice(get_args(Chapter)),
        multiple=True,
        help="May be given several times. Default: all.",
    ),
    click.option("--max-items", type=int, help="The most pictures that are looked at. Default: 100."),
    click.option("--epsilon", "epsilons", type=Fraction(), multiple=True, help="A radius of the attacks."),
    SEED,
)
@job_options
def audit(
    session: Session,
    dataset: str,
    model: str | None,
    chapters: tuple[Chapter, ...],
    max_items: int | None,
    epsilons: tuple[float, ...],
    seed: int,
    job: JobChoices,
) -> None:
    """Look at a model from all sides, over DATASET; writes report.html and report.json."""
    stream = session.client.run_audit(
        session.model(model),
        dataset,
        chapters,
        max_items=max_items,
        epsilons=epsilons,
        seed=seed,
        **job.arguments(),
    )
    run(session, stream, job, _chapters)


def _chapters(found: AuditReport) -> RenderableType:
    rows = [
        (finding.chapter, name, value)
        for finding in found.findings
        for name, value in finding.values.items()
        if isinstance(value, (bool, int, float, str))
    ]
    return table("chapter", "measure", "value", rows=rows)
