"""What counts as this machine."""

from __future__ import annotations

import ipaddress
import socket


def is_local(host: object) -> bool:
    """Whether a connection to `host` (a name, an address or None) stays on this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in (None, "", "localhost", socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(str(name).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
