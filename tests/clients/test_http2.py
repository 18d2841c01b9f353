"""The client's HTTP/2 beside the h2 library, and against servers that break the protocol."""

from __future__ import annotations

from base64 import b64encode

import pytest
from google.rpc import code_pb2
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, PingAckReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from clients.http2 import CONNECTION_WINDOW, MAX_INDEXED_BYTES, ClientCall, ClientConnection, call_fields
from common.http2 import frames
from common.http2.frames import ProtocolError
from tests.clients.peer import FIELDS, RESPONSE, Peer, framed

SETTINGS = frames.settings({})
HEADERS = Encoder().encode(RESPONSE)


def headers_frame(stream_id: int = 1, block: bytes = HEADERS, flags: int = frames.END_HEADERS) -> bytes:
    return frames.frame(frames.HEADERS, flags, stream_id, block)


def opened(*arrived: bytes) -> tuple[ClientConnection, ClientCall]:
    """A connection with a call, after SETTINGS and further frames."""
    client = ClientConnection()
    call = client.open(FIELDS)
    client.send(call, b"question")
    client.output()
    client.receive(SETTINGS + b"".join(arrived))
    return client, call


def test_a_request_has_the_fields_of_grpc() -> None:
    peer = Peer()
    call = peer.open()
    assert peer.headers(call) == {
        ":method": "POST", ":scheme": "http", ":path": "/volcast.v1.InferenceService/Predict", ":authority": "host:1",
        "te": "trailers", "content-type": "application/grpc", "authorization": "Bearer x",
    }  # fmt: skip
    assert peer.received(call) == framed(b"question")
    assert any(isinstance(event, StreamEnded) for event in peer.events)


def test_a_response_gives_its_messages_and_status() -> None:
    peer = Peer()
    call = peer.open()
    peer.respond(call, b"first", b"", b"third")
    assert list(call.messages) == [b"first", b"", b"third"]
    assert call.status is not None
    assert call.status.code == code_pb2.OK


def test_a_repeated_call_has_a_short_block_that_stays_the_same() -> None:
    peer = Peer()
    sent = []
    for _ in range(4):
        call = peer.client.open(FIELDS)
        sent.append(peer.client.output())
        peer.h2.receive_data(sent[-1])
        peer.client.cancel(call)
        peer.exchange()
    lengths = [len(block) for block in sent[1:]]
    assert lengths[0] == lengths[1] == lengths[2] < 9 + 12
    assert sent[2][9:] == sent[3][9:]


@pytest.mark.parametrize("table", [0, 60, 4096, 100_000])
def test_blocks_follow_the_servers_table(table: int) -> None:
    peer = Peer({SettingCodes.HEADER_TABLE_SIZE: table})
    other = call_fields("/volcast.v1.InferenceService/Health", "host:1", "http", [("authorization", "Bearer y")])
    for fields in (FIELDS, FIELDS, other, FIELDS, other, other):
        call = peer.client.open(fields)
        peer.exchange()
        assert peer.headers(call)[":path"] == str(fields[2][1])
        peer.respond(call)


@pytest.mark.parametrize("size", [MAX_INDEXED_BYTES, MAX_INDEXED_BYTES + 1, 40_000])
def test_a_token_of_any_length_is_sent(size: int) -> None:
    peer = Peer({SettingCodes.MAX_HEADER_LIST_SIZE: 100_000})
    peer.h2.decoder.max_header_list_size = 100_000
    fields = call_fields("/Predict", "host:1", "http", [("authorization", "t" * size)])
    for _ in range(3):
        call = peer.client.open(fields)
        peer.exchange()
        assert len(peer.headers(call)["authorization"]) == size


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 40), min_size=1))
def test_bytes_may_be_cut_anywhere(messages: list[bytes], cuts: list[int]) -> None:
    peer = Peer()
    call = peer.open()
    peer.h2.send_headers(call.id, RESPONSE)
    for message in messages:
        peer.h2.send_data(call.id, framed(message))
    peer.h2.send_headers(call.id, [("grpc-status", "0")], end_stream=True)
    data, number = peer.h2.data_to_send(), 0
    while data:
        size = cuts[number % len(cuts)]
        peer.client.receive(data[:size])
        data, number = data[size:], number + 1
    assert list(call.messages) == messages
    assert call.status is not None


