"""Where plaintext may be spoken."""

from __future__ import annotations

import ipaddress

from common.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on `host`. A name but localhost may be anything."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe_listener(section: str, host: str, tls: bool, allow_plaintext: bool) -> None:
    """Raises UsageError where tokens and answers would cross a network in the clear and nobody said they may."""
    if tls or allow_plaintext or is_loopback(host):
        return
    raise UsageError(
        f"{section}.host: plaintext on {host} can be read and changed by others on that network; set "
        f"{section}.tls_cert and {section}.tls_key, or --allow-plaintext ({section}.allow_plaintext) if it is private"
    )
