"""Recognizes the variables that Kubernetes injects into a pod for each Service of its namespace.

A Service named `volcast`, or any name that begins with `volcast-`, gives every pod variables that begin like
ours: VOLCAST_PORT=tcp://10.96.0.7:50051, VOLCAST_SERVICE_HOST, VOLCAST_PORT_50051_TCP_ADDR and more. The
forms are those of https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

MAX_PORT = 65_535
# The name of a Service in capitals, `-` as `_`. It ends with a letter or digit, so VOLCAST_SERVER__PORT is none.
_SERVICE = r"(?P<service>VOLCAST(?:_[A-Z0-9_]*[A-Z0-9])?)"
_LINK = rf"{_SERVICE}_PORT_\d+_(?:TCP|UDP|SCTP)"
_URL = re.compile(r"(?:tcp|udp|sctp)://(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<v4>[0-9.]+)):(?P<port>\d+)")


def _is_address(value: str) -> bool:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def _is_port(value: str) -> bool:
    return value.isascii() and value.isdigit() and 0 < int(value) <= MAX_PORT


def _is_url(value: str) -> bool:
    match = _URL.fullmatch(value)
    return match is not None and _is_address(match["v6"] or match["v4"]) and _is_port(match["port"])


def _is_protocol(value: str) -> bool:
    return value in ("tcp", "udp", "sctp")


_FORMS: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = tuple(
    (re.compile(pattern), fits)
    for pattern, fits in (
        (rf"{_SERVICE}_SERVICE_HOST", _is_address),
        (rf"{_SERVICE}_SERVICE_PORT(?:_[A-Z0-9_]+)?", _is_port),
        (rf"{_SERVICE}_PORT", _is_url),
        (_LINK, _is_url),
        (rf"{_LINK}_PROTO", _is_protocol),
        (rf"{_LINK}_PORT", _is_port),
        (rf"{_LINK}_ADDR", _is_address),
    )
)


def without_service_links(environ: Mapping[str, str], settings: frozenset[str]) -> dict[str, str]:
    """The variables that Kubernetes has not injected.

    settings: names that are settings too. A Service named `volcast-server--metrics` injects
    VOLCAST_SERVER__METRICS_PORT=tcp://... Such a variable counts as a link only beside the Service's
    SERVICE_HOST, which Kubernetes always injects with it; alone it is a mistake that the user must see.
    """
    return {name: value for name, value in environ.items() if not _is_link(name, value, environ, settings)}


def _is_link(name: str, value: str, environ: Mapping[str, str], settings: frozenset[str]) -> bool:
    for pattern, fits in _FORMS:
        match = pattern.fullmatch(name)
        if match is not None and fits(value):
            return name not in settings or f"{match['service']}_SERVICE_HOST" in environ
    return False
