"""Each peer is complete: a server, and requirements that pin everything and name no address."""

from __future__ import annotations

import re

import pytest

from benchmarks.peers.specs import PEERS


@pytest.mark.parametrize("name", PEERS)
def test_requirements_pin_every_package_and_name_no_address(name: str) -> None:
    lines = (PEERS[name].path / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==[\w.!+]+", line) for line in lines)


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_has_a_server_and_a_version(name: str) -> None:
    assert (PEERS[name].path / "server.py").exists()
    assert re.match(r"\d", PEERS[name].version)
