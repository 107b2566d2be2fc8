"""Which addresses lead back to this machine."""

from __future__ import annotations

import ipaddress


def is_this_machine(name: str) -> bool:
    """Whether a host, without a port or brackets, is this machine by its own name or a loopback address."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
