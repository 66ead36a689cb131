"""Where a server listens, and whether it can."""

from __future__ import annotations

import errno
import socket

from adaptation.errors import SettingsError


def address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_port(host: str, port: int) -> None:
    """Raise SettingsError where nothing can listen on the port, and say why."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reasons = {
                errno.EADDRINUSE: "another program listens there: stop it, or choose another with "
                f'--port {port + 1} (make serve ARGS="--port {port + 1}")',
                errno.EACCES: "ports below 1024 need privileges: choose a higher --port",
            }
            reason = reasons.get(error.errno or 0, error.strerror or "it is no address here")
            raise SettingsError(f"Cannot listen on {address(host, port)}: {reason}.") from None
