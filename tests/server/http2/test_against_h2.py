"""The connection against h2 (python-hyper): as an oracle for a client's frames, and as a client of whole calls.

Both sides read the same frames, one at a time. Each must accept or reject the same ones. The documented exceptions:

- a malformed header list, a stream that depends on itself, and DATA beyond a stream's window are errors of the
  connection for h2, and of the stream for us (RFC 9113, sections 8.1.1, 5.3.1 of RFC 7540 and 6.9.1 allow it);
- a frame on a closed stream is an error of the stream for h2 (it answers RST_STREAM), and of the connection for us if
  it is HEADERS (section 5.1 asks for it); we ignore WINDOW_UPDATE there, and frames under way for a call we have reset;
- h2 ignores RST_STREAM on an idle stream (section 5.1 asks for an error of the connection);
- h2 judges HEADERS once its block is whole;
- h2 refuses blanks around a value; we accept them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import numpy as np
from hpack import Encoder
from hypothesis import given
from hypothesis import strategies as st

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError
from server.http2.connection import Connection, Event, Limits
from server.http2.headers import failure
from tests.server.http2.peer import METHODS, EveryCall, block, message
from tests.server.http2.test_splits import cut

WINDOW = 1000
SETTINGS = h2.settings.SettingCodes
OK, STREAM_ERROR, CONNECTION_ERROR = "ok", "stream error", "connection error"


class Step(NamedTuple):
    data: bytes
    places: list[int]  # where TCP cuts it


class Ours:
    def __init__(self) -> None:
        self.connection = Connection(METHODS, EveryCall(), Limits(stream_window=WINDOW))
        self.connection.receive(frames.PREFACE + frames.settings({}) + frames.frame(frames.SETTINGS, frames.ACK, 0), 0)
        self.connection.output()

    def step(self, step: Step) -> str:
        try:
            for piece in cut(step.data, step.places):
                self.connection.receive(piece, 0)
        except ProtocolError:
            return CONNECTION_ERROR
        return STREAM_ERROR if _resets(self.connection.output()) else OK

    def streams(self) -> dict[int, tuple[bytes, bool]]:
        """What has come of each stream that is open for the peer's or our side."""
        streams = self.connection.streams.items()
        return {key: (b"".join((state.buffer, *state.unread)), state.remote_closed) for key, state in streams}


class Theirs:
    def __init__(self) -> None:
        config = h2.config.H2Configuration(client_side=False, header_encoding=None)
        self.connection = h2.connection.H2Connection(config)
        values: dict[Any, int] = {SETTINGS.INITIAL_WINDOW_SIZE: WINDOW, SETTINGS.MAX_FRAME_SIZE: 256 * 1024}
        self.connection.local_settings.update(values)
        self.connection.initiate_connection()
        self.connection.increment_flow_control_window(2**30)
        self._streams: dict[int, tuple[bytes, bool]] = {}
        ready = frames.PREFACE + frames.settings({}) + frames.frame(frames.SETTINGS, frames.ACK, 0)
        self.connection.receive_data(ready)
        self.connection.data_to_send()

    def step(self, step: Step) -> str:
        try:
            events = self.connection.receive_data(step.data)
        except h2.exceptions.ProtocolError:
            return CONNECTION_ERROR
        for event in events:
            self._on(event)
        return STREAM_ERROR if _resets(self.connection.data_to_send()) else OK

    def _on(self, event: h2.events.Event) -> None:
        streams = self._streams
        if isinstance(event, h2.events.RequestReceived):
            streams[event.stream_id] = (b"", False)
        elif isinstance(event, h2.events.DataReceived) and event.stream_id in streams:
            streams[event.stream_id] = (streams[event.stream_id][0] + event.data, False)
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id in streams:
            streams[event.stream_id] = (streams[event.stream_id][0], True)
        elif isinstance(event, h2.events.StreamReset):
            streams.pop(event.stream_id, None)

    def streams(self) -> dict[int, tuple[bytes, bool]]:
        return self._streams


def _resets(data: bytes) -> list[int]:
    at, streams = 0, []
    while at < len(data):
        word, _, stream = frames.HEADER.unpack_from(data, at)
        if word & 0xFF == frames.RST_STREAM:
            streams.append(stream)
        at += 9 + (word >> 8)
    return streams