@given(st.integers(0, 70_000), st.lists(st.integers(1, 30_000), min_size=1, max_size=8), st.integers(0, 200_000))
def test_the_windows_of_the_server_are_kept(window: int, updates: list[int], size: int) -> None:
    peer = Peer({SettingCodes.INITIAL_WINDOW_SIZE: window})
    message = bytes(range(256)) * (size // 256 + 1)
    call = peer.open(message)  # h2 raises FlowControlError above its window
    number = 0
    while len(peer.received(call)) < len(message) + 5:
        update = updates[number % len(updates)]
        peer.h2.increment_flow_control_window(update, call.id)
        peer.h2.increment_flow_control_window(update)
        peer.exchange()
        number += 1
    assert peer.received(call) == framed(message)
    assert any(isinstance(event, StreamEnded) for event in peer.events)


def test_a_smaller_initial_window_stops_a_call_that_is_open() -> None:
    peer = Peer()
    call = peer.open(end=False)
    peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 0})
    peer.exchange()
    peer.client.send(call, b"more")
    peer.exchange()
    assert peer.received(call) == framed(b"question")
    peer.h2.increment_flow_control_window(100, call.id)
    peer.exchange()
    assert peer.received(call) == framed(b"question") + framed(b"more")


def test_a_frame_is_no_longer_than_the_server_takes() -> None:
    peer = Peer({SettingCodes.INITIAL_WINDOW_SIZE: 10**6})
    peer.h2.increment_flow_control_window(10**6)
    call = peer.open(bytes(100_000))
    assert len(peer.received(call)) == 100_005


def test_a_frame_of_a_long_message_does_not_copy_the_frames_before() -> None:
    client, call = opened(headers_frame())
    message = framed(bytes(range(256)) * 256)
    parts = [message[start : start + 1000] for start in range(0, len(message), 1000)]
    client.receive(frames.frame(frames.DATA, 0, 1, parts[0]))
    partial = call._partial
    for part in parts[1:]:
        client.receive(frames.frame(frames.DATA, 0, 1, part))
        assert call._partial is partial
    assert list(call.messages) == [message[frames.MESSAGE.size :]]
    assert not partial


def test_the_servers_limit_of_calls_is_known() -> None:
    peer = Peer({SettingCodes.MAX_CONCURRENT_STREAMS: 3})
    call = peer.open()
    peer.open()
    assert peer.client.free_calls == 1
    peer.respond(call)
    assert peer.client.free_calls == 2


def test_the_server_may_send_more_than_a_window_holds() -> None:
    peer = Peer()
    call = peer.open(end=False)
    peer.h2.send_headers(call.id, RESPONSE)
    message, total = framed(bytes(16_000)), 0
    while total < 2 * CONNECTION_WINDOW:
        peer.h2.send_data(call.id, message)  # h2 raises FlowControlError above our window
        total += len(message)
        peer.exchange()
        call.messages.clear()
    assert call.status is None


@pytest.mark.parametrize(
    ("code", "status", "unprocessed"),
    [
        (ErrorCodes.REFUSED_STREAM, code_pb2.UNAVAILABLE, True),
        (ErrorCodes.CANCEL, code_pb2.CANCELLED, False),
        (ErrorCodes.ENHANCE_YOUR_CALM, code_pb2.RESOURCE_EXHAUSTED, False),
        (ErrorCodes.INTERNAL_ERROR, code_pb2.INTERNAL, False),
        (ErrorCodes.NO_ERROR, code_pb2.INTERNAL, False),
        (77, code_pb2.INTERNAL, False),
    ],
)
def test_a_reset_ends_the_call(code: int, status: int, unprocessed: bool) -> None:
    peer = Peer()
    call, other = peer.open(), peer.open()
    peer.h2.reset_stream(call.id, code)
    peer.exchange()
    assert call.status is not None
    assert (call.status.code, call.status.unprocessed) == (status, unprocessed)
    assert other.status is None


def test_a_goaway_ends_the_calls_that_the_server_has_not_seen() -> None:
    peer = Peer()
    first, second = peer.open(), peer.open()
    peer.h2.close_connection(ErrorCodes.NO_ERROR, last_stream_id=first.id)
    peer.client.receive(peer.h2.data_to_send())
    assert peer.client.closing
    assert first.status is None
    assert second.status is not None
    assert (second.status.code, second.status.unprocessed) == (code_pb2.UNAVAILABLE, True)


def test_a_cancelled_call_is_reset_and_its_late_answer_dropped() -> None:
    peer = Peer()
    call = peer.open()
    peer.h2.send_headers(call.id, RESPONSE)
    peer.h2.send_data(call.id, framed(b"late"))
    late = peer.h2.data_to_send()
    peer.client.cancel(call)
    peer.client.receive(late)
    peer.exchange()
    assert any(isinstance(event, StreamReset) and event.stream_id == call.id for event in peer.events)
    assert not call.messages
    peer.respond(peer.open(), b"next")  # the table of header blocks is still right


