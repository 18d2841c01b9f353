"""A real MLflow server on loopback, over SQLite, that can be killed and started again on the same port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from benchmarks.processes import free_port

READY_S = 150.0


class Server:
    """MLflow 3 takes seconds to start, and minutes on a machine that is busy."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = {
            "--backend-store-uri": f"sqlite:///{self._folder / 'mlflow.db'}",
            "--artifacts-destination": str(self._folder / "artifacts"),
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--workers": "1",
        }
        environ = {
            **os.environ,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        environ.pop("MLFLOW_TRACKING_URI", None)
        arguments = [word for pair in options.items() for word in pair]
        with (self._folder / "server.log").open("ab") as log:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments],
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,
            )
        deadline = time.monotonic() + READY_S
        while not self._answers():
            if self._popen.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"mlflow server did not start: {(self._folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.1)

    def kill(self) -> None:
        """At once, with the workers below it."""
        if self._popen is not None and self._popen.poll() is None:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False
