"""The server stays light: what its process imports is what serving needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.process

HEAVY = {
    "numba", "pandas", "pyarrow", "sklearn", "scipy", "onnx", "mlflow", "confluent_kafka", "websockets",
    "pydantic", "fastapi", "starlette", "uvicorn",
    "pipeline", "training", "clients",
}  # fmt: skip


def test_the_server_imports_no_data_frame_compiler_web_framework_or_other_part_of_ours() -> None:
    program = (
        "import sys, server.commands.serve, server.app.run;print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    imported = set(done.stdout.split())
    assert {"grpc", "onnxruntime"} <= imported
    assert imported & HEAVY == set()