def test_pings_are_answered() -> None:
    peer = Peer()
    peer.open()
    peer.h2.ping(b"12345678")
    peer.exchange()
    assert any(isinstance(event, PingAckReceived) for event in peer.events)


def test_a_failed_call_gives_text_and_details() -> None:
    peer = Peer()
    call = peer.open()
    details = b64encode(b"\1\2\3\4").decode().rstrip("=")
    peer.respond(call, status="3", grpc_message="50%25 of %C3%BC", grpc_status_details_bin=details)
    assert call.status is not None
    assert (call.status.code, call.status.message, call.status.details) == (3, "50% of ü", b"\1\2\3\4")


@pytest.mark.parametrize(("value", "code"), [("99", 2), ("-1", 2), ("x", 2), ("16", 16), ("0016", 2), ("", 2)])
def test_an_unknown_status_is_unknown(value: str, code: int) -> None:
    peer = Peer()
    call = peer.open()
    peer.respond(call, status=value)
    assert call.status is not None
    assert call.status.code == code


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ([(":status", "503")], code_pb2.UNAVAILABLE, "HTTP status 503"),
        ([(":status", "401")], code_pb2.UNAUTHENTICATED, "HTTP status 401"),
        ([(":status", "404")], code_pb2.UNIMPLEMENTED, "HTTP status 404"),
        ([(":status", "418")], code_pb2.UNKNOWN, "HTTP status 418"),
        ([(":status", "200"), ("content-type", "text/html")], code_pb2.UNKNOWN, "expected application/grpc"),
    ],
)
@pytest.mark.parametrize("end", [True, False])
def test_a_response_that_is_not_grpc_fails(fields: list[tuple[str, str]], code: int, text: str, end: bool) -> None:
    peer = Peer()
    call = peer.open()
    peer.h2.send_headers(call.id, fields, end_stream=end)
    peer.exchange()
    assert call.status is not None
    assert call.status.code == code
    assert text in call.status.message


def test_a_status_before_the_end_of_the_request_closes_a_stream() -> None:
    peer = Peer()
    call = peer.open(end=False)
    peer.respond(call)
    assert call.status is not None
    assert (call.status.code, call.status.message) == (code_pb2.UNAVAILABLE, "the server closed the stream")


def test_informational_headers_and_padding_are_skipped() -> None:
    client, call = opened(
        headers_frame(block=Encoder().encode([(":status", "103")])),
        headers_frame(flags=frames.END_HEADERS | frames.HAS_PRIORITY, block=bytes(5) + HEADERS),
        frames.frame(frames.DATA, frames.PADDED, 1, b"\3" + framed(b"answer") + bytes(3)),
    )
    assert list(call.messages) == [b"answer"]
    assert not client.closing


def test_a_header_block_may_continue() -> None:
    block = [HEADERS[:2], HEADERS[2:5], HEADERS[5:]]
    _, call = opened(
        frames.frame(frames.HEADERS, 0, 1, block[0]),
        frames.frame(frames.CONTINUATION, 0, 1, block[1]),
        frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, block[2]),
        frames.frame(frames.DATA, 0, 1, framed(b"answer")),
    )
    assert list(call.messages) == [b"answer"]


def test_unknown_frames_and_settings_are_ignored() -> None:
    client, call = opened(frames.frame(0x7F, 0, 1, b"x"), frames.settings({0x77: 1}), frames.frame(2, 0, 1, bytes(5)))
    assert call.status is None
    assert not client.closing


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        (b"\1\0\0\0\1x", code_pb2.INTERNAL, "is compressed"),
        (b"\0\x7f\0\0\0", code_pb2.RESOURCE_EXHAUSTED, "at most 67108864 are taken"),
    ],
)
def test_a_message_that_cannot_be_taken_ends_its_call(message: bytes, code: int, text: str) -> None:
    client, call = opened(headers_frame(), frames.frame(frames.DATA, 0, 1, message))
    assert call.status is not None
    assert call.status.code == code
    assert text in call.status.message
    assert client.output().endswith(frames.rst_stream(1, frames.ErrorCode.CANCEL))
    assert not client.closing


@pytest.mark.parametrize(
    ("rest", "text"),
    [
        (frames.frame(frames.DATA, frames.END_STREAM, 1, framed(b"x")), "ended without a status"),
        (
            frames.frame(frames.DATA, 0, 1, b"\0\0") + headers_frame(1, Encoder().encode([("grpc-status", "0")]), 5),
            "cut",
        ),
    ],
)
def test_a_response_that_ends_early_is_an_error(rest: bytes, text: str) -> None:
    client = ClientConnection()
    call = client.open(FIELDS)
    client.send(call, b"question", end=True)
    client.receive(SETTINGS + headers_frame() + rest)
    assert call.status is not None
    assert call.status.code == code_pb2.INTERNAL
    assert text.replace("cut", "within a message") in call.status.message