def is_documented(data: bytes, ours: str, theirs: str, opened: set[int]) -> bool:
    """Whether a difference is one of those in the module's docstring."""
    word, flags, stream = frames.HEADER.unpack_from(data)
    kind = word & 0xFF
    if kind == frames.HEADERS and not flags & frames.END_HEADERS and theirs == OK:
        return True
    if (ours, theirs) == (STREAM_ERROR, CONNECTION_ERROR):
        return kind in (frames.HEADERS, frames.CONTINUATION, frames.PRIORITY, frames.DATA, frames.WINDOW_UPDATE)
    was_opened = stream <= max(opened, default=0)
    if kind == frames.RST_STREAM and (ours, theirs) == (CONNECTION_ERROR, OK):
        return not was_opened or stream % 2 == 0
    if theirs == STREAM_ERROR:
        is_late = kind in (frames.DATA, frames.WINDOW_UPDATE) and ours == OK
        return was_opened and (is_late or (kind == frames.HEADERS and ours == CONNECTION_ERROR))
    # Trailers of a stream that has ended: an error of the connection for h2.
    return was_opened and kind == frames.HEADERS and {ours, theirs} <= {STREAM_ERROR, CONNECTION_ERROR}


STREAM_HEAD = block(b"/stream")
FIELDS = [(b":method", b"POST"), (b":path", b"/stream"), (b":scheme", b"http"), (b":authority", b"x")]
FIELDS += [(b"content-type", b"application/grpc")]
blocks = st.one_of(
    st.just(STREAM_HEAD),
    st.just(Encoder().encode(FIELDS, huffman=True)),
    st.builds(
        lambda name, value: block(b"/stream", (name, value)),
        st.sampled_from([b"x-a", b"X-A", b"x a", b":path", b":status", b"connection", b"te", b"", b"x:y"]),
        st.sampled_from([b"value", b"trailers", b"a\nb", b"a\0b", b"close"]),
    ),
    st.just(b"\x80"),
    st.just(b"\x88"),
    st.just(b""),
)  # fmt: skip
stream_ids = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 3, 4, 5, 7])
words = st.sampled_from([0, 1, 5, 1000, 2**31 - 1, 2**31])


def settings_of(key: int, value: int) -> bytes:
    return frames.settings({key: value})


sent_frames = st.one_of(
    st.builds(lambda *given: frames.frame(frames.HEADERS, *given), st.sampled_from([4, 4, 4, 5, 0, 1]), stream_ids,
              blocks),
    st.builds(lambda stream: frames.frame(frames.HEADERS, 4, stream, STREAM_HEAD), stream_ids),
    st.builds(lambda *given: frames.frame(frames.CONTINUATION, *given), st.sampled_from([0, 4]), stream_ids, blocks),
    st.builds(lambda *given: frames.frame(frames.DATA, *given), st.sampled_from([0, 0, 1, 8, 9]), stream_ids,
              st.sampled_from([b"", b"\0", b"\2row\0\0", b"\x09ab", b"row", bytes(400), bytes(WINDOW + 1)])),
    st.builds(lambda stream, size: frames.frame(frames.RST_STREAM, 0, stream, bytes(size)), stream_ids,
              st.sampled_from([4, 4, 4, 3])),
    st.builds(lambda stream, word, size: frames.frame(frames.WINDOW_UPDATE, 0, stream, word.to_bytes(4, "big")[:size]),
              stream_ids, words, st.sampled_from([4, 4, 4, 3])),
    st.builds(settings_of, st.sampled_from([1, 2, 3, 4, 5, 6, 99]),
              st.sampled_from([0, 1, 2, 65_535, 16_384, 2**24, 2**31 - 1, 2**31])),
    st.builds(lambda flags, size: frames.frame(frames.PING, flags, 0, bytes(size)), st.sampled_from([0, 1]),
              st.sampled_from([8, 8, 7])),
    st.builds(lambda stream, on, size: frames.frame(frames.PRIORITY, 0, stream, (on.to_bytes(4, "big") + b"\1")[:size]),
              stream_ids, st.sampled_from([0, 1, 3]), st.sampled_from([5, 5, 4])),
    st.builds(lambda kind: frames.frame(kind, 0, 0, b"extension"), st.sampled_from([77, 200, 255])),
)  # fmt: skip


@given(st.lists(st.builds(Step, sent_frames, st.lists(st.integers(0, 2000), max_size=3)), max_size=14))
def test_frames_are_accepted_and_rejected_as_by_h2(steps: list[Step]) -> None:
    ours, theirs = Ours(), Theirs()
    opened: set[int] = set()
    for step in steps:
        verdicts = ours.step(step), theirs.step(step)
        if verdicts[0] != verdicts[1]:
            assert is_documented(step.data, *verdicts, opened), (step.data, verdicts)
            return
        if CONNECTION_ERROR in verdicts:
            return
        assert ours.streams() == theirs.streams(), step.data
        opened |= ours.streams().keys()


class Answer(NamedTuple):
    size: int
    way: str  # fast, slow, columnar, failed


class Call(NamedTuple):
    body: bytes
    answer: Answer
    is_huffman: bool


