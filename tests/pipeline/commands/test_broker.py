"""`volcast broker`: Apache Kafka with its data in a folder, or, for `volcast run`, the light broker."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from benchmarks.processes import free_port
from cli.run.processes import ProcessGroup
from common.config import KafkaConfig
from pipeline.broker.light import LIMITS
from pipeline.stream.kafka import connect
from pipeline.stream.kafka_topics import ensure_topics
from tests.pipeline.broker.test_light import needs_light
from tests.processes import await_true, exists, start, volcast


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_it_takes_its_configuration_ends_on_a_signal_and_even_killed_leaves_no_kafka(
    number: signal.Signals, parts: ProcessGroup, tmp_path: Path
) -> None:
    environ = {
        "VOLCAST_BROKER__PORT": str(free_port()),
        "VOLCAST_BROKER__DATA_DIR": str(tmp_path / "kafka"),
        "VOLCAST_BROKER__RETENTION_BYTES": "8388608",
        "VOLCAST_BROKER__RETENTION_S": "60",
    }
    part = start(parts, "broker", ["broker"], environ)
    assert part.popen is not None
    assert part.ready == {"address": f"127.0.0.1:{environ['VOLCAST_BROKER__PORT']}", "light": ""}
    config = KafkaConfig(bootstrap_servers=part.ready["address"])
    ensure_topics(connect(config), config)
    properties = (tmp_path / "kafka" / "server.properties").read_text().splitlines()
    assert {"log.retention.bytes=8388608", "log.retention.ms=60000"} <= set(properties)
    await_true((tmp_path / "kafka" / "log" / "ticks.raw-0").is_dir, 10, "the topic's folder")
    (child,) = Path(f"/proc/{part.popen.pid}/task/{part.popen.pid}/children").read_text().split()
    part.popen.send_signal(number)
    part.popen.wait(30)
    assert part.popen.returncode == (0 if number == signal.SIGTERM else -signal.SIGKILL)
    await_true(lambda: not exists(int(child)), 30, "the end of Kafka")
    clean = tmp_path / "kafka" / "log" / ".kafka_cleanshutdown"
    assert clean.exists()


def without_jars(tmp_path: Path) -> dict[str, str]:
    return {
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "VOLCAST_BROKER__MAVEN_REPOSITORY": "http://127.0.0.1:1",
        "VOLCAST_BROKER__DATA_DIR": str(tmp_path / "kafka"),
        "VOLCAST_BROKER__PORT": str(free_port()),
    }


@pytest.mark.process
def test_without_jars_it_ends_with_one_line_that_names_the_keys(tmp_path: Path) -> None:
    done = volcast("broker", environ=without_jars(tmp_path))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("volcast: ")]
    assert line.startswith("volcast: broker: Apache Kafka's jars cannot be fetched (")
    assert "broker.maven_repository" in line
    assert "kafka.bootstrap_servers" in line


@needs_light
def test_without_jars_a_run_gets_the_light_broker_and_a_line_of_what_it_cannot_do(
    parts: ProcessGroup, tmp_path: Path
) -> None:
    environ = without_jars(tmp_path)
    part = start(parts, "broker", ["broker", "--allow-light"], environ)
    assert part.ready is not None
    assert part.ready["light"].startswith("broker: Apache Kafka's jars cannot be fetched (")
    assert part.ready["light"].endswith(LIMITS)
    assert "\n" not in part.ready["light"]
    config = KafkaConfig(bootstrap_servers=part.ready["address"])
    ensure_topics(connect(config), config)
    assert not (tmp_path / "kafka").exists()
    assert json.dumps(part.ready["light"])[1:-1] in part.log.read_text()
