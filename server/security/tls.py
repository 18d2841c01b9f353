"""TLS for both fronts, its certificates exchanged without a restart."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import grpc

from common.config import GatewayConfig, ServerConfig
from common.errors import ConfigError, InputError
from server.security.certificates import Pair, read_pair
from server.security.files import signature

DAY_S = 86_400.0


class Certificates:
    """Files that are looked at with each handshake; calls and connections in hand go on under the old ones.

    New files that are no good (half written, a key of another certificate, expired) leave the old pair,
    are logged once, and are counted in `failures`.
    """

    def __init__(
        self, cert: Path, key: Path, client_ca: Path | None, log: Any, now_s: Callable[[], float] = time
    ) -> None:
        """client_ca: callers must show a certificate that one of these signed. Raises InputError."""
        self._files = (cert, key, client_ca)
        self._paths = [one for one in self._files if one is not None]
        self._log = log
        self._now_s = now_s
        self._lock = threading.Lock()  # grpcio asks from its own threads
        self._seen = signature(self._paths)
        self._pair = read_pair(*self._files, now_s())
        self.reloads = 0
        self.failures = 0

    @classmethod
    def of(cls, config: ServerConfig | GatewayConfig, log: Any) -> Certificates | None:
        """None where the configuration names none. Raises ConfigError, InputError."""
        section = "server" if isinstance(config, ServerConfig) else "gateway"
        client_ca = config.tls_client_ca if isinstance(config, ServerConfig) else ""
        both = f"{section}.tls_cert and {section}.tls_key"
        if not config.tls_cert and not config.tls_key:
            if client_ca:
                raise ConfigError(f"{section}.tls_client_ca", client_ca, f"{both} too")
            return None
        for key in ("tls_cert", "tls_key"):
            if not getattr(config, key):
                raise ConfigError(f"{section}.{key}", "", f"a PEM file: {both} go together")
        return cls(Path(config.tls_cert), Path(config.tls_key), Path(client_ca) if client_ca else None, log)

    def days_left(self) -> float:
        """Until the first certificate of the chain ends; negative afterwards."""
        return (self._pair.expires_s - self._now_s()) / DAY_S

    def credentials(self) -> grpc.ServerCredentials:
        """For add_secure_port of grpc and grpc.aio alike.

        grpcio knows no optional client certificates: it asks for one and requires it, or does not ask.
        """
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._pair), self._fetch, require_client_authentication=self._pair.client_ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """For the sockets of the native front: each handshake is done with the newest pair."""
        first = self._pair.context
        first.sni_callback = self._newest
        return first

    def _newest(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self._look()
        if self._pair.context is not context:
            handshake.context = self._pair.context

    def refresh(self, force: bool = False) -> bool:
        """Reads the files again where one has changed. Returns whether there is another pair now."""
        with self._lock:
            now = signature(self._paths)
            if now == self._seen and not force:
                return False
            self._seen = now
            try:
                pair = read_pair(*self._files, self._now_s())
            except InputError as error:
                self.failures += 1
                self._log.error("certificate_refused", reason=str(error), days_left=round(self.days_left(), 1))
                return False
            if pair == self._pair:
                return False
            self._pair = pair
            self.reloads += 1
            self._log.info("certificate_loaded", file=str(self._files[0]), days_left=round(self.days_left(), 1))
            return True

    def _fetch(self) -> grpc.ServerCertificateConfiguration:
        # Always the pair, not only after a change: a refresh by signal may have come in between, and grpcio
        # keeps what it was given last.
        self._look()
        return _configuration(self._pair)

    def _look(self) -> None:
        # An error here would end the handshake, so none is let out.
        try:
            self.refresh()
        except Exception:
            self._log.exception("certificate_not_refreshed")


def _configuration(pair: Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], root_certificates=pair.client_ca)
