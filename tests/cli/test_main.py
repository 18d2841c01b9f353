"""The command line: help with examples, one line for whatever is wrong, nothing imported before it is needed."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from benchmarks.processes import free_port
from cli.main import COMMANDS, run_command, volcast
from common.errors import ConfigError, UnavailableError
from tests.processes import ROOT
from tests.processes import volcast as process

NOWHERE = "/no/such/file"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the project's config.yaml nor a developer's .env has a say here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VOLCAST_KAFKA__TIMEOUT_S", "0.2")
    monkeypatch.setenv("VOLCAST_KAFKA__BOOTSTRAP_SERVERS", f"127.0.0.1:{free_port()}")


def words(name: str) -> list[str]:
    """What runs a command that may be a group: its first one."""
    command = volcast.get_command(click.Context(volcast), name)
    return [name, next(iter(command.commands))] if isinstance(command, click.Group) else [name]


def failing(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """Exit code and the one line on standard error; nothing else may have been said."""
    code = run_command(list(arguments))
    output = capfd.readouterr()
    lines = output.err.splitlines()
    assert output.out == ""
    assert len(lines) == 1, output.err
    assert lines[0].startswith("volcast: ")
    return code, lines[0].removeprefix("volcast: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_answers_help_with_an_example(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command([name, "--help"]) == 0
    output = capfd.readouterr()
    assert output.err == ""
    assert "Example" in output.out
    assert f"volcast {name}" in output.out.split("Example")[1]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_takes_a_configuration_file(name: str) -> None:
    command = volcast.get_command(click.Context(volcast), name)
    assert command is not None
    for part in command.commands.values() if isinstance(command, click.Group) else [command]:
        options = {option for parameter in part.params for option in parameter.opts}
        assert "--config" in options or name == "bench"  # whose loads are its own, not a configuration's


def test_help_lists_every_command_with_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--help"]) == 0
    shown = capfd.readouterr().out
    for name, entry in COMMANDS.items():
        assert name in shown
        assert entry.help in " ".join(shown.split())


def test_the_version_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(["--version"]) == 0
    assert capfd.readouterr().out.startswith("volcast, version ")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_unknown_option_is_one_line_and_exit_code_2(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, line = failing(capfd, name, "--nonsense")
    assert code == 2
    assert line.startswith("No such option")  # click's own words differ between its versions
    assert "--nonsense" in line
    assert line.endswith(f"(see: volcast {name} --help)")


def test_an_unknown_command_is_one_line_and_exit_code_2(capfd: pytest.CaptureFixture[str]) -> None:
    code, line = failing(capfd, "forecast")
    assert code == 2
    assert line == "No such command 'forecast'. (see: volcast --help)"


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["rum"], "Did you mean 'run'? (see: volcast --help)"),
        (["serv"], "Did you mean 'serve'?"),
        (["model", "list"], "Did you mean 'models'?"),
        (["models", "lsit"], "Did you mean 'list'? (see: volcast models --help)"),
        (["--hlep"], "Did you mean '--help'? (see: volcast --help)"),
        (["models", "--hlep"], "Did you mean '--help'? (see: volcast models --help)"),
        (["run", "--duratoin", "3s"], "Did you mean '--duration'?"),
        (["models", "list", "--jsno"], "Did you mean '--json'?"),
    ],
)
def test_a_misspelt_word_is_answered_with_the_right_one(
    words: list[str], suggestion: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, line = failing(capfd, *words)
    assert code == 2
    assert suggestion in line


def test_without_a_command_help_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command([]) == 2
    assert "Commands:" in capfd.readouterr().out


def without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command where a package is not installed; in a process of its own, since a module half imported would be
    seen by other tests."""
    script = f"import sys; sys.modules[{package!r}] = None; import cli.main; cli.main.main()"
    return subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("name", "extra", "package"), [("watch", "pipeline", "confluent_kafka"), ("train", "training", "onnxruntime")]
)
@pytest.mark.process
def test_without_the_extra_it_needs_a_command_says_which(name: str, extra: str, package: str) -> None:
    done = without(package, name)
    assert done.returncode == 1
    assert done.stderr == (
        f"volcast: `volcast {name}` needs the extra [{extra}]: {package} is not installed (make setup)\n"
    )