ways = st.sampled_from(["fast", "slow", "columnar", "failed"])
peer_settings = st.fixed_dictionaries(
    {},
    optional={
        SETTINGS.HEADER_TABLE_SIZE: st.sampled_from([0, 1, 31, 100, 4095, 4096, 65_536]),
        SETTINGS.INITIAL_WINDOW_SIZE: st.sampled_from([0, 1, 100, 65_535, 2**20, 2**31 - 1]),
        SETTINGS.MAX_FRAME_SIZE: st.sampled_from([16_384, 16_385, 65_536, 2**24 - 1]),
        SETTINGS.MAX_HEADER_LIST_SIZE: st.sampled_from([200, 400, 65_536]),
        SETTINGS.MAX_CONCURRENT_STREAMS: st.sampled_from([0, 1, 100]),
        SETTINGS.ENABLE_PUSH: st.sampled_from([0, 1]),
    },
)
whole_calls = st.lists(
    st.builds(Call, st.binary(max_size=300), st.builds(Answer, st.sampled_from([0, 1, 120, 20_000, 90_000]), ways),
              st.booleans()),
    min_size=1, max_size=6,
)  # fmt: skip


class Client:
    """h2's client with a server of ours, which answers as each call asks for."""

    def __init__(self, settings: dict[Any, int]) -> None:
        self.server = Connection(METHODS, EveryCall(), Limits())
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self.h2.initiate_connection()
        self.h2.update_settings(settings)
        self.bodies: dict[int, bytes] = {}
        self.trailers: dict[int, dict[bytes, bytes]] = {}
        self.requests: dict[int, bytes] = {}
        self.exchange()

    def exchange(self) -> None:
        """Until neither side has anything to send."""
        while True:
            if sent := self.h2.data_to_send():
                self.server.receive(sent, 0)
                self._read_requests()
            answer = self.server.output()
            for event in self.h2.receive_data(answer):
                self._on(event)
            if not answer and not sent:
                return

    def _read_requests(self) -> None:
        server = self.server
        for run in server.blocks:
            self.requests.update(zip(run.ids, (body.tobytes() for body in run.messages), strict=True))
        self.requests.update((stream_id, body) for stream_id, _, body in server.calls)
        self.requests.update((stream.id, body) for kind, stream, body in server.events if kind == Event.REQUEST)
        server.blocks, server.calls, server.events = [], [], []

    def _on(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
            self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
            self.trailers.setdefault(event.stream_id, {}).update(event.headers)

    def call(self, call: Call) -> int:
        stream: int = self.h2.get_next_available_stream_id()
        fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/score"), (b":authority", b"x")]
        fields += [(b"content-type", b"application/grpc"), (b"te", b"trailers")]
        self.h2.send_headers(stream, fields)
        self.h2.send_data(stream, message(call.body), end_stream=True)
        return stream

    def answer(self, stream: int, answer: Answer) -> None:
        server, body = self.server, bytes(answer.size)
        if answer.way == "failed":
            server.fail_calls([stream], failure(8, "full " * 20, b"details" * 20, started=False))
        elif answer.way == "columnar" and body:
            values = np.zeros((1, 1), np.uint8)
            if not server.respond_columnar(range(stream, stream + 2, 2), body, 0, values):
                server.respond_fast(stream, body)
        elif answer.way == "slow":
            promoted = server.promote(stream)
            assert promoted is not None
            server.respond(promoted, body)
        else:
            server.respond_fast(stream, body)


@given(whole_calls, st.lists(peer_settings, min_size=1, max_size=4))
def test_h2s_client_reads_every_answer_whatever_its_settings(calls: list[Call], settings: list[dict[Any, int]]) -> None:
    client = Client(settings[0])
    sent = [(client.call(call), call) for call in calls]
    client.exchange()
    assert client.requests == {stream: call.body for stream, call in sent}
    for (stream, call), changed in zip(sent, settings[1:] + [{}] * len(sent), strict=False):
        if changed:
            client.h2.update_settings({**changed, SETTINGS.INITIAL_WINDOW_SIZE: 70_000})
        client.exchange()
        client.answer(stream, call.answer)
    client.exchange()
    client.h2.update_settings({SETTINGS.INITIAL_WINDOW_SIZE: 2**20})
    client.exchange()
    for stream, call in sent:
        ended = client.trailers[stream]
        if call.answer.way == "failed":
            assert ended[b"grpc-status"] == b"8"
        else:
            assert ended[b"grpc-status"] == b"0"
            assert client.bodies[stream] == message(bytes(call.answer.size))
    assert client.server.open_calls == 0


def test_an_error_of_ours_reads_as_one_for_h2() -> None:
    client = Client({})
    client.server.go_away(ErrorCode.ENHANCE_YOUR_CALM, "too much")
    (event,) = client.h2.receive_data(client.server.output())
    assert isinstance(event, h2.events.ConnectionTerminated)
    assert event.error_code == h2.errors.ErrorCodes.ENHANCE_YOUR_CALM
    assert event.additional_data == b"too much"
