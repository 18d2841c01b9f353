"""Standard output and error of a command: no traceback, no block, whatever they are connected to."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from common.streams import BackgroundWriter
from tests.processes import ROOT

MANY_LINES = 200_000
BIG = 1 << 20


def program(body: str) -> list[str]:
    """A program that prints as the `volcast` program does."""
    script = (
        "import sys, click\nfrom cli import main\n"
        "@click.command()\ndef body():\n" + "".join(f"    {line}\n" for line in body.splitlines() if line) + "\n"
        "main.volcast = body\nmain.main()\n"
    )
    return [sys.executable, "-c", script]


def run(body: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(program(body), cwd=ROOT, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.process
@pytest.mark.parametrize(
    "write",
    [
        "click.echo('line ' * 20)",
        "click.echo(b'bytes ' * 20)",
        "print('line ' * 20)",
        "from rich.console import Console; Console().print('line ' * 20)",
    ],
)
def test_a_reader_that_leaves_ends_the_command_with_exit_code_0(write: str) -> None:
    process = subprocess.Popen(
        program(f"for _ in range({MANY_LINES}):\n    {write}"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) == 0


@pytest.mark.process
def test_a_reader_that_left_before_the_only_line_is_no_failure() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    done = run("print('one line')", stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.process
@pytest.mark.parametrize("write", ["click.echo('line')", "print('line')"])
def test_a_full_disk_under_standard_output_is_one_line(write: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(write, stdout=full, stderr=subprocess.PIPE)
    assert done.stderr == b"volcast: standard output cannot be written: No space left on device\n"
    assert done.returncode == 1


@pytest.mark.process
def test_a_full_disk_under_standard_error_does_not_change_what_a_command_does() -> None:
    with Path("/dev/full").open("wb") as full:
        done = run("click.echo('warning', err=True)\nclick.echo('answer')", stdout=subprocess.PIPE, stderr=full)
    assert (done.stdout, done.returncode) == (b"answer\n", 0)


@pytest.mark.process
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_a_closed_standard_stream_is_never_another_file(closed: str) -> None:
    body = """
click.echo('answer')
click.echo('warning', err=True)
file = open('/dev/zero')
sys.exit(0 if file.fileno() > 2 else 9)
"""
    done = subprocess.run(["bash", "-c", f'"$@" {closed}', "bash", *program(body)], cwd=ROOT, timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.process
def test_a_pipe_that_does_not_block_gets_every_byte() -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    process = subprocess.Popen(program(f"print('x' * {BIG})"), cwd=ROOT, stdout=write_end)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as reader:
        time.sleep(0.2)  # the pipe fills
        assert len(reader.read()) == BIG + 1
    assert process.wait(30) == 0


def test_a_writer_never_blocks_and_counts_what_it_drops() -> None:
    read_end, write_end = os.pipe()
    writer = BackgroundWriter(write_end, max_bytes=200_000)
    began = time.monotonic()
    for number in range(1000):
        writer.write(b"%06d" % number * 100 + b"\n")  # 601 bytes; the pipe holds 64 KiB
    assert time.monotonic() - began < 5
    assert 300 < writer.lost < 1000
    kept = 1000 - writer.lost
    lines: list[bytes] = []
    with os.fdopen(read_end, "rb") as reader:
        reading = threading.Thread(target=lambda: lines.extend(reader))
        reading.start()
        assert writer.flush(10)
        os.close(write_end)
        reading.join(10)
    assert len(lines) == kept
    assert lines[0] == b"000000" * 100 + b"\n"


def test_a_line_that_cannot_be_written_is_counted_and_the_next_is_tried() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    writer = BackgroundWriter(full)
    for _ in range(3):
        writer.write(b"line\n")
    assert writer.flush(10)
    assert writer.lost == 3
    read_end, write_end = os.pipe()
    os.dup2(write_end, full)  # there is room again
    writer.write(b"line\n")
    assert writer.flush(10)
    assert os.read(read_end, 100) == b"line\n"
    for fd in (full, read_end, write_end):
        os.close(fd)


def test_a_flush_gives_up_on_a_reader_that_does_not_read() -> None:
    read_end, write_end = os.pipe()
    writer = BackgroundWriter(write_end)
    writer.write(b"x" * BIG)
    assert not writer.flush(0.05)
    os.read(read_end, BIG)
    os.close(read_end)
    assert writer.flush(10)
    assert writer.lost == 1
    os.close(write_end)


@pytest.mark.process
def test_a_forked_child_writes_too() -> None:
    body = """
import os
sys.stderr.write('parent\\n')
if os.fork() == 0:
    sys.stderr.write('child\\n')
    sys.exit(0)
os.wait()
"""
    done = run(body, stderr=subprocess.PIPE)
    assert sorted(done.stderr.split()) == [b"child", b"parent"]


@pytest.mark.process
def test_an_uncaught_error_still_shows_its_traceback() -> None:
    done = run("1 / 0", stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr
