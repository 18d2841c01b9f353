"""Frames that steer a connection: settings, windows, pings, and calls given up."""

from __future__ import annotations

from server.http2 import frames
from server.http2.frames import ErrorCode, ProtocolError
from server.http2.sending import Sending

_DRAINING = b"draining"


class Control(Sending):
    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4")
        increment = frames.word(payload)
        if stream_id == 0:
            self._send_window += increment
            if not increment or self._send_window > frames.MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise ProtocolError(code, f"a window that grows by {increment}")
            self._feed_starved()
            return
        if stream_id > self._last_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream_id}, which is idle")
        if stream_id in self._begun and increment:
            # gRPC's own clients send this between the headers and the message of each call, which stays a short one.
            grown = self._grown.get(stream_id, 0) + increment
            if self._initial_send + grown <= frames.MAX_WINDOW:
                self._grown[stream_id] = grown
                return
        stream = self.stream(stream_id)
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
        self._glitch()
        if flags & frames.ACK:
            if payload:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with a payload")
            return
        if len(payload) % 6:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a size that is no multiple of 6")
        self._out.append(frames.frame(frames.SETTINGS, frames.ACK, 0))  # before what the settings set free
        for key, value in frames.parse_settings(payload):
            self._set(key, value)

    def _set(self, key: int, value: int) -> None:
        if key == frames.INITIAL_WINDOW_SIZE:
            self._set_initial_window(value)
        elif key == frames.MAX_FRAME_SIZE:
            if not frames.FRAME_SIZE <= value < 2**24:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value}")
            # 64 KiB at a time is enough for us, and keeps one call from holding up another.
            self._frame_size = min(value, 65_536)
        elif key == frames.ENABLE_PUSH and value > 1:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _set_initial_window(self, value: int) -> None:
        """Moves the window of every open call (RFC 9113, section 6.9.2): work for us, so a flood sooner than others."""
        if value > frames.MAX_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, f"an initial window of {value}")
        grows = value - self._initial_send
        if not grows:
            return
        self._glitch(1 + self.open_calls // 8)
        for stream_id in [*self._begun, *self._asked]:
            self.stream(stream_id)  # each has a window of its own from now on
        self._initial_send = value
        for stream in list(self.streams.values()):
            stream.send_window += grows
            if stream.send_window > frames.MAX_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream's window beyond its limit")
            if stream.out:
                self._pump(stream)

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another size than 4")
        if not stream_id or stream_id > self._last_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"RST_STREAM on stream {stream_id}, which is idle")
        self._glitch()
        self._cut.pop(stream_id, None)
        self._peer_ended(stream_id)
        stream = self.stream(stream_id)
        if stream is not None:
            self._drop(stream)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING of another size than 8")
        self._glitch()
        if not flags & frames.ACK:
            self._out.append(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _DRAINING and self._drain_pinged and not self.closing:
            # Whatever the client sent before it read the warning is here: now the end can be told.
            self._out.append(frames.goaway(max(0, self._last_id), ErrorCode.NO_ERROR))
            self.closing = True

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on no stream")
        self._glitch()
        if len(payload) != 5:
            self._reset(stream_id, ErrorCode.FRAME_SIZE_ERROR)
        elif frames.word(payload[:4]) == stream_id:
            self._reset(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE from a client")

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        """A client that leaves opens no call any more; those it has get their answers."""
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        self._glitch()

    def _on_unknown(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._glitch()  # ignored, as extensions are to be, but not without end
