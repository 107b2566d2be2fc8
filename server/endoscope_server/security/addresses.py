"""Which addresses lead back to this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote


def is_this_machine(name: str) -> bool:
    """Whether a host, without a port or brackets, is this machine by its own name or a loopback address."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_address_of_this_machine(address: str) -> bool:
    """Whether ``host:port``, or ``unix:`` and a path, is of this machine."""
    return address.startswith("unix:") or is_this_machine(address.rpartition(":")[0].strip("[]"))


def is_peer_of_this_machine(peer: str) -> bool:
    """Whether a caller, as gRPC names it (``ipv4:127.0.0.1:5``, ``unix:``), is of this machine."""
    return is_address_of_this_machine(unquote(peer).removeprefix("ipv4:").removeprefix("ipv6:"))
