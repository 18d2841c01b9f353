"""StreamPredict from C++: one row a message, one after the other and pipelined, and frames of 256 rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.native.peers import StreamMode, cpp_echo, stream_client
from benchmarks.processes import server
from benchmarks.requests import check, request
from benchmarks.targets import Row, at_least, at_most, medians
from benchmarks.turns import Run
from benchmarks.unary import CPP, IN_FLIGHT, ROWS

Figure = Callable[[str], float]


def streams(run: Run) -> Iterator[Row]:
    pings, messages, frames = run.scaled(10_000), run.scaled(150_000), run.scaled(25_000)
    with server("--front", "native") as ours, cpp_echo() as cpp:
        check(ours.address)

        def both(what: str, figure: Figure) -> dict[str, list[float]]:
            return run.in_turns(what, {"ours": lambda: figure(ours.address), CPP: lambda: figure(cpp.address)})

        took = both("stream, ping-pong", _figure("pingpong", "p50_us", pings))
        piped = both("stream, pipelined", _figure("pipelined", "messages_per_s", messages))
        rows = both("stream, 256 rows", _figure("rows", "rows_per_s", frames, ROWS))
    what = "StreamPredict, 1 row a message, "
    yield medians(what + "ping-pong p50", "us", took["ours"], CPP, took[CPP], target=at_most(2))
    note = f"{IN_FLIGHT} in flight"
    yield medians(what + "pipelined", "messages/s", piped["ours"], CPP, piped[CPP], target=at_least(1.2), note=note)
    what = f"StreamPredict, {ROWS} rows a message"
    yield medians(what, "rows/s", rows["ours"], CPP, rows[CPP], target=at_least(6e6, "rows/s"), note=note)


def _figure(mode: StreamMode, name: str, count: int, rows: int = 1) -> Figure:
    """The client checks every answer and its order."""
    message = request(rows)
    bunched = mode != "pingpong"
    return lambda address: float(
        stream_client(address, mode, message, count=count, in_flight=IN_FLIGHT, coalesce=bunched)[name]
    )
