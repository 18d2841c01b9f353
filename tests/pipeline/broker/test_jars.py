"""Jars are named with their hash, arrive verified or not at all, and never from an address in the repository."""

from __future__ import annotations

import gc
import hashlib
import re
import threading
import warnings
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.broker import jars as module
from pipeline.broker.jars import LOCK, Jar, JarsUnavailableError, ensure_jars, fetch, kafka_version, read_lock
from tests.processes import ROOT

CONTENT = b"the bytes of a jar"


def jar(content: bytes = CONTENT) -> Jar:
    return Jar("org.example", "thing", "1.2", hashlib.sha256(content).hexdigest())


@pytest.fixture
def mirror() -> Iterator[tuple[str, list[str]]]:
    """The address of a Maven repository that has one jar, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            exists = self.path == "/maven/org/example/thing/1.2/thing-1.2.jar"
            self.send_response(200 if exists else 404)
            self.send_header("Content-Length", str(len(CONTENT) if exists else 0))
            self.end_headers()
            self.wfile.write(CONTENT if exists else b"")

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/maven/", asked
        server.shutdown()
        thread.join()
    with warnings.catch_warnings():
        # jgo leaves a refused answer unread and its socket to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def test_the_lock_names_kafka_as_compose_has_it_with_hashes_and_no_address() -> None:
    jars = read_lock()
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    assert f"apache/kafka:${{KAFKA_VERSION:-{kafka_version(jars)}}}" in compose
    assert {each.version for each in jars if each.group == "org.apache.kafka"} == {kafka_version(jars)}
    assert len({each.filename for each in jars}) == len(jars) == 45
    assert all(re.fullmatch("[0-9a-f]{64}", each.sha256) for each in jars)
    assert "://" not in LOCK.read_text()


def test_a_jar_comes_from_the_configured_repository(mirror: tuple[str, list[str]], tmp_path: Path) -> None:
    address, asked = mirror
    fetch([jar()], tmp_path / "new" / "kafka", address)
    assert [path.name for path in (tmp_path / "new" / "kafka").iterdir()] == ["thing-1.2.jar"]
    assert (tmp_path / "new" / "kafka" / "thing-1.2.jar").read_bytes() == CONTENT
    assert asked[0] == "/maven/org/example/thing/1.2/thing-1.2.jar"


def test_a_jar_with_another_hash_is_refused_and_not_kept(mirror: tuple[str, list[str]], tmp_path: Path) -> None:
    with pytest.raises(JarsUnavailableError, match=r"thing-1\.2\.jar does not have the SHA-256 of jars\.lock"):
        fetch([jar(b"other bytes")], tmp_path, mirror[0])
    assert list(tmp_path.iterdir()) == []


def test_only_the_jars_that_are_missing_or_damaged_are_fetched(
    mirror: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Jar("org.example", "kept", "1", hashlib.sha256(b"kept").hexdigest())
    monkeypatch.setattr(module, "read_lock", lambda: (kept, jar()))
    (tmp_path / kept.filename).write_bytes(b"kept")
    (tmp_path / jar().filename).write_bytes(CONTENT[:-1])
    assert ensure_jars(mirror[0], tmp_path) == [tmp_path / "kept-1.jar", tmp_path / "thing-1.2.jar"]
    assert (tmp_path / "thing-1.2.jar").read_bytes() == CONTENT
    assert not [path for path in mirror[1] if "kept" in path]


HINT = "; set broker.maven_repository to a Maven mirror, or kafka.bootstrap_servers to a running Kafka"


def test_a_repository_that_cannot_be_reached_is_one_line_that_names_the_keys(tmp_path: Path) -> None:
    with pytest.raises(JarsUnavailableError) as caught:
        fetch([jar()], tmp_path, "http://127.0.0.1:1")
    (line,) = str(caught.value).splitlines()
    assert line.startswith("broker: Apache Kafka's jars cannot be fetched (")
    assert "Connection refused" in line
    assert line.endswith(HINT)


def test_a_repository_without_the_jar_is_the_same_line(mirror: tuple[str, list[str]], tmp_path: Path) -> None:
    other = Jar("org.example", "other", "1", "0" * 64)
    with pytest.raises(JarsUnavailableError, match=r"org\.example:other.* not found") as caught:
        fetch([other], tmp_path, mirror[0])
    assert str(caught.value).endswith(HINT)


def test_a_cache_folder_that_cannot_be_written_is_the_same_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JarsUnavailableError, match="Not a directory") as caught:
        fetch([jar()], tmp_path / "file" / "kafka")
    assert str(caught.value).endswith(HINT)
