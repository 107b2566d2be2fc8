"""A stream as it runs: a bar, the losses, and the picture as it stands."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import click
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from endoscope.cli.session import Session
from endoscope.cli.terminal_pictures import terminal_pictures
from endoscope.errors import Cancelled, EndoscopeError
from endoscope.results.jobs import Header, Step
from endoscope.streams import Stream

T = TypeVar("T")

_SHOWN_TERMS = 4
_SHOWN_PICTURES = 4
_ROWS = 24


def follow(session: Session, stream: Stream[T], *, show: bool = False, ours: bool = True) -> T:
    """The result of a stream, with its progress on stderr while it runs.

    Args:
        session: Says whether progress is shown.
        stream: The stream.
        show: Whether previews are shown too.
        ours: Whether Ctrl-C cancels the job, and does not just stop watching it.

    Raises:
        click.Abort: after Ctrl-C.
    """

    def leave() -> None:
        if ours:
            with contextlib.suppress(EndoscopeError):
                stream.cancel()
        stream.close()

    with stream, _interrupted_by(leave) as interrupted, _shown(session, show) as display:
        try:
            display.begin(stream.header)
            for step in stream:
                display.advance(step)
            return stream.result()
        except Cancelled:
            if interrupted.is_set():
                raise click.Abort from None
            raise


@contextlib.contextmanager
def _interrupted_by(leave: Callable[[], None]) -> Iterator[threading.Event]:
    """Let the first Ctrl-C leave by a call in another thread; a second breaks in, as it does otherwise.

    An exception out of nowhere, while gRPC holds a lock, may hang the process or be lost.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    leaving = threading.Thread(target=leave, daemon=True)
    before = signal.getsignal(signal.SIGINT)

    def on_interrupt(*_: Any) -> None:
        signal.signal(signal.SIGINT, before)
        interrupted.set()
        leaving.start()

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
        if interrupted.is_set():
            leaving.join()


class _Display:
    """What is shown of a stream."""

    def __init__(self, console: Console, show: bool) -> None:
        self._show = show
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("[dim]{task.fields[losses]}"),
            console=console,
        )
        self._task = self._progress.add_task("waiting", total=None, losses="")
        self.live = Live(self._progress, console=console, refresh_per_second=8)

    def begin(self, header: Header) -> None:
        name = header.title.replace("_", " ")
        self._progress.update(self._task, description=name, total=header.total_steps or None)

    def advance(self, step: Step) -> None:
        self._progress.update(
            self._task,
            completed=step.index,
            total=step.total or None,
            losses=f"{step.stage}  {in_words(step.losses)}".strip(),
        )
        if self._show and step.previews:
            picture = terminal_pictures(self.live.console, step.previews[:_SHOWN_PICTURES], _ROWS, live=True)
            self.live.update(Group(picture, self._progress))


class _Silence:
    """Nothing is shown."""

    def begin(self, header: Header) -> None:
        pass

    def advance(self, step: Step) -> None:
        pass


@contextlib.contextmanager
def _shown(session: Session, show: bool) -> Iterator[_Display | _Silence]:
    if not session.progress:
        yield _Silence()
        return
    display = _Display(session.err, show)
    with display.live:
        yield display


def in_words(losses: Mapping[str, float]) -> str:
    """The first terms of a loss on one line, the total before all others."""
    ordered = sorted(losses.items(), key=lambda item: item[0] != "total")
    return "  ".join(f"{name} {value:.4g}" for name, value in ordered[:_SHOWN_TERMS])
