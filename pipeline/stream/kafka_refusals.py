"""Why a broker refuses a client: librdkafka's texts, and what a user can do.

librdkafka reports a refused login or handshake as text only, among repeated "brokers are down".
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass

from common.config import KafkaConfig

PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Refusal:
    text: str
    final: bool  # a further attempt cannot succeed


_LOGIN = (
    "the broker refuses the login: check sasl.mechanism and sasl.username in kafka.client, and the password in the "
)
_LOGIN += "file of kafka.client_secrets.sasl.password"
_CLIENT_CERTIFICATE = (
    "the broker demands a client certificate that it trusts: set ssl.certificate.location and ssl.key.location in "
    "kafka.client to a certificate of an authority that the broker knows"
)
_NO_TLS = (
    "the broker does not speak TLS at this address: set security.protocol in kafka.client to SASL_PLAINTEXT or "
    "PLAINTEXT, or use the port of a TLS listener"
)
_NO_LOGIN = (
    "the broker expects no login at this address: set security.protocol in kafka.client to SSL or PLAINTEXT, or use "
    "the port of a SASL listener"
)
_UNTRUSTED = "the broker's certificate is not trusted"
_TRUST = (
    "set ssl.ca.location in kafka.client to the PEM file of its authority, and kafka.bootstrap_servers to a name in it"
)
_CLOSED = "the broker closes the connection"

# The first pattern that matches wins.
_FINAL: tuple[tuple[str, str], ...] = (
    (r"Unsupported SASL mechanism: broker's supported mechanisms: (?P<known>.*?)(?: \(|$)", "mechanism"),
    (r"Request not valid in current SASL state", _NO_LOGIN),
    (r"SASL authentication error|Authentication fail", _LOGIN),
    (
        r"alert (bad certificate|certificate required|unknown ca|certificate unknown|certificate expired)",
        _CLIENT_CERTIFICATE,
    ),
    (r"alert number (42|45|46|48|116)\b", _CLIENT_CERTIFICATE),
    (r"certificate verify failed", _UNTRUSTED),
    (r"connecting to a PLAINTEXT broker listener", _NO_TLS),
)
# A broker that is just starting may close connections too.
_PERHAPS: tuple[tuple[str, str], ...] = (
    (r"(closed by peer|Disconnected).*in state APIVERSION_QUERY", "tls"),
    (r"(closed by peer|Disconnected).*in state (UP|AUTH_)", "login"),
    (r"Failed to resolve", "resolve"),
)


def refusal_in(events: Iterable[str], config: KafkaConfig) -> Refusal | None:
    """The reason in the texts of a client that does not connect; None if no broker can be reached at all."""
    texts = list(events)
    for pattern, meaning in _FINAL:
        for text in texts:
            if match := re.search(pattern, text):
                return Refusal(_final_text(meaning, match, text, config), final=True)
    for pattern, meaning in _PERHAPS:
        if any(re.search(pattern, text) for text in texts):
            hint = _perhaps_text(meaning, str(config.client.get("security.protocol", "PLAINTEXT")).upper())
            if hint:
                return Refusal(hint, final=False)
    return None


def explain(text: str) -> str:
    """The text of an error of a connection, with what a user can do."""
    for pattern, meaning in _FINAL:
        if re.search(pattern, text) and meaning != "mechanism":
            return f"{text}: {meaning}"
    return text


def _final_text(meaning: str, match: re.Match[str], text: str, config: KafkaConfig) -> str:
    if meaning == "mechanism":
        return f"the broker does not support this sasl.mechanism; set it in kafka.client to one of: {match['known']}"
    if meaning == _UNTRUSTED:
        reason = _why_untrusted(text, config)
        return f"{_UNTRUSTED}{f' ({reason})' if reason else ''}: {_TRUST}"
    return meaning


def _perhaps_text(meaning: str, protocol: str) -> str:
    if meaning == "resolve":
        return "the host name cannot be resolved; set kafka.bootstrap_servers"
    if meaning == "tls" and "SSL" not in protocol:
        return f"{_CLOSED}: it probably demands TLS; set security.protocol in kafka.client to SASL_SSL or SSL"
    if meaning == "login" and "SASL" not in protocol:
        wanted = "SASL_SSL" if protocol == "SSL" else "SASL_PLAINTEXT or SASL_SSL"
        return (
            f"{_CLOSED}: it demands a login; set security.protocol in kafka.client to {wanted}, and sasl.mechanism, "
            "sasl.username and kafka.client_secrets.sasl.password"
        )
    return ""


def _why_untrusted(text: str, config: KafkaConfig) -> str:
    """OpenSSL's reason, which librdkafka does not pass on: another handshake, without a login."""
    address = re.search(r"ssl://\[?(?P<host>[^/\]]+?)\]?:(?P<port>\d+)/", text)
    if address is None:
        return ""
    host = address["host"]
    try:
        context = ssl.create_default_context(cafile=str(config.client.get("ssl.ca.location") or "") or None)
        with socket.create_connection((host, int(address["port"])), PROBE_TIMEOUT_S) as plain:
            context.wrap_socket(plain, server_hostname=host).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except (OSError, ValueError):
        pass
    return ""
