"""What each of these methods makes of its request."""

from __future__ import annotations

from dataclasses import dataclass

from endoscope_server.jobs import Start
from endoscope_server.services.streaming import Ticket


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that was checked.

    Attributes:
        ticket: What the job tells of itself.
        start: Starts the work, which returns the result's message.
    """

    ticket: Ticket
    start: Start
