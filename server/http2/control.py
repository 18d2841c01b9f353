"""Frames that control a connection: SETTINGS, WINDOW_UPDATE, PING, RST_STREAM, PRIORITY and GOAWAY."""

from __future__ import annotations

from common.http2 import frames
from common.http2.frames import ErrorCode, ProtocolError
from server.http2.sending import Sending

_DRAINING = b"draining"


class Control(Sending):
    __slots__ = ()

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes, expected 4")
        increment = frames.word(payload)
        if stream_id == 0:
            self._send_window += increment
            if not increment or self._send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise ProtocolError(code, f"a window that grows by {increment}")
            self._pump_blocked()
            return
        if self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream_id}, which is idle")
        if increment and (stream_id in self._headers_received or stream_id in self._awaiting_response):
            # gRPC's own clients send this between headers and message of each call. The call stays on the fast path.
            grown = self._extra_credit.get(stream_id, 0) + increment
            if self._initial_send + grown <= frames.MAX_WINDOW:
                self._extra_credit[stream_id] = grown
                return
        stream = self.promote(stream_id)
        if stream is None:
            return
        stream.send_window += increment
        if not increment or stream.send_window > frames.MAX_WINDOW:
            self._reset(stream_id, ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR)
        elif stream.out:
            self._pump(stream)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self._count_abuse()
        if flags & frames.ACK:
            if payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            return
        if len(payload) % 6:
            text = f"SETTINGS of {len(payload)} bytes, expected a multiple of 6"
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, text)
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))  # before the output that the settings unblock
        for key, value in frames.parse_settings(payload):
            self._set(key, value)

    def _set(self, key: int, value: int) -> None:
        if key == frames.INITIAL_WINDOW_SIZE:
            self._set_initial_window(value)
        elif key == frames.HEADER_TABLE_SIZE:
            # RFC 7541, section 4.2: the next header block confirms a smaller table. nghttp2 expects the
            # confirmation after each reduction, even if the last one gave the size 0 already.
            if value < self._header_table_size:
                self._table_update_due = True
                self._set_fast_answer_bytes()
            self._header_table_size = value
        elif key == frames.MAX_HEADER_LIST_SIZE:
            self._max_list_bytes = value
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.FRAME_SIZE <= value < 2**24:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value}")
            # At most 64 KiB, so that a large frame of one call does not delay other calls.
            self._frame_size = min(value, 65_536)
        elif key == frames.ENABLE_PUSH and value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _set_initial_window(self, value: int) -> None:
        """Changes the window of every open call (RFC 9113, section 6.9.2). The abuse score counts the open calls."""
        if value > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value}")
        grows = value - self._initial_send
        if not grows:
            return
        self._count_abuse(1 + self.open_calls // 8)
        for stream_id in [*self._headers_received, *self._awaiting_response]:
            self.promote(stream_id)  # only a Stream has a window of its own
        self._initial_send = value
        self._set_fast_answer_bytes()
        for stream in list(self.streams.values()):
            stream.send_window += grows
            if stream.send_window > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window beyond its limit")
            if stream.out:
                self._pump(stream)

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes, expected 4")
        if self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}, which is idle")
        self._count_abuse()
        self.resets += 1
        self._locally_reset.pop(stream_id, None)
        self._peer_ended(stream_id)
        stream = self.promote(stream_id)
        if stream is not None:
            self._abandon_call(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"PING of {len(payload)} bytes, expected 8")
        self._count_abuse()
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _DRAINING and self._drain_pinged and not self.closing:
            # All frames that the client sent before it read the warning have arrived: GOAWAY can name the last stream.
            self._out.append(frames.goaway(max(0, self._last_id), ErrorCode.NO_ERROR))
            self.closing = True

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
        self._count_abuse()
        if len(payload) != 5:
            self._reset(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        elif frames.word(payload[:4]) == stream_id:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        """The client will open no more calls. Its open calls get their responses."""
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        self._count_abuse()

    def _on_unknown(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._count_abuse()  # RFC 9113, section 5.5: unknown frames are ignored. The score bounds them.
