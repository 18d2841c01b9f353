"""What a hostile peer does with whole connections. Each attack ends; its effects are checked afterwards."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Callable
from contextlib import ExitStack, suppress
from time import monotonic, sleep

from benchmarks.abuse.corpus import HEALTH, INFER, PREDICT, STREAM, header_block, packed
from benchmarks.abuse.target import HANDSHAKE_S, Target
from benchmarks.abuse.wire import GREETING, Wire
from common.http2 import frames
from volcast.v1 import StreamPredictRequest

PLAIN = frames.PREFACE + frames.settings({})
SHUT = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
_CHUNK = 1 << 16


def floods(count: int) -> dict[str, bytes]:
    """Frames that cost their sender nothing, so many of them on one connection."""
    head, ids = header_block(PREDICT), range(1, 2 * count, 2)
    cancel = frames.ErrorCode.CANCEL
    opened = frames.frame(frames.HEADERS, 4, 1, header_block(STREAM))
    return {
        "rapid reset": b"".join(frames.frame(1, 4, one, head) + frames.rst_stream(one, cancel) for one in ids),
        "PING": frames.frame(frames.PING, 0, 0, bytes(8)) * count,
        "SETTINGS": frames.settings({frames.INITIAL_WINDOW_SIZE: 1000, frames.MAX_FRAME_SIZE: 20_000}) * count,
        "CONTINUATION": frames.frame(frames.HEADERS, 0, 1, head) + frames.frame(frames.CONTINUATION, 0, 1, b"") * count,
        "huge headers": frames.frame(frames.HEADERS, 0, 1, head)
        + frames.frame(frames.CONTINUATION, 0, 1, b"\x00\x01x\x7f\xff\x7f" + b"x" * 16_000) * 200,
        "empty DATA": opened + frames.frame(frames.DATA, 0, 1) * count,
        "one byte of DATA": opened + frames.frame(frames.DATA, 0, 1, b"\x00") * count,
        "windows by one byte": opened + frames.window_update(1, 1) * count,
        "PRIORITY": frames.frame(frames.PRIORITY, 0, 1, bytes(5)) * count,
        "unknown frames": frames.frame(99, 0, 0, b"x") * count,
        "empty calls": b"".join(frames.frame(1, 5, one, header_block(HEALTH)) for one in ids),
    }


def flood(target: Target, data: bytes) -> str:
    """Sends until all is sent or the server has had enough; it must not take the well-formed caller with it."""
    with suppress(ConnectionError), Wire(target.address, 10.0, PLAIN) as wire:
        wire.socket.settimeout(0.2)
        for at in range(0, len(data), _CHUNK):
            with suppress(TimeoutError):
                wire.socket.sendall(data[at : at + _CHUNK])
            wire.socket.setblocking(False)
            with suppress(BlockingIOError):
                if not wire.socket.recv(1 << 20):
                    return "cut off"
            wire.socket.settimeout(0.2)
        return "taken"
    return "cut off"


def small_frames(target: Target, size_mb: float, trickle_s: float) -> str:
    """Calls whose messages arrive in DATA frames of one byte, then some bytes now and then."""
    one_byte = {stream: frames.frame(frames.DATA, 0, stream, b"\x01") for stream in (1, 3, 5)}
    opened = b"".join(
        frames.frame(frames.HEADERS, 4, stream, header_block(path))
        + frames.frame(frames.DATA, 0, stream, frames.MESSAGE.pack(0, 16_000_000))
        for stream, path in ((1, STREAM), (3, PREDICT), (5, PREDICT))
    )
    sent = 0
    with suppress(ConnectionError, TimeoutError), Wire(target.address, 2.0) as wire:
        wire.socket.sendall(opened)
        for number in range(int(size_mb * 100)):
            wire.socket.sendall(one_byte[1 + 2 * (number % 3)] * 1000)
            sent += 10_000
        until = monotonic() + trickle_s
        while monotonic() < until:
            wire.socket.sendall(one_byte[3] + b"\0\0\1")  # a frame and the begin of the next one
            wire.socket.sendall(one_byte[3][3:])
            sleep(0.02)
        return f"{sent / 1e6:.0f} MB of frames taken, then {trickle_s:.0f} s of 13 bytes each 20 ms"
    return f"cut off after {sent / 1e6:.0f} MB"


def bombs(target: Target, calls: int) -> str:
    """Calls and streams whose small messages inflate to 16 MiB each."""
    bomb = gzip.compress(bytes(16 * 1024 * 1024))
    body = frames.MESSAGE.pack(1, len(bomb)) + bomb
    ended = 0
    for path in (PREDICT, STREAM, INFER):
        head = header_block(path, (b"grpc-encoding", b"gzip"))
        with suppress(ConnectionError), Wire(target.address, 60.0) as wire:
            for number in range(calls):
                stream = 2 * number + 1
                call = frames.frame(frames.HEADERS, 4, stream, head)
                for at in range(0, len(body), 16_384):
                    last = int(at + 16_384 >= len(body))
                    call += frames.frame(frames.DATA, last, stream, body[at : at + 16_384])
                wire.socket.sendall(call)
            open_calls = set(range(1, 2 * calls, 2))
            while open_calls and (frame := wire.read()) is not None:
                if frame[1] & frames.END_STREAM or frame[0] == frames.RST_STREAM:
                    open_calls.discard(frame[2])
            ended += calls - len(open_calls)
    verdict = "" if ended == 3 * calls else "FAILED: "
    return f"{verdict}{ended} of {3 * calls} calls ended"


def slow_readers(target: Target, connections: int, calls: int) -> str:
    """Calls and streams with large answers whose callers give no room: what waits must be bounded."""
    before = target.resident_mb()
    raw = packed(1000).SerializeToString()
    body = frames.MESSAGE.pack(0, len(raw)) + raw
    framed = StreamPredictRequest(frame_id=1, request=packed(1000)).SerializeToString()
    framed = frames.MESSAGE.pack(0, len(framed)) + framed
    most = before
    with ExitStack() as stack:
        for _ in range(connections):
            wire = stack.enter_context(Wire(target.address, 0.5, SHUT))
            with suppress(TimeoutError, ConnectionError):
                for one in range(calls):
                    path, sent = (PREDICT, body) if one % 2 else (STREAM, framed)
                    wire.socket.sendall(_call(2 * one + 1, path, sent, end=path == PREDICT))
                    most = max(most, target.resident_mb())
        settle_until = monotonic() + 1
        while monotonic() < settle_until:
            most = max(most, target.resident_mb())
            sleep(0.05)
    return f"{connections} x {calls} calls: {before:.0f} -> {most:.0f} MB at most"


def _call(stream: int, path: str, body: bytes, *, end: bool) -> bytes:
    data = [frames.frame(frames.HEADERS, 4, stream, header_block(path))]
    for at in range(0, len(body), 16_384):
        last = end and at + 16_384 >= len(body)
        data.append(frames.frame(frames.DATA, int(last), stream, body[at : at + 16_384]))
    return b"".join(data)


def slow_loris(target: Target, connections: int) -> str:
    """A byte now and then of a preface, of a frame, of a header block: cut off once the time for it is over."""
    call = frames.frame(frames.HEADERS, 4, 1, header_block(PREDICT))
    sent: list[tuple[Callable[[int], bytes], bytes]] = [
        (lambda turn: frames.PREFACE[turn : turn + 1], b""),
        (lambda turn: call[turn : turn + 1], PLAIN),
        (lambda turn: frames.frame(frames.CONTINUATION, 0, 1), PLAIN + frames.frame(frames.HEADERS, 0, 1, b"\x83")),
    ]
    began = monotonic()
    with ExitStack() as stack:
        open_now = []
        for number in range(connections):
            piece, greeting = sent[number % len(sent)]
            open_now.append((stack.enter_context(Wire(target.address, 0.2, greeting)).socket, piece))
        turn = 0
        while open_now and monotonic() - began < 3 * HANDSHAKE_S + 5:
            open_now = [(one, piece) for one, piece in open_now if _still_open(one, piece(turn))]
            turn += 1
            sleep(0.25)
        if open_now:
            return f"FAILED: {len(open_now)} of {connections} still open after {monotonic() - began:.0f} s"
    return f"{connections} cut off within {monotonic() - began:.1f} s"


def _still_open(one: socket.socket, data: bytes) -> bool:
    try:
        one.sendall(data)
        one.setblocking(False)
        while one.recv(4096):
            pass
    except BlockingIOError:
        return True
    except (ConnectionError, TimeoutError):
        return False
    finally:
        with suppress(OSError):
            one.settimeout(0.2)
    return False


def idle(target: Target, connections: int) -> str:
    """Connections that say hello and no more."""
    before = target.resident_mb()
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(Wire(target.address, 20.0, GREETING))
        with Wire(target.address) as wire:
            answered = wire.calls([(PREDICT, packed().SerializeToString())])
        held = target.resident_mb()
    what = f"{connections} held: {before:.0f} -> {held:.0f} MB, {(held - before) / connections * 1000:.1f} kB each"
    return what if answered[0] == 1 else f"FAILED: {what}, and a new caller got {dict(answered)}"
