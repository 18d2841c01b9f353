from __future__ import annotations

import pytest

from common.errors import UsageError
from server.security.listener import require_safe_listener


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "::1", "localhost"])
def test_plaintext_on_loopback_needs_no_permission(host: str) -> None:
    require_safe_listener("server", host, tls=False, allow_plaintext=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "inference.internal", "localhost.example"])
def test_plaintext_beyond_loopback_needs_the_option_and_tls_does_not(host: str) -> None:
    with pytest.raises(UsageError, match=rf"^server\.host: plaintext on {host} .*--allow-plaintext"):
        require_safe_listener("server", host, tls=False, allow_plaintext=False)
    require_safe_listener("server", host, tls=True, allow_plaintext=False)
    require_safe_listener("server", host, tls=False, allow_plaintext=True)
