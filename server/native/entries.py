"""A recognized request, as it waits for the model."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

from server.http2.headers import Head
from server.wire.templates import Form

if TYPE_CHECKING:
    from server.native.calls import FrameStream
    from server.native.link import Link


class Entry(NamedTuple):
    """at: where the PredictRequest begins in raw; 0 for a unary call."""

    form: Form
    raw: bytes
    at: int
    arrived_ns: int
    link: Link
    stream_id: int
    head: Head | None  # of a unary call
    frames: FrameStream | None  # of a frame
    id_end: int  # where the frame's id ends in raw


# From a tuple of its fields, half as long as by its name: one is made for every call.
new_entry = functools.partial(tuple.__new__, Entry)
