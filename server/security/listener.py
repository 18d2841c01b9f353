"""Decides on which addresses a server may listen without TLS."""

from __future__ import annotations

import ipaddress

from common.errors import UsageError


def is_loopback(host: str) -> bool:
    """Tells whether only this machine can connect to `host`. Of names, only localhost counts as loopback."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_safe_listener(section: str, host: str, tls: bool, allow_plaintext: bool) -> None:
    """Raises UsageError if tokens and responses would cross a network unencrypted and `allow_plaintext` is not set."""
    if tls or allow_plaintext or is_loopback(host):
        return
    raise UsageError(
        f"{section}.host: plaintext on {host} can be read and changed by others on that network; set "
        f"{section}.tls_cert and {section}.tls_key, or --allow-plaintext ({section}.allow_plaintext) if it is private"
    )