@pytest.mark.parametrize("package", ["sklearn", "onnx", "onnxruntime", "numpy", "numba"])
@pytest.mark.process
def test_help_of_train_and_its_options_need_nothing_heavy(package: str) -> None:
    assert without(package, "train", "--help").returncode == 0
    assert without(package, "train", "--nope").stderr.startswith("volcast: No such option")


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in {"bench", "exchange"}])
class TestBadConfiguration:
    def test_a_file_that_is_not_there(self, name: str, capfd: pytest.CaptureFixture[str]) -> None:
        assert failing(capfd, *words(name), "--config", NOWHERE) == (1, f"config file {NOWHERE}: no such file")

    def test_a_file_that_is_no_yaml(self, name: str, capfd: pytest.CaptureFixture[str]) -> None:
        Path("broken.yaml").write_text("server: {port: 'x")
        code, line = failing(capfd, *words(name), "--config", "broken.yaml")
        assert code == 1
        assert line.startswith("config file broken.yaml: not YAML: ")

    def test_a_bad_value(self, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VOLCAST_LOG__LEVEL", "loud")
        expected = "config: log.level: expected one of debug, info, warning, error, got 'loud'"
        assert failing(capfd, *words(name)) == (2, expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--duration", "soon"], "Invalid value for '--duration': 'soon' is not a duration such as 30s"),
        (["run", "--speed", "0"], "Invalid value for '--speed': '0' is not a speed: a number above 0, or max"),
        (["run", "--seed", "x"], "Invalid value for '--seed': 'x' is not a valid integer."),
        (
            ["run", "--exchange", "kraken"],
            "--exchange 'kraken': expected simulated, replay:FILE or coinbase or binance",
        ),
        (["run", "--exchange", "replay:"], "--exchange replay: expected replay:FILE, a folder or a pattern"),
        (["broker", "--port", "70000"], "Invalid value for '--port': 70000 is not in the range"),
        (["check", "--duration", "-1"], "Invalid value for '--duration': '-1' is not a duration"),
        (["watch", "--count", "0"], "Invalid value for '--count': 0 is not in the range"),
        (["replay", "--speed", "fast"], "Invalid value for '--speed': 'fast' is not a speed"),
    ],
)
def test_a_bad_option_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code, line = failing(capfd, *arguments)
    assert code == 2
    assert line.startswith(message)


@pytest.mark.parametrize("name", ["ingest", "check", "worker", "watch"])
def test_a_broker_that_is_away_is_one_line(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, line = failing(capfd, name)
    assert code == 1
    assert line.startswith("kafka: no broker answers at 127.0.0.1:")
    assert line.endswith("within 0.2 s; start one with `volcast broker`, or set kafka.bootstrap_servers")


def test_a_broker_that_is_away_is_one_line_for_replay_too(capfd: pytest.CaptureFixture[str]) -> None:
    Path("one.ndjson").write_text("{}\n")
    code, line = failing(capfd, "replay", "one.ndjson")
    assert code == 1
    assert line.startswith("kafka: no broker answers at ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", NOWHERE], f"recording {NOWHERE}: no such file"),
        (["replay"], "archive data/raw: no such directory, so there is no recording to read"),
        (["replay", "*.gz"], "recording *.gz: no file matches"),
        (["replay", ""], "recording '': expected FILE, DIR or GLOB, got an empty name"),
    ],
)
def test_a_recording_that_is_not_there_is_one_line(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert failing(capfd, *arguments) == (1, message)


def test_a_port_in_use_is_one_line_that_says_what_changes_it(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, line = failing(capfd, "broker", "--port", str(port))
    assert code == 1
    assert line == f"port {port} on 127.0.0.1: Address already in use; choose another with --port or broker.port"


@pytest.mark.parametrize(
    ("name", "key"), [("broker", "broker.host"), ("serve", "server.host"), ("gateway", "gateway.host")]
)
def test_a_host_that_is_none_is_one_line_that_names_its_key(
    name: str, key: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLCAST_SERVER__METRICS_PORT", "0")  # which is looked at first, and may be taken
    code, line = failing(capfd, name, "--host", "no.such.host.invalid")
    assert code == 1
    assert line.startswith("host no.such.host.invalid: ")
    assert line.endswith(f"; set an address of this machine with {key}")


def test_a_message_of_several_lines_is_told_in_one(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> None:
        raise UnavailableError("first\nsecond")

    monkeypatch.setattr(volcast.get_command(click.Context(volcast), "watch"), "callback", fail)
    assert failing(capfd, "watch") == (1, "first second")


def test_an_exit_code_is_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    command = volcast.get_command(click.Context(volcast), "watch")
    for outcome, code in ((None, 0), (0, 0), (3, 3)):
        monkeypatch.setattr(command, "callback", lambda outcome=outcome, **_: outcome)
        assert run_command(["watch"]) == code


def test_an_interrupt_before_signals_are_minded_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(volcast.get_command(click.Context(volcast), "watch"), "callback", interrupt)
    assert run_command(["watch"]) == 130


def test_a_config_error_exits_2_like_any_wrong_usage() -> None:
    assert ConfigError("a", 1, "b").exit_code == 2


@pytest.mark.process
def test_nothing_heavy_is_imported_before_a_command_needs_it() -> None:
    heavy = ("numba", "numpy", "grpc", "pyarrow", "confluent_kafka", "onnxruntime", "websockets", "fastapi", "rich")
    script = f"import sys, cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=30, check=True
    )
    assert shown.stdout.strip() == "[]"


@pytest.mark.process
def test_as_a_process_too_a_wrong_option_is_one_line_without_a_traceback() -> None:
    ended = process("worker", "--nonsense")
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("volcast: No such option")


@pytest.mark.process
def test_a_reader_that_has_gone_is_no_error() -> None:
    shell = f"{sys.executable} -m cli.main --help | head -n 1"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, cwd=ROOT, timeout=30, check=True)
    assert ended.stdout.startswith("Usage: volcast")
    assert ended.stderr == ""


def test_a_worker_whose_batches_the_server_would_refuse_does_not_start(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VOLCAST_WORKER__MAX_BATCH_TICKS", "70000")
    code, error = failing(capfd, "worker")
    assert (code, error) == (
        2,
        "config: worker.max_batch_ticks: expected at most server.max_rows, 65536, got 70000",
    )
