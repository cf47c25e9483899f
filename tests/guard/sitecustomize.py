"""Every Python that a test starts imports this, by PYTHONPATH: whoever reaches beyond loopback ends at once.

Not with an exception: code that falls back on one would hide the try.
"""

from __future__ import annotations

import os
import socket
import sys

from loopback import is_local


def refuse(what: str, host: object) -> None:
    """End this process unless `host` is this machine."""
    if not is_local(host):
        sys.stderr.write(f"{what} {host!r}: tests reach nothing beyond loopback\n")
        sys.stderr.flush()
        os._exit(99)


connect, connect_ex, look_up = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


def guarded_connect(self, address, /):
    """`socket.connect` within loopback."""
    if self.family in (socket.AF_INET, socket.AF_INET6):
        refuse("connection to", address[0])
    return connect(self, address)


def guarded_connect_ex(self, address, /):
    """`socket.connect_ex` within loopback."""
    if self.family in (socket.AF_INET, socket.AF_INET6):
        refuse("connection to", address[0])
    return connect_ex(self, address)


def guarded_look_up(host, *args, **kwargs):
    """`socket.getaddrinfo` within loopback."""
    refuse("look-up of", host)
    return look_up(host, *args, **kwargs)


socket.socket.connect, socket.socket.connect_ex = guarded_connect, guarded_connect_ex
socket.getaddrinfo = guarded_look_up
