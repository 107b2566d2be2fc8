"""``endoscope jobs``."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click
from rich.console import RenderableType

from endoscope.calls.jobs import State
from endoscope.cli.command import command, group, options
from endoscope.cli.progress import follow, in_words
from endoscope.cli.running import OUTPUT, SHOW, finish
from endoscope.cli.session import Session
from endoscope.cli.tables import moment, table
from endoscope.results.jobs import Job


@group("jobs", "endoscope jobs list", "endoscope jobs watch jobs/6feadf969b3ba434 -o out")
def jobs() -> None:
    """List, watch, cancel and forget jobs."""


@command("list", "endoscope jobs list --state running", group=jobs)
@click.option(
    "--state", "states", type=click.Choice(get_args(State)), multiple=True, help="Only in this state."
)
def list_jobs(session: Session, states: tuple[State, ...]) -> None:
    """List the jobs, newest first."""
    found = session.client.list_jobs(states)
    rows = [(job.name, job.header.title, job.state, _progress(job), moment(job.create_time)) for job in found]
    session.tell(found, table("name", "technique", "state", "step>", "began", rows=rows))


@command("show", "endoscope jobs show jobs/6feadf969b3ba434 --json", group=jobs)
@click.argument("job")
def show(session: Session, job: str) -> None:
    """Describe JOB: how it stands, its parameters, why it failed."""
    found = session.client.get_job(job)
    session.tell(found, _facts(found))


@command("watch", "endoscope jobs watch jobs/6feadf969b3ba434 -o out", group=jobs)
@click.argument("job")
@options(
    click.option("--after-step", type=click.IntRange(0), default=0, help="Skip the steps up to this one."),
    OUTPUT,
    SHOW,
)
def watch(session: Session, job: str, after_step: int, output: Path, show: bool) -> None:
    """Watch JOB to its end, and save its pictures. Ctrl-C stops watching, not the job."""
    stream = session.client.watch_job(job, after_step)
    finish(session, follow(session, stream, show=show, ours=False), output, show, lambda _: "")


@command("cancel", "endoscope jobs cancel jobs/6feadf969b3ba434", group=jobs)
@click.argument("job")
def cancel(session: Session, job: str) -> None:
    """Stop JOB within one step."""
    found = session.client.cancel_job(job)
    session.tell(found, f"{found.name} is {found.state}" if found.end_time else f"{found.name} stops")


@command("delete", "endoscope jobs delete jobs/6feadf969b3ba434", group=jobs)
@click.argument("job")
def delete(session: Session, job: str) -> None:
    """Forget JOB, which has ended, and its result."""
    session.client.delete_job(job)
    session.tell({"deleted": job}, f"deleted {job}")


def _progress(job: Job) -> str:
    index = job.latest_step.index if job.latest_step else 0
    total = job.latest_step.total if job.latest_step else job.header.total_steps
    return f"{index}/{total}" if total else str(index)


def _facts(job: Job) -> RenderableType:
    rows: list[tuple[str, object]] = [
        ("name", job.name),
        ("technique", job.header.title),
        ("model", job.header.model),
        ("state", job.state),
        ("step", _progress(job)),
        ("losses", in_words(job.latest_step.losses) if job.latest_step else ""),
        ("began", moment(job.create_time)),
        ("ended", moment(job.end_time)),
        ("error", f"{job.error.field} {job.error.message}".strip() if job.error else ""),
        *job.header.parameters.items(),
    ]
    made = table("", "", rows=[row for row in rows if row[1] != ""])
    made.show_header = False
    return made
