from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cli.main import run_command
from common.status import STATUS_FD
from tests.pipeline.feed.messages import message


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        ([], "expected one of --simulate and --replay", 2),
        (["--simulate", "--replay", "x"], "expected one of --simulate and --replay", 2),
        (["--simulate", "x"], "--simulate takes no files", 2),
        (["--replay", "absent.ndjson"], "recording absent.ndjson: no such file", 1),
        (["--replay", "empty.ndjson"], "nothing to send in empty.ndjson", 1),
        (["--replay", "rows.csv"], "recording rows.csv: holds one row per tick, which cannot be sent", 1),
        (
            ["--replay", "binance.ndjson"],
            "binance.ndjson: holds messages of binance, which cannot be sent",
            1,
        ),
        (
            ["--replay", "absent.ndjson", "--seed", "1"],
            "--seed, --rate, --max-ticks and --market-time belong to --simulate",
            2,
        ),
        (["--replay", "absent.ndjson", "--market-time", "1h"], "belong to --simulate", 2),
        (["--simulate", "--speed", "fast"], "'fast' is not a speed", 2),
        (["--simulate", "--speed", "0"], "'0' is not a speed", 2),
        (["--simulate", "--rate", "0"], "0", 2),
        (["--simulate", "--max-ticks", "0"], "0", 2),
        (["--simulate", "--port", "70000"], "70000", 2),
        (["--simulate", "--duration", "soon"], "'soon' is not a duration", 2),
        (["--nonsense"], "No such option", 2),
        (["--simulate", "--fault", "rain=0.1"], "expected NAME=RATE with a name of drop, repeat", 2),
        (["--simulate", "--fault", "drop"], "expected a rate above 0 and at most 1, got ''", 2),
        (["--simulate", "--fault", "drop=2"], "expected a rate above 0 and at most 1, got '2'", 2),
        (["--simulate", "--fault", "drop=0.1", "--fault", "drop=0.2"], "drop is given twice", 2),
        (["--simulate", "--fault-log", "faults.ndjson"], "--fault-log needs a --fault", 2),
        (["--simulate", "--config", "absent.yaml"], "absent.yaml: no such file", 1),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    arguments: list[str],
    said: str,
    code: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.ndjson").touch()
    (tmp_path / "rows.csv").write_text("time,symbol,bid,ask\n1767600000,BTC-USD,1,2\n")
    quote = {"u": 1, "s": "BTCUSDT", "b": "1", "B": "1", "a": "2", "A": "1"}
    (tmp_path / "binance.ndjson").write_text(json.dumps({"stream": "btcusdt@bookTicker", "data": quote}) + "\n")
    assert run_command(["exchange", *arguments]) == code
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_port_in_use_is_named_with_the_option_that_changes_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_command(["exchange", "--simulate", "--port", str(port)]) == 1
    assert f"port {port} on 127.0.0.1: Address already in use; choose another with --port" in capsys.readouterr().err


@pytest.mark.process
def test_the_command_says_when_it_is_ready_and_stops_on_a_signal(tmp_path: Path) -> None:
    recording = tmp_path / "a.ndjson"
    recording.write_bytes(message(0))
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "cli.main", "exchange", "--replay", str(recording), "--port", "0", "--json"]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=[writer],
        env={**os.environ, STATUS_FD: str(writer)},
    )
    os.close(writer)
    with os.fdopen(reader) as status, process:
        ready = json.loads(status.readline())
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=20)
        last = json.loads(status.readlines()[-1])
    assert ready["event"] == "ready"
    assert ready["url"] == f"ws://127.0.0.1:{ready['port']}"
    assert process.returncode == 0
    assert json.loads(out) == {"position": 0, "sent": 0, "connections": 0, "restarts": 0}
    assert last == {"event": "summary", **json.loads(out)}
