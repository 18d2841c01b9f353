"""server.properties of the one node."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.broker.properties import Listener, Retention, as_text, server_properties

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("max_bytes", "segment_bytes"),
    [(4 * MIB, MIB), (4 * MIB - 4, MIB), (8 * MIB, 2 * MIB), (1024 * MIB, 256 * MIB), (8192 * MIB, 256 * MIB)],
)
def test_segments_are_a_quarter_of_what_is_kept_within_kafkas_bounds(max_bytes: int, segment_bytes: int) -> None:
    properties = Retention(max_bytes, 1.5).properties()
    assert properties == {
        "log.retention.bytes": str(max_bytes),
        "log.retention.ms": "1500",
        "log.segment.bytes": str(segment_bytes),
    }


def test_every_listener_is_advertised_at_an_address_that_this_machine_reaches() -> None:
    sasl = Listener("SASL", "SASL_SSL", 3, properties={"sasl.enabled.mechanisms": "PLAIN"})
    plaintext = Listener("PLAINTEXT", "PLAINTEXT", 1, "0.0.0.0")
    properties = server_properties(plaintext, 2, Path("/data"), Retention(), [sasl])
    assert properties["listeners"] == "PLAINTEXT://0.0.0.0:1,SASL://127.0.0.1:3,CONTROLLER://127.0.0.1:2"
    assert properties["advertised.listeners"] == "PLAINTEXT://127.0.0.1:1,SASL://127.0.0.1:3"
    assert properties["listener.security.protocol.map"] == "PLAINTEXT:PLAINTEXT,SASL:SASL_SSL,CONTROLLER:PLAINTEXT"
    assert properties["listener.name.sasl.sasl.enabled.mechanisms"] == "PLAIN"
    assert properties["log.dirs"] == "/data/log"


def test_an_ipv6_address_is_in_brackets() -> None:
    properties = server_properties(Listener("PLAINTEXT", "PLAINTEXT", 1, "::1"), 2, Path("/data"), Retention())
    assert properties["listeners"].startswith("PLAINTEXT://[::1]:1,")
    assert properties["advertised.listeners"] == "PLAINTEXT://[::1]:1"


def test_a_backslash_is_escaped_as_javas_properties_want_it() -> None:
    assert as_text({"b": "C:\\kafka", "a": "x=y"}) == "a=x=y\nb=C:\\\\kafka\n"
