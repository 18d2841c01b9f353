"""The layout of a unary call that may be part of a block."""

from __future__ import annotations

import pytest

from common.http2 import frames
from server.http2.blocks import MAX_CREDITS, CallLayout, call_layout
from tests.server.http2.peer import message

HEAD = b"head"
NEXT = frames.frame(frames.HEADERS, 4, 3, HEAD)


def layout(*sent: bytes, stream: int = 1, at: int = 0) -> CallLayout | None:
    data = bytes(at) + frames.frame(frames.HEADERS, 4, stream, HEAD) + b"".join(sent)
    return call_layout(data, at, len(HEAD), stream)


def data(body: bytes, stream: int = 1, flags: int = 1, compressed: int = 0) -> bytes:
    return frames.frame(frames.DATA, flags, stream, message(body, compressed))


@pytest.mark.parametrize("at", [0, 7])
@pytest.mark.parametrize("body", [b"", b"x", b"row" * 100])
def test_headers_and_one_whole_message(body: bytes, at: int) -> None:
    size = len(body)
    assert layout(data(body), NEXT, at=at) == CallLayout(13 + 14 + size, 5 + size, 27, (5, 18), (), ())


def test_increments_of_both_windows_around_the_message() -> None:
    made = layout(frames.window_update(1, 9), data(b"row"), frames.window_update(0, 9), NEXT)
    assert made == CallLayout(13 + 13 + 17 + 13, 8, 40, (5, 18, 31), (22,), (52,))


@pytest.mark.parametrize(("credits", "is_part"), [(MAX_CREDITS, True), (MAX_CREDITS + 1, False)])
def test_a_call_of_many_increments_is_no_part_of_a_block(credits: int, is_part: bool) -> None:
    made = layout(data(b"row"), frames.window_update(0, 1) * (credits - 1), frames.window_update(1, 1), NEXT)
    assert (made is not None) == is_part


@pytest.mark.parametrize(
    "sent",
    [
        (data(b"row"),),
        (NEXT,),
        (frames.window_update(1, 9), NEXT),
        (data(b"row", flags=0), NEXT),
        (data(b"row", stream=3), NEXT),
        (data(b"row", compressed=1), NEXT),
        (data(b"row"), data(b"row"), NEXT),
        (data(b"row"), frames.window_update(3, 9), NEXT),
        (data(b"row"), frames.frame(frames.RST_STREAM, 0, 1, bytes(4)), NEXT),
        (frames.frame(frames.DATA, 1, 1, b"\0\0\0\0"), NEXT),
        (frames.frame(frames.DATA, 1, 1, message(b"row")[:-1]), NEXT),
        (frames.frame(frames.DATA, 1, 1, message(b"row") + b"x"), NEXT),
        (data(b"row")[:-1],),
    ],
    ids=["no next call", "no message", "increments only", "not ended", "of another stream", "compressed",
         "two messages", "an increment of another stream", "cancelled", "less than a prefix", "a part of a message",
         "more than a message", "not yet whole"],
)  # fmt: skip
def test_other_calls_are_no_part_of_a_block(sent: tuple[bytes, ...]) -> None:
    assert layout(*sent) is None