@pytest.mark.parametrize(
    ("arrived", "text"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "a frame of 4740180 bytes"),
        (frames.frame(frames.PING, 0, 0, bytes(8)), "is this a gRPC server"),
        (frames.frame(frames.SETTINGS, frames.ACK, 0), "is this a gRPC server"),
        (SETTINGS + frames.frame(frames.SETTINGS, 0, 1), "SETTINGS on a stream"),
        (SETTINGS + frames.frame(frames.SETTINGS, 0, 0, bytes(5)), "SETTINGS of 5 bytes"),
        (SETTINGS + frames.frame(frames.SETTINGS, frames.ACK, 0, bytes(6)), "expected 0"),
        (frames.settings({frames.INITIAL_WINDOW_SIZE: 2**31}), "an initial window"),
        (frames.settings({frames.MAX_FRAME_SIZE: 16_383}), "a frame size of 16383"),
        (frames.settings({frames.MAX_FRAME_SIZE: 2**24}), "a frame size of 16777216"),
        (SETTINGS + frames.window_update(0, 2**31 - 1), "the connection's window"),
        (SETTINGS + frames.window_update(0, 0), "the connection's window"),
        (SETTINGS + frames.window_update(1, 2**31 - 1), "beyond its limit"),
        (SETTINGS + frames.frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)), "expected 4"),
        (SETTINGS + frames.frame(frames.RST_STREAM, 0, 1, bytes(3)), "expected 4"),
        (SETTINGS + frames.rst_stream(3, frames.ErrorCode.CANCEL), "stream 3, which is idle"),
        (SETTINGS + frames.rst_stream(2, frames.ErrorCode.CANCEL), "stream 2, which is idle"),
        (SETTINGS + frames.frame(frames.PING, 0, 0, bytes(7)), "expected 8"),
        (SETTINGS + frames.frame(frames.PING, 0, 1, bytes(8)), "PING on a stream"),
        (SETTINGS + frames.frame(frames.GOAWAY, 0, 0, bytes(7)), "GOAWAY"),
        (SETTINGS + frames.frame(frames.GOAWAY, 0, 1, bytes(8)), "GOAWAY"),
        (SETTINGS + frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), "PUSH_PROMISE"),
        (SETTINGS + frames.frame(frames.PRIORITY, 0, 1, bytes(4)), "expected 5"),
        (SETTINGS + frames.frame(frames.DATA, 0, 1, framed(b"x")), "DATA before HEADERS"),
        (SETTINGS + frames.frame(frames.DATA, 0, 0, framed(b"x")), "stream 0, which is idle"),
        (SETTINGS + frames.frame(frames.CONTINUATION, 4, 1, HEADERS), "CONTINUATION of no header block"),
        (SETTINGS + headers_frame(flags=0) + frames.frame(frames.PING, 0, 0, bytes(8)), "interrupted"),
        (SETTINGS + headers_frame(flags=0) + frames.frame(frames.CONTINUATION, 4, 3, b""), "interrupted"),
        (SETTINGS + headers_frame(flags=0, block=bytes(16_000)) + b"".join(
            frames.frame(frames.CONTINUATION, 0, 1, bytes(16_000)) for _ in range(4)), "too large"),
        (SETTINGS + headers_frame(block=b"\xff" * 20), "not HPACK"),
        (SETTINGS + headers_frame(flags=frames.END_HEADERS | frames.HAS_PRIORITY, block=bytes(4)), "its priority"),
        (SETTINGS + headers_frame() + headers_frame(), "trailers that do not end"),
        (SETTINGS + headers_frame() + frames.frame(frames.DATA, frames.PADDED, 1, b"\1"), "more padding"),
        (SETTINGS + headers_frame() + frames.frame(frames.DATA, frames.PADDED, 1, b""), "more padding"),
        (SETTINGS + frames.HEADER.pack(16_385 << 8, 0, 1), "a frame of 16385 bytes"),
    ],
)  # fmt: skip
def test_a_server_that_breaks_the_protocol_is_refused(arrived: bytes, text: str) -> None:
    client = ClientConnection()
    client.send(client.open(FIELDS), b"question")
    client.output()
    with pytest.raises(ProtocolError, match=text):
        client.receive(arrived)


def test_a_lost_connection_ends_every_call() -> None:
    peer = Peer()
    calls = [peer.open(), peer.open()]
    peer.client.fail("gone")
    assert [call.status and call.status.message for call in calls] == ["gone", "gone"]
    assert peer.client.closing
    assert not any(isinstance(event, ConnectionTerminated) for event in peer.events)
