"""TLS for both fronts. Certificates are replaced without a restart."""

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
from server.security.certificates import CertificatePair, read_pair
from server.security.files import signature

DAY_S = 86_400.0


class Certificates:
    """The certificate files. Each handshake checks the files for changes; open connections keep their certificate.

    If the new files are not usable (half written, a key of another certificate, expired), the old pair stays. The
    failure is logged once and counted in `failures`.
    """

    def __init__(
        self, cert: Path, key: Path, client_ca: Path | None, log: Any, now_s: Callable[[], float] = time
    ) -> None:
        """client_ca: clients must present a certificate that one of these CAs signed. Raises InputError."""
        self._files = (cert, key, client_ca)
        self._paths = [path for path in self._files if path is not None]
        self._log = log
        self._now_s = now_s
        self._lock = threading.Lock()  # grpcio calls _fetch on its own threads
        self._seen = signature(self._paths)
        self._pair = read_pair(*self._files, now_s())
        self.reloads = 0
        self.failures = 0

    @classmethod
    def of(cls, config: ServerConfig | GatewayConfig, log: Any) -> Certificates | None:
        """Returns None if the configuration names no certificate. Raises ConfigError, InputError."""
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
        """Returns the time until the first certificate of the chain expires; negative afterwards."""
        return (self._pair.expires_s - self._now_s()) / DAY_S

    def credentials(self) -> grpc.ServerCredentials:
        """Returns credentials for add_secure_port of grpc and of grpc.aio.

        grpcio does not support optional client certificates. They are required if client_ca is set.
        """
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._pair), self._fetch, require_client_authentication=self._pair.client_ca is not None
        )

    def context(self) -> ssl.SSLContext:
        """Returns a context for the sockets of the native front: each handshake uses the newest pair."""
        first = self._pair.context
        first.sni_callback = self._newest
        return first

    def _newest(self, handshake: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self._refresh_safely()
        if self._pair.context is not context:
            handshake.context = self._pair.context

    def refresh(self, force: bool = False) -> bool:
        """Reads the files again if a file has changed. Returns True if the pair was replaced."""
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
        # Returns the pair even without a change: a refresh by signal may have replaced it since the last handshake,
        # and grpcio keeps the pair of the last call.
        self._refresh_safely()
        return _configuration(self._pair)

    def _refresh_safely(self) -> None:
        # An error would end the handshake, so it is logged instead.
        try:
            self.refresh()
        except Exception:
            self._log.exception("certificate_not_refreshed")


def _configuration(pair: CertificatePair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.cert)], root_certificates=pair.client_ca)
