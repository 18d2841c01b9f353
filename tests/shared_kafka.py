"""One Apache Kafka for a whole test run, shared by all pytest-xdist workers.

The first user starts a keeper process; each user holds a shared lock. Once the lock is free, because the last user has
ended or was killed, the keeper stops Kafka and removes its data.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.processes import free_port
from pipeline.broker.kafka import KafkaBroker

ROOT = Path(__file__).resolve().parents[1]
LOOK_EVERY_S = 0.2


@contextmanager
def shared_kafka(folder: Path) -> Iterator[str]:
    """bootstrap.servers of the Kafka of all processes that name this folder."""
    keeper = None
    with (folder / "users.lock").open("a") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        with (folder / "start.lock").open("a") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            if not _address(folder).exists():
                keeper = _start_keeper(folder)
        yield _address(folder).read_text()
    if keeper is not None:
        keeper.wait()


def _address(folder: Path) -> Path:
    return folder / "bootstrap_servers"


def _start_keeper(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.shared_kafka", str(folder)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while not _address(folder).exists():
        if keeper.poll() is not None:
            raise RuntimeError(f"no Kafka for the tests: {(folder / 'keeper.log').read_text()[-2000:]}")
        time.sleep(0.05)
    return keeper


def _keep(folder: Path) -> None:
    broker = KafkaBroker(folder / "kafka", port=free_port(), controller_port=free_port())
    with broker as kafka, (folder / "users.lock").open("a") as users:
        address = _address(folder)
        address.with_suffix(".new").write_text(kafka.bootstrap_servers)
        address.with_suffix(".new").replace(address)
        while kafka.alive:
            time.sleep(LOOK_EVERY_S)
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                continue
        # The lock still keeps a next user waiting, who then starts a Kafka of its own.
        address.unlink()
    shutil.rmtree(folder / "kafka")


if __name__ == "__main__":
    _keep(Path(sys.argv[1]))
